import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell import ratios
from retell.ratios import lacks_tails, ratio_statistics


def of(log_ratios: np.ndarray | list[float], tokens: int = 100) -> dict[str, object]:
    found = ratio_statistics(np.asarray(log_ratios, dtype=np.float64), tokens)
    assert found is not None
    return found


def test_no_recorded_row_gives_nothing() -> None:
    assert ratio_statistics(np.zeros(0), 0) is None


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.floats(-300, 300))
def test_the_effective_share_is_kishs_and_does_not_depend_on_a_common_factor(values: list[float], shift: float) -> None:
    weights = np.exp(np.array(values) - max(values))
    wanted = weights.sum() ** 2 / (len(values) * (weights**2).sum())
    assert of(values)["ess"] == pytest.approx(wanted)
    assert of([value + shift for value in values])["ess"] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_the_shape_of_a_known_tail_is_found(shape: float) -> None:
    """w = U^-k has a tail of shape k."""
    found = of(shape * np.random.default_rng(3).exponential(size=40_000))
    assert found["pareto_k"] == pytest.approx(shape, abs=0.12)
    assert found["reliable"] == (shape < 0.7)
    assert found["note"] is None


def test_equal_weights_are_reliable_and_have_no_tail() -> None:
    rounding = np.random.default_rng(0).standard_t(1, size=500) * 1e-6
    found = of(np.clip(rounding, -4e-3, 4e-3))
    assert (found["pareto_k"], found["reliable"], found["note"]) == (None, True, "the largest weights are equal")
    assert found["ess"] == pytest.approx(1, abs=1e-4)


def test_a_tail_that_is_mostly_made_of_equal_weights_is_not_fitted() -> None:
    mixed = np.concatenate([np.zeros(400), np.random.default_rng(0).normal(size=30)])
    found = of(mixed)
    assert (found["pareto_k"], found["reliable"]) == (None, None)
    assert "too many" in str(found["note"])


def test_few_rows_have_no_tail() -> None:
    found = of(np.linspace(-3, 1, 24))
    assert (found["pareto_k"], found["reliable"], found["note"]) == (None, None, "fewer than 25 rows")
    assert of(np.linspace(-3, 1, 25))["pareto_k"] is not None


def test_the_kl_estimate_is_that_of_two_normals() -> None:
    """log of the ratio of N(0, 1) to N(m, 1) under draws of the latter, whose KL is m²/2."""
    shift, draws = 0.8, np.random.default_rng(5).normal(size=50_000) + 0.8
    found = of(-(draws**2) / 2 + (draws - shift) ** 2 / 2, tokens=200_000)
    assert found["kl"] == pytest.approx(shift**2 / 2, abs=0.02)
    assert found["kl_stderr"] == pytest.approx(shift / math.sqrt(50_000), rel=0.05)
    assert found["kl_per_token"] == pytest.approx(float(found["kl"]) / 4)  # type: ignore[arg-type]
    assert found["conditional_on"] == "acceptance"


def test_without_arviz_the_rest_is_there_and_it_is_known_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = np.random.default_rng(2).normal(size=100)
    whole = of(spread)
    monkeypatch.setattr(ratios, "_can_fit", lambda: False)
    found = of(spread)
    assert (found["pareto_k"], found["reliable"]) == (None, None)
    assert "pip install 'retell[gap]'" in str(found["note"])
    assert {**found, "pareto_k": 0, "reliable": 0, "note": 0} == {**whole, "pareto_k": 0, "reliable": 0, "note": 0}
    summary = {"self": {"sequence": found}, "expert": {"sequence": None}, "drift": {}}
    assert not lacks_tails(summary)
    monkeypatch.undo()
    assert lacks_tails(summary)
    assert not lacks_tails({"self": {"sequence": whole}})


@pytest.mark.parametrize("values", [[0.0] * 99 + [800.0], [-900.0] * 50 + [5.0] * 50, [-1e4, *np.linspace(0, 1, 60)]])
def test_extreme_ratios_give_figures_or_say_why_not(values: list[float]) -> None:
    found = of(values)
    assert found["pareto_k"] is not None or found["note"]
    assert 0 < float(found["ess"]) <= 1 + 1e-12  # type: ignore[arg-type]
