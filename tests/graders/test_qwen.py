import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retell.graders.base import Case
from retell.graders.qwen import QwenGrader
from retell.graders.qwen_text import LONGEST, extracted, normalised
from retell.records import Verdict

GRADER = QwenGrader()
# What the rules look for, so that random texts meet them; "#" is a space.
PIECES = [
    piece.replace("#", " ")
    for piece in (
        r"\boxed{ \boxed { } ( ) [ ] \text{ \mbox{ \mathbf \frac \sqrt \left \{ \begin{array}{c} \begin{pmatrix} [1, & "
        r"\end{pmatrix} \\ \ = , . % $ \( ^\circ inf and x= x\in 0 1 12 1. .00 / - + j i cm a# twenty# hundred# A# # "
        "final#answer#is#$ $.#I#hope he#answer#is 答案是 \n \x00 \ud800 ٣ ¹ İ ∞"
    ).split(" ")
]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES)).map("".join)


def glance(response: str, gold: str, benchmark: str = "") -> Verdict | Case:
    return GRADER.prepare(Case("", response, gold, benchmark))


def verdict(answer: str, gold: str, benchmark: str = "") -> Verdict:
    """The verdict on a boxed answer as the pool reaches it, in this process: for harmless answers only."""
    prepared = glance(f"So it is $\\boxed{{{answer}}}$.", gold, benchmark)
    return GRADER.judge(prepared) if isinstance(prepared, Case) else prepared


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The final answer is $x + 1$. I hope it is correct. \\boxed{5}", "x + 1"),
        ("The final answer is $4$. Really. \\boxed{5}", "5"),
        ("\\boxed{3}, no: \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("The answer is 3, \\boxed{4}", "4"),
        ("\\boxed{}", ""),
        ("the answer is 3. No, the answer is 4.", "4"),
        ("the final answer is: 7.", "7"),
        ("My final answer is here: 8/", "here: 8"),
        ("所以答案是5.", "5"),
        ("the answer is\n 1,\n 2", "1,2"),
        ("We have 3 apples, and 1,234.50 pears", "1234.50"),
        ("minus: -5 degrees", "-5"),
        ("no number at all", ""),
    ],
)
def test_the_answer_is_found_in_the_described_order(response: str, answer: str) -> None:
    assert extracted(response) == answer


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1\n2", "12"),
        ("5.", "5"),
        ("10,\\!080", "10,080"),
        ("\\begin{array}{cc}1&2\\end{array}", "\\begin{pmatrix}1&2\\end{pmatrix}"),
        ("\\begin{bmatrix}1\\end{bmatrix}", "\\begin{pmatrix}1\\end{pmatrix}"),
        ("\\tfrac{1}{2}+\\dfrac{3}{4}", "\\frac{1}{2}+\\frac{3}{4}"),
        ("p\\neq 1\\leq 2\\geq 3", "p\\ne1\\le2\\ge3"),
        ("\\left(1\\right)", "(1)"),
        ("\\{1\\}", "{1}"),
        ("5\\text{ apples}", "5"),
        ("\\text{Evelyn}", "Evelyn"),
        ("\\text{A}_1", "A_1"),
        ("5 cm", "5"),
        ("12 miles", "12"),
        ("g(n)", "(n)"),
        ("k+n", "k+n"),
        ("cm", "cm"),
        ("\\text{east}", ""),
        ("1 \\pm \\sqrt{19}", "1\\\\sqrt{19}"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90"),
        ("\\$36", "36"),
        ("\\(7\\)", "7"),
        ("twelve", "12"),
        ("forty-two", "42"),
        ("Three hundred and five", "305"),
        ("two million one thousand", "2001000"),
        ("thousand", "1000"),
        ("twelve monkeys", "twelvemonkeys"),
        ("025", "25"),
        ("000", "0"),
        ("x=5", "5"),
        ("5x=1", "51"),
        ("x \\in [-2,7]", "[-2,7]"),
        ("z\\to 3", "3"),
        ("x\\infty", "x\\infty"),
        ("\\emptyset", "{}"),
        ("8 \\%", "8"),
        ("62.5%", "62.5"),
        ("1+ .5", "1+0.5"),
        ("(-infinity,inf)", "\\mathbb{R}"),
        ("[0,\\infty)", "[0,\\infty)"),
        ("2 and 3", "23"),
        ("\\mathbf{v}", "{v}"),
        ("15\\mbox{ cm}^2", "15^2"),
        ("3+4j", "3+4i"),
        ("i+j", "i+j"),
        ("3.00", "3"),
        ("3.05", "3.05"),
        ("3.0x", "3x"),
        (".35", "0.35"),
        ("k = n+1", "n+1"),
        ("abc=1", "abc=1"),
        ("k=n=1", "k=n=1"),
        ("11\\sqrt2", "11\\sqrt{2}"),
        ("\\frac12", "\\frac{1}{2}"),
        ("\\frac 34", "\\frac{3}{4}"),
        ("\\frac9{19}", "\\frac{9}{19}"),
        ("\\frac{270}7", "\\frac{270}7"),
        ("-1/3", "\\frac{-1}{3}"),
        ("x/3", "x/3"),
        # The space goes in the first round, the left-hand side in the second.
        ("M  = 3", "3"),
    ],
)
def test_each_rule_of_normalisation(text: str, result: str) -> None:
    assert normalised(text) == result


