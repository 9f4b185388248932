"""Rollouts: what a plan asks for is drawn, graded and stored under its key, or found there.

A plan is a generator that handles one problem: it yields an `Ask`, is sent the attempts, may ask again, and returns its
result. Many plans are advanced at once so that the engine never waits for a single one; resuming, seeds, grading and
storage are here and nowhere else.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Generic, TypeVar

from retell.engines.base import Engine
from retell.errors import BudgetError, EngineError
from retell.graders.base import Case
from retell.graders.pool import GraderPool
from retell.hashing import digest, seed_of
from retell.journal import graded_by
from retell.meter import Meter
from retell.records import Attempt, Completion, Problem, Prompt, Request, Sample, Sampling, Verdict
from retell.store import Desk

T = TypeVar("T")
TRUNCATED = Verdict("wrong", None, "stopped for length")
"""The verdict on a response that did not end by itself, whatever it says."""
_BREAK_AFTER = 20
"""Requests that fail in a row, none succeeding in between, before the run is stopped instead of its rows spoiled."""
_HAND_OUT = 256
"""Results that wait before no further plan is started until they are handed out: on resuming, many need no engine."""
_BACKLOG = 4096
"""Responses that wait for a grader before no further plan is started."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Samples a plan wants: those of ``indices`` for one prompt. ``rung`` names the rung, or the benchmark."""

    problem: Problem
    rung: str
    prompt: Prompt
    sampling: Sampling
    indices: range


Plan = Generator[Ask, list[Attempt], T]


@dataclass(frozen=True, slots=True)
class Stream:
    """What all samples of a stage have in common, and what their keys and seeds are made from."""

    stage: str
    policy: str | None
    seed: int
    round: int = 0

    def request(self, ask: Ask, index: int) -> Request:
        """The request for one sample of an ask: its seed and its key come from content alone."""
        return self._request(ask, index, ask.prompt.digest(), asdict(ask.sampling))

    def requests(self, ask: Ask) -> list[Request]:
        """The requests for all that is asked."""
        shown, sampling = ask.prompt.digest(), asdict(ask.sampling)
        return [self._request(ask, index, shown, sampling) for index in ask.indices]

    def _request(self, ask: Ask, index: int, shown: str, sampling: dict[str, object]) -> Request:
        seed = seed_of(self.stage, self.seed, ask.problem.id, ask.rung, self.round, index)
        how = digest(shown, sampling, seed)
        key = digest(self.policy, self.round, ask.problem.id, ask.rung, index, how)
        return Request(key, ask.problem.id, ask.rung, self.round, index, ask.prompt, ask.sampling, seed)


class _Live(Generic[T]):
    """A plan under way: what it asked for and the attempts that have come."""

    def __init__(self, plan: Plan[T]) -> None:
        self.plan = plan
        self.requests: dict[str, Request] = {}
        self.question = ""
        self.gold = ""
        self.grader = ""
        self.samples: dict[str, Sample] = {}
        self.attempts: dict[str, Attempt] = {}

    @property
    def answered(self) -> bool:
        return len(self.attempts) == len(self.requests)

    def next_ask(self) -> Ask:
        """Gives the plan the attempts that it asked for; raises StopIteration with its result."""
        started = bool(self.requests)
        ask = self.plan.send([self.attempts[key] for key in self.requests]) if started else next(self.plan)
        while not ask.indices:
            ask = self.plan.send([])
        return ask


def run_plans(
    plans: Iterable[Plan[T]], engine: Engine, graders: GraderPool, journal: Desk, stream: Stream, meter: Meter
) -> Iterator[T]:
    """Advances all plans and yields their results as they come, in any order.

    Every sample and verdict is stored before it is used; what the journal already holds is not drawn or judged again.
    A request that failed for good is no sample and is not stored: its attempt is undecided, and another start draws it.

    Raises:
        EngineError: the engine cannot go on, stops without answering, or fails at one request after the other.
        StorageError: the journal cannot be written.
        BudgetError: the meter's budget is used up; what was in flight then has been stored.
    """
    scheduler = _Scheduler(iter(plans), graders, journal, stream, meter)
    while not scheduler.finished:
        idle = True
        # Closed at once, and not when the garbage is collected: the engine may be gone by then.
        with closing(engine.sample(scheduler.take)) as batches:
            for batch in batches:
                scheduler.store(batch)
                scheduler.collect(wait=False)
                idle = idle and not batch
                yield from scheduler.results()
        for result in scheduler.results():
            idle = False
            yield result
        if scheduler.spent:
            raise BudgetError(f"{scheduler.spent}; what was drawn is stored")
        if idle and not scheduler.finished:
            raise EngineError("the engine stopped with requests unanswered; what it drew is stored: start again")


