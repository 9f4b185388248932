import time

import pytest

from retell.meter import Budget, Meter
from retell.records import Completion, Verdict


def completion(tokens: int, stop: str = "stop") -> Completion:
    return Completion("", tuple(range(tokens)), None, stop)  # type: ignore[arg-type]


def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until it is set."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_figures_tell_counts_and_rates_since_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    meter = Meter()
    now[0] += 50  # the engine starts
    meter.begin(0)
    for tokens in (10, 20, 30):
        meter.draw(completion(tokens, "length" if tokens == 30 else "stop"))
    meter.judge(Verdict("undecided", None, "time"))
    now[0] += 2
    meter.begin(7)
    assert meter.figures() == {
        "samples": "3 (1.5/s)",
        "tokens": "60 (30/s)",
        "undecided": "1",
        "truncated": "1",
    }
    meter.failed, meter.found = 2, 4000
    assert list(meter.figures()) == ["samples", "tokens", "undecided", "truncated", "failed", "found"]
    assert meter.figures()["found"] == "4,000"


def test_what_was_found_does_not_count_for_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    meter = Meter()
    assert meter.seconds_left(600, 1000) is None
    meter.begin(600)
    assert meter.seconds_left(600, 1000) is None
    now[0] += 30
    assert meter.seconds_left(700, 1000) == pytest.approx(90)


def test_budgets_count_from_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock(monkeypatch)
    timed, counted, free = Meter(Budget(hours=1)), Meter(Budget(tokens=10)), Meter()
    now[0] += 7200  # the engine starts
    timed.begin(0)
    counted.draw(completion(9))
    now[0] += 3599
    assert timed.spent() is None and counted.spent() is None
    now[0] += 1
    counted.draw(completion(1))
    assert "max_hours = 1" in str(timed.spent())
    assert "max_tokens_total = 10" in str(counted.spent())
    assert free.spent() is None


def test_tokens_that_a_source_without_ids_reports_are_counted() -> None:
    meter = Meter()
    meter.draw(Completion("", None, None, "stop", usage=12))
    meter.draw(Completion("", None, None, "stop"))
    assert (meter.drawn, meter.tokens) == (2, 12)
    assert meter.spent() is None


def test_a_token_budget_is_not_silently_without_effect() -> None:
    meter = Meter(Budget(tokens=1000))
    meter.draw(Completion("", None, None, "stop"))
    assert "does not say how many tokens" in str(meter.spent())
