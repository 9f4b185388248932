"""Graded attempts → what a benchmark's result says: avg@k, pass@k, majority@k, and the shares beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from retell.records import Attempt, Problem
from retell.stats import standard_error

RULES = 1
"""Version of the scores: those made under another are made anew."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One problem of a benchmark with its k attempts."""

    benchmark: str
    problem: Problem
    attempts: tuple[Attempt, ...]

    @property
    def drawn(self) -> list[Attempt]:
        """Without what the engine failed on, which is no response."""
        return [attempt for attempt in self.attempts if attempt.drawn]


@dataclass(frozen=True, slots=True)
class Ballot:
    """The votes on one problem: how many responses are correct, and the others that give an answer, by its text.

    ``known`` says whether the grader tells which answers it read; a vote among others cannot be counted.
    """

    correct: int
    wrong: Mapping[str, tuple[Attempt, ...]]
    known: bool = True

    @property
    def open(self) -> bool:
        """Whether it matters which of the wrong answers are equal."""
        sizes = sorted(map(len, self.wrong.values()))
        return len(sizes) > 1 and 0 < self.correct <= sum(sizes) and self.correct >= sizes[-1]

    def won(self, classes: Sequence[Sequence[str]]) -> float:
        """The chance that a vote names a correct answer, ties being broken by lot; ``classes`` of equal wrong answers.

        All correct responses give one answer. One that gives none, or is cut off, does not vote.
        """
        rivals = [sum(len(self.wrong[text]) for text in texts) for texts in classes]
        if not self.correct or self.correct < max(rivals, default=0):
            return 0.0
        return 1 / (1 + rivals.count(self.correct))


def ballot(one: Answered) -> Ballot:
    """The votes of a problem's responses."""
    wrong: dict[str, tuple[Attempt, ...]] = {}
    for attempt in one.drawn:
        text = attempt.verdict.extracted
        if text and not attempt.correct and attempt.sample.completion.stop == "stop":
            wrong[text] = (*wrong.get(text, ()), attempt)
    right = [attempt for attempt in one.drawn if attempt.correct]
    return Ballot(len(right), wrong, all(attempt.verdict.extracted for attempt in right))


def score(problems: Sequence[Answered], won: Sequence[float | None], *, rounded: bool) -> dict[str, Any]:
    """Scores in percent; undecided responses score 0. ``won`` has each problem's chance of `Ballot.won`, None where the
    votes are not known.

    avg_at_k is the mean over problems of the share of correct responses, and ``stderr`` its standard error over
    problems. With ``rounded`` it is instead the mean over the k runs of a run's accuracy rounded to one decimal, which
    is how the paper's tables were made. ``undecided`` and ``truncated`` are means over problems of the percentage of
    its responses; avg_at_k + undecided bounds avg@k from above. ``mean_tokens`` is a response's length, None where it
    is not known. What the engine failed on is no response: it is left out, and ``failed`` counts it.
    """
    answered = [(one.drawn, chance) for one, chance in zip(problems, won, strict=True) if one.drawn]
    attempts = [attempt for drawn, _ in answered for attempt in drawn]
    means = [100 * fmean(attempt.correct for attempt in drawn) for drawn, _ in answered]
    chances = [chance for _, chance in answered if chance is not None]
    tokens = [attempt.sample.completion.tokens for attempt in attempts]
    known = [number for number in tokens if number is not None]
    return {
        "avg_at_k": fmean(_runs(attempts)) if rounded else fmean(means),
        "stderr": standard_error(means),
        "pass_at_k": 100 * fmean(mean > 0 for mean in means),
        "majority_at_k": 100 * fmean(chances) if len(chances) == len(answered) else None,
        "n": len(means),
        "failed": sum(len(one.attempts) for one in problems) - len(attempts),
        "undecided": fmean(_share(drawn, lambda one: one.verdict.outcome == "undecided") for drawn, _ in answered),
        "truncated": fmean(_share(drawn, lambda one: one.sample.completion.stop == "length") for drawn, _ in answered),
        "mean_tokens": fmean(known) if len(known) == len(tokens) else None,
    }


def _share(attempts: Sequence[Attempt], what: Callable[[Attempt], bool]) -> float:
    return 100 * fmean(map(what, attempts))


def _runs(attempts: Sequence[Attempt]) -> list[float]:
    """The accuracy of each run, the responses of one index, rounded to one decimal."""
    runs: dict[int, list[bool]] = {}
    for attempt in attempts:
        runs.setdefault(attempt.sample.index, []).append(attempt.correct)
    return [round(100 * fmean(run), 1) for run in runs.values()]


def average(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The unweighted mean of the benchmarks, and its standard error, benchmarks being independent samples."""
    errors = [one["stderr"] for one in scores.values()]
    known = all(error is not None for error in errors)
    return {
        "average": fmean(one["avg_at_k"] for one in scores.values()),
        "average_stderr": sum(error**2 for error in errors) ** 0.5 / len(errors) if known else None,
    }
