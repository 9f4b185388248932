"""Progress of long work on standard error: a live view on a terminal, a plain line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

_EVERY_SECONDS = 10.0
_PER_SECOND = 2.0
"""How often the live view is drawn again."""

Figures = Callable[[], Mapping[str, str]]
"""Figures to show beside the count, by name."""
Left = Callable[[int, int], float | None]
"""Seconds that are left when so many of so many are done, or None while nobody knows."""


class Tick(Protocol):
    """Reports how much is done."""

    def __call__(self, done: int) -> None:
        """Shows ``done`` units."""


@dataclass(slots=True)
class _View:
    title: str
    total: int
    figures: Figures
    left: Left
    done: int = 0

    def tick(self, done: int) -> None:
        self.done = done

    def line(self) -> str:
        """All in one line."""
        shown = [f"{name} {value}" for name, value in self.figures().items()]
        return " · ".join([f"{self.title}: {self.done:,}/{self.total:,}", *self._time(), *shown])

    def panel(self) -> "RenderableType":
        """A bar, and a row of figures under it."""
        from rich.columns import Columns
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 1))
        count = f"{self.done:,}/{self.total:,}"
        head.add_row(
            self.title,
            ProgressBar(max(self.total, 1), self.done, width=40),
            count,
            Text(" ".join(self._time()), style="cyan"),
        )
        shown = [Text.assemble((f"{name} ", "dim"), value) for name, value in self.figures().items()]
        return Group(head, Columns(shown, padding=(0, 3)))

    def _time(self) -> list[str]:
        left = self.left(self.done, self.total)
        return [f"{duration(left)} left"] if left is not None else []


@contextmanager
def progress(title: str, total: int, figures: Figures = dict, left: Left | None = None) -> Iterator[Tick]:
    """Shows the progress of ``total`` units of work under ``title`` while the block runs.

    It is drawn from a thread of its own: long work between two ticks stands still in the count, not in the figures.
    """
    view = _View(title, total, figures, left or _steady())
    with _live(view) if sys.stderr.isatty() else _lines(view):
        yield view.tick


def duration(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _steady() -> Left:
    """The time that is left if every unit takes as long as those before."""
    started = time.monotonic()
    return lambda done, total: (time.monotonic() - started) / done * (total - done) if done else None


@contextmanager
def _live(view: _View) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, markup=False, highlight=False)
    with Live(get_renderable=view.panel, console=console, refresh_per_second=_PER_SECOND, transient=True):
        yield


@contextmanager
def _lines(view: _View) -> Iterator[None]:
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(_EVERY_SECONDS):
            print(view.line(), file=sys.stderr, flush=True)

    thread = threading.Thread(target=write, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
