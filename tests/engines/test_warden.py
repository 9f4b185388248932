import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retell.engines.warden import Warden

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT = f"""
import subprocess, sys, time
from retell.engines.warden import Warden
with Warden("test").capturing():
    child = subprocess.Popen({SLEEP!r}, start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start(*lines: str) -> None:
    """Says this and fails."""
    os.write(2, "\n".join(lines).encode())
    raise ZeroDivisionError


def test_what_is_written_meanwhile_goes_to_the_log_and_tells_the_cause(capfd: pytest.CaptureFixture[str]) -> None:
    warden = Warden("test")
    with warden.capturing():
        os.write(1, b"from this process\n")
        subprocess.run([sys.executable, "-c", "print('from another')"], check=True)
        subprocess.run([sys.executable, "-c", "1 / 0"])
    os.write(1, b"afterwards\n")
    log = warden.log.read_text(encoding="utf-8")
    assert log.index("from this process") < log.index("from another") < log.index("ZeroDivisionError")
    assert capfd.readouterr() == ("afterwards\n", "")
    assert warden.cause() is None, "what went wrong at a start that succeeded is no cause of what comes later"
    warden.close(keep=False)
    assert not warden.log.exists()


def test_the_cause_is_the_first_error_that_does_not_refer_to_another() -> None:
    warden = Warden("test")
    with pytest.raises(ZeroDivisionError), warden.capturing():
        start(
            "(Worker pid=7) INFO no traceback: ValueError: hidden",
            "(Core pid=6) ERROR 11-21 15:20:01 [core.py:9] library.BadError: See above for the root cause.",
            "(Worker pid=7) ERROR 11-21 15:20:01 [worker.py:9] library.DeepError: the bottom",
            "RuntimeError: the top",
        )
    assert warden.cause() == "DeepError: the bottom"
    warden.close(keep=True)
    assert "the top" in warden.log.read_text(encoding="utf-8")
    warden.log.unlink()


def test_closing_ends_the_processes_that_write_to_the_log_and_no_others() -> None:
    other = subprocess.Popen(SLEEP)
    warden = Warden("test")
    with warden.capturing():
        child = subprocess.Popen(SLEEP, start_new_session=True)
    warden.close(keep=False)
    assert child.wait(timeout=5) == -signal.SIGTERM
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.parametrize("word", [signal.SIGKILL, signal.SIGTERM])
def test_the_processes_end_with_a_parent_that_is_killed(word: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as run:
        assert run.stdout
        child = int(run.stdout.readline())
        assert lives(child)
        run.send_signal(word)
    deadline = time.monotonic() + 20
    while lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives(child)
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())
