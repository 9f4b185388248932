"""What a stage has drawn since it was started: counts, rates, and the time that is left."""

import time
from dataclasses import dataclass, field

from retell.records import Completion, Verdict

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Budget:
    """How much one start of a stage may draw; None is no limit."""

    tokens: int | None = None
    hours: float | None = None


@dataclass(slots=True)
class Meter:
    """Counts of this start of a stage; what an earlier one had stored is ``found`` and counts for no rate.

    Its clock starts with the first request.
    """

    budget: Budget = field(default_factory=Budget)
    drawn: int = 0
    found: int = 0
    tokens: int = 0
    failed: int = 0
    undecided: int = 0
    truncated: int = 0
    uncounted: int = 0
    _drew_first: float | None = None
    _done_before: int = 0

    def begin(self, done: int) -> None:
        """Notes that drawing begins, with ``done`` problems handled already; again does nothing."""
        if self._drew_first is None:
            self._drew_first, self._done_before = time.monotonic(), done

    def draw(self, completion: Completion) -> None:
        """Counts a sample that was drawn."""
        self.drawn += 1
        self.tokens += completion.tokens or 0
        self.uncounted += completion.tokens is None
        self.truncated += completion.stop == "length"

    def judge(self, verdict: Verdict) -> None:
        """Counts a verdict that was reached."""
        self.undecided += verdict.outcome == "undecided"

    def spent(self) -> str | None:
        """The budget that is used up, in words, or None."""
        hours = self._seconds() / _HOUR
        if self.budget.tokens is not None and self.uncounted:
            return "max_tokens_total cannot be kept, for the engine does not say how many tokens it generates"
        if self.budget.tokens is not None and self.tokens >= self.budget.tokens:
            return f"max_tokens_total = {self.budget.tokens} is reached with {self.tokens} tokens"
        if self.budget.hours is not None and hours >= self.budget.hours:
            return f"max_hours = {self.budget.hours} is reached"
        return None

    def tokens_per_second(self) -> float | None:
        """Tokens generated since the first request, by the time that took; None if none were, or nobody counts them."""
        return self.tokens / max(self._seconds(), 1e-9) if self.tokens and not self.uncounted else None

    def seconds_left(self, done: int, total: int) -> float | None:
        """How long the rest takes at the rate so far, once there is one."""
        fresh = done - self._done_before
        return self._seconds() / fresh * (total - done) if self._drew_first is not None and fresh > 0 else None

    def figures(self) -> dict[str, str]:
        """What there is to show, by name; what is zero or unknown is left out."""
        rate = max(self._seconds(), 1e-9)
        shown = {"samples": f"{self.drawn:,} ({self.drawn / rate:,.1f}/s)"}
        if self.tokens:
            shown["tokens"] = f"{self.tokens:,} ({self.tokens / rate:,.0f}/s)"
        counts = {"undecided": self.undecided, "truncated": self.truncated, "failed": self.failed, "found": self.found}
        return shown | {name: f"{n:,}" for name, n in counts.items() if n}

    def _seconds(self) -> float:
        return time.monotonic() - self._drew_first if self._drew_first is not None else 0.0
