"""Somebody else's processes: what they write is kept in a log, and they end when retell does.

What a library starts in other processes outlives a parent that is killed and holds on to the accelerator's memory, so
that the same command could not start again. So a small process watches: this file itself, run with the log's path. Its
standard input is a leash that the system lets go of when retell ends, however it ends; it then ends every process whose
standard error is the log. It imports nothing of retell.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_GRACE_SECONDS = 5.0
"""How long a process may take to end by itself, having been asked to."""
_TURN_SECONDS = 0.1
_KEEP = b"keep"
_ERROR = re.compile(r"^(?:\(.*?\] )?(?:\w+\.)*(\w*(?:Error|Exception): +\S.*|.* died unexpectedly.*)$", re.MULTILINE)
"""The last line of a traceback, or word of a process that died, whatever a logger puts in front of it."""


class Warden:
    """Keeps the output of the processes that are started inside `capturing`, and ends them.

    Args:
        name: stands in the name of the log.
    """

    def __init__(self, name: str) -> None:
        self._fd, log = tempfile.mkstemp(prefix=f"retell-{name}-", suffix=".log")
        fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_APPEND)  # there are several writers
        self.log = Path(log)
        self._seen = 0
        self._watch = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, log],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what interrupts retell does not interrupt it
        )

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """What this process and those that it starts write meanwhile goes to the log; those go on writing there."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        own = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(self._fd, number)
            yield
            self._seen = os.fstat(self._fd).st_size
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for number, saved in zip((1, 2), own, strict=True):
                os.dup2(saved, number)
                os.close(saved)

    def cause(self) -> str | None:
        """The first error in the log since the last successful start that does not refer to another one, in a line."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._seen)
            return next((error for error in _ERROR.findall(file.read()) if "root cause" not in error), None)

    def close(self, *, keep: bool) -> None:
        """Ends the processes and waits until they are gone; the log goes too, unless it is to be kept."""
        os.close(self._fd)
        self._watch.communicate(_KEEP if keep else b"")


def _writers(log: os.stat_result, but: int) -> set[int]:
    """Processes whose standard error is the log, but for one."""
    found = set()
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):  # it has ended, or is not ours
            # Python's tracker of shared memory belongs to retell, and cleans up what a killed process has left.
            if entry.name.isdigit() and b"resource_tracker" not in Path(entry.path, "cmdline").read_bytes():
                error = os.stat(f"{entry.path}/fd/2")
                if (error.st_dev, error.st_ino) == (log.st_dev, log.st_ino):
                    found.add(int(entry.name))
    return found - {but}


def _watch(path: str) -> None:
    log, parent = os.stat(path), os.getppid()
    last_words = sys.stdin.buffer.read()
    for word in (signal.SIGTERM, signal.SIGKILL):
        told: set[int] = set()
        deadline = time.monotonic() + _GRACE_SECONDS
        while (left := _writers(log, but=parent)) and time.monotonic() < deadline:
            for process in left - told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, word)
            told |= left
            time.sleep(_TURN_SECONDS)
    if last_words != _KEEP:
        os.unlink(path)


if __name__ == "__main__":
    _watch(sys.argv[1])
