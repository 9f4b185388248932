import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from madeup import whole

from retell.charts import Counts, histogram
from retell.document import Document, Figure, Flow, Items, Listing, Notice, Prose, Rows, Section, Table
from retell.errors import MissingExtraError
from retell.legend import OTHERS, RUNGS, TITLES
from retell.markdown import markdown
from retell.recipe import Policy, Recipe
from retell.report import report
from retell.results import results_of
from retell.runfolder import RunFolder
from retell.shell import asset
from retell.webpage import webpage

HOSTILE = "</script><img src=x onerror=alert(1)> `\"'&"
NUMBERS = Table([HOSTILE, "n"], [[HOSTILE, "1"]], HOSTILE)


class Tables(HTMLParser):
    """The rows of all tables of a page, heads included."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def document(*blocks: object) -> Document:
    return Document(HOSTILE, [Section(HOSTILE, "Part one", blocks)])  # type: ignore[arg-type]


def chart(name: str = "name") -> Figure:
    counted = [Counts(name, "self", [-1.0, 0.0], [2])]
    return Figure([histogram(HOSTILE, counted, "x", "rows", HOSTILE)], NUMBERS, HOSTILE)


def test_the_tables_of_a_run_are_the_same_in_both_pages(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        whole(folder)
        for model in ("Qwen2.5-Math-7B", "mine"):
            made = report(results_of(Recipe(policy=Policy(model=model)), folder))
            lines = [line for line in markdown(made).splitlines() if line.startswith("| ") and "---" not in line]
            written = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
            assert len(written) > 80
            assert Tables(webpage(made)).rows == written


def test_text_from_outside_is_no_markup_anywhere() -> None:
    texts = Prose(HOSTILE), Items([HOSTILE]), NUMBERS, Notice(HOSTILE, HOSTILE), Listing(HOSTILE, HOSTILE)
    page = webpage(document(*texts, chart(HOSTILE), Rows({"rows": [HOSTILE]}, [])))
    assert "<img src=x" not in page
    assert page.count("</script>") == page.count("<script")


def test_a_page_has_only_the_scripts_that_it_needs() -> None:
    plain = webpage(document(NUMBERS))
    assert "<script" not in plain and "script-src 'none'" in plain
    assert "plotly" not in plain
    with_rows = webpage(document(Rows({"rows": [], "shown": 0, "total": 0, "notes": []}, [])))
    assert "plotly.js v" not in with_rows and "katex" in with_rows
    with_chart = webpage(document(chart()))
    assert "plotly.js v" in with_chart and "katex" not in with_chart


def test_rows_without_any_to_search_are_shown_by_their_examples() -> None:
    page = webpage(document(Rows(None, [Listing("Row `r`", "x < y")])))
    assert "<h3>Row <code>r</code></h3>\n<pre>x &lt; y</pre>" in page
    assert "<script" not in page


def test_a_chart_without_plotly_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingExtraError, match=re.escape("plotly is not installed: pip install 'retell[report]'")):
        webpage(document(chart()))
    assert webpage(document(NUMBERS))


def test_a_chart_has_words_and_a_table_beside_it() -> None:
    page = webpage(document(chart()))
    assert re.search(r'role="img" aria-label="&lt;/script&gt;[^"]*"', page)
    assert "<summary>The numbers as a table</summary>" in page
    assert "<noscript>" in page
    shown = webpage(document(Figure(chart().charts, NUMBERS, folded=False)))
    assert "<summary>" not in shown and "<table" in shown


def test_an_empty_flow_or_table_leaves_nothing_behind() -> None:
    page = webpage(document(Flow("rows", [], ""), Table(["a"], [], "Nothing is known.")))
    assert "<svg" not in page and "<table" not in page
    assert "Nothing is known." in page


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG 2.2 defines it."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def themes() -> dict[str, dict[str, str]]:
    """The colours of the light and of the dark theme, by name."""
    light, dark = asset("base.css").split("@media screen and (prefers-color-scheme: dark)")[:2]
    found = [dict(re.findall(r"--([\w-]+):\s*([^;]+);", text.split("}")[0])) for text in (light, dark)]
    both = {"light": found[0], "dark": found[0] | found[1]}
    aliases = re.compile(r"var\(--([\w-]+)\)")
    return {
        theme: {
            name: named[of[1]] if (of := aliases.fullmatch(value)) else value
            for name, value in named.items()
            if value.startswith(("#", "var"))
        }
        for theme, named in both.items()
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_seen_in_both_themes(theme: str) -> None:
    colours = themes()[theme]
    drawn = [*RUNGS, "rejected", *TITLES, *(f"other-{number + 1}" for number in range(OTHERS))]
    for name in drawn:
        assert _contrast(colours[name], colours["paper"]) >= 3, name
    for text in ("ink", "soft", "link", "good", "bad"):
        assert _contrast(colours[text], colours["paper"]) >= 4.5, text
        assert _contrast(colours[text], colours["raised"]) >= 4.5, text
    assert _contrast(colours["caution"], colours["caution-paper"]) >= 4.5
    models = [colours[name] for name in TITLES]
    assert len(set(models)) == len(models)


def test_every_colour_of_a_chart_is_in_the_style_sheet(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        whole(folder)
        page = webpage(report(results_of(Recipe(), folder)))
    figures = re.search(r'id="figures">(.*?)</script>', page)
    assert figures
    named = set(re.findall(r'"@([\w-]+)(?:/[\d.]+)?"', figures[1]))
    assert named >= {"self", "guided", "expert", "dr-dft", "line"}
    assert named <= themes()["light"].keys()