class _Scheduler(Generic[T]):
    def __init__(
        self, plans: Iterator[Plan[T]], graders: GraderPool, journal: Desk, stream: Stream, meter: Meter
    ) -> None:
        self.spent: str | None = None
        self._plans = plans
        self._graders = graders
        self._journal = journal
        self._stream = stream
        self._meter = meter
        self._queue: deque[Request] = deque()
        self._waiting_for: dict[str, _Live[T]] = {}
        self._answered: deque[_Live[T]] = deque()
        self._done: deque[T] = deque()
        self._exhausted = False
        self._handed_out = 0
        self._failed_in_a_row = 0

    @property
    def finished(self) -> bool:
        return self._exhausted and not self._waiting_for and not self._done

    def results(self) -> Iterator[T]:
        while self._done:
            self._handed_out += 1
            yield self._done.popleft()

    def take(self, room: int, idle: bool) -> list[Request]:
        """The engine's source of work: see `retell.engines.base.Take`."""
        self.collect(wait=False)
        while len(self._queue) < room and len(self._done) < _HAND_OUT:
            if not self._exhausted and self._graders.backlog < _BACKLOG:
                self._start_next()
            elif idle and not self._queue and self._graders.pending:
                self.collect(wait=True)
            else:
                break
        if self._queue and room:
            self._meter.begin(self._handed_out)
            self.spent = self.spent or self._meter.spent()
        if self.spent:
            return []
        return [self._queue.popleft() for _ in range(min(room, len(self._queue)))]

    def store(self, batch: list[tuple[Request, Completion]]) -> None:
        """Stores what the engine drew, then hands it to the graders."""
        if not batch:
            return
        drawn: list[Sample] = []
        failed: list[Sample] = []
        for request, completion in batch:
            sample = Sample(
                request.key, request.problem, request.rung, request.round, request.index, _clean(completion)
            )
            (failed if completion.stop == "error" else drawn).append(sample)
        self._journal.add_samples(drawn)
        for sample in drawn:
            self._meter.draw(sample.completion)
        self._grade(drawn)
        self._fail(failed, others=len(drawn))
        self._advance()

    def collect(self, *, wait: bool) -> None:
        """Stores the verdicts that were reached and advances the plans whose last one has come."""
        self._store_verdicts(self._graders.collect(wait=wait))
        self._advance()

    def _start_next(self) -> None:
        plan = next(self._plans, None)
        if plan is None:
            self._exhausted = True
        else:
            self._answered.append(_Live(plan))
            self._advance()

    def _advance(self) -> None:
        """Runs the plans that have what they asked for until each waits for something not stored yet, or ends.

        What is stored may answer a plan's next ask at once: it then runs again from here, not from within itself.
        """
        while self._answered:
            live = self._answered.popleft()
            try:
                ask = live.next_ask()
            except StopIteration as end:
                self._done.append(end.value)
            else:
                self._ask(live, ask)

    def _ask(self, live: _Live[T], ask: Ask) -> None:
        requests = self._stream.requests(ask)
        live.requests = {request.key: request for request in requests}
        live.samples, live.attempts = {}, {}
        live.question, live.gold = ask.problem.problem, ask.problem.answer
        live.grader = graded_by(self._graders.name, live.gold)
        self._waiting_for.update(dict.fromkeys(live.requests, live))
        stored = self._journal.samples(list(live.requests))
        self._meter.found += len(stored)
        verdicts = self._journal.verdicts(list(stored), live.grader)
        self._queue.extend(request for request in requests if request.key not in stored)
        self._grade([sample for key, sample in stored.items() if key not in verdicts])
        for key, verdict in verdicts.items():
            live.samples[key] = stored[key]
            self._settle(key, verdict)

    def _grade(self, samples: list[Sample]) -> None:
        """Hands samples to the graders, but for those that did not end by themselves."""
        truncated = []
        for sample in samples:
            live = self._waiting_for[sample.key]
            live.samples[sample.key] = sample
            if sample.completion.stop == "stop":
                self._graders.submit(sample.key, Case(live.question, sample.completion.text, live.gold, sample.rung))
            else:
                truncated.append((sample.key, TRUNCATED))
        self._store_verdicts(truncated)

    def _store_verdicts(self, verdicts: list[tuple[str, Verdict]]) -> None:
        if verdicts:
            self._journal.add_verdicts((key, self._waiting_for[key].grader, verdict) for key, verdict in verdicts)
            for key, verdict in verdicts:
                self._meter.judge(verdict)
                self._settle(key, verdict)

    def _fail(self, failed: list[Sample], others: int) -> None:
        """Settles requests that failed for good, unless so many have failed in a row that all will.

        Raises:
            EngineError: they have.
        """
        # What lies in the request says nothing of the engine, and where a run goes on, only such may be left.
        in_a_row = sum(not sample.completion.lasting for sample in failed)
        self._failed_in_a_row = 0 if others else self._failed_in_a_row + in_a_row
        self._meter.failed += len(failed)
        for sample in failed:
            cause = sample.completion.error or "it gives no reason"
            if self._failed_in_a_row >= _BREAK_AFTER:
                raise EngineError(
                    f"{self._failed_in_a_row} requests failed in a row, this one with: {cause}; what was drawn is "
                    "stored: mend the cause and start again"
                )
            self._waiting_for[sample.key].samples[sample.key] = sample
            self._settle(sample.key, Verdict("undecided", None, f"the engine failed: {cause}"))

    def _settle(self, key: str, verdict: Verdict) -> None:
        live = self._waiting_for.pop(key)
        live.attempts[key] = Attempt(live.samples[key], verdict)
        if live.answered:
            self._answered.append(live)


def _clean(completion: Completion) -> Completion:
    """Text that can be stored: a lone surrogate stands for bytes that were no text."""
    return replace(completion, text=completion.text.encode("utf-8", "replace").decode())
