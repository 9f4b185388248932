import os
import random
import re
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.contamination import GRAM, SHARE, Index, Overlap, find_overlaps
from retell.problems import load_problems
from retell.recipe import Data
from retell.records import Problem

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [f"word{first}{second}" for first in LETTERS for second in LETTERS]
OTHERS = [f"other{first}{second}" for first in LETTERS for second in LETTERS]
TRAIN = "If $x_1 = 15a$ and $y^{2} = -\\frac{3}{4}$, how many two-digit numbers lie between $x_1$ and $y$?"


def problem(text: str, name: str = "p") -> Problem:
    return Problem(name, text, "2", "", "test")


def share(train: str, benchmark: str) -> float:
    """The share of the overlap, 0 where there is none."""
    found = Index({"bench": [problem(benchmark, "b")]}).overlaps(problem(train))
    assert found == [Overlap("p", "bench", "b", overlap.share) for overlap in found[:1]]
    return found[0].share if found else 0.0


@pytest.mark.parametrize(
    "copy",
    [
        TRAIN,
        TRAIN.upper(),
        f"  {TRAIN.replace(' ', '  ')}\n",
        "if x_{1} = 15 a and y^2 = - \\frac{3}{4} how many two digit numbers lie between x_{1} and y",
        "If $x_1=15a$; and $y ^ {2}=-\\frac{3}{4}$... How many two-digit numbers lie between ($x_1$) and ($y$).",
    ],
)
def test_case_punctuation_and_space_are_nothing(copy: str) -> None:
    assert share(copy, TRAIN) == 1
    assert share(TRAIN, copy) == 1
    assert share(f"Begin. {copy} End.", TRAIN) == 1


def test_spaces_within_a_product_are_nothing_where_the_rest_is_equal() -> None:
    # Their grams are not the same: `jx` is one word and `j x` are two.
    spaced, tight = "Let $x^{4}+j x^{2}+k x+225$ be real. Find $j$", "Let $x^4 + jx^2 + kx + 225$ be real.  Find $j.$"
    assert share(spaced, tight) == share(tight, spaced) == 1
    assert share(f"{tight} One more word.", spaced) == 0


def test_letters_of_another_style_are_the_same() -> None:
    assert share("Find 𝑥² in Pólya’s CAFE\u0301.", "find x^2 in Po\u0301lya's café") == 1


def test_an_equal_short_problem_is_found_and_a_part_is_not() -> None:
    short = "Compute $\\sin 60^\\circ$."
    assert share("compute \\( \\sin 60^{\\circ} \\)", short) == 1
    assert share("How many two-digit primes are there?", "HOW MANY TWO DIGIT PRIMES ARE THERE") == 1
    assert share(f"{short} Then compute its square.", short) == 0
    assert share(short, f"{short} Then compute its square.") == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Compute $\\sin(-60^\\circ)$.", "Compute $\\sin 60^\\circ$."),
        ("Compute $\\arcsin -\\frac{1}{2}$", "Compute $\\arcsin \\frac{1}{2}$"),
        ("Factor $x^2 + 9$", "Factor $x^2 - 9$"),
        *((f"Compare 3 {sign} 4", "Compare 3, 4") for sign in "+-/=<>"),
        ("Write 3/4 as a percentage", "Write 3.4 as a percentage"),
        ("Double 12.5", "Double 1.25"),
        ("Double 12.5", "Double 125"),
    ],
)
def test_other_numbers_and_signs_make_another_short_problem(one: str, other: str) -> None:
    assert share(one, other) == share(other, one) == 0
    assert share(one, one) == share(other, other) == 1


def test_a_problem_without_words_overlaps_nothing() -> None:
    assert share("", "???") == share("???", "?") == share("", "") == 0
    assert share("", " ".join(WORDS[:20])) == 0


