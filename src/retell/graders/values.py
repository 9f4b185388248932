"""Equality by values: exact where they are rational, else of 50 digits, at fixed points.

Two expressions that differ at a point are different; two that agree at every point are equal but for a chance that is
nil for expressions of an answer's size. Values of rational expressions are exact fractions, so that huge integers that
differ by one do differ. What has no value is left to the algebra.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from math import comb, factorial, gcd, isqrt, lcm, prod
from typing import Any, Literal, TypeAlias

import mpmath

from retell.graders.expressions import CONSTANTS, IMAGINARY, INFINITY, PI, Call, E, Node, Number, Symbol
from retell.graders.latex import Unsupported

Points = Literal["positive", "signed", "integer"]
Value: TypeAlias = Any
"""A Fraction where it is exact, else an mpf or mpc."""


class Undefined(Unsupported):
    """The expression has no value at this point, or one too large to work out."""


class TooLarge(Undefined):
    """A number that nobody could work out."""


class NoValue(Undefined):
    """Something that is nothing, such as 0/0."""


class Doubtful(Exception):
    """Nobody can tell: a value is too large to work out, or two agree to hundreds of digits and may differ beyond."""


_COUNTS = frozenset("i j k l m n p q r N M K".split())
"""Symbols that stand for whole numbers, beside a floor or a ceiling."""


class Expression:
    """A parsed expression; equal texts are the same expression."""

    __slots__ = ("_values", "node", "nothing", "symbols", "text", "too_large", "whole")

    def __init__(self, node: Node, text: str) -> None:
        self.node = node
        self.text = text
        self.symbols, names = _inside(node)
        counts = bool(names & {"fact", "fact2", "binom", "gcd", "lcm"})
        rounds = bool(names & {"floor", "ceil"}) and self.symbols <= _COUNTS
        self.whole = bool(self.symbols) and (counts or rounds)
        self.too_large = False
        self.nothing = False
        self._values: dict[tuple[Points, int, bool, int], tuple[Value, bool] | None] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def exact(self) -> Fraction | None:
        """The value, where it is a rational number."""
        if self.symbols:
            return None
        found = self.value("positive", 0)
        return found[0] if found and isinstance(found[0], Fraction) else None

    def value(
        self, points: Points, index: int, common_log: bool = False, digits: int = 50
    ) -> tuple[Value, bool] | None:
        """The value at a point, and whether it is free of numbers so large or small that digits may be lost; None
        where there is none.
        """
        key = (points, index, common_log, digits)
        if key not in self._values:
            valuation = _Valuation(points, index, common_log)
            try:
                with _MP.workdps(digits):
                    value = valuation.of(self.node)
                self._values[key] = (value, valuation.sound(value, digits))
            except (Undefined, ZeroDivisionError, OverflowError) as error:
                self._values[key] = None
                self.too_large |= isinstance(error, TooLarge)
                self.nothing |= isinstance(error, NoValue | ZeroDivisionError)
        return self._values[key]


def _inside(node: Node) -> tuple[frozenset[str], set[str]]:
    """The symbols and the operations of an expression."""
    symbols, names = set(), set()
    stack: list[Node] = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, Call):
            names.add(node.name)
            stack += node.arguments
        elif isinstance(node, Symbol) and node not in CONSTANTS:
            symbols.add(node.name)
    return frozenset(symbols), names


_MP: Any = mpmath.MPContext()
_MP.dps = 50
_SCALES = (Fraction(1), Fraction(1), Fraction(9), Fraction(71), Fraction(3001), Fraction(1, 97))
"""Of the values of symbols at the points: |x - 5| is 5 - x for a while."""
_SHIFTS = (0, 1, 2, 21, 37, 50)
"""Of the values of symbols for whole numbers at the points."""
_SIGNS: tuple[Points, Points] = ("positive", "signed")
_BITS = 1 << 16
"""Largest exact number."""
_LARGEST_LOG = 10**8
"""Of an inexact number, in powers of e."""
_DIGITS = (50, 500)
"""Precision of values; the second where the first leaves a doubt."""


def same_value(one: Expression, other: Expression) -> bool | None:
    """Whether two expressions are equal as functions of their symbols; None where they have no values that tell.

    Raises:
        Doubtful: they agree as far as can be seen, and that is not far enough.
    """
    if one == other:
        return True
    verdict = _same_at(one, other, False)
    if verdict is False and ("log" in one.text or "log" in other.text):
        # \log without a base is natural to some and common to others.
        return _same_at(one, other, True) or False
    return verdict


def _same_at(one: Expression, other: Expression, common_log: bool) -> bool | None:
    if not one.symbols and not other.symbols:
        verdict = _agree_at(one, other, "positive", 0, common_log)
        if one.nothing and other.nothing:
            raise Doubtful
        if one.nothing or other.nothing:
            return False
        valued = one.value("positive", 0, common_log) and other.value("positive", 0, common_log)
        if verdict is None and (valued or one.too_large or other.too_large):
            raise Doubtful
        return verdict
    if (one.whole or other.whole) and one.symbols != other.symbols:
        return False  # a floor is the same for many numbers
    kinds: tuple[Points, ...] = ("integer",) if one.whole or other.whole else _SIGNS
    agreed = 0
    for points in kinds:
        for index in range(len(_SCALES)):
            if points == "signed" and _leaves_the_reals(one, other, index):
                continue  # such as the logarithm of a negative number: there is nothing to compare
            agree = _agree_at(one, other, points, index, common_log)
            if agree is False:
                return False
            agreed += agree is True
    if agreed < 2 and (one.too_large or other.too_large):
        raise Doubtful
    return True if agreed >= 2 else None


def _leaves_the_reals(one: Expression, other: Expression, index: int) -> bool:
    """Whether what is real at a positive point is not at a signed one."""
    for expression in (one, other):
        positive, signed = (expression.value(points, index) for points in _SIGNS)
        if positive and signed and is_real(positive[0]) and not is_real(signed[0]):
            return True
    return False


def _agree_at(one: Expression, other: Expression, points: Points, index: int, common_log: bool) -> bool | None:
    verdict = None
    for digits in _DIGITS:
        values = [expression.value(points, index, common_log, digits) for expression in (one, other)]
        verdict = _agree(values[0], values[1], digits)
        if verdict is not None or None in values:
            break
    return verdict


def ratio_is_constant(one: Expression, other: Expression) -> bool | None:
    """Whether one expression is a constant (not zero) times the other; None where values do not tell."""
    if one.symbols != other.symbols:
        return False if one.symbols and other.symbols else None
    ratios = []
    for index in range(len(_SCALES)):
        found = [expression.value("signed", index) for expression in (one, other)]
        if found[0] is None or found[1] is None or not found[1][0] or not found[0][0]:
            continue
        ratios.append((_quotient(found[0][0], found[1][0]), found[0][1] and found[1][1]))
    if len(ratios) < 2:
        return None
    verdicts = [_agree(ratios[0], ratio) for ratio in ratios[1:]]
    return False if False in verdicts else None if None in verdicts else True


def _agree(one: tuple[Value, bool] | None, other: tuple[Value, bool] | None, digits: int = 50) -> bool | None:
    if one is None or other is None:
        return None
    (left, sound), (right, sound_too) = one, other
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    with _MP.workdps(digits):
        left, right = _mp(left), _mp(right)
        same, different = _MP.mpf(10) ** (10 - digits), _MP.mpf(10) ** (17 - digits)
        distance = abs(left - right) / max(abs(left), abs(right), 1)
        if distance > different:
            return False
        return True if distance < same and sound and sound_too else None


def _mp(value: Value) -> Any:
    return _MP.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _quotient(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one / other
    return _mp(one) / _mp(other)


def is_real(value: Value) -> bool:
    """Whether a value has no imaginary part."""
    return not isinstance(value, _MP.mpc)


def approximate(expression: Expression) -> float | None:
    """The value of a real constant as a float, or None."""
    if expression.symbols:
        return None
    found = expression.value("positive", 0)
    if found is None:
        return None
    try:
        number = float(_mp(found[0]))
    except (TypeError, OverflowError):
        return None
    return number


@lru_cache(maxsize=4096)
def _at(name: str, points: Points, index: int) -> Fraction:
    """The fixed value of a symbol at a point."""
    chance = int.from_bytes(blake2b(f"{name}\0{index}".encode(), digest_size=8).digest(), "big")
    if points == "integer":
        return Fraction(4 + chance % 11 + _SHIFTS[index])
    value = Fraction(211 + chance % 997, 421 + (chance >> 20) % 97) * _SCALES[index]
    return -value if points == "signed" and (chance >> 40) % 3 else value


class _Valuation:
    """Values an expression at one point."""

    def __init__(self, points: Points, index: int, common_log: bool) -> None:
        self._points: Points = points
        self._index = index
        self._common_log = common_log
        self._largest = 1.0
        self._smallest = 1.0

    def sound(self, value: Value, digits: int) -> bool:
        """Whether nothing on the way was so large or small that ``digits`` could not hold what it did."""
        large = 10.0 ** (0.4 * digits)
        if isinstance(value, Fraction):  # which is exact, and is compared with what may not be
            return bool(value.denominator < large)
        return bool(self._largest < large and self._smallest > 1 / large)

    def of(self, node: Node) -> Value:
        if isinstance(node, Number):
            return self._seen(node.value)
        if isinstance(node, Symbol):
            return self._symbol(node)
        values = [self.of(argument) for argument in node.arguments]
        return self._seen(self._call(node.name, values))

    def _seen(self, value: Value) -> Value:
        if isinstance(value, Fraction):
            if value.numerator.bit_length() + value.denominator.bit_length() > 2 * _BITS:
                raise TooLarge
        else:
            if not _MP.isfinite(value):
                raise NoValue("not finite")
            if abs(_MP.mag(value)) > _LARGEST_LOG:
                raise TooLarge
        if size := _size(value):
            self._largest, self._smallest = max(self._largest, size), min(self._smallest, size)
        return value

    def _symbol(self, symbol: Symbol) -> Value:
        if symbol == PI:
            return _MP.mpf(_MP.pi)
        if symbol == E:
            return _MP.mpf(_MP.e)
        if symbol == IMAGINARY:
            return _MP.mpc(0, 1)
        if symbol == INFINITY:
            raise Undefined("infinity")
        return _at(symbol.name, self._points, self._index)

    def _call(self, name: str, values: list[Value]) -> Value:
        if name == "add":
            if all(isinstance(value, Fraction) for value in values):
                return sum(values, Fraction(0))
            return _MP.fsum(map(_mp, values))
        if name in ("mul", "div"):
            one, other = values
            if name == "div" and not other:
                raise NoValue("a division by zero")
            if not (isinstance(one, Fraction) and isinstance(other, Fraction)):
                one, other = _mp(one), _mp(other)
            return one * other if name == "mul" else one / other
        if name == "neg":
            return -values[0]
        if name == "deg":
            return _mp(values[0]) * _MP.pi / 180
        if name == "pow":
            return _power(*values)
        if name == "root":
            return _root(*values)
        if name.endswith("()"):
            return self._unknown(name, values)
        operation = _OPERATIONS.get(name)
        if operation:
            return operation(values)
        if name == "log" and self._common_log:
            name = "lg"
        function = _FUNCTIONS.get(name)
        if function is None:
            raise Undefined(name)
        if len(values) != (2 if name == "logb" else 1):
            raise Undefined(f"{name} of {len(values)}")
        if name in ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "sinh", "cosh") and abs(values[0]) > 10**6:
            raise TooLarge
        try:
            return _simpler(function(*map(_mp, values)))
        except (ValueError, TypeError, mpmath.libmp.NoConvergence, mpmath.libmp.ComplexResult):
            raise Undefined(name) from None

    def _unknown(self, name: str, values: list[Value]) -> Value:
        """An unknown function: a polynomial whose coefficients its name makes."""
        total = _at(name, "positive", 0)
        for place, value in enumerate(values):
            for power in (1, 2, 3):
                exact = isinstance(value, Fraction)
                term = _at(f"{name}{place}.{power}", "positive", 0) * (value**power if exact else 1)
                term = term if exact else _mp(term) * value**power
                both = isinstance(total, Fraction) and isinstance(term, Fraction)
                total = total + term if both else _mp(total) + _mp(term)
        return total


def _size(value: Value) -> float:
    """How far a value is from zero, about; 1e300 or 1e-300 where that is more or less than these."""
    if isinstance(value, Fraction):
        bits = value.numerator.bit_length() - value.denominator.bit_length()
        return 1e300 if bits > 1000 else 1e-300 if bits < -1000 else abs(float(value))
    modulus = abs(value)
    return 1e300 if modulus > 1e300 else 1e-300 if 0 < modulus < 1e-300 else float(modulus)


def _simpler(value: Value) -> Value:
    """Without an imaginary part that is exactly zero."""
    return value.real if isinstance(value, _MP.mpc) and not value.imag else value


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        power = int(exponent)
        if isinstance(base, Fraction):
            if not base and power <= 0:
                raise NoValue("zero to the power of zero or less")
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if base in (1, -1, 0):
                return base ** (power % 2 or 2) if base else base
            return base**power if bits * abs(power) <= _BITS else _inexact_power(_mp(base), power)
        return _inexact_power(base, power)
    if isinstance(exponent, Fraction) and isinstance(base, Fraction) and base > 0 and exponent.denominator <= 12:
        root = _exact_root(base, exponent.denominator)
        if root is not None:
            return _power(root, Fraction(exponent.numerator))
    if not base:
        if isinstance(exponent, Fraction) and exponent > 0:
            return base
        raise NoValue("a power of zero")
    return _inexact_power(_mp(base), _mp(exponent))


def _inexact_power(base: Value, exponent: Value) -> Value:
    if abs(exponent) > _LARGEST_LOG or abs(exponent) * (abs(_MP.log(base)) if base else 0) > _LARGEST_LOG:
        raise TooLarge
    return _simpler(_MP.power(base, exponent))


def _root(radicand: Value, index: Value) -> Value:
    """The root; of a negative number the real one, where the index is odd."""
    if not isinstance(index, Fraction) or index.denominator != 1 or not 1 < index <= 1000:
        if not index:
            raise NoValue("a root of index zero")
        return _power(radicand, 1 / index if isinstance(index, Fraction) else 1 / _mp(index))
    n = int(index)
    if isinstance(radicand, Fraction):
        if radicand < 0 and n % 2:
            return -_root(-radicand, index)
        exact = _exact_root(radicand, n) if radicand >= 0 else None
        if exact is not None:
            return exact
    value = _mp(radicand)
    if isinstance(value, _MP.mpf) and value < 0 and n % 2:
        return -_MP.root(-value, n)
    return _simpler(_MP.sqrt(value) if n == 2 else _MP.root(value, n))


def _exact_root(value: Fraction, n: int) -> Fraction | None:
    roots = [_integer_root(part, n) for part in (value.numerator, value.denominator)]
    return Fraction(roots[0], roots[1]) if roots[0] is not None and roots[1] is not None else None


def _integer_root(value: int, n: int) -> int | None:
    if value < 2:
        return value
    if n == 2:
        root = isqrt(value)
    elif value.bit_length() > 900:
        return None
    else:
        root = round(value ** (1 / n))
    return root if root**n == value else None


def _whole(value: Value) -> int:
    if isinstance(value, Fraction) and value.denominator == 1:
        return int(value)
    raise Undefined("not an integer")


def _factorial(values: list[Value]) -> Value:
    n = _whole(values[0])
    if n < 0:
        raise NoValue("the factorial of a negative number")
    if n > 3000:
        raise TooLarge
    return Fraction(factorial(n))


def _double_factorial(values: list[Value]) -> Value:
    n = _whole(values[0])
    if not 0 <= n <= 3000:
        raise TooLarge
    return Fraction(prod(range(n, 0, -2)))


def _binomial(values: list[Value]) -> Value:
    n, k = map(_whole, values)
    if n < 0 or k < 0:
        raise Undefined("the binomial of negative numbers")
    if n > 1_000_000 or min(k, n - k) > 2000:
        raise TooLarge
    return Fraction(comb(n, k))


def _round(up: bool) -> Callable[[list[Value]], Value]:
    def rounded(values: list[Value]) -> Value:
        value = values[0]
        if isinstance(value, Fraction):
            return Fraction(-(-value.numerator // value.denominator) if up else value.numerator // value.denominator)
        if not isinstance(value, _MP.mpf) or abs(value) > 1e15 or abs(value - _MP.nint(value)) < 1e-30:
            raise Undefined("floor or ceiling")
        return Fraction(int(_MP.ceil(value) if up else _MP.floor(value)))

    return rounded


def _real(values: list[Value]) -> list[Value]:
    if not all(map(is_real, values)):
        raise Undefined("an order of complex numbers")
    return values if all(isinstance(value, Fraction) for value in values) else list(map(_mp, values))


_OPERATIONS: dict[str, Callable[[list[Value]], Value]] = {
    "fact": _factorial,
    "fact2": _double_factorial,
    "binom": _binomial,
    "floor": _round(up=False),
    "ceil": _round(up=True),
    "abs": lambda values: abs(values[0]),
    "gcd": lambda values: Fraction(gcd(*map(_whole, values))),
    "lcm": lambda values: Fraction(lcm(*map(_whole, values))),
    "min": lambda values: min(_real(values)),
    "max": lambda values: max(_real(values)),
}
"""What is exact where the values are."""
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(_MP, name) for name in "sin cos tan cot sec csc sinh cosh tanh coth exp".split()},
    **{f"arc{name}": getattr(_MP, f"a{name}") for name in "sin cos tan cot sec csc sinh cosh tanh".split()},
    "ln": _MP.log,
    "log": _MP.log,
    "lg": _MP.log10,
    "logb": lambda value, base: _MP.log(value) / _MP.log(base),
    "sqrt": _MP.sqrt,
}
"""What takes inexact values."""
