"""What the measurements share: retell's pool, math-verify in processes that can be killed, memory from /proc."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from retell.graders.base import Case
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.records import Verdict

AHEAD = 4096
"""Most answers that are given to the pool before some verdicts are taken back."""


def boxed(answer: str) -> str:
    """A response that gives the answer."""
    return f"The answer is \\boxed{{{answer}}}."


def graded(pool: GraderPool, cases: Iterable[Case]) -> Iterator[tuple[int, Verdict]]:
    """The verdicts on cases under their numbers, in any order."""
    out = 0
    for number, case in enumerate(cases):
        pool.submit(str(number), case)
        out += 1
        for ticket, verdict in pool.collect(wait=out >= AHEAD):
            out -= 1
            yield int(ticket), verdict
    while pool.pending:
        for ticket, verdict in pool.collect(wait=True):
            yield int(ticket), verdict


def new_pool(workers: int = 2) -> GraderPool:
    """retell's pool, its processes started."""
    pool = GraderPool(grader_named("math"), workers)
    warm = [Case("", boxed(f"\\frac{{{k}+x}}{{7}}"), f"{k + 1}/7+x^{k}/7") for k in range(20 * workers)]
    for _ in graded(pool, warm):
        pass
    return pool


def retell_verdicts(cases: list[Case], workers: int = 2) -> list[Verdict]:
    """The verdicts of a new pool in the order of the cases."""
    with new_pool(workers) as pool:
        found = dict(graded(pool, cases))
    return [found[i] for i in range(len(cases))]


# ----------------------------------------------------------------------------------------------------- math-verify


class Verifiers:
    """Plain math-verify with its defaults, one process per worker; one that gives no answer for long is replaced."""

    def __init__(self, workers: int, remember: bool, seconds: float = 40.0) -> None:
        self._remember, self._seconds = remember, seconds
        self._workers = [_Verifier(remember) for _ in range(workers)]
        for worker in self._workers:
            worker.pipe.send([("\\boxed{1/2}", "\\boxed{0.5}")])
        for worker in self._workers:
            worker.pipe.recv()

    def __enter__(self) -> "Verifiers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()

    def verdicts(self, pairs: Iterable[tuple[int, str, str]], batch: int = 4) -> Iterator[tuple[int, bool | None]]:
        """For each (number, gold, answer) its number and what math-verify says; None: it had to be killed."""
        waiting = deque(pairs)
        for worker in self._workers:
            worker.give(waiting, batch)
        while any(worker.jobs for worker in self._workers):
            wait([worker.pipe for worker in self._workers if worker.jobs], timeout=1)
            for i, worker in enumerate(self._workers):
                while worker.jobs and worker.pipe.poll():
                    yield worker.jobs.popleft()[0], worker.pipe.recv()
                    worker.since = time.monotonic()
                if worker.jobs and time.monotonic() - worker.since > self._seconds:
                    worker.process.kill()
                    yield worker.jobs.popleft()[0], None
                    waiting.extendleft(reversed(worker.jobs))
                    self._workers[i] = worker = _Verifier(self._remember)
                if not worker.jobs:
                    worker.give(waiting, batch)


class _Verifier:
    def __init__(self, remember: bool) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_verify, args=(theirs, remember), daemon=True)
        self.process.start()
        self.jobs: deque[tuple[int, str, str]] = deque()
        self.since = time.monotonic()

    def give(self, waiting: deque[tuple[int, str, str]], batch: int) -> None:
        while waiting and len(self.jobs) < batch:
            self.jobs.append(waiting.popleft())
        self.since = time.monotonic()
        if self.jobs:
            self.pipe.send([(gold, answer) for _, gold, answer in self.jobs])


def _verify(pipe: "Connection[Any, Any]", remember: bool) -> None:
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    read = lru_cache(maxsize=5000)(parse) if remember else parse
    with contextlib.suppress(EOFError):
        while True:
            for gold, answer in pipe.recv():
                try:
                    pipe.send(bool(verify(read(gold), read(answer))))
                except Exception:
                    pipe.send(False)


# ---------------------------------------------------------------------------------------------------------- memory


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rsplit(")", 1)[1].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory(root: int | None = None) -> list[int]:
    """Resident MiB of a process (this one) and of each of its descendants."""
    sizes = []
    for pid in _descendants(root or os.getpid()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm") as file:
            sizes.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)
    return sizes


class PeakMemory:
    """The most that any descendant, and all of them together, held while this was open, seen every 50 ms."""

    def __init__(self) -> None:
        self.one = self.all = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            sizes = memory()[1:]
            self.one, self.all = max([self.one, *sizes]), max(self.all, sum(sizes))
