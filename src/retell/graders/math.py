"""The default grader: the one answer a response commits to, compared by kind, by value and last by algebra."""

import re
from fractions import Fraction
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from retell.answers import extract_answer
from retell.graders.base import Case
from retell.records import Verdict

if TYPE_CHECKING:
    from retell.graders.forms import Form

_RULES = 4
"""Version of this project's own rules of extraction and comparison."""
_LITERAL = re.compile(
    r"\\?\$?(?P<sign>[+-]?)(?:(?P<whole>\d+|\d{1,3}(?:,\d{3})+)(?P<fraction>\.\d*)?|\.(?P<bare>\d+))"
    r"|(?P<minus>-?)\\[dt]?frac\{(?P<above>-?\d+)\}\{(?P<below>\d+)\}|(?P<over>[+-]?\d+)/(?P<under>\d+)",
    re.ASCII,
)
_LONGEST_LITERAL = 2000
"""Python refuses to read integers of more than 4300 digits."""
_LONGEST = 100_000


class MathGrader:
    """Mathematical equality of the extracted answer and the gold."""

    name = f"retell-{_RULES}/math-verify-{version('math-verify')}/latex2sympy2-{version('latex2sympy2_extended')}"
    spec = "math"
    seconds = 0.5

    def prepare(self, case: Case) -> Verdict | Case:
        """Decides missing answers, equal texts and rational literals."""
        answer, gold = extract_answer(case.response), case.gold
        if answer is None:
            return Verdict("wrong", None, "no answer")
        if answer == gold:
            return Verdict("correct", answer, "same text")
        mine, theirs = rational(answer), rational(gold)
        if mine is not None and mine == theirs:
            return Verdict("correct", answer, "same number")
        # A decimal gold may be a rounding, which the comparison by kinds decides.
        if mine is not None and theirs is not None and theirs.denominator == 1:
            return Verdict("wrong", answer, "another number")
        if max(len(answer), len(gold)) > _LONGEST:
            return Verdict("undecided", answer[:_LONGEST], f"longer than {_LONGEST} characters")
        return Case("", answer, gold)

    def load(self) -> None:
        """Imports the algebra, and lets it fill its tables."""
        self.judge(Case("", "x + x", "2x"))
        _algebra("\\sum_{k=1}^{3} k", "6")

    def judge(self, case: Case) -> Verdict:
        """Reads both sides and compares them; the time limit is the caller's."""
        from retell.graders.equality import Equality
        from retell.graders.latex import Unreadable, Unsupported
        from retell.graders.reading import read
        from retell.graders.values import Doubtful

        answer, gold = case.response, case.gold
        if _same_signs(answer, gold):
            return Verdict("correct", answer, "same text")
        try:
            wanted = _read(gold)
        except (Unreadable, Unsupported, RecursionError) as error:
            return Verdict("undecided", answer, f"the gold cannot be read: {error}")
        try:
            found = read(answer)
        except Unreadable as error:
            return Verdict("wrong", answer, f"cannot be read: {error}")
        except (Unsupported, RecursionError):
            return _decided(answer, _algebra(gold, answer), "algebra")
        asked = False

        def algebra(one: str, other: str) -> bool | None:
            nonlocal asked
            asked = True
            return _algebra(one, other)

        try:
            equal = Equality(algebra).of(wanted, found)
        except Doubtful:
            equal = None
        return _decided(answer, equal, "algebra" if asked else "values")


def rational(text: str) -> Fraction | None:
    """The value of a plain number or fraction, perhaps with thousands separators; None for anything else."""
    match = _LITERAL.fullmatch(text.strip().strip("$")) if len(text) <= _LONGEST_LITERAL else None
    if not match:
        return None
    if match["whole"] or match["bare"]:
        whole, places = (match["whole"] or "0").replace(",", ""), match["fraction"] or "." + (match["bare"] or "")
        value = Fraction(int(whole or 0))
        if len(places) > 1:
            value += Fraction(int(places[1:]), 10 ** (len(places) - 1))
        return -value if match["sign"] == "-" else value
    above, below = int(match["above"] or match["over"]), int(match["below"] or match["under"])
    if not below:
        return None
    return Fraction(-above if match["minus"] else above, below)


@lru_cache(maxsize=4096)
def _read(gold: str) -> "tuple[Form, ...]":
    from retell.graders.reading import read

    return read(gold)


def _same_signs(answer: str, gold: str) -> bool:
    """Whether two texts are the same but for layout."""
    from retell.graders.latex import Unreadable
    from retell.graders.reading import spelled

    try:
        return spelled(answer) == spelled(gold) != []
    except (Unreadable, RecursionError):
        return False


def _decided(answer: str, equal: bool | None, how: str) -> Verdict:
    if equal is None:
        return Verdict("undecided", answer, "neither values nor the algebra tell")
    return Verdict("correct" if equal else "wrong", answer, how)


def _algebra(gold: str, answer: str) -> bool | None:
    """Whether math-verify holds two expressions for equal; None where it cannot read one of them."""
    import math_verify

    wanted, found = _parsed(gold), _parsed(answer)
    if not wanted or not found:
        return None
    try:
        return bool(math_verify.verify(list(wanted), list(found), timeout_seconds=None, raise_on_error=True))
    except MemoryError:
        raise
    except Exception:  # some pair of readings cannot be compared: the others may
        return bool(math_verify.verify(list(wanted), list(found), timeout_seconds=None))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[object, ...]:
    """The whole text as an expression; empty where it is none that has a value.

    Asked for plain numbers too, math-verify would take one out of what it cannot read.
    """
    import math_verify

    targets = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
    read = math_verify.parse(f"\\boxed{{{text}}}", targets, fallback_mode="no_fallback", parsing_timeout=None)
    return tuple(expression for expression in read if not _reckons_with_infinity(expression))


def _reckons_with_infinity(expression: Any) -> bool:
    r"""Whether infinity is an operand: 7^{\infty} − 7 simplifies to 0 under some of Python's hash seeds."""
    from sympy import Add, Basic, Mul, Pow, S, nan, oo, preorder_traversal, zoo

    nodes = preorder_traversal(expression) if isinstance(expression, Basic) else ()
    return any(
        isinstance(node, Add | Mul | Pow) and not {oo, -oo, zoo, nan}.isdisjoint(node.args)
        for node in nodes
        if set(node.args) != {S.NegativeOne, oo}
    )
