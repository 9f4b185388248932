"""Which rows of a large run a question is about: filters from a few bytes a row, search a row group at a time."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retell.records import Outcome, Rung
from retell.rows import DRAWN, Rows
from retell.tables import read_batches

SEARCHED = ("id", "problem", "solution", "response")
"""Columns that are searched."""
_COUNTS = tuple(f"{what}_{rung}" for what in ("samples", "correct") for rung in DRAWN)
_RUNGS = get_args(Rung)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: rows of a rung, with an attempt of some outcome, that have a text in one of `SEARCHED`.

    An empty string leaves it open. Case makes no difference to a text.
    """

    rung: Rung | str = ""
    verdict: Outcome | str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Rows by their positions, and where to go on from, or None at the end.

    ``total`` is how many rows are asked for and ``before`` how many of them come before; None while one searches.
    """

    positions: list[int]
    next: int | None
    total: int | None = None
    before: int | None = None


class Finder:
    """Answers questions about the rows of a run; it holds 5 bytes a row.

    ``undecided`` counts the undecided attempts by problem. It may take long: it is asked once, in a thread of its own,
    as soon as a question depends on it.
    """

    def __init__(self, rows: Rows, undecided: Callable[[], Mapping[str, int]]) -> None:
        self._rows = rows
        columns: dict[str, list[Any]] = {name: [] for name in ("rung", "samples", "correct")}
        for batch in read_batches(rows.path, ["rung", *_COUNTS]):
            codes = pc.index_in(batch["rung"], value_set=pa.array(_RUNGS))
            columns["rung"].append(codes.to_numpy(zero_copy_only=False).astype(np.int8))
            for what in ("samples", "correct"):
                counts = (batch[f"{what}_{rung}"].to_numpy(zero_copy_only=False) for rung in DRAWN)
                columns[what].append(sum(counts).astype(np.uint16))
        whole = {name: np.concatenate(parts or [np.zeros(0, np.int8)]) for name, parts in columns.items()}
        self._rung, self._samples, self._correct = (whole[name] for name in ("rung", "samples", "correct"))
        self._count_undecided = undecided
        self._undecided: Future[npt.NDArray[np.uint16]] | None = None

    def find(self, query: Query, start: int, most: int, seconds: float) -> Found:
        """Up to ``most`` rows from position ``start`` on, or fewer after some ``seconds``: then ``next`` goes on."""
        until = time.monotonic() + seconds
        allowed = self._allowed(query, until)
        if allowed is None:
            return Found([], start)
        if query.text:
            return self._search(query.text, allowed, start, most, until)
        matching = np.flatnonzero(allowed[start:]) + start
        rest = int(matching[most]) if len(matching) > most else None
        total = int(allowed.sum())
        return Found(matching[:most].tolist(), rest, total, total - len(matching))

    def _search(self, text: str, allowed: Mask, start: int, most: int, until: float) -> Found:
        found: list[int] = []
        for group, first, last in self._rows.groups(start):
            begin = max(first, start)
            if allowed[begin:last].any():
                hits = self._rows.search(group, SEARCHED, text)[begin - first :] & allowed[begin:last]
                found += (np.flatnonzero(hits) + begin).tolist()
            if len(found) > most:
                return Found(found[:most], found[most])
            if time.monotonic() > until and last < len(self._rows):
                return Found(found, last)
        return Found(found, None)

    def _allowed(self, query: Query, until: float) -> Mask | None:
        """The rows that a question leaves in, a text aside; None while that is not known yet."""
        allowed = np.ones(len(self._rows), np.bool_)
        if query.rung:
            allowed &= self._rung == _RUNGS.index(query.rung)
        if query.verdict == "correct":
            allowed &= self._correct > 0
        elif query.verdict:
            undecided = self._known_undecided(until)
            if undecided is None:
                return None
            allowed &= undecided > 0 if query.verdict == "undecided" else self._samples > self._correct + undecided
        return allowed

    def _known_undecided(self, until: float) -> npt.NDArray[np.uint16] | None:
        if self._undecided is None:
            self._undecided = Future()
            threading.Thread(target=self._look, args=[self._undecided], daemon=True).start()
        try:
            return self._undecided.result(max(until - time.monotonic(), 0))
        except TimeoutError:
            return None

    def _look(self, known: Future[npt.NDArray[np.uint16]]) -> None:
        counts = np.zeros(len(self._rows), np.uint16)
        try:
            by_problem = self._count_undecided()
            places = self._rows.index.find(list(by_problem))
            for place, count in zip(places, by_problem.values(), strict=True):
                if place >= 0:
                    counts[place] = count
            known.set_result(counts)
        except Exception as error:  # whoever asks is told
            known.set_exception(error)
