from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from retell.spread import WEIGHTS, Bins, spreads, together

LOGPROBS = st.floats(-5000, 0, allow_nan=False, width=32)
PARTS = st.lists(st.lists(LOGPROBS, max_size=20), min_size=1, max_size=6)


def binned(parts: list[list[float]]) -> Bins:
    bins = Bins()
    for part in parts:
        bins.add(np.array(part, dtype=np.float64))
    return bins


@given(PARTS, PARTS)
def test_bins_count_every_value_once_and_where_it_lies(mine: list[list[float]], theirs: list[list[float]]) -> None:
    histograms = together([binned(mine), binned(theirs)])
    edges = histograms.edges
    assert edges[-1] == 0 and len(edges) <= 41
    assert len(set(np.round(np.diff(edges), 9))) == 1
    for parts, counts, below in zip((mine, theirs), histograms.counts, histograms.below, strict=True):
        values = np.array([value for part in parts for value in part], dtype=np.float64)
        assert sum(counts) + below == values.size
        # Bins are open below and closed above, as 0 itself belongs to the last.
        wanted = [int(((values > low) & (values <= high)).sum()) for low, high in pairwise(edges)]
        assert counts == wanted


def test_few_outliers_do_not_squeeze_the_others() -> None:
    usual = [-float(i % 50) for i in range(5000)]
    histograms = together([binned([usual, [-1e5]])])
    assert histograms.edges[0] > -100
    assert histograms.below == [1]


def test_a_probability_of_zero_is_counted_apart() -> None:
    histograms = together([binned([[-1.0, -np.inf, 0.0]])])
    assert histograms.below == [1]
    assert sum(histograms.counts[0]) == 2


def test_nothing_at_all_has_one_empty_bin() -> None:
    assert together([Bins()]).counts == [[0]]


def test_the_spread_of_a_table_is_by_rung_and_side(tmp_path: Path) -> None:
    expert = [[-1.0, -2.0], [-4.0], [-0.5, -0.5, -0.5]]
    rewritten = [[-0.1], [-0.25, -0.25], [-0.5, -0.5, -0.5]]
    columns = {"expert_logprobs": expert, "rewritten_logprobs": rewritten}
    lists = {name: pa.array(rows, pa.list_(pa.float32())) for name, rows in columns.items()}
    path = tmp_path / "gap.parquet"
    pq.write_table(pa.table({"rung": ["self", "self", "expert"], **lists}), path, row_group_size=2)
    found = spreads(path)
    assert found.keys() == {"self", "expert"}
    own, new = found["self"]
    assert own.summed.counts.sum() == new.summed.counts.sum() == 2
    assert own.per_token.reach >= 4 > own.per_token.reach / 2
    assert own.weights.sum() == 3 and new.weights.sum() == 3
    assert own.weights[int(np.exp(-1) * WEIGHTS)] == 1
    assert new.weights[int(np.exp(-0.25) * WEIGHTS)] == 2
    assert found["expert"][0].weights.sum() == 3
