import json
import os
import random
import re
from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify.parser import extract_latex
from scripts import graded

from retell.graders.base import Case
from retell.graders.math import MathGrader, _parsed, rational
from retell.graders.pool import GraderPool
from retell.records import Verdict

GRADER = MathGrader()


def judged(answer: str, gold: str) -> Verdict:
    """The verdict as the pool reaches it, in this process: for harmless answers only."""
    prepared = GRADER.prepare(Case("", f"\\boxed{{{answer}}}", gold))
    verdict = prepared if isinstance(prepared, Verdict) else GRADER.judge(prepared)
    assert verdict.extracted == answer.strip()
    assert verdict.reason
    return verdict


def outcome(answer: str, gold: str) -> str:
    return judged(answer, gold).outcome


# The fast path


def prepared(answer: str, gold: str) -> Verdict | None:
    found = GRADER.prepare(Case("a problem", f"\\boxed{{{answer}}}", gold))
    return found if isinstance(found, Verdict) else None


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("42", "42", "same text"),
        ("\\text{east}", "\\text{east}", "same text"),
        ("42", "042", "same number"),
        ("42.0", "42", "same number"),
        ("1,234", "1234", "same number"),
        ("1/2", "\\frac{2}{4}", "same number"),
        ("-\\dfrac{1}{2}", "-0.5", "same number"),
        (".5", "\\tfrac{1}{2}", "same number"),
        ("\\$5", "5", "same number"),
        ("$5$", "5", "same number"),
        ("-0", "0", "same number"),
        ("43", "42", "another number"),
        ("-42", "42", "another number"),
        ("1/3", "3", "another number"),
        ("10000000000000000000001", "10000000000000000000000", "another number"),
    ],
)
def test_what_is_decided_at_once(answer: str, gold: str, reason: str) -> None:
    assert prepared(answer, gold) == Verdict("wrong" if reason == "another number" else "correct", answer, reason)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\frac{1}{3}", "0.333"),
        ("0.34", "\\frac{1}{3}"),
        ("x", "7"),
        ("1,23", "123"),
        ("1,0000", "10000"),
        ("1 234", "1234"),
        ("1_000", "1000"),
        ("٨", "8"),
        ("¹", "1"),
        ("1/0", "1"),
        ("\\frac{1}{0}", "1"),
        ("--1", "1"),
        ("50\\%", "50"),
        ("1e3", "1000"),
        ("7" * 3000, "7"),
        ("7" * 5000, "7"),
        ("7", "7" * 5000),
        ("7", f"{'7' * 5000}/3"),
    ],
)
def test_what_is_not_decided_at_once(answer: str, gold: str) -> None:
    assert GRADER.prepare(Case("a problem", f"\\boxed{{{answer}}}", gold)) == Case("", answer, gold)


def test_no_answer_is_wrong() -> None:
    for response in ("", "It is 7.", "\\boxed{7", "<think>\\boxed{7}"):
        assert GRADER.prepare(Case("", response, "7")) == Verdict("wrong", None, "no answer")


def test_an_answer_that_is_too_long_is_undecided_unless_it_is_the_gold() -> None:
    long = "x+" * 60_000 + "x"
    for answer, gold in ((long, "x"), ("x", long)):
        verdict = prepared(answer, gold)
        assert verdict
        assert verdict.outcome == "undecided"
        assert "longer than" in verdict.reason
        assert len(verdict.extracted or "") < 110_000
    verdict = prepared(long, long)
    assert verdict
    assert verdict.outcome == "correct"


def literals(value: Fraction) -> st.SearchStrategy[str]:
    """Ways to write a rational number."""
    sign, size = "-" if value < 0 else "", abs(value)
    found = [
        f"{sign}\\frac{{{size.numerator * 6}}}{{{size.denominator * 6}}}",
        str(value),
        f"{sign}\\dfrac{{{size.numerator}}}{{{size.denominator}}}",
    ]
    if value.denominator == 1:
        found += [
            f"{int(value)}",
            f"{int(value):,}",
            f"{int(value)}.0",
            f"{int(value)}.",
            f"{sign}00{int(size)}",
            f"${int(value)}$",
        ]
        found += [f"{int(value):+}"]
    if 10**6 % value.denominator == 0:
        decimal = f"{Context(prec=80).divide(Decimal(size.numerator), Decimal(size.denominator)):f}"
        found += [sign + decimal, sign + (decimal + ".000" if "." not in decimal else decimal + "00")]
    return st.sampled_from(found)


