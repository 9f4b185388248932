r"""The grader of the paper's evaluation (Qwen2.5-Math's rules), from a description of what it does.

For scores that compare with the paper's, and for nothing else: it calls 1 %, 1 and 100 equal, and [0,1) and (0,1].
"""

import math
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from retell.graders.base import Case
from retell.graders.qwen_text import LONGEST, extracted, normalised
from retell.records import Verdict

_CHOICE = re.compile(r"\b[A-E]\b")
_TUPLE = re.compile(r"[(\[](.+)[)\]]", re.DOTALL)
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.+)\\end\{pmatrix\}", re.DOTALL)
_TOLERANCE = 1e-4
_WITH_UNITS = "minerva_math"
_RULES = 2
"""Version of this project's own reading of the description."""

Algebra = Callable[[str, str], bool]


class QwenGrader:
    """Judges as the paper's evaluation did, its mistakes included.

    Units are stripped from answers, but for those of the benchmark minerva_math.
    """

    name = f"qwen-{_RULES}/latex2sympy2-{version('latex2sympy2_extended')}"
    spec = "qwen"
    seconds = 3.0

    def prepare(self, case: Case) -> Verdict | Case:
        """Extracts, normalises, and compares as far as that needs no algebra."""
        with_units = case.benchmark == _WITH_UNITS
        answer = normalised(extracted(case.response), with_units=with_units)
        gold = normalised(case.gold, with_units=with_units)
        decided = _at_a_glance(answer, gold)
        if decided:
            return Verdict("correct" if decided[0] else "wrong", answer, decided[1])
        if not answer:
            return Verdict("wrong", None, "no answer")
        if _equal(answer, gold, algebra=lambda mine, theirs: False):
            return Verdict("correct", answer, "same parts")
        if max(len(answer), len(gold)) > LONGEST:
            return Verdict("wrong", answer, f"longer than {LONGEST} characters")
        return Case("", answer, gold)

    def load(self) -> None:
        """Imports the algebra, and lets it fill its tables."""
        self.judge(Case("", "x+1", "2x"))

    def judge(self, case: Case) -> Verdict:
        """Compares two normalised answers with algebra; one that cannot be read equals none."""
        return Verdict(
            "correct" if _equal(case.response, case.gold, _same_value) else "wrong", case.response, "algebra"
        )


def _at_a_glance(answer: str, gold: str) -> tuple[bool, str] | None:
    """Whether they are equal and how that was seen, where the first rules decide; else None."""
    if answer.lower() == gold.lower():
        return True, "same text"
    # Open in the description: a letter of its own, in either case, as texts are compared.
    if _CHOICE.fullmatch(gold) and _CHOICE.findall(answer.upper())[-1:] == [gold]:
        return True, "choice letter"
    mine, theirs = _number(answer), _number(gold)
    if mine is None or theirs is None:
        return None
    return any(_close(mine, accepted) for accepted in (theirs / 100, theirs, theirs * 100)), "numbers"


def _number(text: str) -> float | None:
    """What Python reads as a number once commas are gone (also "1e3" and "inf"); with a percent sign, a hundredth."""
    text = text.replace(",", "")
    share = text.endswith("%")
    try:
        return float(text[:-1].removesuffix("\\")) / 100 if share else float(text)
    except ValueError:
        return None


def _close(mine: float, theirs: float) -> bool:
    return math.isclose(mine, theirs, rel_tol=_TOLERANCE)


def _equal(answer: str, gold: str, algebra: Algebra) -> bool:
    """All rules in their order. Each only accepts, except that two different numbers are different at once.

    A part holds none of the separators that it was split at, so that the depth is small whatever the text.
    """
    decided = _at_a_glance(answer, gold)
    if decided:
        return decided[0]
    for parts in (_elements, _entries):
        mine, theirs = parts(answer), parts(gold)
        if len(mine) == len(theirs) > 1 and all(_equal(*pair, algebra) for pair in zip(mine, theirs, strict=True)):
            return True
    return _equal_sides(answer, gold, algebra) or algebra(answer, gold)


def _elements(text: str) -> list[str]:
    """Of a tuple or an interval, whatever its brackets; commas within its elements separate too."""
    match = _TUPLE.fullmatch(text)
    return match[1].split(",") if match else []


def _entries(text: str) -> list[str]:
    # Open in the description: the entries row after row; the shape is not compared.
    match = _MATRIX.fullmatch(text)
    return re.split(r"\\\\|&", match[1].removesuffix(r"\\")) if match else []


def _equal_sides(answer: str, gold: str, algebra: Algebra) -> bool:
    mine, theirs = answer.split("="), gold.split("=")
    if len(mine) == len(theirs) == 2:
        zero, other = (f"{left}-({right})" for left, right in (mine, theirs))
        return algebra(zero, other) or algebra(f"-({zero})", other)
    if len(mine) == 2 and len(mine[0]) <= 2 and len(theirs) == 1:
        return _equal(mine[1], gold, algebra)
    if len(theirs) == 2 and len(theirs[0]) <= 2 and len(mine) == 1:
        return _equal(answer, theirs[1], algebra)
    return False


def _same_value(answer: str, gold: str) -> bool:
    mine, theirs = _parsed(answer), _parsed(gold)
    if mine is None or theirs is None:
        return False
    try:
        return _same_expression(mine, theirs)
    except MemoryError:
        raise
    except Exception:  # of which sympy has many: what it cannot compare is not equal
        return False


def _parsed(text: str) -> Any:
    """The expression, or None. The parser builds it from a grammar: nothing in the text is evaluated as code."""
    from latex2sympy2_extended import latex2sympy  # type: ignore[import-untyped]
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig  # type: ignore[import-untyped]
    from sympy import Basic, MatrixBase

    try:
        found = latex2sympy(
            text, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
        )
    except MemoryError:
        raise
    except Exception:  # a plain one is what the parser raises
        return None
    return found if isinstance(found, Basic | MatrixBase) else None


def _same_expression(mine: Any, theirs: Any) -> bool:
    from sympy import Expr, MatrixBase, simplify

    if mine == theirs:
        return True
    if isinstance(mine, MatrixBase) and isinstance(theirs, MatrixBase):
        return bool(mine.shape == theirs.shape and all(map(_same_expression, mine, theirs)))
    if not (isinstance(mine, Expr) and isinstance(theirs, Expr)):
        return False
    return bool(simplify(mine - theirs) == 0)
