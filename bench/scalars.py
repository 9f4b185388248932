"""Single numbers and expressions: other ways to write them, and others that look like them.

Every pair of texts that `latex` can read is checked there; the rest is right by construction.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import pairwise
from random import Random

import mpmath as mp
import sympy
from latex import Node, Rebuild, Style, UnclearError, num, op, places, read, same, sym, symbols, value, write

Variant = tuple[str, str]
"""An answer and the kind of change that made it."""

_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_FRACTION = re.compile(r"(-?)\\[dt]?frac\s*(?:\{\s*(-?)(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_MIXED = re.compile(r"(-?)(\d+)\s*\\[dt]?frac\s*\{?(\d+)\}?\s*\{?(\d+)\}?")


def number(text: str) -> Fraction | None:
    """The rational that a numeral, a fraction or a mixed number is."""
    text = text.strip()
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text):
        return Fraction(text.removesuffix("."))
    if match := _FRACTION.fullmatch(text):
        upper, lower = int(match[3] or match[4]), int(match[5] or match[6])
        return Fraction(upper, lower) * _sign(match[1] + (match[2] or "")) if lower else None
    if match := re.fullmatch(r"(-?\d+)\.?/(\d+)", text):
        return Fraction(int(match[1]), int(match[2]))
    if (match := _MIXED.fullmatch(text)) and int(match[4]):
        return (int(match[2]) + Fraction(int(match[3]), int(match[4]))) * _sign(match[1])
    return None


def _sign(minuses: str) -> int:
    return -1 if len(minuses) % 2 else 1


def decimal(value: Fraction, most: int = 12) -> str | None:
    """The decimal numeral of a rational if it ends within ``most`` digits after the point."""
    for places_ in range(most + 1):
        if (value * 10**places_).denominator == 1:
            digits = str(abs(int(value * 10**places_))).zfill(places_ + 1)
            text = digits[:-places_] + "." + digits[-places_:] if places_ else digits
            return "-" * (value < 0) + text
    return None


def scientific(value: Fraction, times: str = "\\times", braces: bool = True) -> str:
    """``m × 10^k`` with 1 ≤ m < 10."""
    k = 0
    while abs(value) >= 10:
        value, k = value / 10, k + 1
    while abs(value) < 1:
        value, k = value * 10, k - 1
    return f"{decimal(value, 40)} {times} 10^" + (f"{{{k}}}" if braces else str(k))


def number_forms(text: str, seed: str) -> Iterator[Variant]:
    """Other ways to write the number ``text``."""
    exact = number(text)
    if exact is None:
        return
    rng, minus = Random(f"forms {seed}"), "-" * (exact < 0)
    p, q = abs(exact.numerator), exact.denominator
    k = rng.choice((2, 3, 4, 5))
    plain = decimal(exact)
    if exact > 0:
        yield f"+{text}", "plus_sign"
    if q == 1:
        yield f"{minus}{p}.0", "trailing_zero"
        yield from _integer_forms(int(exact), rng)
    else:
        yield f"{minus}\\frac{{{p}}}{{{q}}}", "fraction"
        yield f"{minus}\\dfrac{{{p}}}{{{q}}}", "dfrac"
        yield f"{minus}\\tfrac{{{p}}}{{{q}}}", "tfrac"
        yield f"{minus}{p}/{q}", "inline_fraction"
        yield f"{{{minus}{p} \\over {q}}}", "over"
        if p < 10 and q < 10:
            yield f"{minus}\\frac{p}{q}", "bare_fraction"
        if exact < 0:
            yield f"\\frac{{-{p}}}{{{q}}}", "minus_in_fraction"
        if p > q:
            yield f"{minus}{p // q}\\frac{{{p % q}}}{{{q}}}", "mixed_number"
            yield f"{minus}\\left({p // q} + \\frac{{{p % q}}}{{{q}}}\\right)", "arithmetic"
        if plain:
            yield plain, "decimal"
            yield plain + "0", "trailing_zero"
            if p < q:
                yield plain.replace("0.", ".", 1), "leading_zero_dropped"
            if 0 < exact < 1 and len(plain) <= 6:
                yield f"{decimal(exact * 100)}\\%", "as_percent"
        elif repeating := _repeating(p, q):
            yield minus + repeating, "repeating_decimal"
    yield f"{minus}\\frac{{{k * p}}}{{{k * q}}}", "unsimplified"
    if exact and ((p >= 1000 and q == 1) or (plain and p < q and abs(exact) < Fraction(1, 10))):
        yield scientific(exact), "scientific"
    yield f"({text})", "parenthesised"
    yield f"\\text{{{text}}}" if re.fullmatch(r"[\d.]+", text) else f"\\mathbf{{{text}}}", "font"


def _integer_forms(n: int, rng: Random) -> Iterator[Variant]:
    size, minus = abs(n), "-" * (n < 0)
    if size >= 1000:
        for mark, kind in ((",", "comma"), ("{,}", "braced_comma"), ("\\,", "thin_space"), (",\\!", "comma_thin")):
            yield minus + f"{size:,}".replace(",", mark), f"thousands_{kind}"
        if size >= 10_000:
            yield minus + f"{size:,}".replace(",", " "), "thousands_space"
    if 0 < n < 100:
        yield f"{n:03d}", "zero_padded"
    if 0 <= n <= 12:
        yield f"\\text{{{_WORDS[n]}}}", "number_word"
    if 2 <= n < 1000:
        yield f"\\sqrt{{{n * n}}}", "root_of_square"
    divisors = [d for d in range(2, min(size, 1000)) if size % d == 0 and d * d <= size]
    if n > 3 and divisors:
        d = rng.choice(divisors)
        times = rng.choice(("\\cdot", "\\times", "*"))
        yield f"{d} {times} {n // d}", "arithmetic_product"
        power = next((b for b in range(2, 1 + int(size**0.5)) for e in range(2, 40) if b**e == n), None)
        if power:
            yield f"{power}^{{{next(e for e in range(2, 40) if power**e == n)}}}", "arithmetic_power"
    if n > 3:
        part = rng.randrange(1, n)
        yield f"{part} + {n - part}", "arithmetic_sum"


def _repeating(p: int, q: int) -> str | None:
    """The repeating decimal of p/q if it repeats from the point on with at most six digits."""
    for length in range(1, 7):
        if (10**length - 1) % q == 0:
            return f"{p // q}.\\overline{{{p % q * (10**length - 1) // q:0{length}d}}}"
    return None


def number_misses(text: str, seed: str, near: bool) -> Iterator[Variant]:
    """Numbers that are not ``text``; with ``near`` also those that differ by 1e-4 … 1e-6 of it."""
    exact = number(text)
    if exact is None:
        return
    for answer, kind in _number_misses(text, exact, Random(f"misses {seed}"), near):
        other = number(answer)
        digits = len(text.partition(".")[2]) if re.fullmatch(r"-?\d*\.\d+", text) else 40
        if answer and (other is None or abs(other - exact) > Fraction(1, 2 * 10**digits)):  # no other rounding of it
            yield answer, kind


def _number_misses(text: str, exact: Fraction, rng: Random, near: bool) -> Iterator[Variant]:
    p, q, minus = abs(exact.numerator), exact.denominator, "-" * (exact < 0)
    plain = decimal(exact)
    if exact:
        yield decimal(-exact) or f"{'-' * (exact > 0)}\\frac{{{p}}}{{{q}}}", "sign"
        yield f"\\pm {text.removeprefix('-')}", "plus_minus_added"
    if plain and (q == 1 or re.fullmatch(r"-?\d*\.\d+", text)):
        digits = plain if q == 1 else text
        unit = Fraction(1, 10 ** len(digits.partition(".")[2]))
        for step in (1, -1):
            yield decimal(exact + step * unit) or "", "last_digit"
        yield decimal(exact * 10) or "", "factor_10"
        yield decimal(exact / 10) or "", "factor_10"
        yield decimal(exact * 100) or "", "factor_100"
        swaps = [i for i, (a, b) in enumerate(pairwise(digits)) if a != b and (a + b).isdigit()]
        if swaps:
            i = rng.choice(swaps)
            yield digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :], "digits_swapped"
        if abs(exact) >= 10:
            i = rng.randrange(len(minus), len(digits.partition(".")[0]))
            yield digits[:i] + digits[i + 1 :], "digit_dropped"
            yield digits[: i + 1] + digits[i] + digits[i + 1 :], "digit_doubled"
    if q == 1:
        yield from _integer_misses(int(exact), rng, near)
    else:
        if exact != 0:
            yield f"{minus}\\frac{{{q}}}{{{p}}}" if p > 1 else f"{minus}{q}", "fraction_swapped"
        step = rng.choice((1, -1)) if p > 1 else 1
        yield f"{minus}\\frac{{{p + step}}}{{{q}}}", "numerator_changed"
        yield f"{minus}\\frac{{{p}}}{{{q + 1}}}", "denominator_changed"
        if q > 2:
            yield f"{minus}\\frac{{{p}}}{{{q - 1}}}", "denominator_changed"
        yield f"{minus}\\frac{{{p}}}{{{10 * q}}}", "factor_10"
        yield f"{minus}{p}", "denominator_dropped"
        if p < q:
            yield f"{minus}{rng.randint(1, 3)}\\frac{{{p}}}{{{q}}}", "whole_part_added"
        if not plain:
            for digits_ in (4, 6):
                yield f"{float(exact):.{digits_}g}", "rounded"


def _integer_misses(n: int, rng: Random, near: bool) -> Iterator[Variant]:
    size = abs(n)
    if near and n:
        yield decimal(n * (1 + Fraction(rng.choice((1, -1)), 10 ** rng.choice((4, 5, 6)))), 20) or "", "near_relative"
        if size < 100:
            yield f"{n}.{'0' * rng.choice((1, 2, 3))}1", "near_absolute"
    if size > 1:
        yield f"\\frac{{1}}{{{n}}}", "reciprocal"
        yield f"{n}^2" if n > 0 else f"({n})^2", "power_added"
        yield f"\\sqrt{{{size}}}", "root_added"
    if n:
        yield f"{n}\\pi", "pi_added"
        yield f"{n}i", "i_added"
        yield f"{n}x", "variable_added"
    yield f"{n} \\text{{ or }} {n + 1}", "hedged"
    yield f"x > {n}", "as_bound"
    yield f"({n}, {n})", "as_pair"
    if size >= 1000:
        digits = f"{size:,}"
        yield (
            "-" * (n < 0) + digits.replace(",", ".", 1) if digits.count(",") == 1 and size % 10 else "",
            "point_for_comma",
        )
        yield "-" * (n < 0) + digits[:-3] + f"{(int(digits[-3:]) + 9) % 1000:03d}", "thousands_changed"


# ------------------------------------------------------------------------------------------------ expressions


def forms(text: str, seed: str) -> Iterator[Variant]:
    """Other ways to write a scalar; nothing for what is none."""
    yield from number_forms(text, seed)
    if number(text) is not None:
        return
    node = _read(text)
    if node is None:
        return
    for answer, kind in _pick(_expression_forms(node), seed):
        if answer != text and _same(answer, node):
            yield answer, kind


def misses(text: str, seed: str, near: bool = True) -> Iterator[Variant]:
    """Scalars that look like ``text`` and are not; nothing for what is none."""
    yield from number_misses(text, seed, near)
    if number(text) is not None:
        return
    node = _read(text)
    if node is None:
        return
    for answer, kind in _pick(_expression_misses(node, Random(f"expression {seed}")), seed):
        if _same(answer, node) is False:
            yield answer, kind


def _read(text: str) -> Node | None:
    try:
        node = read(text)
        value(node)
        return node
    except UnclearError:
        return None


@cache
def _node(text: str) -> Node | None:
    return _read(text)


def _same(answer: str, node: Node) -> bool | None:
    other = _node(answer)
    try:
        return None if other is None else same(node, other)
    except UnclearError:
        return None


def _pick(variants: Iterator[Variant], seed: str, most: int = 2) -> Iterator[Variant]:
    """At most ``most`` of each kind, chosen by the seed."""
    kinds: dict[str, list[str]] = {}
    for answer, kind in variants:
        if answer not in kinds.setdefault(kind, []):
            kinds[kind].append(answer)
    for kind, answers in kinds.items():
        for answer in Random(f"{kind} {seed}").sample(answers, min(most, len(answers))):
            yield answer, kind


def _expression_forms(node: Node) -> Iterator[Variant]:
    normal = write(node)
    for kind, style in (
        ("dfrac", Style(frac="\\dfrac")),
        ("tfrac", Style(frac="\\tfrac")),
        ("inline_fraction", Style(frac="/")),
        ("over", Style(frac="\\over")),
        ("product_cdot", Style(times="\\cdot")),
        ("product_times", Style(times="\\times")),
        ("product_star", Style(times="*")),
        ("braces_dropped", Style(bare=True)),
        ("left_right", Style(left=True)),
        ("exp", Style(exp=True)),
    ):
        if (text := write(node, style)) != normal:
            yield text, kind
    yield normal, "respaced"
    yield f"({normal})", "parenthesised"
    for part, put in places(node):
        for kind, new in _equal_parts(part, whole=not put.path):
            yield write(put(new)), kind
    yield from _sympy_forms(node)


def _rest(factors: tuple[Node, ...]) -> Node:
    return op("mul", *factors)


def _equal_parts(part: Node, whole: bool) -> Iterator[tuple[str, Node]]:
    args = part.args
    match part.op:
        case "add":
            yield "terms_reordered", op("add", *reversed(args))
            yield "terms_reordered", op("add", *args[1:], args[0])
        case "mul":
            yield "product_commuted", op("mul", *reversed(args))
            if args[0].op == "frac":
                upper, lower = args[0].args
                top = args[1:] if upper == num(1) else (upper, *args[1:])
                yield "fraction_joined", op("frac", _rest(top), lower)
            if len(args) == 2 and args[0].op == "num" and args[1].op == "root" and args[1].args[1].op == "num":
                n, under = int(args[1].args[0].text), args[1].args[1].text
                if args[0].text.isdigit() and under.isdigit():
                    yield "root_absorbed", op("root", num(n), num(int(args[0].text) ** n * int(under)))
        case "frac":
            yield from _equal_fractions(*args)
        case "neg" if args[0].op == "frac":
            yield "minus_in_fraction", op("frac", op("neg", args[0].args[0]), args[0].args[1])
        case "root":
            yield "root_as_power", op("pow", args[1], op("frac", num(1), args[0]))
        case "pow":
            if args[1].op == "neg":
                yield "negative_power", op("frac", num(1), op("pow", args[0], args[1].args[0]))
            if args[0].op == "num" and args[1].op == "num" and args[1].text.isdigit() and int(args[1].text) > 2:
                yield "power_split", op("mul", args[0], op("pow", args[0], num(int(args[1].text) - 1)))
            if args[0].op == "fn" and args[0].text == "sin" and args[1] == num(2):
                cosine = op("pow", Node("fn", args[0].args, "cos"), num(2))
                yield "trigonometric_identity", op("add", num(1), op("neg", cosine))
        case "binom":
            lower = op("mul", op("fact", args[1]), op("fact", op("add", args[0], op("neg", args[1]))))
            yield "binomial_as_factorials", op("frac", op("fact", args[0]), lower)
        case "fn" if len(args) == 2:
            yield "log_base", op("frac", Node("fn", (args[0],), "ln"), Node("fn", (args[1],), "ln"))
        case "fn" if part.text == "cot":
            yield "trigonometric_identity", op("frac", Node("fn", args, "cos"), Node("fn", args, "sin"))
            yield "trigonometric_identity", op("frac", num(1), Node("fn", args, "tan"))
        case "num" if not whole and "." in part.text:
            exact = Fraction(part.text)
            yield "decimal_as_fraction", op("frac", num(exact.numerator), num(exact.denominator))


def _equal_fractions(upper: Node, lower: Node) -> Iterator[tuple[str, Node]]:
    if upper.op == "add":
        terms = [
            op("neg", op("frac", term.args[0], lower)) if term.op == "neg" else op("frac", term, lower)
            for term in upper.args
        ]
        yield "fraction_split", op("add", *terms)
    yield "doubled_fraction", op("frac", op("mul", num(2), upper), op("mul", num(2), lower))
    if upper.op == "mul" and lower.op == "num":
        yield "fraction_parted", op("mul", op("frac", upper.args[0], lower), *upper.args[1:])
    elif upper.op in ("sym", "root", "fn", "pow", "add"):
        yield "fraction_parted", op("mul", op("frac", num(1), lower), upper)
    if upper.op == "root" and upper.args[0] == num(2) and upper.args[1].op == "num" and lower.op == "num":
        bottom = upper if lower == upper.args[1] else op("mul", lower, upper)
        yield "unrationalised", op("frac", num(1) if lower == upper.args[1] else upper.args[1], bottom)
    if lower.op == "root" and lower.args[0] == num(2) and lower.args[1].op == "num":
        top = lower if upper == num(1) else op("mul", upper, lower)
        yield "rationalised", op("frac", top, lower.args[1])
    if upper.op == lower.op == "num" and upper.text.isdigit() and lower.text.isdigit():
        yield "unsimplified", op("frac", num(3 * int(upper.text)), num(3 * int(lower.text)))
        if plain := decimal(Fraction(int(upper.text), int(lower.text)), 4):
            yield "fraction_as_decimal", num(plain)


def _sympy_forms(node: Node) -> Iterator[Variant]:
    """Factored, expanded and over one denominator, for what is built of numbers, symbols, roots and arithmetic."""
    try:
        expression = _sympy(node)
    except KeyError:
        return
    for kind, change in (("expanded", sympy.expand), ("factored", sympy.factor), ("one_fraction", sympy.together)):
        text = sympy.latex(change(expression))
        if text.replace(" ", "") != write(node).replace(" ", "") and len(text) < 200:
            yield text, kind


def _sympy(node: Node) -> sympy.Expr:
    match node.op:
        case "num":
            return sympy.Rational(node.text.removesuffix("."))
        case "sym" if node.text not in ("e", "i", "\\pi"):
            return sympy.Symbol(node.text, positive=True)
        case "pow" if node.args[1].op != "num" or not node.args[1].text.isdigit() or int(node.args[1].text) > 12:
            raise KeyError(node.op)
    a = [_sympy(arg) for arg in node.args]
    return {
        "add": lambda: sympy.Add(*a),
        "mul": lambda: sympy.Mul(*a),
        "neg": lambda: -a[0],
        "frac": lambda: a[0] / a[1],
        "pow": lambda: a[0] ** a[1],
    }[node.op]()


_CHANGED = {"sin": "cos", "cos": "sin", "tan": "cot", "cot": "tan", "arcsin": "arccos", "exp": "ln", "ln": "exp"}


def _expression_misses(node: Node, rng: Random) -> Iterator[Variant]:
    whole = op("neg", node) if node.op != "neg" else node.args[0]
    yield write(whole), "sign"
    yield write(op("mul", num(2), node)), "doubled"
    yield write(op("frac", node, num(2))), "halved"
    yield write(op("mul", num(10), node)), "factor_10"
    yield write(op("add", node, num(1))), "plus_one"
    yield write(op("frac", num(1), node)) if node.op != "frac" else write(op("frac", *node.args[::-1])), "reciprocal"
    yield write(op("pow", node, num(2))), "power_added"
    names = sorted(symbols(node))
    for name in names:
        fresh = next(letter for letter in rng.sample("abkmnpqrstuvwxyz", 16) if letter not in names)
        yield _renamed(node, {name: fresh}), "variable_renamed"
    if len(names) >= 2:
        one, other = rng.sample(names, 2)
        yield _renamed(node, {one: other, other: one}), "variables_swapped"
    if not names:
        yield from _rounded(node)
    if any(part.op in ("floor", "ceil") for part, _ in places(node)):
        return  # other numbers inside may give the same integers
    for part, put in places(node):
        for kind, new in _wrong_parts(part, put):
            yield write(put(new)), kind


def _renamed(node: Node, names: dict[str, str]) -> str:
    if node.op == "sym":
        return write(sym(names.get(node.text, node.text)))

    def rename(part: Node) -> Node:
        text = names.get(part.text, part.text) if part.op == "sym" else part.text
        return Node(part.op, tuple(rename(arg) for arg in part.args), text)

    return write(rename(node))


def _rounded(node: Node) -> Iterator[Variant]:
    exact = value(node)
    if exact.imag == 0 and 1e-3 < abs(exact) < 1e5:
        for digits in (4, 6):
            yield mp.nstr(exact.real, digits), "rounded"


def _role(put: Rebuild) -> str:
    """What a number is in the expression it stands in."""
    node, role = put.root, "number_changed"
    for step in put.path:
        if node.op in ("pow", "frac", "root", "mul"):
            changed = {
                ("pow", 1): "exponent_changed",
                ("frac", 0): "numerator_changed",
                ("frac", 1): "denominator_changed",
                ("root", 0): "root_index_changed",
                ("root", 1): "radicand_changed",
                ("mul", step): "coefficient_changed",
            }
            role = changed.get((node.op, step), role)
        node = node.args[step]
    return role


def _wrong_parts(part: Node, put: Rebuild) -> Iterator[tuple[str, Node]]:
    args = part.args
    match part.op:
        case "num":
            shift = Fraction(1, 10 ** len(part.text.partition(".")[2]))
            for step in (1, -1):
                new = decimal(Fraction(part.text.removesuffix(".")) + step * shift)
                if new and not new.startswith("-") and not (_role(put) == "root_index_changed" and int(new) < 2):
                    yield _role(put), num(new)
        case "add":
            for i, term in enumerate(args):
                other = term.args[0] if term.op == "neg" else op("neg", term)
                yield "term_sign", op("add", *args[:i], other, *args[i + 1 :])
                yield "term_dropped", op("add", *args[:i], *args[i + 1 :])
        case "mul":
            for i, factor in enumerate(args):
                kind = "pi_dropped" if factor == sym("\\pi") else "factor_dropped"
                yield kind, op("mul", *args[:i], *args[i + 1 :])
        case "root":
            yield "root_dropped", args[1]
        case "frac":
            yield "fraction_swapped", op("frac", args[1], args[0])
            yield "denominator_dropped", args[0]
        case "pow":
            yield "power_dropped", args[0]
            if args[1].op == "neg":
                yield "exponent_sign", op("pow", args[0], args[1].args[0])
        case "fn" if part.text in _CHANGED and len(args) == 1:
            yield "function_changed", Node("fn", args, _CHANGED[part.text])
        case "mixed":
            yield "number_changed", Node("mixed", (num(int(args[0].text) + 1), *args[1:]))
            yield "fraction_dropped", args[0]
