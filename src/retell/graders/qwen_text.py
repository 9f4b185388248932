r"""Where Qwen2.5-Math's evaluation finds an answer in a text, and what it makes of it before comparing.

Many of these rules harm answers (``g(n)`` loses its ``g``, which could be grams; ``5x=1`` becomes ``51``). They are
kept as they are described: scores compare with the paper's only under the same mistakes. Linear in the text's length.
"""

import re

LONGEST = 2000
"""A longer answer is compared as it stands: no gold is as long."""

_BRACE = re.compile(r"[{}]")
_NUMBER = re.compile(r"-?\d*\.?\d+")
_BOX = r"\boxed"
_SAID = ("he answer is", "final answer is", "答案是")


def extracted(text: str) -> str:
    """The answer of a response, without line ends, a leading colon and a trailing full stop or slash; "" for none."""
    answer = re.sub(r"\n\s*", "", _found(text)).strip()
    return answer.removeprefix(":").removesuffix(".").removesuffix("/").strip()


def _found(text: str) -> str:
    _, opened, rest = text.partition("final answer is $")
    said, closed, _ = rest.partition("$. I hope")
    if opened and closed:
        return said
    for marker in (_BOX, *_SAID):
        if marker in text:
            rest = text.rpartition(marker)[2]
            return _boxed(rest) if marker == _BOX else rest
    numbers = _NUMBER.findall(text.replace(",", ""))
    return numbers[-1] if numbers else ""


def _boxed(rest: str) -> str:
    """What stands in a box that has just been named: up to its brace, or all of it where the box was cut off."""
    # Open in the description: a box without braces, here read up to the end of its formula.
    if not rest.startswith("{"):
        return rest.partition("$")[0]
    depth = 0
    for brace in _BRACE.finditer(rest):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return rest[1 : brace.start()]
    return rest[1:]


def normalised(text: str, *, with_units: bool = False) -> str:
    """The text under all rules, applied twice: a rule may meet what a later one has uncovered."""
    return text if len(text) > LONGEST else _normalised_once(_normalised_once(text, with_units), with_units)


def _normalised_once(text: str, with_units: bool) -> str:
    text = _replaced(text.strip().replace("\n", "").rstrip("."), _FORMS)
    text = _without_last_text(text)
    text = text if with_units else _without_units(text)
    text = _in_digits(_replaced(text, _SIGNS))
    text = _replaced(text, _WORDS)
    if "i" not in text:
        text = text.replace("j", "i")
    text = _replaced(text, _DECIMALS)
    left, _, right = text.partition("=")
    if right and "=" not in right and len(left) <= 2:
        text = right
    return _replaced(text, _FRACTIONS)


Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def _replaced(text: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


_FORMS = _rules(
    (r"\\!", ""),
    (r"\\begin\{array\}\{[^}]*\}|\\begin\{bmatrix\}", r"\\begin{pmatrix}"),
    (r"\\end\{(?:array|bmatrix)\}", r"\\end{pmatrix}"),
    (r"\\[td]frac", r"\\frac"),
    (r"\\(n|l|g)eq", r"\\\1e"),
    (r"\\left|\\right", ""),
    (r"\\([{}])", r"\1"),
)
_SIGNS = _rules((r"\^\\circ|\^\{\\circ\}|\\?\$|\\[()]", ""))
_WORDS = _rules(
    (r"\\text\{([^}]*)\}", r"\1"),
    (r"[xyz](?:=|\\in(?![a-z])|\\to(?![a-z]))", ""),
    (r"\\emptyset", "{}"),
    (r"\\?%", ""),
    (r"([ {])\.", r"\g<1>0."),
    (r"\\?inf(?:inity|ty)?", r"\\infty"),
    (r"and|\\mathbf|\\mbox\{[^}]*\}", ""),
)
_DECIMALS = _rules((r"(?<=\d)\.0*(?!\d)", ""), (r"^\.", "0."))
_FRACTIONS = _rules(
    (r"\\sqrt(\w+)", r"\\sqrt{\1}"),
    (r" ", ""),
    (r"\\frac([^{])\{", r"\\frac{\1}{"),
    (r"\\frac([^{])([^{])", r"\\frac{\1}{\2}"),
    (r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}"),
    # Not described, but seen in golds that the evaluation is known to have changed.
    (r"^\(-\\infty,\\infty\)$", r"\\mathbb{R}"),
)


def _without_last_text(text: str) -> str:
    r"""Without a ``\text{…}`` at the end, which is often a unit; but not if that was all."""
    before, found, rest = text.rpartition(r"\text{")
    before = before.strip()
    return before if found and before and rest.find("}") == len(rest) - 1 else text


# The description says "units" and no more: here are the usual ones. The letters are from golds that the evaluation is
# known to have changed: "a" and "c" are units, "b" only where a space and one character follow, "k" and "n" never.
_UNIT = (
    "a c d g h l m o s t ab am bc by cc cm dm ft gm hr kg km lb lt min mm mp mph mt mtr ohm pm rd rs sec sq st th "
    "yr acre apple are cent coin cube cubic day deg degree digit east edge feet foot gal gallon hectare hour inch "
    "inches kmh kmph liter litre man men meter metre mile minute month multiple number per point pound prime "
    "ratio rupee second square student tile unit way west woman women yard year"
)
_UNITS = re.compile(rf"(?<!\w)(?:[a-h] .|(?:{_UNIT.replace(' ', '|')})s?)(?!\w)")


def _without_units(text: str) -> str:
    for _ in range(2):
        text = _UNITS.sub("", text) or text
    return text


_BELOW_TWENTY = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: number for number, word in enumerate(_BELOW_TWENTY.split())}
_SMALL |= {word: 10 * number for number, word in enumerate(_TENS.split(), 2)}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


def _in_digits(text: str) -> str:
    """A number in words, or in digits with leading zeros, as plain digits; any other text as it is."""
    if text.isascii() and text.isdecimal():
        return text.lstrip("0") or "0"
    words = [word for word in text.lower().replace("-", " ").split() if word != "and"]
    total = part = 0
    for word in words:
        if word in _SMALL:
            part += _SMALL[word]
        elif word == "hundred":
            part = 100 * max(part, 1)
        elif word in _LARGE:
            total, part = total + _LARGE[word] * max(part, 1), 0
        else:
            return text
    return str(total + part) if words else text