RATIONALS = st.one_of(
    st.integers(-(10**7), 10**7).map(Fraction),
    st.integers(-(10**25), 10**25).map(Fraction),
    st.integers(-(10**9), 10**9).map(lambda n: Fraction(n, 1000)),
    st.fractions(max_denominator=40),
)


@given(st.data(), RATIONALS, st.sampled_from([0, 0, 1, Fraction(1, 10), Fraction(1, 2), Fraction(1, 10**6)]))
def test_a_literal_is_its_value(data: st.DataObject, value: Fraction, step: Fraction) -> None:
    text = data.draw(literals(value))
    assert rational(text) == value
    other = data.draw(literals(value + step))
    verdict = prepared(text, other)
    if verdict:
        assert (verdict.outcome == "correct") is (step == 0)


@settings(max_examples=300)
@given(
    st.data(),
    RATIONALS,
    st.sampled_from([0, 1, Fraction(1, 3), Fraction(1, 10), Fraction(1, 2000), Fraction(1, 10**6)]),
)
def test_the_fast_path_never_contradicts_the_judge(data: st.DataObject, value: Fraction, step: Fraction) -> None:
    answer, gold = data.draw(literals(value)), data.draw(literals(value + step))
    verdict = prepared(answer, gold)
    if verdict:
        assert GRADER.judge(Case("", answer, gold)).outcome == verdict.outcome


@settings(max_examples=300)
@given(*(st.text(alphabet="0123456789,./-+$ \\frac{}%", max_size=9),) * 2)
def test_the_fast_path_does_not_contradict_the_judge_on_what_looks_like_numbers(answer: str, gold: str) -> None:
    found = GRADER.prepare(Case("", f"####  {answer}", gold))
    if isinstance(found, Verdict) and found.extracted is not None:
        verdict = GRADER.judge(Case("", found.extracted, gold))
        assert {found.outcome, verdict.outcome} != {"correct", "wrong"} or found.reason == "same text"


# The judge


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("\\sqrt{8}", "2\\sqrt{2}", "values"),
        ("(1,2)", "\\left(1,2\\right)", "same text"),
        ("(1,2)", "(1.0,2)", "values"),
        ("\\sum_{k=1}^{10} k", "55", "algebra"),
        ("55", "\\sum_{k=1}^{10} k", "algebra"),
        ("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}", "algebra"),
        ("\\int_0^1 x\\,dx", "\\frac{1}{2}", "algebra"),
        ("\\lim_{x\\to 0}\\frac{\\sin x}{x}", "1", "algebra"),
        ("\\prod_{k=1}^{5} k", "120", "algebra"),
        ("(1,\\int_0^1 x\\,dx)", "(1,\\frac12)", "algebra"),
    ],
)
def test_correct_answers_and_what_decided(answer: str, gold: str, reason: str) -> None:
    assert judged(answer, gold) == Verdict("correct", answer, reason)


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("\\sqrt{8}", "2\\sqrt{3}", "values"),
        ("\\sum_{k=1}^{10} k", "54", "algebra"),
        ("\\int_0^1 x\\,dx", "\\frac{1}{3}", "algebra"),
        ("\\sum_{k=1}^{n} k", "\\frac{n(n-1)}{2}", "algebra"),
        ("1+", "2x", "cannot be read: it breaks off"),
        ("\\text{west}", "\\text{east}", "values"),
        ("x=x", "7", "values"),
        ("3 4", "2x", "cannot be read"),
        ("@", "7x", "cannot be read"),
        ("\\cup", "7x", "cannot be read"),
    ],
)
def test_wrong_answers_and_what_decided(answer: str, gold: str, reason: str) -> None:
    verdict = judged(answer, gold)
    assert verdict.outcome == "wrong"
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("2^{10000000}+1", "2^{10000000}"),
        ("\\frac{0}{0}", "\\frac{0}{0}+1"),
        ("9^{9^{9^9}}", "9^{9^{9^9}}+1"),
        ("3!!", "720"),
        ("\\max(1,\\pi)", "1"),
    ],
)
def test_what_nobody_can_tell_is_not_correct(answer: str, gold: str) -> None:
    assert outcome(answer, gold) != "correct"


