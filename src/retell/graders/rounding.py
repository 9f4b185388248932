"""Golds that are a rounding of the answer."""

from fractions import Fraction

from retell.graders.expressions import Call, Node, Number
from retell.graders.values import Expression, approximate

_LEAST_DIGITS = 3
"""A gold of fewer digits is not taken for a rounding: 2.5 may be exact."""


def is_rounding(gold: Expression, answer: Expression) -> bool:
    """Whether the gold is the answer, rounded to the digits the gold shows.

    A gold in scientific notation states its significant digits. A plain decimal is a rounding only of what no decimal
    can write, such as 1/3 or a root: 3.75 is no rounding of 3.7499.
    """
    stated, value = _stated_digits(gold.node), approximate(answer)
    if stated is None or value is None:
        return False
    number, digits, place, scientific = stated
    if digits < _LEAST_DIGITS or not (scientific or (place < 0 and not _is_decimal(answer.exact))):
        return False
    return abs(value - float(number)) <= 0.5 * 10.0**place * (1 + 1e-9)


def _stated_digits(node: Node) -> tuple[Fraction, int, int, bool] | None:
    """A literal's value, its significant digits, the power of ten of the last, and whether it is scientific."""
    sign = 1
    if isinstance(node, Call) and node.name == "neg":
        sign, node = -1, node.arguments[0]
    power = 0
    scientific = False
    if isinstance(node, Call) and node.name == "mul" and isinstance(node.arguments[1], Call):
        mantissa, ten = node.arguments
        if not isinstance(mantissa, Number) or not isinstance(ten, Call) or ten.name != "pow":
            return None
        exact = Expression(ten.arguments[1], "").exact
        if ten.arguments[0] != Number(Fraction(10), "10") or exact is None or abs(exact) > 300:
            return None
        node, power, scientific = mantissa, int(exact), True
    if not isinstance(node, Number) or "r" in node.text:
        return None
    decimal, _, exponent = node.text.partition("e")
    power += int(exponent or 0)
    if abs(power) > 300:
        return None
    whole, _, fraction = decimal.partition(".")
    significant = (whole + fraction).lstrip("0")
    scientific = scientific or bool(exponent)
    if not scientific and (not fraction or fraction.endswith("0")):
        return None
    value = sign * Fraction(decimal.rstrip(".") or 0) * Fraction(10) ** power
    return value, len(significant), power - len(fraction), scientific


def _is_decimal(value: Fraction | None) -> bool:
    """Whether a number has a decimal that ends."""
    if value is None:
        return False
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1