def test_a_text_beyond_the_limit_is_not_normalised() -> None:
    text = "x=" + "1" * LONGEST
    assert normalised(text) == text
    assert normalised(text[:LONGEST]) == "1" * (LONGEST - 2)


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("x+1", "X + 1", "same text"),
        ("", "\\text{east}", "same text"),
        ("\\text{(C)}", "C", "choice letter"),
        ("A, no, e", "E", "choice letter"),
        ("1,000", "1000.0", "numbers"),
        ("50", "0.5", "numbers"),
        ("0.5", "50", "numbers"),
        ("1000.09", "1000", "numbers"),
        ("123457", "123456", "numbers"),
        ("1e3", "1000", "numbers"),
        ("(1,2)", "[1.0,200)", "same parts"),
        ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1.00&2\\\\3&400\\end{pmatrix}", "same parts"),
        ("(1,pq=2)", "(1,2)", "same parts"),
        ("(1,2)", "(1,pq=2)", "same parts"),
        ("2(x+1)", "2x+2", "algebra"),
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", "algebra"),
        ("0.5", "\\frac{1}{2}", "algebra"),
        ("5/4", "\\frac{5}{4}", "same text"),
        ("(2^2,\\sqrt{9})", "[4,3]", "algebra"),
        ("\\{2,1\\}", "\\{1,2\\}", "algebra"),
        ("5p-7q=4", "7q-5p=-4", "algebra"),
        ("15p-21q=12", "15p=21q+12", "algebra"),
        ("\\begin{pmatrix}2^2\\\\1\\end{pmatrix}", "\\begin{pmatrix}4\\\\1\\end{pmatrix}", "algebra"),
        ("k=2n", "n+n", "algebra"),
        ("n+n", "k=2n", "algebra"),
    ],
)
def test_what_is_called_equal_and_why(answer: str, gold: str, reason: str) -> None:
    given = verdict(answer, gold)
    assert (given.outcome, given.reason) == ("correct", reason)


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        ("43", "42", "numbers"),
        ("1000.2", "1000", "numbers"),
        ("3, 2", "2,3", "numbers"),
        ("10", "1", "numbers"),
        ("-5", "5", "numbers"),
        ("", "5", "no answer"),
        ("B", "C", "algebra"),
        ("A bicycle, or C", "B", "algebra"),
        ("(1,2)", "(2,1)", "algebra"),
        ("(1,2,3)", "(1,2)", "algebra"),
        ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}", "algebra"),
        ("2x+1", "2x+2", "algebra"),
        ("2X", "3x", "algebra"),
        ("pq+r=1", "pq+r=2", "algebra"),
        ("pqr=5", "5", "algebra"),
        ("p=1=2", "2", "algebra"),
        ("\\frac{1}{", "1", "algebra"),
        ("^^", "k", "algebra"),
        ("\\frac{0}{0}", "7", "algebra"),
    ],
)
def test_what_is_called_different_and_why(answer: str, gold: str, reason: str) -> None:
    given = verdict(answer, gold)
    assert (given.outcome, given.reason) == ("wrong", reason)


def test_numbers_with_a_percent_sign_are_hundredths() -> None:
    # Normalisation leaves no sign, except in a text that is too long for it.
    half = "0" * LONGEST + "50%"
    assert verdict(half, "0.005").outcome == "correct"
    assert verdict(half, "5000").outcome == "wrong"


def test_symbols_are_told_apart_by_case_in_algebra() -> None:
    assert verdict("2*n+P", "P+n+n").outcome == "correct"
    assert verdict("2*n+P", "p+n+n").outcome == "wrong"


def test_the_verdict_carries_the_normalised_answer() -> None:
    assert verdict("x = \\dfrac12", "1/2").extracted == "\\frac{1}{2}"
    prepared = glance("\\boxed{x + x}", "$2 x$")
    assert prepared == Case("", "x+x", "2x")
    assert GRADER.judge(prepared) == Verdict("correct", "x+x", "algebra")
    assert glance("I do not know", "5") == Verdict("wrong", None, "no answer")