@pytest.mark.parametrize("gold", ["@", "?", "1+", "x = ", "Figure ‡", "{{", "\\frac{1}{"])
def test_a_gold_that_cannot_be_read_is_equalled_by_the_same_text_only(gold: str) -> None:
    verdict = GRADER.judge(Case("", "5", gold))
    assert verdict.outcome == "undecided"
    assert verdict.reason.startswith("the gold cannot be read")
    assert GRADER.prepare(Case("", f"A: {gold}", gold.strip())) == Verdict("correct", gold.strip(), "same text")


def test_a_gold_that_cannot_be_read_is_equalled_by_another_spelling() -> None:
    assert judged("\\dfrac{a}{b} | ", "\\frac{a}{b} |").outcome == "correct"
    assert judged("x \\le | ", "x \\leq |").outcome == "correct"
    assert judged("x < | ", "x \\leq |").outcome != "correct"


def test_only_the_gold_may_be_a_rounding() -> None:
    assert outcome("\\frac{1}{3}", "0.333") == "correct"
    assert outcome("0.333", "\\frac{1}{3}") == "wrong"


def test_the_rules_are_named_with_their_version() -> None:
    assert version("math-verify") in GRADER.name
    assert version("latex2sympy2_extended") in GRADER.name
    assert GRADER.name.startswith("retell-")
    assert GRADER.spec == "math"


# The data


class Straight(MathGrader):
    """Has everything judged in a worker, the answer as it stands."""

    def prepare(self, case: Case) -> Verdict | Case:
        return case


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(GRADER, 2) as found:
        yield found


@pytest.fixture(scope="module")
def straight() -> Iterator[GraderPool]:
    with GraderPool(Straight(), 2) as found:
        yield found


def rows_of(name: str) -> list[dict[str, object]]:
    if "RETELL_TEST_DATA" not in os.environ:
        pytest.skip("RETELL_TEST_DATA names no folder of data")
    path = Path(os.environ["RETELL_TEST_DATA"]) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


BENCHMARKS = ["math500", "olympiadbench", "minerva_math", "aime24", "aime25", "amc23", "gsm8k_test"]


def golds_of(*names: str) -> list[str]:
    return [str(row["answer_raw"]) for name in names for row in rows_of(f"benchmarks/{name}")]


def test_the_public_cases(pool: GraderPool) -> None:
    rows = [row for row in rows_of("grader/vectors_public") if "contested" not in str(row["note"])]
    verdicts = graded(pool, [Case("", str(row["response"]), str(row["gold"])) for row in rows])
    found = [(row["id"], row["expected"], verdict) for row, verdict in zip(rows, verdicts, strict=True)]
    assert [case for case in found if case[2].outcome == "correct" and not case[1]] == []
    wrong = [case for case in found if (case[2].outcome == "correct") is not case[1]]
    assert len(wrong) <= 0.02 * len(rows), wrong


def test_every_gold_equals_itself(straight: GraderPool) -> None:
    golds = golds_of(*BENCHMARKS)
    assert len(golds) == 2866
    verdicts = graded(straight, [Case("", gold, gold) for gold in golds])
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict.outcome != "correct"] == []


def test_every_gold_in_a_box_is_correct(pool: GraderPool) -> None:
    golds = golds_of(*BENCHMARKS)
    verdicts = graded(pool, [Case("", f"So it is $\\boxed{{{gold}}}$.", gold) for gold in golds])
    assert [gold for gold, verdict in zip(golds, verdicts, strict=True) if verdict.outcome != "correct"] == []


