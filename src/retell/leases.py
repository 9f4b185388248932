"""Which worker draws which problems: blocks are lent out and come back done, or are lent again.

There is no network in here; `retell.cluster` has it.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from retell.meter import Budget, Meter
from retell.problemtable import ProblemTable
from retell.records import Problem

Item = tuple[str, Problem]
"""A problem and the benchmark that it is of; "" where there is none."""
REWRITE_BLOCK = 32
"""Problems of a block in rewriting: what is lost with a worker, and 27,000 files for NuminaMath's 860,000."""
EVALUATE_BLOCK = 4
"""In evaluation, where benchmarks are small and every problem has all its samples drawn."""
_TRIES = 2
"""Workers that a single problem may cost before it is given up."""
SILENT_SECONDS = 1800.0
"""How long nothing may be heard of a worker, at least, before it seems to hang."""
_SILENT = 3
"""Times the longest that anything was out: a worker that is not heard of for longer hangs."""
_SILENT_AT_FIRST = 6
"""Times the least patience, while nothing has come back that would say how long things take."""
_LOST_IN_A_ROW = 16
"""Workers lost while none finished anything, beside one for each that there is: a block with one bad problem costs
nine."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The problems of a stage in blocks of ``size``, read when they are asked for."""

    problems: Sequence[Problem]
    size: int
    benchmarks: Sequence[str] | None = None

    def __len__(self) -> int:
        return -(-len(self.problems) // self.size)

    def items(self, block: int) -> list[Item]:
        """The problems of a block."""
        start, end = block * self.size, (block + 1) * self.size
        here = (
            self.problems.part(start, self.size)
            if isinstance(self.problems, ProblemTable)
            else self.problems[start:end]
        )
        names = self.benchmarks[start:end] if self.benchmarks else [""] * len(here)
        return list(zip(names, here, strict=True))


@dataclass(frozen=True, slots=True)
class Piece:
    """Problems ``start`` to ``end`` of a block.

    Nothing else may be drawn beside those that are ``alone``, because two workers were lost with them; ``tries`` counts
    the workers that they have cost so.
    """

    block: int
    start: int
    end: int
    alone: bool = False
    tries: int = 0

    @property
    def size(self) -> int:
        """How many problems it has."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Lease:
    """A piece that a worker has, under a number that no other lease has. ``whole`` if it is its entire block, ``again``
    if another worker was lost with it.
    """

    number: int
    block: int
    items: list[Item]
    whole: bool
    alone: bool
    again: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a lease came to: why requests failed, by key, the file that was written, and counts of what was drawn."""

    failed: dict[str, str]
    file: str | None
    drawn: int
    found: int
    tokens: int
    uncounted: int
    undecided: int
    truncated: int
    faults: dict[str, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the drawing stands; what failed and what was written is told once it is ``finished``. ``silent`` are the
    workers that seem to hang, and for how many seconds nothing was heard of them.
    """

    done: int
    waiting: bool
    finished: bool
    broken: str | None
    spent: str | None
    meter: Meter
    faults: dict[str, int]
    failed: dict[str | tuple[str, str], str]
    files: list[str]
    silent: dict[str, float]


@dataclass(slots=True)
class _Out:
    worker: str
    piece: Piece
    since: float


class Leases:
    """Lends pieces to workers until all are done.

    A worker takes the next piece before it is done with the last, so that its engine never runs dry; but no more than
    its share until all have come, so that one with a large engine leaves something to those that open later. Where a
    worker is lost, what it had is lent again; where one is lost with that too, alone, and then its halves are. A
    problem that has cost two workers alone is given up: ``failed`` says why.

    A worker that has something, and of which nothing is `heard` for ``patience`` seconds of the ``clock`` and for three
    times the longest that anything was out, seems to hang: `standing` says so, and whoever asks may take it for lost.
    """

    def __init__(
        self,
        blocks: Blocks,
        done: Iterable[int],
        budget: Budget,
        workers: int,
        patience: float = SILENT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blocks = blocks
        self._fresh = deque(sorted(set(range(len(blocks))) - set(done)))
        self._again: deque[Piece] = deque()
        self._struck: set[int] = set()
        self._out: dict[int, _Out] = {}
        self._came: set[str] = set()
        self._gone: set[str] = set()
        self._numbers = 0
        self._workers = workers
        self._most_lost = _LOST_IN_A_ROW + workers
        self._patience = patience
        self._clock = clock
        self._longest = 0.0
        self._heard: dict[str, float] = {}
        self._lost_in_a_row = 0
        self._broken: str | None = None
        self._meter = Meter(budget)
        self._faults: Counter[str] = Counter()
        self._failed: dict[str | tuple[str, str], str] = {}
        self._files: list[str] = []
        self._done = len(blocks.problems) - sum(self._size(block) for block in self._fresh)

    def next(self, worker: str) -> Lease | None:
        """Lends a piece, if the worker may have one now; without any it should finish what it has, and ask again.

        One that was thought lost, and is not, gets nothing any more.
        """
        self._came.add(worker)
        self.heard(worker)
        held = [out.piece for out in self._out.values() if out.worker == worker]
        if self._broken or self._meter.spent() or worker in self._gone or any(piece.alone for piece in held):
            return None
        if self._again and not held:
            return self._lend(worker, self._again.popleft())
        if self._fresh and not (held and self._has_its_share(held)):
            block = self._fresh.popleft()
            return self._lend(worker, Piece(block, 0, self._size(block)))
        return None

    def _has_its_share(self, held: Sequence[Piece]) -> bool:
        if len(self._came) >= self._workers:
            return False
        left = len(self._blocks.problems) - self._done
        more = sum(piece.size for piece in held) + self._size(self._fresh[0])
        return more * self._workers > left

    def done(self, number: int, report: Report) -> None:
        """Takes a lease back that is done; one that is not out any more, because its worker was thought lost, is not
        counted twice.
        """
        out = self._out.pop(number, None)
        if out is None:
            return
        self.heard(out.worker)
        self._longest = max(self._longest, self._clock() - out.since)
        self._lost_in_a_row = 0
        self._done += out.piece.size
        self._failed.update(report.failed)
        self._files += [report.file] if report.file else []
        self._faults.update(report.faults)
        meter = self._meter
        meter.failed += len(report.failed)
        for name in ("drawn", "found", "tokens", "uncounted", "undecided", "truncated"):
            setattr(meter, name, getattr(meter, name) + getattr(report, name))

    def heard(self, worker: str) -> None:
        """Notes that a worker is alive: something that it was lent has been answered."""
        self._heard[worker] = self._clock()

    def begin(self) -> None:
        """Notes that drawing begins: rates and budgets count from here."""
        self._meter.begin(self._done)

    def lost(self, worker: str, why: str) -> None:
        """Takes back what a worker had that is no more, and prepares to lend it again."""
        if worker in self._gone:
            return
        self._gone.add(worker)
        self._lost_in_a_row += 1
        if self._lost_in_a_row > self._most_lost:
            self._broken = why
        for number in [number for number, out in self._out.items() if out.worker == worker]:
            self._retry(self._out.pop(number).piece, why)

    def standing(self) -> Standing:
        """Where it stands."""
        waiting = bool(self._again or self._fresh) and not self._meter.spent()
        finished = not (self._again or self._fresh or self._out)
        return Standing(
            self._done,
            waiting,
            finished,
            self._broken,
            self._meter.spent(),
            self._meter,
            dict(self._faults),
            dict(self._failed) if finished else {},
            list(self._files) if finished else [],
            self._silent(),
        )

    def _silent(self) -> dict[str, float]:
        limit = max(self._patience, _SILENT * self._longest) if self._longest else _SILENT_AT_FIRST * self._patience
        for_so_long = {out.worker: self._clock() - self._heard[out.worker] for out in self._out.values()}
        return {worker: seconds for worker, seconds in for_so_long.items() if seconds > limit}

    def _retry(self, piece: Piece, why: str) -> None:
        if not piece.alone and piece.block not in self._struck:
            self._struck.add(piece.block)  # most workers are lost for no fault of what they had
            self._fresh.appendleft(piece.block)
        elif not piece.alone:
            self._again.append(Piece(piece.block, piece.start, piece.end, alone=True))
        elif piece.size > 1:
            middle = piece.start + piece.size // 2
            self._again.append(Piece(piece.block, piece.start, middle, alone=True))
            self._again.append(Piece(piece.block, middle, piece.end, alone=True))
        elif piece.tries + 1 < _TRIES:
            self._again.append(Piece(piece.block, piece.start, piece.end, alone=True, tries=piece.tries + 1))
        else:
            ((benchmark, problem),) = self._items(piece)
            self._failed[benchmark, problem.id] = f"{_TRIES} workers were lost while they drew it alone: {why}"
            self._done += 1

    def _lend(self, worker: str, piece: Piece) -> Lease:
        self._numbers += 1
        self._out[self._numbers] = _Out(worker, piece, self._clock())
        whole = piece.size == self._size(piece.block)
        again = piece.block in self._struck
        return Lease(self._numbers, piece.block, self._items(piece), whole, piece.alone, again)

    def _items(self, piece: Piece) -> list[Item]:
        return self._blocks.items(piece.block)[piece.start : piece.end]

    def _size(self, block: int) -> int:
        return min(self._blocks.size, len(self._blocks.problems) - block * self._blocks.size)
