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
        self._saved = 0.0
        self._rates: dict[str, list[float]] = {rung: [] for rung in _DRAWN}

    def add(self, climb: Climb) -> None:
        """Counts one climb."""
        counts = self._counts
        if isinstance(climb.result, Row):
            counts[f"rung {climb.result.rung}"] += 1
        counts["leaked"] += climb.leaked
        for rung, rollout in (("self", climb.own), ("guided", climb.guided)):
            if rollout is None:
                continue
            drawn = [attempt.sample.completion for attempt in rollout.drawn]
            missing = rollout.wanted - len(rollout.attempts)
            tokens = [completion.tokens for completion in drawn if completion.tokens is not None]
            prompt = rollout.prompt.ids
            counts[f"samples {rung}"] += len(drawn)
            counts[f"not drawn {rung}"] += missing
            counts["generated"] += sum(tokens)
            counts["generated unknown"] += len(drawn) - len(tokens)
            counts["prompt"] += len(drawn) * len(prompt or ())
            counts["prompt unknown"] += len(drawn) if prompt is None else 0
            counts["undecided"] += sum(attempt.verdict.outcome == "undecided" for attempt in rollout.drawn)
            counts["truncated"] += sum(completion.stop == "length" for completion in drawn)
            self._saved += missing * fmean(tokens) if tokens else 0.0
            self._rates[rung] += pass_rate(rollout, self._exhaustive)

    @property
    def rows(self) -> int:
        """How many problems have a row."""
        return sum(self._counts[f"rung {rung}"] for rung in _RUNGS)

    def figures(self) -> dict[str, str]:
        """The rungs so far, to be shown while more come, and the share of the tokens that need not be drawn.

        The share is a guess, from what was drawn for the same problem and rung.
        """
        shown = {rung: f"{self._counts[f'rung {rung}']:,}" for rung in _RUNGS}
        if self._saved:
            shown["tokens saved"] = f"≈ {self._saved / (self._saved + self._counts['generated']):.0%}"
        return shown

    def summary(self) -> Mapping[str, Any]:
        """What rewrite.json says of them."""
        counts = self._counts
        return {
            "rungs": {rung: counts[f"rung {rung}"] for rung in _RUNGS},
            "samples": {rung: counts[f"samples {rung}"] for rung in _DRAWN},
            "not_drawn": {rung: counts[f"not drawn {rung}"] for rung in _DRAWN},
            "pass_rate": {rung: _mean(rates) for rung, rates in self._rates.items()},
            "tokens_saved": None if counts["generated unknown"] else round(self._saved),
            "tokens": {name: None if counts[f"{name} unknown"] else counts[name] for name in ("prompt", "generated")},
            **{name: counts[name] for name in ("undecided", "truncated", "leaked")},
        }


def pass_rate(rollout: Rollout, exhaustive: bool) -> list[float]:
    """One unbiased estimate, in percent, of the chance that a sample is correct; empty where there is none.

    Where drawing stops at an accepted sample, how many are drawn depends on the outcomes, and their share of correct
    ones is biased: only index 0, which is always drawn, counts.
    """
    looked_at = rollout.attempts if exhaustive else rollout.attempts[:1]
    outcomes = [attempt.correct for attempt in looked_at if attempt.drawn]
    return [100 * fmean(outcomes)] if outcomes else []


def _mean(rates: list[float]) -> dict[str, Any] | None:
    return {"percent": fmean(rates), "stderr": standard_error(rates), "problems": len(rates)} if rates else None