def test_golds_in_e_notation(straight: GraderPool) -> None:
    golds = [gold for gold in golds_of("minerva_math") if re.fullmatch(r"-?\d*\.?\d+e[+-]?\d+", gold)]
    assert len(golds) == 58
    parts = [gold.split("e") for gold in golds]
    forms = ["{0} \\times 10^{{{1}}}", "{0}\\cdot10^{{{1}}}", "${0} \\times 10^{{{1}}}$"]
    for form in forms:
        verdicts = graded(
            straight, [Case("", form.format(mantissa, int(power)), f"{mantissa}e{power}") for mantissa, power in parts]
        )
        assert {verdict.outcome for verdict in verdicts} == {"correct"}
    for factor in ("1.01", "0.99"):
        changed = [(Decimal(mantissa) * Decimal(factor), power) for mantissa, power in parts]
        near = [
            Case("", forms[0].format(new, int(power)), gold) for (new, power), gold in zip(changed, golds, strict=True)
        ]
        assert "correct" not in {verdict.outcome for verdict in graded(straight, near)}
    shifted = [
        Case("", forms[0].format(mantissa, int(power) + 1), f"{mantissa}e{power}")
        for mantissa, power in parts
        if Decimal(mantissa)
    ]
    assert "correct" not in {verdict.outcome for verdict in graded(straight, shifted)}


def test_the_fast_path_and_the_judge_agree_on_pairs_of_golds(straight: GraderPool) -> None:
    chance = random.Random(3)
    decided: dict[tuple[str, str], Verdict] = {}
    for name in BENCHMARKS:
        golds = golds_of(name)
        for _ in range(1200):
            answer, gold = chance.choice(golds), chance.choice(golds)
            found = prepared(answer, gold)
            if found and found.extracted == answer:
                decided[answer, gold] = found
    assert len(decided) > 3000
    verdicts = graded(straight, [Case("", answer, gold) for answer, gold in decided])
    contradictions = [
        (pair, fast, slow)
        for (pair, fast), slow in zip(decided.items(), verdicts, strict=True)
        if {fast.outcome, slow.outcome} == {"correct", "wrong"}
    ]
    assert contradictions == []


def test_golds_of_other_problems_are_rarely_correct(straight: GraderPool) -> None:
    """Of two different golds nearly all are different answers; those that are the same differ in writing only."""
    chance = random.Random(4)
    golds = sorted(set(golds_of("math500", "minerva_math")))
    cases = [Case("", *chance.sample(golds, 2)) for _ in range(1500)]
    correct = [
        case for case, verdict in zip(cases, graded(straight, cases), strict=True) if verdict.outcome == "correct"
    ]
    assert len(correct) <= 6, correct


def test_what_the_algebra_cannot_read_is_no_number_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """math-verify swallows every error of its reading."""

    def full(*_: object) -> None:
        raise MemoryError

    grader = MathGrader()
    grader.load()
    _parsed.cache_clear()
    extract_latex.cache_clear()
    monkeypatch.setattr("math_verify.parser.parse_latex_cached", full)
    assert grader.judge(Case("", "7^{\\infty}", "7")).outcome == "undecided"
    _parsed.cache_clear()
    extract_latex.cache_clear()


def test_a_comparison_without_memory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    grader = MathGrader()
    grader.load()
    case = Case("", "\\sum_{k=1}^{3} k", "7")
    assert grader.judge(case) == Verdict("wrong", case.response, "algebra")

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("math_verify.grader.sympy_expr_eq", full)
    with pytest.raises(MemoryError):  # which the worker makes "too much memory" of
        grader.judge(case)


@pytest.mark.parametrize(
    ("answer", "gold", "outcome"),
    [
        ("7^{\\infty}", "7", "undecided"),
        ("7 + \\infty - \\infty", "7", "undecided"),
        ("\\sum_{k=1}^{\\infty} 2^{-k}", "1", "correct"),
        ("\\sum_{k=1}^{\\infty} 2^{-k}", "2", "wrong"),
        ("(-\\infty, 2)", "(-\\infty, 2)\\cup\\emptyset", "correct"),
    ],
)
def test_infinity_is_a_bound_and_no_operand(answer: str, gold: str, outcome: str) -> None:
    case = MathGrader().prepare(Case("", f"\\boxed{{{answer}}}", gold))
    assert isinstance(case, Case) and MathGrader().judge(case).outcome == outcome
