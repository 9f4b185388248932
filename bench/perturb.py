"""Makes, from the golds of the benchmarks, answers that are right in another form and answers that are nearly right.

    python bench/perturb.py [--data DIR] [--show N]

prints how many of each kind there are, and N examples of each. Everything is chosen by the content, so that two runs
yield the same pairs.
"""

import argparse
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

from latex import UnclearError, op, read, same, symbols, value, write
from scalars import Variant, decimal, forms, misses, number

BENCHMARKS = ("math500", "minerva_math", "olympiadbench", "amc23", "aime24", "aime25", "gsm8k_test")
_GSM8K_FORMS, _GSM8K_MISSES = 0.40, 0.50
"""The shares of GSM8K's pairs that are kept: about a third of all pairs then stem from it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A gold with what is known about it."""

    benchmark: str
    problem: str
    gold: str
    type: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """An answer to be judged against a gold, and the verdict it deserves."""

    benchmark: str
    problem: str
    gold: str
    answer: str
    equal: bool
    kind: str


def rows(data: Path, benchmarks: tuple[str, ...] = BENCHMARKS) -> Iterator[Row]:
    """The golds of the benchmarks."""
    for benchmark in benchmarks:
        with open(data / "benchmarks" / f"{benchmark}.jsonl", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield Row(benchmark, row["problem"], row["answer_raw"], row.get("answer_type") or "")


def pairs(data: Path) -> Iterator[Pair]:
    """Every pair, each (gold, answer) once; an answer that one rule calls right and another wrong is left out."""
    seen: set[tuple[str, str]] = set()
    for row in rows(data):
        right = dict(_clean(row, equal_forms(row)))
        wrong = dict(_clean(row, near_misses(row)))
        for variants, other, equal in ((right, wrong, True), (wrong, right, False)):
            keep = 1.0 if row.benchmark != "gsm8k_test" else _GSM8K_FORMS if equal else _GSM8K_MISSES
            for answer, kind in variants.items():
                if answer in other or (row.gold, answer) in seen or Random(f"{row.gold}={answer}").random() > keep:
                    continue
                seen.add((row.gold, answer))
                yield Pair(row.benchmark, row.problem, row.gold, answer, equal, kind)


def _clean(row: Row, variants: Iterator[Variant]) -> Iterator[Variant]:
    return ((answer, kind) for answer, kind in variants if answer and answer.strip() != row.gold)


# -------------------------------------------------------------------------------------------------- what a gold is


def plain(gold: str) -> str:
    """The gold without dollar signs of mathematics and without a final period."""
    if "$ $" in gold or (gold.count("$") % 2 and not gold.startswith("\\$")):
        return gold
    return re.sub(r"(?<!\\)\$", "", gold).strip().removesuffix(".").removesuffix("\\n").strip()


def split(text: str, separator: str = ",") -> list[str]:
    """The parts between separators outside all brackets."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\[{}]|[\[({})\]]|" + separator, text):
        token = match[0][-1]
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def _scalar(text: str) -> bool:
    try:
        return bool(value(read(text)) + 1) or True
    except UnclearError:
        return False


def _unequal(one: str, other: str) -> bool:
    try:
        return not same(read(one), read(other))
    except UnclearError:
        return False


_BRACKETS = re.compile(r"(?:\\left)?\s*([(\[])(.*?)(?:\\right)?\s*([)\]])", re.DOTALL)


def _tuple(text: str) -> list[str] | None:
    """The elements of a tuple of scalars."""
    match = _BRACKETS.fullmatch(text)
    if not match or match[1] + match[3] != "()":
        return None
    elements = split(match[2])
    return elements if len(elements) > 1 and all(_scalar(element) for element in elements) else None


def _interval(row: Row, text: str) -> tuple[str, str, str, str] | None:
    """Left bracket, ends and right bracket of what is an interval without doubt."""
    match = _BRACKETS.fullmatch(text)
    ends = split(match[2]) if match else []
    if not match or len(ends) != 2 or not all(_end(end) for end in ends):
        return None
    sure = match[1] + match[3] != "()" or "infty" in text or row.type == "Interval" or "\\cup" in row.gold
    return (match[1], *ends, match[3]) if sure else None  # type: ignore[return-value]


def _end(end: str) -> bool:
    return end in ("\\infty", "-\\infty") or _scalar(end)


_SAFE = frozenset(
    """plus_sign fraction dfrac tfrac inline_fraction over decimal mixed_number minus_in_fraction unsimplified
    trailing_zero arithmetic terms_reordered product_cdot root_absorbed root_as_power fraction_parted fraction_joined
    fraction_split unrationalised rationalised left_right exp expanded factored""".split()
)
_ENOUGH = frozenset(
    """sign last_digit factor_10 fraction_swapped numerator_changed denominator_changed rounded plus_one term_sign
    coefficient_changed root_dropped pi_dropped radicand_changed term_dropped power_dropped reciprocal""".split()
)


def _element_forms(element: str, seed: str) -> list[Variant]:
    return [(answer, kind) for answer, kind in forms(element, seed) if kind in _SAFE]


def _element_misses(element: str, seed: str) -> list[Variant]:
    found = [(answer, kind) for answer, kind in misses(element, seed, near=False) if kind in _ENOUGH]
    return [(answer, kind) for answer, kind in found if _unequal(element, answer)]


def _replaced(
    items: list[str], seed: str, change: Callable[[str, str], list[Variant]], most: int
) -> Iterator[tuple[list[str], str]]:
    """The items with one of them changed, in up to ``most`` ways."""
    found = [
        ([*items[:i], new, *items[i + 1 :]], kind)
        for i, item in enumerate(items)
        for new, kind in change(item, seed + str(i))
    ]
    yield from Random(f"replaced {seed}").sample(found, min(most, len(found)))


# ------------------------------------------------------------------------------------------------------ equal forms


def equal_forms(row: Row) -> Iterator[Variant]:
    """Right answers in another form than the gold's."""
    text = plain(row.gold)
    yield from _wrapped(row, text)
    for make in (_special_forms, _structure_forms):
        found = list(make(row, text))
        if found:
            yield from found
            return
    if not _is_list(text):
        yield from forms(text, row.gold)


def _is_list(text: str) -> bool:
    return len(split(text)) > 1


def _wrapped(row: Row, text: str) -> Iterator[Variant]:
    if "$" not in text:
        yield f"${text}$", "dollars"
        yield f"\\( {text} \\)", "dollars"
    if text[-1] not in ".\\":
        yield f"{text}.", "period"
    yield f"\\, {text} \\,", "spacing"
    if not text.startswith("\\text"):
        yield f"\\displaystyle {text}", "displaystyle"
    if "\\frac" in text:
        yield text.replace("\\frac", "\\dfrac"), "dfrac"
        yield text.replace("\\frac", "\\tfrac"), "tfrac"
    if "\\dfrac" in text:
        yield text.replace("\\dfrac", "\\frac"), "dfrac"
    if "\\left" in text and not re.search(r"\\left[^(\[]", text):
        yield re.sub(r"\\(left|right)\b\s*", "", text), "left_right"
    elif re.search(r"[(\[]", text) and "\\begin" not in text and "\\text" not in text and ".arcsin" not in text:
        sized = re.sub(r"(?<!\\sqrt)([(\[])", r"\\left\1", text)
        sized = sized.replace(")", "\\right)").replace("]", "\\right]")
        if "\\sqrt[" not in text and not re.match(r"[a-z]\(.*\]$", text):
            yield sized, "left_right"
    if "+" in text and "{+" not in text and not text.startswith("+") and "\\text" not in text:
        yield text.replace("+", " \\, + \\; "), "spacing"
    if re.match(r"^[^a-z]*-", text) and re.fullmatch(r"[-\d.,()\[\] /]+|-?\d+[\d.]*", text):
        yield text.replace("-", "−"), "unicode_minus"
    if " " in text and "\\" not in text and not _is_word(text):
        yield text.replace(" ", ""), "spacing"
    if number(text) is not None or ("sqrt" in text and _scalar(text)):
        letter = next((name for name in "xSANk" if name not in text), "")
        yield f"{letter} = {text}", "named"
        yield f"\\boxed{{{text}}}", "boxed_twice"
        yield f"{{{text}}}", "braced"
    if number(text) is not None:
        yield from _from_problem(row, text)


def _is_word(text: str) -> bool:
    return bool(re.search(r"\\(text|mbox)|[A-Za-z]{2}", text))


def _from_problem(row: Row, text: str) -> Iterator[Variant]:
    """A number with the unit that the question asks for."""
    question = re.split(r"(?<=[.!?])\s+", row.problem.strip())[-1]
    if match := re.search(r"[Hh]ow many (?!does|is|was|has)([a-z]+s)\b(?! of\b)", question):
        yield f"{text}\\text{{ {match[1]}}}", "unit"
        yield f"{text} {match[1]}", "unit_bare"
        yield f"\\text{{{text} {match[1]}}}", "unit_inside_text"
    asks_money = re.search(r"dollars|[Hh]ow much (money|did .* (cost|pay|spend|earn))|\bcosts?\b", question)
    if asks_money and "$" in row.problem and row.benchmark == "gsm8k_test" and "percent" not in question:
        yield f"\\${text}", "money"
        yield f"\\${text}.00" if re.fullmatch(r"-?\d+", text) else "", "money"
        yield f"{text}\\text{{ dollars}}", "money"
    if re.search(r"what percent|what percentage|how many percent", question.lower()):
        yield f"{text}\\%", "percent_sign_added"
    if re.search(r"\bdegrees?\b|degree measure", question) and "how many" not in question.lower():
        yield f"{text}^\\circ", "degrees_added"
    if match := re.search(r"\(in (?:\$\\mathrm\{~?([A-Za-z]+)\}\$|([A-Za-z]+))\)", row.problem):
        yield f"{text} \\mathrm{{~{match[1]}}}" if match[1] else f"{text}\\text{{ {match[2]}}}", "unit"


_NUMBER = r"-?(?:\d+\.?\d*|\.\d+|\\[dt]?frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d))"
_E_NOTATION = re.compile(r"(-?\d+(?:\.\d+)?)e(-?\d+)")
_DEGREES = re.compile(rf"({_NUMBER})\s*(?:\^\{{?\\circ\}}?|\\text\{{ degrees\}})")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*\\?%")
_MONEY = re.compile(r"\\\$(\d[\d,\\!]*(?:\.\d+)?)")
_THOUSANDS = re.compile(r"\d{1,3}(?:(?:,\\!\s*|,)\d{3})+")
_UNIT = re.compile(rf"({_NUMBER})\s*\\(?:text|mbox)\{{\s*([a-z]+)\s*\}}(\^\d)?")
_BASED = re.compile(r"(\d+)_\{?(\d)\}?")
_TEXT = re.compile(r"\\text\{\s*([A-Za-z]+)\s*\}")
_CHOICE = re.compile(r"\\text\{\(([A-E])\)\}")


def _bare_thousands(row: Row, text: str) -> str | None:
    """The digits of a numeral that groups them by thousands."""
    if _THOUSANDS.fullmatch(text) and row.benchmark != "olympiadbench":
        return re.sub(r"\D", "", text)
    return None


def _special_forms(row: Row, text: str) -> Iterator[Variant]:
    """Forms of numerals with signs, of units, bases, words and choices."""
    if match := _E_NOTATION.fullmatch(text):
        yield from _e_forms(match[1], int(match[2]))
    elif match := _DEGREES.fullmatch(text):
        for other in ("", "^{\\circ}", "^\\circ", "°", "\\text{ degrees}", " \\mathrm{~degrees}", " \\text{°}"):
            yield match[1] + other, "degrees"
        for answer, kind in forms(match[1], row.gold):
            if kind in ("trailing_zero", "mixed_number", "inline_fraction"):
                yield answer if kind == "inline_fraction" else f"{answer}^\\circ", f"degrees_{kind}"
    elif match := _PERCENT.fullmatch(text):
        exact = Fraction(match[1]) / 100
        for sign in ("%", "\\%", " \\%", "\\text{ percent}", "\\text{\\%}"):
            yield match[1] + sign, "percent"
        yield decimal(exact) or "", "percent_as_decimal"
        yield f"\\frac{{{exact.numerator}}}{{{exact.denominator}}}", "percent_as_fraction"
    elif match := _MONEY.fullmatch(text):
        yield from _money_forms(match[1])
    elif (bare := _bare_thousands(row, text)) is not None:
        yield bare, "thousands_dropped"
        yield from ((answer, kind) for answer, kind in forms(bare, row.gold) if kind != "parenthesised")
        yield from _from_problem(row, bare)
    elif match := _UNIT.fullmatch(text):
        amount, unit, power = match[1], match[2], match[3] or ""
        yield amount, "unit_dropped"
        for font in ("text", "mathrm", "mbox", "textrm"):
            yield f"{amount} \\{font}{{{'~' if font == 'mathrm' else ' '}{unit}}}{power}", "unit_font"
    elif match := _BASED.fullmatch(text):
        yield f"{match[1]}_{match[2]}", "base_braces"
        yield f"{match[1]}_{{{match[2]}}}", "base_braces"
        yield f"({match[1]})_{{{match[2]}}}", "base_parenthesised"
    elif match := _CHOICE.fullmatch(text):
        for choice in ("{0}", "({0})", "\\text{{{0}}}", "\\textbf{{({0})}}", "\\mathrm{{{0}}}", "\\textbf{{{0}}}"):
            yield choice.format(match[1]), "choice"
    elif match := _TEXT.fullmatch(text):
        word = match[1]
        for form in (word, word.lower(), word.capitalize(), f"\\text{{{word}}}", f"\\textbf{{{word}}}"):
            yield form, "text"
        yield f"\\mathrm{{{word}}}", "text"
        yield f"\\text{{{word}.}}", "text"
    elif text == "np.arcsin(10/13)":
        for form in (
            "\\arcsin(10/13)",
            "\\arcsin\\frac{10}{13}",
            "\\sin^{-1}(10/13)",
            "\\sin^{-1}\\left(\\frac{10}{13}\\right)",
        ):
            yield form, "function_name"


def _e_forms(mantissa: str, k: int) -> Iterator[Variant]:
    exact = Fraction(mantissa) * Fraction(10) ** k
    for times, kind in (("\\times", "e_times"), ("\\cdot", "e_cdot"), ("*", "e_star")):
        yield f"{mantissa} {times} 10^{{{k}}}", kind
    if 0 <= k < 10:
        yield f"{mantissa} \\times 10^{k}", "e_times"
    yield f"{mantissa}E{k}", "e_capital"
    if k > 0:
        yield f"{mantissa}e+{k}", "e_plus"
    if abs(k) < 10:
        yield f"{mantissa}e{'-' * (k < 0)}{abs(k):02d}", "e_padded"
    if abs(k) <= 9 and (text := decimal(exact, 15)):
        yield text, "e_plain"
    yield f"{decimal(Fraction(mantissa) * 10)} \\times 10^{{{k - 1}}}", "e_shifted"
    yield f"{decimal(Fraction(mantissa) / 10)} \\times 10^{{{k + 1}}}", "e_shifted"
    yield (
        f"{mantissa}0 \\times 10^{{{k}}}" if "." in mantissa else f"{mantissa}.0 \\times 10^{{{k}}}",
        "e_trailing_zero",
    )
    if Fraction(mantissa) == 1:
        yield f"10^{{{k}}}", "e_power"
    if k < 0:
        yield f"\\frac{{{mantissa}}}{{10^{{{-k}}}}}", "e_fraction"


def _money_forms(amount: str) -> Iterator[Variant]:
    bare = re.sub(r"[,\\!]", "", amount)
    yield bare, "money"
    yield f"\\${bare}", "money"
    yield f"${bare}", "money"
    yield f"{bare}\\text{{ dollars}}", "money"
    yield f"\\text{{\\${bare}}}", "money"
    if "." not in bare:
        yield f"\\${bare}.00", "money"
        if int(bare) >= 1000:
            yield f"\\${int(bare):,}", "money"
    else:
        yield bare.removesuffix("0"), "money"


def _structure_forms(row: Row, text: str) -> Iterator[Variant]:
    """Forms of matrices, sets, lists, tuples, intervals, equations."""
    seed = row.gold
    if "\\begin{pmatrix}" in text:
        yield from _matrix_forms(text, seed)
    elif text.startswith("\\{") and text.endswith("\\}"):
        for answer, kind in _list_forms(split(text[2:-2]), seed):
            if kind not in ("list_and", "list_and_bare", "list_dollars"):
                yield (answer if answer.startswith("\\{") else f"\\{{{answer}\\}}"), f"set_{kind}"
    elif pieces := _union(row, text):
        yield from _interval_forms(pieces, seed)
    elif elements := _tuple(text):
        yield from _tuple_forms(row, elements, seed)
    elif _is_list(text) and not _THOUSANDS.fullmatch(text):
        yield from _list_forms(split(text), seed)
    elif "\\pm" in text and text.count("\\pm") == 1:
        yield _expanded(text), "plus_minus"
        yield _expanded(text, " \\text{ and } ", "-", "+"), "plus_minus"
        yield "x = " + text, "named"
    elif match := re.fullmatch(r"x \\in (.*)", text):
        pieces = _union(row, match[1])
        if pieces:
            yield match[1], "membership_dropped"
            yield from _interval_forms(pieces, seed)
    elif match := re.fullmatch(r"([a-z]) \\geqslant (\d+)", text):
        for form in ("{0} \\geq {1}", "{0} \\ge {1}", "{1} \\le {0}", "{1} \\leq {0}", "{0} ≥ {1}"):
            yield form.format(*match.groups()), "inequality"
    elif len(sides := text.split("=")) == 2:
        yield from _equation_forms(sides[0].strip(), sides[1].strip(), seed)


def _expanded(text: str, between: str = ", ", first: str = "+", second: str = "-") -> str:
    return text.replace("\\pm", first) + between + text.replace("\\pm", second)


def _union(row: Row, text: str) -> list[tuple[str, str, str, str]] | None:
    pieces = [_interval(row, piece) for piece in split(text, r"\\cup")]
    return [piece for piece in pieces if piece] if pieces and all(pieces) else None


def _matrix(text: str) -> list[list[str]] | None:
    match = re.fullmatch(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", text, re.DOTALL)
    if not match:
        return None
    return [[cell.strip() for cell in line.split("&")] for line in match[1].split("\\\\")]


def _matrix_text(cells: list[list[str]], kind: str = "pmatrix") -> str:
    return f"\\begin{{{kind}}} " + " \\\\ ".join(" & ".join(line) for line in cells) + f" \\end{{{kind}}}"


def _matrix_forms(text: str, seed: str) -> Iterator[Variant]:
    cells = _matrix(text)
    if not cells:
        return
    columns = len(cells[0])
    yield _matrix_text(cells, "bmatrix"), "matrix_brackets"
    inner = _matrix_text(cells, "array").replace("array}", "array}{" + "c" * columns + "}", 1)
    yield f"\\left( {inner} \\right)", "matrix_array"
    yield _matrix_text(cells).replace(" & ", "&").replace(" \\\\ ", "\\\\"), "spacing"
    flat = [cell for line in cells for cell in line]
    for new, kind in _replaced(flat, seed, _element_forms, 4):
        lines = [new[i : i + columns] for i in range(0, len(new), columns)]
        yield _matrix_text(lines), f"matrix_{kind}"
    if columns == 1:
        yield f"({', '.join(flat)})", "column_as_tuple"
        yield f"\\langle {', '.join(flat)} \\rangle", "column_as_angles"


def _tuple_forms(row: Row, elements: list[str], seed: str) -> Iterator[Variant]:
    yield f"({', '.join(elements)})", "spacing"
    yield f"({','.join(elements)})", "spacing"
    if not _THOUSANDS.fullmatch("".join(f",{element}" for element in elements)[1:]):
        yield "\\left(" + ",\\,".join(elements) + "\\right)", "left_right"
    for new, kind in _replaced(elements, seed, _element_forms, 5):
        yield f"({', '.join(new)})", f"tuple_{kind}"
    if match := re.search(r"\(\s*([a-z]),\s*([a-z])(?:,\s*([a-z]))?\s*\)", row.problem):
        names = [name for name in match.groups() if name]
        if len(names) == len(elements) and not any(symbols(read(element)) for element in elements):
            yield ", ".join(f"{name} = {item}" for name, item in zip(names, elements, strict=True)), "tuple_named"
            yield f"({', '.join(names)}) = ({', '.join(elements)})", "tuple_equation"
    if row.benchmark == "math500" and len(elements) > 2:
        yield f"\\langle {', '.join(elements)} \\rangle", "tuple_as_angles"


def _list_forms(items: list[str], seed: str) -> Iterator[Variant]:
    """Forms of several answers; only where each is a scalar, a tuple of scalars or an equation."""
    if not all(_scalar(item) or _tuple(item) or _equation(item) or "\\pm" in item for item in items):
        return
    rng = Random(f"list {seed}")
    shuffled = rng.sample(items, len(items))
    orders = [items, items[::-1], shuffled] if all(_scalar(item) for item in items) else [items[::-1], shuffled]
    for order in orders:
        joined = ", ".join(order)
        if not _THOUSANDS.fullmatch(joined.replace(" ", "")):
            yield joined, "list_reordered" if order != items else "spacing"
    if _THOUSANDS.fullmatch("".join(items)):
        return
    if not any("=" in item for item in items):
        yield f"\\{{{', '.join(shuffled)}\\}}", "list_in_braces"
    if len(items) == 2:
        yield " \\text{ and } ".join(items), "list_and"
        yield " \\text{ or } ".join(shuffled), "list_and"
        yield " and ".join(items), "list_and_bare"
    else:
        yield ", ".join(items[:-1]) + " \\text{ and } " + items[-1], "list_and"
    yield ", ".join(f"${item}$" for item in items), "list_dollars"
    if all(_scalar(item) and not symbols(read(item)) for item in items):
        yield ", ".join(f"x = {item}" for item in items), "list_named"
        yield f"x \\in \\{{{', '.join(items)}\\}}", "list_membership"
        if len(items) == 2:
            yield " \\text{ or } ".join(f"x = {item}" for item in items), "list_named"
    for new, kind in _replaced(items, seed, _item_forms, 3):
        yield ", ".join(new), f"list_{kind}"


def _item_forms(item: str, seed: str) -> list[Variant]:
    if elements := _tuple(item):
        return [(f"({', '.join(new)})", kind) for new, kind in _replaced(elements, seed, _element_forms, 3)]
    if "\\pm" in item:
        return [(_expanded(item), "plus_minus")]
    if sides := _equation(item):
        return [(f"{sides[0]} = {new}", kind) for new, kind in _element_forms(sides[1], seed)]
    return _element_forms(item, seed)


def _equation(text: str) -> tuple[str, str] | None:
    """Name and value of ``x = 3`` or ``f(x) = 2x``."""
    match = re.fullmatch(r"([A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*=\s*([^=]+)", text)
    return (match[1], match[2]) if match and _scalar(match[2]) else None


def _interval_forms(pieces: list[tuple[str, str, str, str]], seed: str) -> Iterator[Variant]:
    def text(piece: tuple[str, str, str, str], left: str = "", right: str = "") -> str:
        return f"{left}{piece[0]}{piece[1]}, {piece[2]}{right}{piece[3]}"

    yield " \\cup ".join(text(piece, "\\left", "\\right") for piece in pieces), "left_right"
    yield "x \\in " + " \\cup ".join(text(piece) for piece in pieces), "interval_membership"
    if len(pieces) > 1:
        yield " \\cup ".join(text(piece) for piece in pieces[::-1]), "union_reordered"
    bounds = [_bounds(piece) for piece in pieces]
    yield " \\text{ or } ".join(bounds), "interval_as_inequality"
    if len(pieces) == 1:
        yield f"\\{{x \\mid {bounds[0]}\\}}", "interval_as_set"
    if "\\infty" in text(pieces[-1]) and pieces[-1][2] == "\\infty":
        plus = [*pieces[:-1], (*pieces[-1][:2], "+\\infty", pieces[-1][3])]
        yield " \\cup ".join(text(piece) for piece in plus), "infinity_plus"
    for i, (opening, low, high, closing) in enumerate(pieces):
        for (a, b), kind in _replaced([low, high], f"{seed}{i}", _end_forms, 3):
            new = [*pieces[:i], (opening, a, b, closing), *pieces[i + 1 :]]
            yield " \\cup ".join(text(piece) for piece in new), f"interval_{kind}"


def _end_forms(end: str, seed: str) -> list[Variant]:
    return [] if "infty" in end else _element_forms(end, seed)


def _bounds(piece: tuple[str, str, str, str]) -> str:
    opening, low, high, closing = piece
    over, under = "<" if opening == "(" else "\\le", "<" if closing == ")" else "\\le"
    if low == "-\\infty":
        return f"x {under} {high}"
    if high == "\\infty":
        return f"x {_greater(opening)} {low}"
    return f"{low} {over} x {under} {high}"


def _greater(bracket: str) -> str:
    return ">" if bracket == "(" else "\\ge"


def _equation_forms(left: str, right: str, seed: str) -> Iterator[Variant]:
    yield f"{right} = {left}", "sides_swapped"
    definition = _equation(f"{left} = {right}")
    if definition:
        if "(" in left or not symbols(read(right)):
            yield right, "name_dropped"
        for new, kind in _element_forms(right, seed):
            yield f"{left} = {new}", f"equation_{kind}"
    if re.fullmatch(r"[a-z]", left) and _scalar(right) and symbols(read(right)):
        moved = op("add", read(left), op("neg", read(right)))
        yield f"{write(moved)} = 0", "equation_one_side"
        yield (
            f"{write(op('mul', read('2'), read(left)))} = {write(op('mul', read('2'), read(right)))}",
            "equation_scaled",
        )
    if right == "0" and _scalar(left):
        yield f"{write(op('mul', read('2'), read(left)))} = 0", "equation_scaled"
        yield f"{write(op('neg', read(left)))} = 0", "equation_scaled"
        for new, kind in _element_forms(left, seed):
            yield f"{new} = 0", f"equation_{kind}"


# ------------------------------------------------------------------------------------------------------ near misses

_ARBITRARY = re.compile(r"[cC](?:_\{\d\})? (?:e|x|\\)|[-+]\s*[cC]\b|C_\{|k x-a")
"""Constants that may be named otherwise or hold any value: no change of them is surely wrong."""


def near_misses(row: Row) -> Iterator[Variant]:
    """Wrong answers that look like the gold."""
    text = plain(row.gold)
    for make in (_special_misses, _structure_misses):
        found = list(make(row, text))
        if found:
            yield from found
            return
    if not _is_list(text) and not _ARBITRARY.search(text):
        measured = row.benchmark in ("minerva_math", "amc23")  # what rounds to such a gold might be right
        yield from misses(text, row.gold, near=not measured)


def _special_misses(row: Row, text: str) -> Iterator[Variant]:
    rng = Random(f"special {row.gold}")
    if match := _E_NOTATION.fullmatch(text):
        yield from _e_misses(match[1], int(match[2]))
    elif match := _DEGREES.fullmatch(text):
        for answer, kind in misses(match[1], row.gold, near=True):
            if kind in ("last_digit", "factor_10", "digits_swapped", "numerator_changed", "near_relative", "sign"):
                yield f"{answer}^\\circ", f"degrees_{kind}"
                yield answer, f"degrees_{kind}"
        yield f"{match[1]}\\pi", "degrees_pi"
    elif match := _PERCENT.fullmatch(text):
        for answer, kind in misses(match[1], row.gold, near=False):
            if kind in ("last_digit", "factor_10", "digits_swapped"):
                yield f"{answer}\\%", f"percent_{kind}"
        yield decimal(Fraction(match[1]) / 10) or "", "percent_factor_10"
    elif match := _MONEY.fullmatch(text):
        amount = re.sub(r"[,\\!]", "", match[1])
        for answer, kind in misses(amount, row.gold, near=True):
            if kind in ("last_digit", "factor_10", "factor_100", "digits_swapped", "near_relative"):
                yield f"\\${answer}", f"money_{kind}"
    elif (bare := _bare_thousands(row, text)) is not None:
        yield from misses(bare, row.gold, near=True)
        if text.count(",") == 1:
            yield re.sub(r",(\\!)?\s*", ".", text), "point_for_comma"
    elif match := _UNIT.fullmatch(text):
        unit = f"\\text{{ {match[2]}}}{match[3] or ''}"
        for answer, kind in misses(match[1], row.gold, near=False):
            if kind in ("last_digit", "factor_10", "sign", "numerator_changed", "digits_swapped"):
                yield answer + unit, f"unit_{kind}"
    elif match := _BASED.fullmatch(text):
        digits, base = match[1], int(match[2])
        yield f"{digits}_{{{base + 1}}}", "base_changed"
        yield f"{digits}_{{{base + 2}}}", "base_changed"
        i = rng.randrange(len(digits))
        yield f"{digits[:i]}{(int(digits[i]) + 1) % base}{digits[i + 1 :]}_{{{base}}}", "base_digit"
        yield f"{digits[::-1]}_{{{base}}}" if digits != digits[::-1] else "", "base_reversed"
        yield f"{digits}0_{{{base}}}", "base_digit_added"
    elif match := _CHOICE.fullmatch(text):
        for letter in sorted(set("ABCDE") - {match[1]}):
            yield f"\\text{{({letter})}}", "choice_changed"
        yield f"\\text{{({match[1]}) or ({'A' if match[1] != 'A' else 'B'})}}", "choice_hedged"
        yield letter, "choice_changed"
    elif match := _TEXT.fullmatch(text):
        others = {"east": "west", "even": "odd", "ellipse": "parabola", "Evelyn": "Navin", "Navin": "Evelyn"}
        if match[1] in others:
            other = others[match[1]]
            yield f"\\text{{{other}}}", "text_changed"
            yield f"\\text{{not {match[1]}}}", "text_negated"
            yield f"\\text{{{match[1]} or {other}}}", "text_hedged"
    elif text == "np.arcsin(10/13)":
        for form in ("\\arccos(10/13)", "\\arcsin(13/10)", "\\arcsin(10/12)", "\\frac{10}{13}", "\\sin(10/13)"):
            yield form, "function_changed"


def one_percent(mantissa: str) -> str:
    """The mantissa and one hundredth of it."""
    return decimal(Fraction(mantissa) * Fraction(101, 100), 12) or ""


def rounds_to(answer: str, gold: str) -> bool:
    """Whether one numeral rounds to another at that one's digits."""
    return abs(Fraction(answer) - Fraction(gold)) <= Fraction(1, 2 * 10 ** len(gold.partition(".")[2]))


def _e_misses(mantissa: str, k: int) -> Iterator[Variant]:
    exact = Fraction(mantissa)
    if not rounds_to(changed := one_percent(mantissa), mantissa):
        yield f"{changed} \\times 10^{{{k}}}", "e_mantissa_1_percent"
        yield f"{changed}e{k}", "e_mantissa_1_percent"
    unit = Fraction(1, 10 ** len(mantissa.partition(".")[2]))
    for step in (1, -1):
        if exact + step * unit > 0:
            yield f"{decimal(exact + step * unit)} \\times 10^{{{k}}}", "e_last_digit"
            yield f"{mantissa} \\times 10^{{{k + step}}}", "e_exponent"
            yield f"{mantissa}e{k + step}", "e_exponent"
    yield f"{mantissa} \\times 10^{{{-k}}}", "e_exponent_sign"
    yield f"-{mantissa} \\times 10^{{{k}}}", "e_sign"
    yield mantissa, "e_exponent_dropped"
    yield f"{mantissa} + 10^{{{k}}}" if exact != 1 else "", "e_sum"
    yield f"{mantissa}^{{{k}}}" if exact != 1 else "", "e_power"
    if abs(k) <= 9:
        yield decimal(exact * Fraction(10) ** (k - 1), 16) or "", "e_plain_factor_10"


def _structure_misses(row: Row, text: str) -> Iterator[Variant]:
    seed = row.gold
    if "\\begin{pmatrix}" in text:
        yield from _matrix_misses(text, seed)
    elif text.startswith("\\{") and text.endswith("\\}"):
        for answer, kind in _list_misses(split(text[2:-2]), seed):
            yield f"\\{{{answer}\\}}", f"set_{kind}"
    elif pieces := _union(row, text.removeprefix("x \\in ")):
        yield from _interval_misses(pieces, seed)
    elif elements := _tuple(text):
        yield from _tuple_misses(elements, seed)
    elif _is_list(text) and not _THOUSANDS.fullmatch(text):
        yield from _list_misses(split(text), seed)
    elif "\\pm" in text and text.count("\\pm") == 1:
        yield text.replace("\\pm", "+"), "plus_minus_half"
        yield text.replace("\\pm", "-"), "plus_minus_half"
        for new, kind in _element_misses(text.replace("\\pm", "+"), seed):
            if kind in ("number_changed", "coefficient_changed", "radicand_changed", "root_dropped"):
                yield _expanded_with(new, text), f"plus_minus_{kind}"
    elif match := re.fullmatch(r"([a-z]) \\geqslant (\d+)", text):
        name, bound = match[1], int(match[2])
        for form in (f"{name} > {bound}", f"{name} \\le {bound}", f"{name} \\ge {bound + 1}", f"{name} = {bound}"):
            yield form, "inequality_changed"
        yield str(bound), "bare_bound"
    elif len(sides := text.split("=")) == 2:
        yield from _equation_misses(sides[0].strip(), sides[1].strip(), seed)


def _expanded_with(first: str, text: str) -> str:
    return f"{first}, {text.replace(chr(92) + 'pm', '-')}"


def _matrix_misses(text: str, seed: str) -> Iterator[Variant]:
    cells = _matrix(text)
    if not cells:
        return
    columns = len(cells[0])
    flat = [cell for line in cells for cell in line]
    for new, kind in _replaced(flat, seed, _element_misses, 6):
        lines = [new[i : i + columns] for i in range(0, len(new), columns)]
        yield _matrix_text(lines), f"matrix_{kind}"
    yield _matrix_text(cells[:-1]), "matrix_row_dropped"
    yield _matrix_text([*cells, ["0"] * columns]), "matrix_row_added"
    if cells[0] != cells[1]:
        yield _matrix_text([cells[1], cells[0], *cells[2:]]), "matrix_rows_swapped"
    if columns == 1:
        yield f"({', '.join(flat[:-1])})" if len(flat) > 2 else "", "column_as_short_tuple"
        for new, kind in _replaced(flat, f"tuple {seed}", _element_misses, 2):
            yield f"({', '.join(new)})", f"column_as_tuple_{kind}"


def _tuple_misses(elements: list[str], seed: str) -> Iterator[Variant]:
    for new, kind in _replaced(elements, seed, _element_misses, 6):
        yield f"({', '.join(new)})", f"tuple_{kind}"
    yield f"({', '.join(elements[:-1])})" if len(elements) > 2 else elements[0], "tuple_element_dropped"
    yield f"({', '.join([*elements, '0'])})", "tuple_element_added"
    for i in range(len(elements) - 1):
        if _unequal(elements[i], elements[i + 1]):
            swapped = [*elements[:i], elements[i + 1], elements[i], *elements[i + 2 :]]
            yield f"({', '.join(swapped)})", "tuple_swapped"
            break
    if len(elements) == 2:
        yield f"{elements[0]} + {elements[1]}", "tuple_as_sum"
        yield f"\\frac{{{elements[0]}}}{{{elements[1]}}}", "tuple_as_fraction"


def _distinct(items: list[str]) -> bool:
    scalars = [item for item in items if _scalar(item)]
    return len(set(items)) == len(items) and all(
        _unequal(one, other) for i, one in enumerate(scalars) for other in scalars[:i]
    )


def _list_misses(items: list[str], seed: str) -> Iterator[Variant]:
    if not all(_scalar(item) or _tuple(item) or _equation(item) or "\\pm" in item for item in items):
        return
    if _ARBITRARY.search(seed) or _THOUSANDS.fullmatch("".join(items)) or "\\pi k" in seed:
        return
    if not _distinct(items):
        return
    for new, kind in _replaced(items, seed, _item_misses, 6):
        if _distinct(new) and not _THOUSANDS.fullmatch("".join(new)) and set(new) != set(items):
            yield ", ".join(new), f"list_{kind}"
    rng = Random(f"list misses {seed}")
    i = rng.randrange(len(items))
    yield ", ".join([*items[:i], *items[i + 1 :]]), "list_dropped"
    if len(items) > 2:
        yield items[i], "list_only_one"
    if all(_scalar(item) and not symbols(read(item)) for item in items):
        extra = next(str(n) for n in range(rng.randint(2, 90), 200) if all(_unequal(str(n), item) for item in items))
        yield ", ".join([*items, extra]), "list_added"
        if len(items) == 2:
            yield f"{items[0]} + {items[1]}", "list_as_sum"
    elif all(_tuple(item) for item in items):
        yield ", ".join([*items, "(" + ", ".join(["77"] * len(_tuple(items[0]) or [])) + ")"]), "list_added"


def _item_misses(item: str, seed: str) -> list[Variant]:
    if elements := _tuple(item):
        return [(f"({', '.join(new)})", kind) for new, kind in _replaced(elements, seed, _element_misses, 3)]
    if "\\pm" in item:
        return [(item.replace("\\pm", "+"), "plus_minus_half")]
    if sides := _equation(item):
        return [(f"{sides[0]} = {new}", kind) for new, kind in _element_misses(sides[1], seed)]
    return _element_misses(item, seed)


def _interval_misses(pieces: list[tuple[str, str, str, str]], seed: str) -> Iterator[Variant]:
    flip = {"(": "[", "[": "(", ")": "]", "]": ")"}

    def join(changed: list[tuple[str, str, str, str]], by: str = " \\cup ") -> str:
        return by.join(f"{a}{low}, {high}{b}" for a, low, high, b in changed)

    for i, (opening, low, high, closing) in enumerate(pieces):
        others = pieces[:i], pieces[i + 1 :]
        if "infty" not in low:
            yield join([*others[0], (flip[opening], low, high, closing), *others[1]]), "interval_bracket"
            yield join([*others[0], ("(", "-\\infty", high, closing), *others[1]]), "interval_end_dropped"
        if "infty" not in high:
            yield join([*others[0], (opening, low, high, flip[closing]), *others[1]]), "interval_bracket"
        for (a, b), kind in _replaced([low, high], f"{seed}{i}", _end_misses, 4):
            if _ordered(a, b) and len(pieces) == 1:
                yield join([(opening, a, b, closing)]), f"interval_{kind}"
    if len(pieces) > 1:
        yield join(pieces[:1]), "union_piece_dropped"
        yield join(pieces[1:]), "union_piece_dropped"
        yield join(pieces, " \\cap "), "union_as_intersection"
    else:
        opening, low, high, closing = pieces[0]
        mirrored = {"(": ")", "[": "]", ")": "(", "]": "["}
        if "infty" in low + high:
            yield low if "infty" in high else high, "bare_bound"
            complement = (
                ("(", "-\\infty", low, mirrored[opening])
                if "infty" in high
                else (mirrored[closing], high, "\\infty", ")")
            )
            yield join([complement]), "interval_complement"
            yield _bounds(complement), "interval_complement"
        yield _bounds((flip[opening], low, high, closing)) if "infty" not in low else "", "inequality_strictness"


def _end_misses(end: str, seed: str) -> list[Variant]:
    return [] if "infty" in end else _element_misses(end, seed)


def _ordered(low: str, high: str) -> bool:
    return "infty" in low + high or value(read(low)).real < value(read(high)).real


def _equation_misses(left: str, right: str, seed: str) -> Iterator[Variant]:
    if _ARBITRARY.search(seed) or not _scalar(right):
        return
    if _equation(f"{left} = {right}"):
        wrong = _element_misses(right, seed) + [
            (new, kind)
            for new, kind in misses(right, seed, near=False)
            if kind in ("number_changed", "exponent_changed")
        ]
        for new, kind in wrong:
            yield f"{left} = {new}", f"equation_{kind}"
            if "(" in left or not symbols(read(right)):
                yield new, f"name_dropped_{kind}"
    elif right == "0" and _scalar(left):
        for new, kind in _element_misses(left, seed):
            if kind in ("term_sign", "coefficient_changed", "number_changed", "term_dropped"):
                yield f"{new} = 0", f"equation_{kind}"


def data_folder(given: Path | None) -> Path:
    """The folder of the data: what was given, else RETELL_TEST_DATA, else beside the checkout."""
    return given or Path(os.environ.get("RETELL_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


def main() -> None:
    """Counts the pairs by kind and shows some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--show", type=int, default=0)
    options = parser.parse_args()
    by_kind: dict[tuple[bool, str], list[Pair]] = defaultdict(list)
    by_benchmark: Counter[tuple[str, bool]] = Counter()
    for pair in pairs(data_folder(options.data)):
        by_kind[pair.equal, pair.kind].append(pair)
        by_benchmark[pair.benchmark, pair.equal] += 1
    for equal in (True, False):
        print(f"\n{'equal forms' if equal else 'near misses'}")
        for (_, kind), found in sorted(item for item in by_kind.items() if item[0][0] == equal):
            print(f"{len(found):6} {kind}")
            for pair in Random(kind).sample(found, min(options.show, len(found))):
                print(f"         {pair.gold!r:40} {pair.answer!r}")
    print(f"\n{'':16}{'equal':>8}{'near misses':>13}")
    for benchmark in BENCHMARKS:
        print(f"{benchmark:16}{by_benchmark[benchmark, True]:8}{by_benchmark[benchmark, False]:13}")
    print(
        f"{'all':16}"
        + "".join(
            f"{sum(n for (_, e), n in by_benchmark.items() if e == want):{w}}" for want, w in ((True, 8), (False, 13))
        )
    )


if __name__ == "__main__":
    main()
