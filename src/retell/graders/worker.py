"""A grading process: a keeper, which loads the grader once, and its child, which judges.

The keeper forks the child, and another whenever that dies: a fork costs milliseconds, a new interpreter with the
algebra a second. Both are on the same two pipes. A job comes as four bytes of length and a JSON list [seconds, problem,
response, gold]; a child takes one at a time, so that what lies behind it in the pipe is its successor's. Lines of JSON
go back:

    ["ready"]                                  the grader is loaded
    ["verdict", outcome, extracted, reason]    one for each job, in their order
    ["died", cause, begun]                     a child died; with those before it, it had begun so many jobs
    ["failed", why]                            the keeper cannot go on
"""

import contextlib
import ctypes
import gc
import json
import logging
import mmap
import os
import resource
import select
import signal
import struct
import sys
from pathlib import Path
from typing import TextIO

from retell.errors import RetellError, first_line
from retell.graders.base import Case, Grader
from retell.graders.named import grader_named
from retell.records import Verdict

_JOBS_OF_A_CHILD = 2000
"""What libraries pile up goes with the child."""
_MEMORY = 1 << 30
"""What judging may take beyond what loading took."""
_TOO_MUCH = Verdict("undecided", None, "too much memory")
_CAUSES = {-signal.SIGPROF: "too much processor time", -signal.SIGKILL: "killed"}
_BEGUN, _READ = 0, 1
"""The places in the log that a child shares with its keeper: how many jobs were begun, how many wholly read."""


def main() -> None:
    """Serves jobs until standard input ends."""
    _end_with_parent()
    # What is judged gets nothing of ours on standard input, and what it prints must not be taken for verdicts.
    jobs, answers = os.dup(0), os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    try:
        sys.setrecursionlimit(10_000)
        logging.disable(logging.CRITICAL)
        grader = grader_named(sys.argv[1])
        grader.load()
        _limit_children()
        _say(answers, "ready")
        _keep(grader, jobs, answers)
        os._exit(0)  # so that the status is settled when the pipes close, and not a moment later
    except BaseException as error:
        known = isinstance(error, RetellError)
        _say(answers, "failed", str(error) if known else f"{type(error).__name__}: {first_line(error)}")


def _limit_children() -> None:
    """What a child inherits when it is forked."""
    gc.collect()
    gc.freeze()  # its collections need not look at what was loaded, nor copy it
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with contextlib.suppress(ValueError):  # there is a lower limit already
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, taken + _MEMORY))


def _keep(grader: Grader, jobs: int, answers: TextIO) -> None:
    """Has a child serve jobs, and another when it dies, until one stops within a job's bytes or at their end."""
    log = memoryview(mmap.mmap(-1, 16)).cast("Q")
    while log[_BEGUN] == log[_READ]:
        child = os.fork()
        if not child:
            try:
                _serve(grader, jobs, answers, log)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write("\n")  # it may have left half a line
        _say(answers, "died", _CAUSES.get(status, f"the grader died (status {status})"), log[_BEGUN])


def _serve(grader: Grader, jobs: int, answers: TextIO, log: memoryview) -> None:
    """In the child: judges until its heap is to be given up."""
    _end_with_parent()
    for _ in range(_JOBS_OF_A_CHILD):
        select.select([jobs], [], [])  # one that dies while it waits has taken nothing
        log[_BEGUN] += 1
        (size,) = struct.unpack("!I", _read(jobs, 4))
        seconds, *case = json.loads(_read(jobs, size))
        log[_READ] += 1
        verdict = _judge(grader, Case(*case), seconds)
        _say(answers, "verdict", verdict.outcome, verdict.extracted, verdict.reason)
        if verdict is _TOO_MUCH:
            return  # with a fresh heap the next verdict does not depend on this one


def _judge(grader: Grader, case: Case, seconds: float) -> Verdict:
    signal.setitimer(signal.ITIMER_PROF, seconds)  # processor time, so that a busy machine changes no verdict
    try:
        return grader.judge(case)
    except MemoryError:
        return _TOO_MUCH
    except BaseException as error:
        return Verdict("undecided", None, f"the grader failed: {type(error).__name__}")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _read(file: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = os.read(file, size - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


def _say(answers: TextIO, *message: object) -> None:
    answers.write(json.dumps(message, ensure_ascii=False) + "\n")
    answers.flush()


def _end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, however that ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    main()
