"""How a stage gets its samples drawn: the seam between what it asks for and who draws it, one engine or a cluster.

A stage goes through its jobs twice. `Executor.draw` sees to it that all they ask for is stored, in whatever order is
fast; `Executor.settle` then plays them from the store, in their order and without holding more than a few. So what a
stage makes depends on what is stored alone, and its memory does not grow with the number of its problems.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from retell.engines.base import Batches, Engine, Source, Take
from retell.errors import StorageError
from retell.graders.pool import GraderPool
from retell.journal import Marks
from retell.meter import Meter
from retell.records import Attempt, Completion
from retell.rollout import Ask, Plan, Stream, run_plans
from retell.store import Store

T = TypeVar("T")
Failed = Mapping[str | tuple[str, str], str]
"""Why requests failed, by their key, and why problems were given up, by (benchmark or "", id)."""


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """One problem of a stage: a name that no other job of the stage has, and how its plan is started."""

    name: str
    start: Callable[[], Plan[T]]


class Executor(Source, Protocol):
    """Draws what jobs ask for, and plays them; what can be known of its engines holds for it."""

    def draw(self, jobs: Iterable[Job[T]], note: Callable[[T], None]) -> Iterator[int]:
        """Draws and grades until the store holds what all jobs ask for; yields how many are done.

        ``note`` is told what jobs came to, as far as this is known before they are settled.

        Raises:
            EngineError: the engine cannot go on.
            StorageError: the store cannot be written.
            BudgetError: a budget is used up.
        """
        ...

    def settle(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """What the jobs came to, in their order; a request that failed while drawing has failed for them too."""
        ...

    def figures(self) -> Mapping[str, str]:
        """What there is to show while it draws, by name."""
        ...

    def seconds_left(self, done: int, total: int) -> float | None:
        """How long the rest takes, where that is known."""
        ...


class Here:
    """One engine in this process. ``plan`` stands for all that decides what is drawn: jobs done under it stay done."""

    def __init__(
        self,
        engine: Engine,
        graders: GraderPool,
        store: Store,
        marks: Marks,
        stream: Stream,
        meter: Meter,
        plan: str,
    ) -> None:
        self.draws = engine.draws
        self.context = engine.context
        self.faults = engine.faults
        self._engine = engine
        self._graders = graders
        self._store = store
        self._marks = marks
        self._stream = stream
        self._meter = meter
        self._plan = plan
        self._failed: dict[str | tuple[str, str], str] = {}
        self._passed = 0

    def draw(self, jobs: Iterable[Job[T]], note: Callable[[T], None]) -> Iterator[int]:
        """See `Executor.draw`; what an earlier start has done under the same plan is passed over."""
        known = self._marks.done(self._plan)

        def plans() -> Iterator[Plan[Traced[T]]]:
            for job in jobs:
                if job.name in known:
                    self._passed += 1
                else:
                    yield traced(job)

        done = 0
        try:
            for one in run_plans(plans(), self._engine, self._graders, self._store, self._stream, self._meter):
                failed = failures(one.attempts)
                self._failed.update(failed)
                if not failed:
                    self._marks.mark(self._plan, one.name)
                note(one.result)
                done += 1
                yield done + self._passed
        finally:
            with suppress(StorageError):  # without its mark a job is looked at again, and nothing is lost
                self._marks.flush()
        yield done + self._passed

    def settle(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """See `Executor.settle`; a job that was done, and whose samples are not there any more, is not done."""
        lacking: list[str] = []
        try:
            for one in settle(map(watched, jobs), self._failed, self._graders, self._store, self._stream):
                lacking += [one.name] if failures(one.attempts) else []
                yield one.result
        finally:
            self._marks.unmark(self._plan, lacking)

    def figures(self) -> Mapping[str, str]:
        """What the meter shows."""
        return self._meter.figures()

    def seconds_left(self, done: int, total: int) -> float | None:
        """At the meter's rate."""
        return self._meter.seconds_left(done - self._passed, total - self._passed)


@dataclass(frozen=True, slots=True)
class Traced(Generic[T]):
    """What a job came to, and every attempt on the way."""

    name: str
    attempts: list[Attempt]
    result: T


def traced(job: Job[T]) -> Plan[Traced[T]]:
    """The plan of a job that also tells its name and the attempts it was sent."""
    plan, seen = job.start(), list[Attempt]()
    try:
        ask: Ask = next(plan)
        while True:
            attempts = yield ask
            seen += attempts
            ask = plan.send(attempts)
    except StopIteration as end:
        return Traced(job.name, seen, end.value)


def watched(job: Job[T]) -> Job[Traced[T]]:
    """The job whose plan is `traced`."""
    return Job(job.name, partial(traced, job))


def failures(attempts: Iterable[Attempt]) -> dict[str, str]:
    """By key, why requests failed."""
    return {a.sample.key: a.sample.completion.error or "" for a in attempts if not a.drawn}


def settle(jobs: Iterable[Job[T]], failed: Failed, graders: GraderPool, store: Store, stream: Stream) -> Iterator[T]:
    """Plays jobs from the store, in their order; ``failed`` says why something is not there."""

    def plan(number: int, job: Job[T]) -> Plan[tuple[int, T]]:
        result = yield from job.start()
        return number, result

    plans = (plan(number, job) for number, job in enumerate(jobs))
    waiting: dict[int, T] = {}
    due = 0
    for number, result in run_plans(plans, _Stored(failed), graders, store, stream, Meter()):
        waiting[number] = result
        while due in waiting:
            yield waiting.pop(due)
            due += 1


class _Stored:
    """The engine of those who only read: what is asked of it has failed before."""

    draws = True
    context: int | None = None

    def __init__(self, failed: Failed) -> None:
        self.faults: Counter[str] = Counter()
        self._failed = failed

    def sample(self, take: Take) -> Batches:
        """Says of every request why it is not stored."""
        while requests := take(1, True):
            answers = []
            for request in requests:
                places = (request.key, (request.rung, request.problem), ("", request.problem))
                why = next(
                    (self._failed[place] for place in places if place in self._failed),
                    "what an earlier start drew is not there any more",
                )
                # Lasting: that these fail in a row says nothing of an engine.
                answers.append((request, Completion("", None, None, "error", error=why, lasting=True)))
            yield answers

    def close(self) -> None:
        """Holds nothing."""