@pytest.mark.parametrize(
    ("words", "kept", "expected"),
    [
        # 32 words have 20 grams; their first 22 words have 10 of them.
        (32, 22, 10 / 20),
        (32, 21, 0),
        (32, 31, 19 / 20),
        # 33 words have 21 grams: 10 are less than half, 11 are more.
        (33, 22, 0),
        (33, 23, 11 / 21),
        # 111 words have 99 grams.
        (111, 61, 0),
        (111, 62, 50 / 99),
        # 13 words have one gram and 14 have two.
        (13, 13, 1),
        (13, 12, 0),
        (14, 13, 1 / 2),
        (14, 12, 0),
        (15, 13, 0),
    ],
)
def test_half_of_the_grams_is_enough(words: int, kept: int, expected: float) -> None:
    whole, part = " ".join(WORDS[:words]), " ".join(WORDS[:kept])
    assert share(f"{OTHERS[0]} {part} {OTHERS[1]}", whole) == expected
    assert share(part, whole) == expected


def test_the_share_is_the_benchmarks_and_not_the_training_problems() -> None:
    short, long = " ".join(WORDS[:20]), " ".join(OTHERS + WORDS[:20] + OTHERS)
    assert share(long, short) == 1
    assert share(short, long) == 0


def test_a_gram_counts_once_however_often_it_stands() -> None:
    turn = " ".join(WORDS[:GRAM])
    # Turning words have 13 distinct grams; then come 13 more with a new word each. One turn alone has one of the 26.
    repeated = f"{turn} {turn} {turn} {' '.join(OTHERS[:GRAM])}"
    assert share(f"{turn} {turn}", repeated) == 13 / 26
    assert share(f"{turn} {' '.join(OTHERS[20:30])} {turn} {' '.join(OTHERS[30:40])} {turn}", repeated) == 0


def test_words_in_another_order_are_no_overlap() -> None:
    words = WORDS[:60]
    assert share(" ".join(words), " ".join(reversed(words))) == 0
    # Every thirteenth word another: no gram is left of 60 words of which 56 are the same.
    assert share(" ".join(OTHERS[i] if i % GRAM == 6 else word for i, word in enumerate(words)), " ".join(words)) == 0


def test_every_benchmark_that_is_hit_is_named_best_first() -> None:
    text = " ".join(WORDS[:32])
    part = " ".join(WORDS[:40])
    benchmarks = {
        "late": [problem(text, "z"), problem(text, "a")],
        "early": [problem("What is 2 + 2?", "other"), problem(text, "m"), problem(part, "part")],
    }
    found = Index(benchmarks).overlaps(problem(text, "t"))
    # 40 words have 28 grams, of which 32 words have 20.
    assert found == [
        Overlap("t", "early", "m", 1.0),
        Overlap("t", "late", "a", 1.0),
        Overlap("t", "late", "z", 1.0),
        Overlap("t", "early", "part", 20 / 28),
    ]


def test_the_order_of_the_benchmarks_is_nothing_and_that_of_the_problems_is_kept() -> None:
    texts = [" ".join(WORDS[start : start + 30]) for start in range(0, 60, 3)]
    benchmarks = {name: [problem(text, f"{name}{i}") for i, text in enumerate(texts)] for name in ("one", "two")}
    train = [problem(" ".join(WORDS[start : start + 30]), f"t{start}") for start in range(60)]
    found = find_overlaps(train, benchmarks)
    shuffled = {name: random.Random(0).sample(benchmarks[name], len(texts)) for name in ("two", "one")}
    assert find_overlaps(train, shuffled) == found
    assert found == [overlap for each in train for overlap in Index(benchmarks).overlaps(each)]
    assert list(dict.fromkeys(overlap.id for overlap in found)) == [each.id for each in train]


def test_nothing_overlaps_with_no_benchmark() -> None:
    assert find_overlaps([problem(TRAIN)], {}) == []
    assert find_overlaps([problem(TRAIN)], {"empty": []}) == []
    assert find_overlaps([], {"bench": [problem(TRAIN)]}) == []


