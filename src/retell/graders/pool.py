"""Grading in worker processes: one that hangs, swells or dies costs its own answer only."""

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import astuple, dataclass
from typing import Any, Self

from retell.errors import GraderError
from retell.graders.base import Case, Grader
from retell.hashing import digest
from retell.records import Verdict

_TRIES = 2
_WALL_SECONDS = 200.0
"""A backstop for a worker that waits without working; processor time is limited by the worker itself."""
_LOAD_SECONDS = 600.0
_AHEAD = 32
"""Most jobs that a worker is given before it answers, so that it need not wait for us between two."""
_PIPE = 1 << 20
"""Bytes that a worker's pipe holds, so that it need not wait for us; and that may wait for room there."""
_REMEMBERED = 100_000
_LONGEST = 1000
"""Characters of an answer whose verdict is remembered."""


@dataclass(slots=True)
class _Job:
    key: str
    case: Case
    deaths: int = 0


class GraderPool:
    """Grades responses as they are submitted; verdicts are collected under their tickets, in any order.

    What the grader decides at once needs no worker. A case is judged once, however many tickets ask for it.
    """

    def __init__(self, grader: Grader, workers: int = 2) -> None:
        self.name = grader.name
        self._grader = grader
        self._limit = workers
        self._workers: list[_Worker] = []
        self._waiting: deque[_Job] = deque()
        self._tickets: dict[str, list[str]] = {}
        self._decided: list[tuple[str, Verdict]] = []
        self._known: dict[str, Verdict] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def submit(self, ticket: str, case: Case) -> None:
        """Takes a case to grade; its verdict comes from `collect` under ``ticket``."""
        prepared = self._grader.prepare(case)
        if isinstance(prepared, Verdict):
            self._decided.append((ticket, prepared))
            return
        key = digest(astuple(prepared))  # a case may hold a long response
        if key in self._known:
            self._decided.append((ticket, self._known[key]))
        elif key in self._tickets:
            self._tickets[key].append(ticket)
        else:
            self._tickets[key] = [ticket]
            self._waiting.append(_Job(key, prepared))
            self._feed()

    def collect(self, *, wait: bool) -> list[tuple[str, Verdict]]:
        """The verdicts reached since the last call; with ``wait`` at least one, unless nothing is pending.

        Raises:
            GraderError: the grader cannot be loaded, or its processes do not start.
        """
        self._turn(0)
        while wait and self._tickets and not self._decided:
            self._turn(1)
        decided, self._decided = self._decided, []
        return decided

    @property
    def backlog(self) -> int:
        """How many responses wait for a worker."""
        return len(self._waiting)

    @property
    def pending(self) -> bool:
        """Whether any verdict is still to be collected."""
        return bool(self._decided or self._tickets)

    def _turn(self, seconds: float) -> None:
        """Hears what the workers say, having waited for it so long, and gives them what they can take."""
        poll = select.poll()
        for worker in self._workers:
            poll.register(worker.out, select.POLLIN)
            if worker.unsent:
                poll.register(worker.into, select.POLLOUT)
        ready = {file for file, _ in poll.poll(seconds * 1000)}
        for worker in [worker for worker in self._workers if worker.out in ready]:
            self._hear(worker)
        for worker in self._workers:
            worker.check_clock()
        self._feed()

    def _feed(self) -> None:
        while self._waiting and (worker := self._next_worker()):
            worker.give(self._waiting.popleft(), self._grader.seconds)
        for worker in self._workers:
            worker.send()

    def _next_worker(self) -> "_Worker | None":
        """Who takes the next job: one who is idle, else a new one, else the one with the fewest before it."""
        free = [worker for worker in self._workers if len(worker.unsent) < _PIPE]
        worker = min(free, key=lambda worker: len(worker.jobs), default=None)
        if len(self._workers) < self._limit and (worker is None or worker.jobs):
            self._workers.append(_Worker(self._grader.spec))
            return self._workers[-1]
        # Where few wait, fewer are given out ahead: they are for whoever has time first, not to wait behind a slow one.
        ahead = min(_AHEAD, 1 + len(self._waiting) // (4 * self._limit))
        return worker if worker and len(worker.jobs) < ahead else None

    def _hear(self, worker: "_Worker") -> None:
        messages = worker.hear()
        if messages is None:
            self._bury(worker)
            return
        for message in messages:
            match message:
                case ["verdict", outcome, extracted, reason]:
                    worker.done += 1
                    self._settle(worker.jobs.popleft(), Verdict(outcome, extracted, reason))
                case ["died", cause, begun] if begun > worker.done:  # else between two jobs, which costs none
                    worker.done += 1
                    self._lose(worker.jobs.popleft(), cause)
                case ["ready"]:
                    worker.ready = True
                case ["failed", why]:
                    raise GraderError(f"the grader {self._grader.spec} cannot be used: {why}")

    def _bury(self, worker: "_Worker") -> None:
        """Takes back what a worker that has ended leaves unanswered."""
        self._workers.remove(worker)
        status = worker.end()
        if not worker.ready:
            raise GraderError(
                f"a grading process does not start (status {status}): "
                f"`{sys.executable} -P -m retell.graders.worker {self._grader.spec}` shows why"
            )
        # It ends by itself, with status 0, only after it has said of which job a child died.
        lost = worker.jobs.popleft() if worker.jobs and status else None
        self._waiting.extendleft(reversed(worker.jobs))
        if lost:
            self._lose(lost, worker.cause)

    def _lose(self, job: _Job, cause: str) -> None:
        """A worker died of it, or while it was at it: tried once more."""
        job.deaths += 1
        if job.deaths < _TRIES:
            self._waiting.appendleft(job)
        else:
            self._settle(job, Verdict("undecided", None, cause))

    def _settle(self, job: _Job, verdict: Verdict) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        if len(verdict.extracted or "") <= _LONGEST:
            self._known[job.key] = verdict
        self._decided += [(ticket, verdict) for ticket in self._tickets.pop(job.key)]


class _Worker:
    """A grading process (see `retell.graders.worker`) and the jobs it has not answered, in their order."""

    def __init__(self, spec: str) -> None:
        try:
            self._process = subprocess.Popen(
                # -P: modules that happen to lie in the working directory must not shadow those of the grader.
                [sys.executable, "-P", "-m", "retell.graders.worker", spec],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # the order of a set must not change a verdict
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        except OSError as error:
            raise GraderError(f"a grading process does not start: {error}") from error
        assert self._process.stdin and self._process.stdout
        self.into, self.out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.into, False)
        with contextlib.suppress(PermissionError):  # the system grants each user so much
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, _PIPE)
        self.jobs: deque[_Job] = deque()
        self.unsent = bytearray()
        self.ready = False
        self.done = 0
        self.cause = "the grader died"
        self._moved = time.monotonic()
        self._heard = b""

    def give(self, job: _Job, seconds: float) -> None:
        """Puts a job behind the others; `send` sends it."""
        if not self.jobs:
            self._moved = time.monotonic()
        message = json.dumps([seconds * (1 + job.deaths), *astuple(job.case)]).encode()
        self.unsent += struct.pack("!I", len(message)) + message
        self.jobs.append(job)

    def send(self) -> None:
        """Writes as much as the pipe takes; never waits, since the worker may wait for us."""
        if self.unsent:
            try:
                del self.unsent[: os.write(self.into, self.unsent)]
                self._moved = time.monotonic()
            except BlockingIOError:
                pass
            except BrokenPipeError:  # it has just died; `hear` finds its end of file
                self.unsent.clear()

    def hear(self) -> list[list[Any]] | None:
        """What it has said; None if it is gone."""
        data = os.read(self.out, 1 << 16)
        if not data:
            return None
        self._moved = time.monotonic()
        *lines, self._heard = (self._heard + data).split(b"\n")
        return [message for message in map(_read, lines) if message]

    def check_clock(self) -> None:
        """Kills a worker that owes an answer and has neither said nor taken anything for too long."""
        if self.jobs and time.monotonic() - self._moved > (_WALL_SECONDS if self.ready else _LOAD_SECONDS):
            self.cause = "no answer"
            self._kill()

    def end(self) -> int:
        """Ends it, unless it has ended by itself; returns its status."""
        self._kill()
        status = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()
        return status

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the group: its child, too, and what that has started


def _read(line: bytes) -> list[Any]:
    try:
        return json.loads(line)  # type: ignore[no-any-return]
    except ValueError:
        return []  # an empty line, or one that a child was killed at