def test_what_is_too_long_goes_to_no_worker() -> None:
    assert glance(f"\\boxed{{{'x+' * LONGEST}1}}", "5") == Verdict(
        "wrong", "x+" * LONGEST + "1", "longer than 2000 characters"
    )
    assert glance("\\boxed{x}", "x+" * LONGEST) == Verdict("wrong", "x", "longer than 2000 characters")


@given(TEXTS, TEXTS)
def test_preparing_any_text_gives_a_verdict_or_a_case(response: str, gold: str) -> None:
    prepared = glance(response, gold)
    assert isinstance(prepared, Case) or prepared.outcome in ("correct", "wrong")


@given(TEXTS)
def test_a_normalised_text_equals_itself(text: str) -> None:
    boxed = glance(f"\\boxed{{{text}}}", text)
    if extracted(f"\\boxed{{{text}}}") == text:
        assert isinstance(boxed, Verdict)
        assert boxed.outcome == "correct"


@settings(max_examples=60)
@given(TEXTS.filter(lambda text: "!" not in text and "^" not in text))
def test_judging_any_text_gives_a_verdict(text: str) -> None:
    # Powers and factorials may take for ever, which is for the pool to end.
    assert GRADER.judge(Case("", text[:40], "2x+1")).outcome in ("correct", "wrong")


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_text_of_anything_is_prepared_at_once(piece: str) -> None:
    text = piece * (400_000 // len(piece))
    start = time.process_time()
    for response in (text, "\\boxed{" + text, f"the answer is ({text})"):
        for gold in ("5", "C", f"({text})"):
            glance(response, gold)
    assert time.process_time() - start < 5  # all nine take some 0.3 s where nothing is quadratic


@pytest.mark.parametrize(
    "code",
    [
        "__import__('pathlib').Path({marker!r}).touch()",
        "exec(\"open({marker!r}, 'w')\")",
        "eval(compile(\"open({marker!r}, 'w')\", 'x', 'exec'))",
        "Symbol(open({marker!r}, 'w').name)",
        "\\text{{1}}+open({marker!r}, 'w').fileno()",
    ],
)
def test_code_is_never_executed(code: str, tmp_path: Path) -> None:
    marker = tmp_path / "k"
    answer = code.format(marker=str(marker))
    assert verdict(answer, "7").outcome == "wrong"
    for mine, theirs in ((answer, "7"), ("7", answer), (answer, f"{answer}+0"), (f"({answer})", "(7)")):
        GRADER.judge(Case("", mine, theirs))
    assert not marker.exists()


def test_preparing_imports_no_algebra() -> None:
    code = (
        "import sys; from retell.graders.base import Case; from retell.graders.qwen import QwenGrader; "
        "QwenGrader().prepare(Case('', 'x', 'y')); sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_loading_imports_the_algebra() -> None:
    GRADER.load()
    assert "latex2sympy2_extended" in sys.modules


def test_the_rules_are_named_with_their_version() -> None:
    assert GRADER.name == f"qwen-2/latex2sympy2-{version('latex2sympy2_extended')}"
    assert (GRADER.spec, GRADER.seconds) == ("qwen", 3.0)


def rows_of(name: str) -> list[dict[str, str]]:
    if "RETELL_TEST_DATA" not in os.environ:
        pytest.skip("RETELL_TEST_DATA names no folder of data")
    path = Path(os.environ["RETELL_TEST_DATA"]) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


BENCHMARKS = ["math500", "olympiadbench", "aime24", "aime25", "amc23", "gsm8k_test"]


@pytest.mark.parametrize("name", [*(f"benchmarks/{name}" for name in BENCHMARKS), "train/math_train"])
def test_golds_are_normalised_as_by_the_evaluation(name: str) -> None:
    rows = rows_of(name)
    assert [normalised(row["answer_raw"]) for row in rows] == [row["answer"] for row in rows]


def test_golds_of_minerva_are_normalised_as_by_the_evaluation_with_their_units() -> None:
    rows = rows_of("benchmarks/minerva_math")
    differ = [row["answer"] for row in rows if normalised(row["answer_raw"], with_units=True) != row["answer"]]
    assert differ == ["\\lambda_{\\text{red}}/\\sqrt{2}"]  # which the evaluation has normalised only once


def test_units_count_on_minerva_alone() -> None:
    assert [verdict("5 km", "5 meters", name).outcome for name in ("", "math500")] == ["correct"] * 2
    assert verdict("5 km", "5 meters", "minerva_math").outcome == "wrong"
    assert verdict("5 km", "5 km", "minerva_math").outcome == "correct"


@pytest.mark.parametrize("name", [*BENCHMARKS, "minerva_math"])
def test_every_gold_equals_itself(name: str) -> None:
    for row in rows_of(f"benchmarks/{name}"):
        assert verdict(row["answer_raw"], row["answer_raw"], name).outcome == "correct"
