"""A page that needs nothing but itself: styles, scripts and data inline, and a policy that lets nothing else run.

Text from outside (a model's, a file's, somebody's name for a benchmark) reaches a page in two ways only: as characters
of the markup through `escaped`, or in a data object, which is read as JSON and never as markup or code.
"""

import base64
import hashlib
import html
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

_UNSAFE = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_ENDS_SCRIPT = re.compile("</script|<!--|\r|\0", re.IGNORECASE)


def asset(name: str) -> str:
    """The text of a packaged file of the pages, such as ``base.css``."""
    return files("retell").joinpath("page", name).read_text(encoding="utf-8")


def visible(text: str) -> str:
    """Text without what steers instead of being seen: controls, bidirectional overrides, lone surrogates.

    Each becomes U+FFFD, so that what is shown stands in the order in which it was written; line feeds and tabs stay.
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in _INVISIBLE else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def escaped(text: str) -> str:
    """Text as the content of an element or of a quoted attribute."""
    return html.escape(visible(text))


def json_block(name: str, value: object) -> str:
    """A data object as an element that scripts find by its id; numbers that JSON does not know become null."""
    text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)
    text = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return f'<script type="application/json" id="{escaped(name)}">{text}</script>'


def page(
    title: str,
    body: str,
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    data: Mapping[str, object] | None = None,
    connect: bool = False,
) -> str:
    """A complete HTML document.

    ``body`` is markup; ``styles`` and ``scripts`` are the texts of trusted files, the scripts in the order in which
    they run, after the body and the data objects (by id) are there. The base style sheet comes first by itself. With
    ``connect`` the scripts may talk to the server that the page came from, and to no other.
    """
    looks = "".join(f"<style>{style}</style>\n" for style in (asset("base.css"), *styles))
    objects = "".join(json_block(name, value) + "\n" for name, value in (data or {}).items())
    code = "".join(f"<script>{_code(script)}</script>\n" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(scripts, connect)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escaped(title)}</title>
<link rel="icon" href="data:,">
{looks}</head>
<body>
{body}
{objects}{code}</body>
</html>
"""


def policy(scripts: Iterable[str], connect: bool) -> str:
    """The Content-Security-Policy: these scripts, to the letter, and nothing from anywhere.

    Style is 'unsafe-inline' since Plotly makes style elements as it is loaded and as it draws. That lets no code run,
    and model text is no markup, so that it has no style to bring. A picture of a chart that is saved is a blob:, which
    only the page itself can make.
    """
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts) or "'none'"
    rules = {
        "default-src": "'none'",
        "script-src": allowed,
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "font-src": "data:",
        "connect-src": "'self'" if connect else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _code(script: str) -> str:
    """A script that the parser of HTML takes as it is, so that its hash is that of the policy."""
    found = _ENDS_SCRIPT.search(script)
    assert found is None, f"a script of the page holds {found and found[0]!r}, which HTML would not leave alone"
    return script


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
