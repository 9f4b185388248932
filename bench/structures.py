"""Right and nearly right forms of matrices, sets, lists, tuples, intervals and equations."""

import re
from collections.abc import Callable, Iterator
from random import Random

from golds import ARBITRARY, THOUSANDS, Row, is_list, is_scalar, split
from latex import UnclearError, op, read, same, symbols, value, write
from scalars import Variant, forms, misses


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
    return elements if len(elements) > 1 and all(is_scalar(element) for element in elements) else None


def _interval(row: Row, text: str) -> tuple[str, str, str, str] | None:
    """Left bracket, ends and right bracket of what is an interval without doubt."""
    match = _BRACKETS.fullmatch(text)
    ends = split(match[2]) if match else []
    if not match or len(ends) != 2 or not all(_end(end) for end in ends):
        return None
    sure = match[1] + match[3] != "()" or "infty" in text or row.type == "Interval" or "\\cup" in row.gold
    return (match[1], *ends, match[3]) if sure else None


def _end(end: str) -> bool:
    return end in ("\\infty", "-\\infty") or is_scalar(end)


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


def _equation(text: str) -> tuple[str, str] | None:
    """Name and value of ``x = 3`` or ``f(x) = 2x``."""
    match = re.fullmatch(r"([A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*=\s*([^=]+)", text)
    return (match[1], match[2]) if match and is_scalar(match[2]) else None


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


def _expanded(text: str, between: str = ", ", first: str = "+", second: str = "-") -> str:
    return text.replace("\\pm", first) + between + text.replace("\\pm", second)


# ------------------------------------------------------------------------------------------------------ equal forms


def structure_forms(row: Row, text: str) -> Iterator[Variant]:
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
    elif is_list(text) and not THOUSANDS.fullmatch(text):
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
    if not THOUSANDS.fullmatch("".join(f",{element}" for element in elements)[1:]):
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
    if not all(is_scalar(item) or _tuple(item) or _equation(item) or "\\pm" in item for item in items):
        return
    rng = Random(f"list {seed}")
    shuffled = rng.sample(items, len(items))
    orders = [items, items[::-1], shuffled] if all(is_scalar(item) for item in items) else [items[::-1], shuffled]
    for order in orders:
        joined = ", ".join(order)
        if not THOUSANDS.fullmatch(joined.replace(" ", "")):
            yield joined, "list_reordered" if order != items else "spacing"
    if THOUSANDS.fullmatch("".join(items)):
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
    if all(is_scalar(item) and not symbols(read(item)) for item in items):
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


def _equation_forms(left: str, right: str, seed: str) -> Iterator[Variant]:
    yield f"{right} = {left}", "sides_swapped"
    definition = _equation(f"{left} = {right}")
    if definition:
        if "(" in left or not symbols(read(right)):
            yield right, "name_dropped"
        for new, kind in _element_forms(right, seed):
            yield f"{left} = {new}", f"equation_{kind}"
    if re.fullmatch(r"[a-z]", left) and is_scalar(right) and symbols(read(right)):
        moved = op("add", read(left), op("neg", read(right)))
        yield f"{write(moved)} = 0", "equation_one_side"
        yield (
            f"{write(op('mul', read('2'), read(left)))} = {write(op('mul', read('2'), read(right)))}",
            "equation_scaled",
        )
    if right == "0" and is_scalar(left):
        yield f"{write(op('mul', read('2'), read(left)))} = 0", "equation_scaled"
        yield f"{write(op('neg', read(left)))} = 0", "equation_scaled"
        for new, kind in _element_forms(left, seed):
            yield f"{new} = 0", f"equation_{kind}"


# ------------------------------------------------------------------------------------------------------ near misses


def structure_misses(row: Row, text: str) -> Iterator[Variant]:
    """Wrong answers that look like a gold of several parts."""
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
    elif is_list(text) and not THOUSANDS.fullmatch(text):
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
    scalars = [item for item in items if is_scalar(item)]
    return len(set(items)) == len(items) and all(
        _unequal(one, other) for i, one in enumerate(scalars) for other in scalars[:i]
    )


def _list_misses(items: list[str], seed: str) -> Iterator[Variant]:
    if not all(is_scalar(item) or _tuple(item) or _equation(item) or "\\pm" in item for item in items):
        return
    if ARBITRARY.search(seed) or THOUSANDS.fullmatch("".join(items)) or "\\pi k" in seed:
        return
    if not _distinct(items):
        return
    for new, kind in _replaced(items, seed, _item_misses, 6):
        if _distinct(new) and not THOUSANDS.fullmatch("".join(new)) and set(new) != set(items):
            yield ", ".join(new), f"list_{kind}"
    rng = Random(f"list misses {seed}")
    i = rng.randrange(len(items))
    yield ", ".join([*items[:i], *items[i + 1 :]]), "list_dropped"
    if len(items) > 2:
        yield items[i], "list_only_one"
    if all(is_scalar(item) and not symbols(read(item)) for item in items):
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
    if ARBITRARY.search(seed) or not is_scalar(right):
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
    elif right == "0" and is_scalar(left):
        for new, kind in _element_misses(left, seed):
            if kind in ("term_sign", "coefficient_changed", "number_changed", "term_dropped"):
                yield f"{new} = 0", f"equation_{kind}"
