import random
from collections.abc import Sequence
from math import comb
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.records import Attempt, Completion, Problem, Sample, Verdict
from retell.scores import Answered, Ballot, average, ballot, score


def attempt(index: int, said: str, *, gold: str = "1", stop: str = "stop", tokens: int | None = 3) -> Attempt:
    outcome = "correct" if said == gold else "undecided" if said == "?" else "wrong"
    completion = Completion(said, None, None, stop, usage=tokens)  # type: ignore[arg-type]
    sample = Sample(f"key-{index}", "p", "b", 0, index, completion)
    return Attempt(sample, Verdict(outcome, said or None, ""))  # type: ignore[arg-type]


def answered(*said: str, **how: object) -> Answered:
    attempts = tuple(attempt(index, one, **how) for index, one in enumerate(said))  # type: ignore[arg-type]
    return Answered("b", Problem("p", "?", "1", "", ""), attempts)


def won(one: Answered, classes: Sequence[Sequence[str]] | None = None) -> float:
    votes = ballot(one)
    return votes.won([[text] for text in votes.wrong] if classes is None else classes)


def scored(*problems: Answered, rounded: bool = False) -> dict[str, float]:
    return score(problems, [won(one) for one in problems], rounded=rounded)


@given(st.lists(st.integers(0, 16), min_size=2, max_size=30))
def test_scores_have_their_closed_forms(right: list[int]) -> None:
    """``right`` of 16 responses to a problem are correct; the others all differ."""
    found = scored(*(answered(*["1"] * n, *(f"w{i}" for i in range(16 - n))) for n in right))
    shares = [100 * n / 16 for n in right]
    mean = sum(shares) / len(shares)
    assert found["avg_at_k"] == pytest.approx(mean)
    variance = sum((share - mean) ** 2 for share in shares) / (len(shares) - 1)
    assert found["stderr"] == pytest.approx((variance / len(shares)) ** 0.5)
    assert found["pass_at_k"] == pytest.approx(100 * sum(n > 0 for n in right) / len(right))
    # One correct response is one of sixteen answers with a vote each; two are more than any.
    assert found["majority_at_k"] == pytest.approx(100 * sum({0: 0, 1: 1 / 16}.get(n, 1) for n in right) / len(right))
    assert (found["n"], found["failed"], found["undecided"], found["truncated"]) == (len(right), 0, 0, 0)


def test_the_expected_scores_are_those_of_the_probabilities() -> None:
    """Problem i is solved with probability p_i: means over many draws approach p, 1 − (1 − p)^k and the majority's."""
    k, chances, draws = 5, [0.1, 0.4, 0.7], 4000
    source = random.Random(0)
    rounds = [
        scored(*(answered(*("1" if source.random() < p else "0" for _ in range(k))) for p in chances))
        for _ in range(draws)
    ]
    majority = [sum(comb(k, j) * p**j * (1 - p) ** (k - j) for j in range(3, k + 1)) for p in chances]
    expected = {
        "avg_at_k": 100 * fmean(chances),
        "pass_at_k": 100 * fmean(1 - (1 - p) ** k for p in chances),
        "majority_at_k": 100 * fmean(majority),
    }
    for name, value in expected.items():
        # The standard deviation of a round's score is below 30 points, so that of the mean is below 0.5.
        assert fmean(one[name] for one in rounds) == pytest.approx(value, abs=1.5)


def test_the_papers_rounding_is_of_each_run() -> None:
    """Ten of sixteen runs have one of thirty problems right: 3.3 each, not 3.33."""
    lucky = answered(*["1"] * 10, *["0"] * 6)
    others = [answered(*["0"] * 16) for _ in range(29)]
    assert scored(lucky, *others, rounded=True)["avg_at_k"] == pytest.approx(2.0625)
    assert scored(lucky, *others)["avg_at_k"] == pytest.approx(10 / 480 * 100)
    assert scored(lucky, *others, rounded=True)["stderr"] == scored(lucky, *others)["stderr"]


