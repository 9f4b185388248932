"""What climbing the ladder came to, over all problems: the counts of rewrite.json."""

from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from retell.ladder import Climb, Rollout
from retell.records import Row
from retell.stats import standard_error

_RUNGS = ("self", "guided", "expert")
_DRAWN = ("self", "guided")


class Tally:
    """Counts of climbs as they come; ``exhaustive`` says whether every rung drew all that it may."""

    def __init__(self, exhaustive: bool) -> None:
        self._exhaustive = exhaustive
        self._counts: Counter[str] = Counter()
        self._rates: dict[str, list[float]] = {rung: [] for rung in _DRAWN}

    def add(self, climb: Climb) -> float:
        """Counts one climb; returns about how many tokens it need not draw."""
        counts, saved = self._counts, 0.0
        if isinstance(climb.result, Row):
            counts[f"rung {climb.result.rung}"] += 1
        counts["leaked"] += climb.leaked
        for rung, rollout in (("self", climb.own), ("guided", climb.guided)):
            if rollout is None:
                continue
            drawn = [attempt.sample.completion for attempt in rollout.drawn]
            missing = rollout.wanted - len(rollout.attempts)
            tokens = [completion.tokens for completion in drawn if completion.tokens is not None]
            counts[f"samples {rung}"] += len(drawn)
            counts[f"not drawn {rung}"] += missing
            counts["counted"] += len(tokens)
            counts["generated"] += sum(tokens)
            counts["prompt"] += len(drawn) * len(rollout.prompt.ids or ())
            counts["undecided"] += sum(attempt.verdict.outcome == "undecided" for attempt in rollout.drawn)
            counts["truncated"] += sum(completion.stop == "length" for completion in drawn)
            saved += missing * fmean(tokens) if tokens else 0.0
            self._rates[rung] += pass_rate(rollout, self._exhaustive)
        return saved

    def figures(self) -> dict[str, str]:
        """The rungs so far, to be shown while more come."""
        return {rung: f"{self._counts[f'rung {rung}']:,}" for rung in _RUNGS}

    def summary(self) -> Mapping[str, Any]:
        """What rewrite.json says of them."""
        counts = self._counts
        return {
            "rungs": {rung: counts[f"rung {rung}"] for rung in _RUNGS},
            "samples": {rung: counts[f"samples {rung}"] for rung in _DRAWN},
            "not_drawn": {rung: counts[f"not drawn {rung}"] for rung in _DRAWN},
            "pass_rate": {rung: _mean(rates) for rung, rates in self._rates.items()},
            "tokens": {name: counts[name] if counts["counted"] else None for name in ("prompt", "generated")},
            **{name: counts[name] for name in ("undecided", "truncated", "leaked")},
        }


def pass_rate(rollout: Rollout, exhaustive: bool) -> list[float]:
    """One unbiased estimate, in percent, of the chance that a sample is correct; empty where there is none.

    Where drawing stops at an accepted sample, how many are drawn depends on the outcomes, and their share of correct
    ones is biased: only index 0, which is always drawn, counts.
    """
    looked_at = rollout.attempts if exhaustive else rollout.attempts[:1]
    outcomes = [attempt.correct for attempt in looked_at if attempt.sample.completion.stop != "error"]
    return [100 * fmean(outcomes)] if outcomes else []


def _mean(rates: list[float]) -> dict[str, Any] | None:
    return {"percent": fmean(rates), "stderr": standard_error(rates), "problems": len(rates)} if rates else None
