import numpy as np
import pytest
from faulty_server import tops

from retell.engines.dialects import COOLED, CUT, PLAIN, PROBED, processed
from retell.records import Sampling


def body(sampling: Sampling) -> dict[str, float]:
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "logprobs": PROBED}


def shown(logits: list[float], *, applied: bool) -> tuple[dict[str, float], ...]:
    return tuple(tops(body(sampling), logits, applied=applied) for sampling in (PLAIN, COOLED, CUT))


FLAT = [0.3 * i for i in range(40)]
CERTAIN = [30.0, 4.0, 3.0, 2.0, 1.0, 0.0]
TWO = [5.0, 5.0, 0.0, -1.0, -2.0, -3.0]
MANY = [*[3.0] * 4, *np.linspace(1.0, 2.0, 200).tolist()]


@pytest.mark.parametrize("logits", [FLAT, CERTAIN, TWO, MANY])
def test_logprobs_after_temperature_and_top_p_are_told_from_those_before(logits: list[float]) -> None:
    assert processed(*shown(logits, applied=True))
    assert not processed(*shown(logits, applied=False))


def test_both_temperature_and_top_p_must_be_applied() -> None:
    plain, cooled, cut = shown(FLAT, applied=True)
    assert not processed(plain, cooled, plain)
    assert not processed(plain, plain, cut)


@pytest.mark.parametrize("shift", [-20.0, 0.0, 20.0])
def test_logits_are_no_logprobs(shift: float) -> None:
    logits = {f"t{i}": shift - i for i in range(5)}
    cut = {name: value if name == "t0" else -9999.0 for name, value in logits.items()}
    assert not processed(logits, {name: 2 * value for name, value in logits.items()}, cut)


def test_half_precision_noise_is_no_temperature() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        logits = np.sort(rng.normal(0, 2, 50))
        plain, cooled, cut = (
            tops(body(sampling), (logits + rng.uniform(-0.125, 0.125, 50)).tolist(), applied=False)
            for sampling in (PLAIN, COOLED, CUT)
        )
        assert not processed(plain, cooled, cut)


def test_nothing_is_claimed_of_what_tells_nothing() -> None:
    even = {f"t{i}": -3.0 - 0.001 * i for i in range(5)}
    assert not processed({}, {}, {})
    assert not processed(even, {name: 2 * value + 3 for name, value in even.items()}, even)
    assert not processed({"a": -1.0}, {"a": -0.5}, {"a": 0.0})