def test_a_run_is_what_has_one_index_whatever_failed_before_it() -> None:
    first = Answered("b", Problem("p", "?", "1", "", ""), (attempt(0, "", stop="error"), attempt(1, "1")))
    second = answered("1", "0")
    # Run 0 has one response, which is right; run 1 has two, of which one is.
    assert scored(first, second, rounded=True)["avg_at_k"] == pytest.approx((100.0 + 50.0) / 2)
    assert scored(first, second)["avg_at_k"] == pytest.approx((100 + 50) / 2)
    assert scored(first, second)["failed"] == 1


@pytest.mark.parametrize(
    ("said", "chance"),
    [
        (["1", "1", "0"], 1.0),
        (["1", "0", "0"], 0.0),
        (["1", "0"], 1 / 2),
        (["1", "0", "2"], 1 / 3),
        (["1", "1", "0", "0", "2"], 1 / 2),
        (["0", "2"], 0.0),
        (["1"], 1.0),
        (["1", "", "", ""], 1.0),
        (["1", "?", "?"], 0.0),
    ],
)
def test_a_vote_is_won_by_the_most_common_answer_and_ties_by_lot(said: list[str], chance: float) -> None:
    assert won(answered(*said)) == pytest.approx(chance)


def test_a_response_that_was_cut_off_does_not_vote() -> None:
    cut = [attempt(index, "0", stop="length") for index in range(3)]
    assert won(Answered("b", Problem("p", "?", "1", "", ""), (*cut, attempt(3, "1")))) == 1


def test_equal_wrong_answers_vote_together() -> None:
    one = answered("1", "1", "0", "0.0", "zero", "2")
    assert won(one) == 1
    assert won(one, [["0", "0.0"], ["zero"], ["2"]]) == 1 / 2
    assert won(one, [["0", "0.0", "zero"], ["2"]]) == 0


@given(st.integers(0, 6), st.lists(st.integers(1, 4), max_size=5))
def test_a_ballot_is_open_only_where_equal_answers_could_matter(correct: int, sizes: list[int]) -> None:
    votes = Ballot(correct, {f"w{i}": (attempt(0, "0"),) * size for i, size in enumerate(sizes)})
    apart, together = votes.won([[text] for text in votes.wrong]), votes.won([list(votes.wrong)] if sizes else [])
    if not votes.open:
        assert apart == together


def test_shares_and_lengths_are_of_the_responses() -> None:
    found = scored(answered("1", "?", "?", "0", tokens=10), answered("1", "1", "1", "1", tokens=20))
    assert (found["undecided"], found["mean_tokens"]) == (25.0, 15.0)
    assert scored(answered("1", "0", stop="length"))["truncated"] == 100
    assert scored(answered("1", "0", tokens=None), answered("1", tokens=4))["mean_tokens"] is None


def test_the_average_is_of_benchmarks_and_its_error_that_of_independent_ones() -> None:
    parts = {"a": {"avg_at_k": 10.0, "stderr": 3.0}, "b": {"avg_at_k": 20.0, "stderr": 4.0}}
    assert average(parts) == {"average": 15.0, "average_stderr": 2.5}
    assert average(parts | {"c": {"avg_at_k": 0.0, "stderr": None}})["average_stderr"] is None


def test_a_grader_that_does_not_tell_what_it_read_has_no_votes() -> None:
    right = Attempt(attempt(0, "1").sample, Verdict("correct", None, "a bool"))
    wrong = Attempt(attempt(1, "0").sample, Verdict("wrong", None, "a bool"))
    silent = Answered("b", Problem("p", "?", "1", "", ""), (right, wrong))
    assert not ballot(silent).known
    assert score([silent, answered("1")], [None, 1.0], rounded=False)["majority_at_k"] is None


def test_undecided_bounds_the_score_whatever_failed() -> None:
    """One problem has a single response, undecided, and three failures; the other four wrong ones."""
    first = Answered(
        "b", Problem("p", "?", "1", "", ""), (attempt(0, "?"), *(attempt(i, "", stop="error") for i in (1, 2, 3)))
    )
    found = scored(first, answered("0", "0", "0", "0"))
    assert (found["avg_at_k"], found["undecided"]) == (0, 50)
