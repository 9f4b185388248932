import random
import tracemalloc
from math import comb

import numpy as np
import pytest

from retell.errors import DataError
from retell.paired import REPLICATES, Counts, paired

LEAST = 1 / (REPLICATES + 1)


def one(*counts: tuple[int, int]) -> dict[str, dict[str, tuple[int, int]]]:
    """One benchmark with problems p0 …"""
    return {"b": {f"p{i}": count for i, count in enumerate(counts)}}


def chance(generator: np.random.Generator, rates: np.ndarray, k: int) -> dict[str, dict[str, tuple[int, int]]]:
    return one(*((int(correct), k) for correct in generator.binomial(k, rates)))


def test_all_right_against_all_wrong_differs_by_everything() -> None:
    found = paired(one(*[(4, 4)] * 40), one(*[(0, 3)] * 40))
    assert (found.difference, found.low, found.high, found.problems) == (100, 100, 100, 40)
    assert found.p == LEAST


def test_equal_and_deterministic_models_differ_by_nothing() -> None:
    same = one((2, 2), (0, 2), (2, 2))
    found = paired(same, same)
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_the_p_value_is_that_of_the_sign_test_where_every_problem_differs_equally() -> None:
    found = paired(one(*[(1, 1)] * 8, *[(0, 1)] * 2), one(*[(0, 1)] * 8, *[(1, 1)] * 2))
    exact = 2 * sum(comb(10, wins) for wins in (8, 9, 10)) / 2**10
    assert found.p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / REPLICATES) ** 0.5)


@pytest.mark.parametrize("more", [0, 1])
def test_as_many_for_one_as_for_the_other_is_no_evidence(more: int) -> None:
    found = paired(one(*[(1, 1)] * (20 + more), *[(0, 1)] * 20), one(*[(0, 1)] * (20 + more), *[(1, 1)] * 20))
    assert found.p == 1  # of an odd number of equal differences none cancel better than all but one


def test_flips_that_only_rounding_tells_from_what_was_observed_count() -> None:
    found = paired(one((1, 9), (0, 9), (3, 9)), one((0, 9), (2, 9), (0, 9)))
    assert found.p == pytest.approx(6 / 8, abs=0.02)  # of ±1 ±2 ±3 six are as far from 0 as 1 - 2 + 3


def test_benchmarks_weigh_the_same_whatever_their_size() -> None:
    mine = {"few": {f"p{i}": (1, 1) for i in range(10)}, "many": {f"p{i}": (0, 1) for i in range(90)}}
    theirs = {"many": {f"p{i}": (0, 1) for i in range(90)}, "few": {f"p{i}": (0, 1) for i in range(10)}}
    found = paired(mine, theirs)
    assert (found.difference, found.low, found.high, found.problems) == (50, 50, 50, 100)


def test_only_problems_that_both_have_count() -> None:
    mine = {"b": {"p0": (1, 1), "p1": (1, 1), "mine": (0, 1)}, "mine": {"p0": (1, 1)}, "apart": {"p0": (1, 1)}}
    theirs = {"b": {"p1": (0, 1), "p0": (0, 1), "theirs": (1, 1)}, "apart": {"p1": (1, 1)}}
    found = paired(mine, theirs)
    assert (found.difference, found.problems) == (100, 2)


def test_no_common_problem_is_refused_with_a_remedy() -> None:
    with pytest.raises(DataError, match="no common problem: evaluate both on the same benchmarks"):
        paired({"b": {"p0": (1, 1)}}, {"b": {"p1": (1, 1)}, "c": {"p0": (1, 1)}})


def test_one_problem_has_no_interval_and_proves_nothing() -> None:
    found = paired({**one(*[(9, 9)] * 30), "c": {"p": (9, 9)}}, {**one(*[(0, 9)] * 30), "c": {"p": (0, 9)}})
    assert (found.low, found.high) == (None, None)
    assert paired(one((9, 9)), one((0, 9))).p == 1


@pytest.mark.parametrize(("k", "theirs"), [(1, 1), (8, 8), (2, 5)])
def test_the_interval_is_as_wide_as_the_spread_of_the_problems_says(k: int, theirs: int) -> None:
    generator = np.random.default_rng(0)
    a, b = chance(generator, generator.beta(1, 2, 200), k), chance(generator, generator.beta(1, 1, 200), theirs)
    found = paired(a, b)
    mine, other = (np.array([correct / drawn for correct, drawn in counts["b"].values()]) for counts in (a, b))
    between = np.var(mine - other) / 200
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 100 * between**0.5, rel=0.04)
    assert (found.low + found.high) / 2 == pytest.approx(found.difference, abs=0.5)


def shuffled(counts: Counts, seed: int) -> Counts:
    luck = random.Random(seed)
    return {
        name: {i: counts[name][i] for i in luck.sample(list(counts[name]), len(counts[name]))}
        for name in luck.sample(list(counts), len(counts))
    }


def some(seed: int, k: int) -> Counts:
    generator = np.random.default_rng(seed)
    return {f"b{n}": chance(generator, generator.random(20 + n), k)["b"] for n in range(3)}


def test_the_order_of_the_rows_changes_no_figure() -> None:
    a, b = some(1, 4), some(2, 4)
    assert paired(shuffled(a, 1), shuffled(b, 2)) == paired(a, b)


def test_swapping_the_models_negates_every_figure_but_p() -> None:
    a, b = some(1, 4), some(2, 7)
    one_way, other_way = paired(a, b), paired(b, a)
    assert one_way.difference == -other_way.difference != 0
    assert one_way.low is not None and one_way.high is not None
    assert (other_way.low, other_way.high) == pytest.approx((-one_way.high, -one_way.low), abs=1e-9)
    assert one_way.p == other_way.p < 1


def test_other_data_are_flipped_otherwise() -> None:
    found = {paired(one(*[(k, k)] * 8, *[(0, k)] * 2), one(*[(0, k)] * 8, *[(k, k)] * 2)).p for k in range(1, 5)}
    assert len(found) > 1


def test_p_values_of_equal_models_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retell.paired.REPLICATES", 400)
    generator = np.random.default_rng(5)
    found = []
    for _ in range(600):
        rates = generator.random(40)  # symmetric, as the differences then are, and with 7 and 11 samples few are tied
        found.append(paired(chance(generator, rates, 7), chance(generator, rates, 11)).p)
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=3.5 * (level * (1 - level) / 600) ** 0.5)


@pytest.mark.parametrize("k", [1, 8])
def test_the_interval_covers_the_true_difference(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr("retell.paired.REPLICATES", 400)
    generator = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        rates = generator.random(60)
        found = paired(chance(generator, rates, k), chance(generator, 0.8 * rates, k))
        assert found.low is not None and found.high is not None
        covered += found.low <= 10 <= found.high
    assert 0.91 <= covered / 400 <= 0.98  # of 0.95; a standard deviation is 0.011


def test_memory_stays_small_where_no_two_problems_are_alike() -> None:
    generator = np.random.default_rng(7)
    a, b = (chance(generator, generator.random(1319), 1000) for _ in range(2))
    tracemalloc.start()
    try:
        paired(a, b)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6
