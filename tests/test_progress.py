import io
import re
import sys
import time

import pytest

from retell import progress as module
from retell.progress import duration, progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (6000, "1 h 40 min"), (11100, "3 h 05 min")],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_lines_are_written_while_nothing_is_ticked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    figures = {"self": "2", "tokens": "1,234 (56/s)"}
    with progress("rewriting", 4000, lambda: figures, lambda done, total: 2.0 * (total - done)) as tick:
        tick(1500)
        deadline = time.monotonic() + 10
        errors = ""
        while "1,500/4,000" not in errors and time.monotonic() < deadline:
            errors += capsys.readouterr().err
    assert "rewriting: 1,500/4,000 · 83 min left · self 2 · tokens 1,234 (56/s)\n" in errors
    time.sleep(0.05)
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # nothing is written once it has ended


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", 3) as tick:
        tick(3)
    assert capsys.readouterr() == ("", "")


def test_without_a_clock_of_its_own_the_time_left_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    left = module._steady()
    assert left(0, 10) is None
    now[0] = 4.0
    assert left(2, 10) == pytest.approx(16.0)


def test_a_terminal_shows_a_bar_and_the_figures_and_model_text_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("grading", 10, lambda: {"so far": "[red]5[/red]"}) as tick:
        tick(5)
        time.sleep(0.1)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert "grading" in shown and "5/10" in shown
    assert "so far [red]5[/red]" in shown
