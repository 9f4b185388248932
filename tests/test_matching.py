from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.matching import WIDTH, Side, matched

RESPONSES = st.tuples(st.floats(-100, 0), st.integers(1, 8))
ROWS = st.lists(st.tuples(RESPONSES, RESPONSES), min_size=1, max_size=10)


def side(responses: list[tuple[float, int]]) -> Side:
    sums, lengths = zip(*responses, strict=True)
    return Side(np.array(sums, dtype=np.float64), np.array(lengths, dtype=np.int64))


def chosen_at_random(responses: list[tuple[float, int]], wanted: dict[int, int]) -> float:
    """The mean over all ways of choosing so many responses of each length, of the sum over what is chosen."""
    return sum(
        fmean(sum(pick) for pick in combinations([logp for logp, n in responses if n == length], number))
        for length, number in wanted.items()
    )


@given(ROWS)
def test_matching_is_the_mean_over_all_choices_of_equally_many_of_each_length(
    rows: list[tuple[tuple[float, int], tuple[float, int]]],
) -> None:
    expert, rewritten = [one for one, _ in rows], [other for _, other in rows]
    counts = [[[n for _, n in responses].count(length) for length in range(9)] for responses in (expert, rewritten)]
    wanted = {length: n for length in range(9) if (n := min(counts[0][length], counts[1][length]))}
    found = matched(side(expert), side(rewritten))
    if not wanted:
        assert found is None
        return
    assert found is not None
    total = sum(wanted.values())
    assert found["share"] == pytest.approx(total / len(rows))
    assert found["expert"] == pytest.approx(chosen_at_random(expert, wanted) / total)
    assert found["rewritten"] == pytest.approx(chosen_at_random(rewritten, wanted) / total)
    assert found["difference"] == pytest.approx(found["rewritten"] - found["expert"])
    lengths = sum(length * n for length, n in wanted.items()) / total
    assert found["tokens"] == found["expert_tokens"] == found["rewritten_tokens"] == pytest.approx(lengths)


@given(st.lists(st.tuples(st.floats(-50, 0), st.floats(-50, 0), st.integers(1, 500)), min_size=1), st.randoms())
def test_where_lengths_have_the_same_distribution_nothing_is_left_out(
    rows: list[tuple[float, float, int]], luck: object
) -> None:
    expert = side([(logp, length) for logp, _, length in rows])
    shuffled = [(logp, length) for _, logp, length in rows]
    luck.shuffle(shuffled)  # type: ignore[attr-defined]
    found = matched(expert, side(shuffled))
    assert found is not None
    assert found["share"] == 1
    assert found["expert"] == pytest.approx(expert.sums.mean())
    assert found["rewritten"] == pytest.approx(np.mean([logp for logp, _ in shuffled]))


def test_a_difference_that_is_one_of_length_alone_is_gone() -> None:
    """Both sides have a nat for each token, and the rewritten responses are shorter."""
    generator = np.random.default_rng(0)
    expert, rewritten = generator.integers(50, 300, 4000), generator.integers(30, 200, 4000)
    found = matched(Side(-1.0 * expert, expert), Side(-1.0 * rewritten, rewritten))
    assert found is not None
    assert rewritten.mean() < expert.mean() - 50
    assert abs(found["difference"]) == pytest.approx(abs(found["expert_tokens"] - found["rewritten_tokens"]))
    assert abs(found["difference"]) < 1
    assert 50 < found["tokens"] < 200 and 0.3 < found["share"] < 0.8


@pytest.mark.parametrize("length", [1, 2, 10, 99, 1000])
def test_lengths_of_a_class_differ_by_less_than_a_tenth(length: int) -> None:
    for other in range(length + 1, 2 * length + 2):
        apart = matched(side([(-1.0, length)]), side([(-2.0, other)])) is None
        assert apart or other < WIDTH * length
        assert not apart or other > length


def test_the_standard_error_is_that_of_paired_rows() -> None:
    generator = np.random.default_rng(1)
    common = generator.normal(size=2000)
    expert, rewritten = common - 1, common + generator.normal(scale=0.5, size=2000)
    lengths = np.full(2000, 7)
    found = matched(Side(expert, lengths), Side(rewritten, lengths))
    assert found is not None
    assert found["stderr"] == pytest.approx(np.std(rewritten - expert) / np.sqrt(2000), rel=0.2)
    one = matched(side([(-1.0, 7)]), side([(-2.0, 7)]))
    assert one is not None and one["stderr"] is None
    assert found == matched(Side(expert, lengths), Side(rewritten, lengths))


def test_a_response_that_is_its_own_counterpart_differs_by_nothing() -> None:
    own = side([(-3.0, 5), (-8.0, 9), (-1.0, 2)])
    found = matched(own, own)
    assert found is not None
    assert (found["share"], found["difference"], found["stderr"]) == (1, 0, 0)
