"""Problems that stay on disk: a sequence that is read some rows at a time."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retell.errors import StorageError, first_line
from retell.records import Problem
from retell.tables import ROWS, TableWriter, count_rows, read_slice

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "problem", "answer", "solution", "source")),
        ("candidates", pa.list_(pa.string())),
    ]
)


class ProblemTable(Sequence[Problem]):
    """Problems of a table in their order, or some of them; as a sequence it does what a tuple of them would."""

    def __init__(self, path: Path, chosen: NDArray[np.int64] | None = None) -> None:
        self._path = path
        self.chosen = chosen if chosen is not None else np.arange(count_rows(path))
        """Their places in the table."""
        self._group, self._rows = -1, list[dict[str, Any]]()

    def __reduce__(self) -> tuple[type[Self], tuple[Path, NDArray[np.int64]]]:
        return type(self), (self._path, self.chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Problem]:
        return (_problem(self._row(int(row))) for row in self.chosen)

    @overload
    def __getitem__(self, place: int) -> Problem: ...
    @overload
    def __getitem__(self, place: slice) -> Self: ...
    def __getitem__(self, place: int | slice) -> "Problem | ProblemTable":
        if isinstance(place, slice):
            return type(self)(self._path, self.chosen[place])
        return _problem(self._row(int(self.chosen[place])))

    def part(self, start: int, count: int) -> list[Problem]:
        """So many problems from place ``start`` on; asked for in their order, each row group is read once."""
        return [_problem(self._row(int(row))) for row in self.chosen[start : start + count]]

    def _row(self, number: int) -> dict[str, Any]:
        group, place = divmod(number, ROWS)
        if group != self._group:
            self._group, self._rows = group, read_slice(self._path, group * ROWS, ROWS)
        return self._rows[place]

    def where(self, keep: Sequence[bool]) -> Self:
        """Those that ``keep`` says."""
        return type(self)(self._path, self.chosen[np.asarray(keep, dtype=bool)])


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Writes them as they come, none being held.

    Raises:
        StorageError: they cannot be written.
    """
    try:
        with TableWriter(path, SCHEMA) as table:
            for problem in problems:
                row = {name: getattr(problem, name) for name in SCHEMA.names}
                table.add(row | {"candidates": list(problem.candidates) if problem.candidates is not None else None})
    except OSError as error:
        why = error.strerror or first_line(error)
        raise StorageError(f"cannot write {path}: {why}; make room and start again") from error


def chosen(problems: Sequence[Problem], keep: Sequence[bool]) -> Sequence[Problem]:
    """Those problems that ``keep`` says, in their order; what is on disk stays there."""
    if isinstance(problems, ProblemTable):
        return problems.where(keep)
    return tuple(problem for problem, kept in zip(problems, keep, strict=True) if kept)


def placed(problems: Sequence[Problem], path: Path) -> Sequence[Problem]:
    """The same problems, where those on disk have been moved."""
    return ProblemTable(path, problems.chosen) if isinstance(problems, ProblemTable) else problems


def _problem(row: dict[str, Any]) -> Problem:
    candidates = row["candidates"]
    return Problem(
        id=row["id"],
        problem=row["problem"],
        answer=row["answer"],
        solution=row["solution"],
        source=row["source"],
        candidates=tuple(candidates) if candidates is not None else None,
    )
