"""A worker: draws and grades what it is lent with an engine of its own, and writes it as shards."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from retell.drawing import Work
from retell.errors import RetellError
from retell.executor import Job, Traced, failures, traced
from retell.graders.pool import GraderPool
from retell.leases import Item, Lease, Report
from retell.meter import Meter
from retell.records import Sample, Verdict
from retell.rollout import Plan, Stream, run_plans
from retell.shards import blocks_done, part_path, shard_path, write_shard
from retell.store import Store, open_store

_TELL_SECONDS = 10.0


class Lender(Protocol):
    """Who lends: `retell.leases.Leases`, perhaps in another process."""

    def next(self) -> Lease | None:
        """The next lease for this worker, if there is one now."""
        ...

    def done(self, number: int, report: Report) -> None:
        """Gives a lease back."""
        ...

    def alive(self) -> None:
        """Notes that something has been answered."""
        ...


@dataclass(slots=True)
class _Open:
    """A lease under way."""

    lease: Lease
    left: int
    samples: list[Sample] = field(default_factory=list)
    verdicts: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    found: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Worker:
    """Draws leases until none is lent; plans of several leases are under way at once, so that its engine never waits
    for the last problem of a block.
    """

    def __init__(
        self, work: Work, graders: GraderPool, stream: Stream, folder: Path, plan: str, lender: Lender
    ) -> None:
        self._work = work
        self._graders = graders
        self._stream = stream
        self._samples = folder / "samples"
        self._plan = plan
        self._lender = lender
        self._held = Held(folder, plan, lender.alive)
        self._faults = Counter(work.engine.faults)

    def run(self) -> None:
        """Works until nothing is lent and all that was lent is done.

        Raises:
            EngineError: the engine cannot go on; what was drawn is stored.
            StorageError: it cannot be stored.
        """
        try:
            plans = run_plans(self._plans(), self._work.engine, self._graders, self._held, self._stream, Meter())
            for opened, one in plans:
                opened.failed |= failures(one.attempts)
                opened.left -= 1
                if not opened.left:
                    self._close(opened)
        except RetellError:
            for opened in self._held.give_up():
                self._write(opened, whole=False)
            raise

    def _plans(self) -> Iterator[Plan[tuple[_Open, Traced[Any]]]]:
        while lease := self._lender.next():
            opened = self._held.open(lease)
            for item in lease.items:
                yield self._tracked(opened, item)

    def _tracked(self, opened: _Open, item: Item) -> Plan[tuple[_Open, Traced[Any]]]:
        benchmark, problem = item
        one = yield from traced(Job(problem.id, lambda: self._work.start(benchmark, problem)))
        return opened, one

    def _close(self, opened: _Open) -> None:
        self._held.close(opened)
        file = self._write(opened, whole=opened.lease.whole and not opened.failed)
        self._lender.done(opened.lease.number, self._report(opened, file))

    def _write(self, opened: _Open, *, whole: bool) -> str | None:
        """Writes what a lease came to; the name of the file, if any was needed."""
        path = shard_path(self._samples, self._plan, opened.lease.block)
        # One who was thought lost may have written it meanwhile, and what was found there is not in this one.
        if not whole or path.exists():
            if not (opened.samples or opened.verdicts):
                return None
            path = part_path(self._samples, self._plan, opened.lease.block)
        write_shard(path, opened.samples, opened.verdicts)
        return path.name

    def _report(self, opened: _Open, file: str | None) -> Report:
        completions = [sample.completion for sample in opened.samples]
        tokens = [completion.tokens for completion in completions]
        verdicts = [verdict for by in opened.verdicts.values() for verdict in by.values()]
        new = self._work.engine.faults - self._faults
        self._faults = Counter(self._work.engine.faults)
        return Report(
            failed=opened.failed,
            file=file,
            drawn=len(completions),
            found=opened.found,
            tokens=sum(n for n in tokens if n is not None),
            uncounted=sum(n is None for n in tokens),
            undecided=sum(verdict.outcome == "undecided" for verdict in verdicts),
            truncated=sum(completion.stop == "length" for completion in completions),
            faults=dict(new),
        )


class Held:
    """What a worker draws for the leases that it holds, over what was stored before it held them."""

    def __init__(self, folder: Path, plan: str, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._told = time.monotonic()
        self._folder = folder
        self._plan = plan
        self._stored: Store | None = None
        self._open: list[_Open] = []
        self._of_problem: dict[tuple[str, str], _Open] = {}
        self._of_sample: dict[str, _Open] = {}

    def open(self, lease: Lease) -> _Open:
        """Begins a lease."""
        if self._stored is None or lease.again:  # who was lost may have left something
            self._stored = self._all_but_others(lease.block)
        opened = _Open(lease, len(lease.items))
        self._open.append(opened)
        self._of_problem |= {(benchmark, problem.id): opened for benchmark, problem in lease.items}
        return opened

    def close(self, opened: _Open) -> None:
        """Ends a lease."""
        self._open.remove(opened)
        for benchmark, problem in opened.lease.items:
            del self._of_problem[benchmark, problem.id]
        self._of_sample = {key: one for key, one in self._of_sample.items() if one is not opened}

    def give_up(self) -> list[_Open]:
        """Ends all leases that are under way."""
        given = list(self._open)
        for opened in given:
            self.close(opened)
        return given

    def samples(self, keys: Sequence[str]) -> dict[str, Sample]:
        """The stored samples among ``keys``."""
        assert self._stored
        stored = self._stored.samples(keys)
        for sample in stored.values():
            opened = self._owner(sample)
            opened.found += 1
            self._of_sample[sample.key] = opened
        return stored

    def verdicts(self, keys: Sequence[str], grader: str) -> dict[str, Verdict]:
        """The stored verdicts of one grader on the samples ``keys``."""
        assert self._stored
        return self._stored.verdicts(keys, grader)

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Adds samples to their leases, with which they are stored, and says now and then that there are some."""
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            self._alive()
        for sample in samples:
            opened = self._owner(sample)
            opened.samples.append(sample)
            self._of_sample[sample.key] = opened

    def add_verdicts(self, verdicts: Iterable[tuple[str, str, Verdict]]) -> None:
        """Adds verdicts to the leases of their samples, with which they are stored."""
        for key, grader, verdict in verdicts:
            self._of_sample[key].verdicts.setdefault(key, {})[grader] = verdict

    def _all_but_others(self, block: int) -> Store:
        """All that is stored but for other blocks that are done: nobody is lent their problems."""
        samples = self._folder / "samples"
        others = {shard_path(samples, self._plan, other) for other in blocks_done(samples, self._plan) - {block}}
        return open_store(self._folder, readonly=True, without=others)

    def _owner(self, sample: Sample) -> _Open:
        """The lease of a sample: the rungs of rewriting are no benchmarks."""
        found = self._of_problem.get((sample.rung, sample.problem))
        return found or self._of_problem["", sample.problem]
