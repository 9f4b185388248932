import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.estimates import Estimate, bootstrap, everywhere, share


def test_a_share_has_wilsons_interval() -> None:
    # 15 of 50 with z = 1.96, by the textbook's formula: centre ± half over 1 + z²/n.
    z2 = 1.96**2
    centre, half = 0.3 + z2 / 100, 1.96 * math.sqrt(0.3 * 0.7 / 50 + z2 / 10_000)
    found = share([1.0] * 15 + [0.0] * 35, 10**9)
    assert found.value == 0.3
    assert found.low == pytest.approx((centre - half) / (1 + z2 / 50), rel=1e-6)
    assert found.high == pytest.approx((centre + half) / (1 + z2 / 50), rel=1e-6)


def test_none_of_some_is_not_none_of_all_and_all_of_all_is_known() -> None:
    none = share([0.0] * 20, 10**9)
    assert none.value == 0 and none.low == 0
    assert none.high == pytest.approx(1.96**2 / (20 + 1.96**2), rel=1e-6)
    assert share([0.0] * 20, 20) == Estimate(0.0, 0.0, 0.0)
    assert share([0.0] * 20, 21).high < none.high / 4


def test_rates_of_many_samples_count_for_more_than_single_outcomes() -> None:
    single = share([1.0, 0.0] * 50, 10**9)
    many = share([0.6, 0.4] * 50, 10**9)
    assert many.value == pytest.approx(0.5) == single.value
    assert many.high - many.low == pytest.approx((single.high - single.low) / 5, rel=0.1)


def test_a_total_is_scaled_and_its_known_part_has_no_error() -> None:
    # s² = 2.5 by hand; half = 1.96 · sqrt(2.5 · 10 · (10 - 5) / 5)
    found = everywhere([1.0, 2.0, 3.0, 4.0, 5.0], 10)
    assert found.value == 30
    assert found.high - found.value == pytest.approx(1.96 * 5)
    assert everywhere([1.0, 2.0, 3.0, 4.0, 5.0], 5) == Estimate(15.0, 15.0, 15.0)
    assert everywhere([0.0, 0.0, 9.0], 4).low == 9
    assert everywhere([7.0], 3) == Estimate(21.0, 7.0, math.inf)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 1000))
def test_estimates_lie_in_their_intervals(values: list[float], others: int) -> None:
    part = share(values, len(values) + others)
    assert 0 <= part.low <= part.value + 1e-12 and part.value <= part.high + 1e-12 and part.high <= 1
    whole = everywhere(values, len(values) + others)
    assert whole.low <= whole.value + 1e-9 and whole.value <= whole.high + 1e-9
    assert whole.low >= sum(values) - 1e-9


@pytest.mark.parametrize(("size", "seen"), [(400, 60), (100_000, 60), (200, 150)])
def test_intervals_cover_what_they_say(size: int, seen: int) -> None:
    rng = np.random.default_rng(0)
    solved = (rng.random(size) < 0.2).astype(float)
    tokens = rng.gamma(3.0, 100.0, size)
    hits = np.zeros(2)
    for _ in range(1000):
        drawn = rng.choice(size, seen, replace=False)
        part, whole = share(list(solved[drawn]), size), everywhere(list(tokens[drawn]), size)
        hits += [part.low <= solved.mean() <= part.high, whole.low <= tokens.sum() <= whole.high]
    assert np.all(hits >= 925) and np.all(hits <= 990)


def test_a_bootstrap_of_a_mean_has_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    rows = np.column_stack([values, np.ones(400)])
    (mean,) = bootstrap(rows, lambda sums: np.stack([sums[..., 0] / sums[..., 1]], axis=-1), "test")
    assert mean.value == pytest.approx(values.mean())
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    again = bootstrap(rows, lambda sums: np.stack([sums[..., 0] / sums[..., 1]], axis=-1), "test")
    assert again == [mean]


def test_replicates_do_not_depend_on_how_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(2).random((50, 2))
    found = bootstrap(rows, lambda sums: sums, "test")
    monkeypatch.setattr("retell.estimates._CHUNK", 1)
    for one, other in zip(bootstrap(rows, lambda sums: sums, "test"), found, strict=True):
        assert astuple(one) == pytest.approx(astuple(other))
