import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.weights import Scored, TokenSums

LOGPROBS = st.floats(-30, 0, allow_subnormal=False)
ROWS = st.lists(st.lists(LOGPROBS, max_size=6), min_size=1, max_size=12)


def statistics(rows: list[list[float]]) -> dict[str, float] | None:
    sums, scored = TokenSums(1), Scored.of(rows)
    sums.add(scored, np.zeros(len(rows), dtype=np.int64))
    return sums.statistics([0], scored.sums)


@given(ROWS)
def test_running_sums_say_what_the_definitions_say(rows: list[list[float]]) -> None:
    found = statistics(rows)
    logps = np.array([logp for row in rows for logp in row])
    if not logps.size:
        assert found is None
        return
    weights = np.exp(logps)
    assert found is not None
    assert found["sum_logprob"] == pytest.approx(np.mean([math.fsum(row) for row in rows]))
    assert found["mean_token_logprob"] == pytest.approx(logps.mean())
    assert found["perplexity"] == pytest.approx(math.prod(1 / weights) ** (1 / weights.size))
    assert found["token_ess"] == pytest.approx(weights.sum() ** 2 / (weights.size * (weights**2).sum()))
    assert found["token_weight_variance"] == pytest.approx(weights.var(), abs=1e-12)
    assert found["share_below_0.1"] == pytest.approx((weights < 0.1).mean())
    assert found["mean_tokens"] == pytest.approx(logps.size / len(rows))


@given(ROWS, st.lists(st.integers(0, 2), min_size=12, max_size=12), st.integers(0, 12))
def test_groups_are_kept_apart_and_it_does_not_matter_how_rows_come(
    rows: list[list[float]], groups: list[int], cut: int
) -> None:
    group_of, whole, parts = np.array(groups[: len(rows)]), TokenSums(3), TokenSums(3)
    whole.add(Scored.of(rows), group_of)
    for part in (slice(0, cut), slice(cut, None)):
        parts.add(Scored.of(rows[part]), group_of[part])
    for chosen in ([0], [1], [2], [0, 1, 2], [0, 2]):
        mine = [row for row, group in zip(rows, groups, strict=False) if group in chosen]
        wanted = statistics(mine) if mine else None
        for sums in (whole, parts):
            found = sums.statistics(chosen, Scored.of(mine).sums)
            assert (found is None) == (wanted is None)
            if found and wanted:
                assert {k: v for k, v in found.items() if v is not None} == pytest.approx(
                    {k: v for k, v in wanted.items() if v is not None}, rel=1e-9, abs=1e-12
                )


@pytest.mark.parametrize("probability", [1.0, 0.3, 1e-6])
def test_equal_weights_have_an_effective_share_of_one_and_no_variance(probability: float) -> None:
    found = statistics([[math.log(probability)] * 3, [math.log(probability)]])
    assert found is not None
    assert found["token_ess"] == pytest.approx(1)
    assert found["token_weight_variance"] == pytest.approx(0, abs=1e-15)
    assert found["perplexity"] == pytest.approx(1 / probability)


def test_the_spread_of_rows_is_that_of_their_sums() -> None:
    found = statistics([[-1.0, -2.0], [-5.0], [-1.0]])
    assert found is not None
    assert found["sum_logprob_stderr"] == pytest.approx(np.std([-3, -5, -1], ddof=1) / math.sqrt(3))
    one = statistics([[-1.0]])
    assert one is not None and one["sum_logprob_stderr"] is None


def test_a_column_of_lists_is_read_also_where_it_is_cut_and_where_lists_are_empty() -> None:
    rows = [[-1.0, -2.0], [], [-3.0], [], [-4.0, -5.0, -6.0]]
    column = pa.chunked_array([pa.array(rows[:3], pa.list_(pa.float32())), pa.array(rows[3:], pa.list_(pa.float32()))])
    for begin, end in ((0, 5), (1, 5), (2, 4), (3, 3)):
        scored = Scored.column(column[begin:end])
        assert scored.lengths.tolist() == [len(row) for row in rows[begin:end]]
        assert scored.logp_N.tolist() == [value for row in rows[begin:end] for value in row]
        assert scored.sums.tolist() == [sum(row) for row in rows[begin:end]]