def test_problems_are_not_held() -> None:
    class Text(str):
        pass

    living: weakref.WeakSet[Text] = weakref.WeakSet()
    most = 0

    def stream() -> Iterator[Problem]:
        nonlocal most
        for number in range(50):
            text = Text(f"{TRAIN} {number}")
            living.add(text)
            most = max(most, len(living))
            yield problem(text, str(number))
            del text

    assert len(find_overlaps(stream(), {"bench": [problem(TRAIN)]})) == 50
    assert most <= 2


def naive_share(train: str, benchmark: str) -> float:
    """The same, as it is defined, for texts of letters and spaces."""
    wanted, had = (
        {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}
        for words in (benchmark.casefold().split(), train.casefold().split())
    )
    if benchmark.casefold().replace(" ", "") == train.casefold().replace(" ", "") != "":
        return 1.0
    part = len(wanted & had) / len(wanted) if wanted else 0.0
    return part if part >= SHARE else 0.0


PIECES = st.lists(
    st.sampled_from([" ".join(WORDS[:5]), " ".join(WORDS[5:14]), " ".join(WORDS[14:30]), "a", "B"]), max_size=6
)


@given(PIECES, st.lists(PIECES, max_size=4))
def test_what_is_found_is_what_the_definition_says(train: list[str], benchmark: list[list[str]]) -> None:
    text = " ".join(train)
    index = Index({"bench": [problem(" ".join(pieces), str(i)) for i, pieces in enumerate(benchmark)]})
    shares = {str(i): naive_share(text, " ".join(pieces)) for i, pieces in enumerate(benchmark)}
    found = index.overlaps(problem(text))
    assert {overlap.benchmark_id: overlap.share for overlap in found} == {i: s for i, s in shares.items() if s}
    assert found == sorted(found, key=lambda overlap: (-overlap.share, overlap.benchmark_id))


@given(st.text(), st.text())
def test_any_text_can_be_looked_up(train: str, benchmark: str) -> None:
    assert share(train, benchmark) in (0, 1)
    if re.search(r"[a-z]", train):
        assert share(f" {train}\n", train) == 1


def test_what_the_real_training_sets_have_of_the_benchmarks() -> None:
    if "RETELL_TEST_DATA" not in os.environ:
        pytest.skip("RETELL_TEST_DATA names no folder of data")
    folder = Path(os.environ["RETELL_TEST_DATA"])
    files = sorted((folder / "benchmarks").glob("*.jsonl"))
    benchmarks = {file.stem: load_problems(Data(path=str(file)), needs_solution=False).problems for file in files}
    found = find_overlaps(load_problems(Data(path=str(folder / "train"))).problems, benchmarks)
    best = {overlap.benchmark_id: overlap.share for overlap in sorted(found, key=lambda overlap: overlap.share)}
    assert len(found) == 33
    assert {name for name, share in best.items() if share == 1} == {
        "math500/test/precalculus/285", "olympiadbench/2791", "olympiadbench/2890",
    }  # fmt: skip
    assert {name for name, share in best.items() if share < 1} == {
        "gsm8k_test/602",
        "math500/test/algebra/2430",
        "math500/test/algebra/346",
        "math500/test/counting_and_probability/71",
        "math500/test/counting_and_probability/761",
        "math500/test/geometry/283",
        "math500/test/geometry/65",
        "math500/test/geometry/702",
        "math500/test/geometry/947",
        "math500/test/intermediate_algebra/279",
        "math500/test/number_theory/466",
        "math500/test/prealgebra/1003",
        "math500/test/prealgebra/1297",
        "math500/test/precalculus/1199",
        "math500/test/precalculus/659",
        "math500/test/precalculus/807",
        "math500/test/precalculus/819",
        "math500/test/precalculus/96",
        "olympiadbench/2895",
    }
    assert Overlap("math_train/4487", "olympiadbench", "olympiadbench/2791", 1.0) in found
    assert Overlap("math_train/5548", "math500", "math500/test/number_theory/466", 3 / 4) in found
