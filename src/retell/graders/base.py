"""The seam between retell and whatever judges a response."""

from dataclasses import dataclass
from typing import Protocol

from retell.records import Verdict


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged: a problem, a response to it (or as much of it as the judging needs) and the gold answer."""

    problem: str
    response: str
    gold: str
    benchmark: str = ""
    """Which one the problem is of, where it is of one: the rules of its own evaluation may know it."""


class Grader(Protocol):
    """Judges whether a response gives the gold answer. See `retell.graders.named` for those there are.

    ``name`` identifies the rules and their version: verdicts are stored under it. ``spec`` is what a worker process
    makes the same grader from. ``seconds`` is the processor time that a first try may take.
    """

    name: str
    spec: str
    seconds: float

    def prepare(self, case: Case) -> Verdict | Case:
        """In the calling process: a verdict where none needs work, else what `judge` is to be given.

        Linear in the length of the texts, and safe on any text.
        """
        ...

    def load(self) -> None:
        """In a worker, before the first case: imports what judging needs, so that no case pays for it."""
        ...

    def judge(self, case: Case) -> Verdict:
        """In a worker: the verdict on a prepared case. It may run for ever or eat all memory."""
        ...
