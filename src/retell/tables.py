"""Parquet tables of a run, some rows at a time: memory does not grow with the number of rows."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1024
"""Rows of a row group: what is read to show a single row of a large table, and what is held to write one."""
IntArray = npt.NDArray[np.int64]
_NO_HASHES = np.zeros(0, np.int64)


def count_rows(path: Path) -> int:
    """How many rows a table has."""
    return int(pq.read_metadata(path).num_rows)


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows in their order, at most `ROWS` at a time; ``columns`` leaves the others unread."""
    with pq.ParquetFile(path, pre_buffer=False) as file:  # which would keep all that has been read
        yield from file.iter_batches(ROWS, columns=list(columns) if columns is not None else None)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows in their order, one by one."""
    for batch in read_batches(path, columns):
        yield from batch.to_pylist()


def read_slice(path: Path, start: int, count: int, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Rows ``start`` to ``start + count - 1``, reading the row groups that hold them and nothing else."""
    with TableReader(path) as table:
        return table.rows(range(start, min(start + count, len(table))), columns)


class TableReader:
    """A table that is read here and there; used as a context. What takes the file's place later is not noticed."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, positions: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The rows at some positions, in the order in which they are asked for; a row group is read once."""
        found: dict[int, dict[str, Any]] = {}
        for group, places in self.by_group(positions):
            first = int(self._starts[group])
            table = self.group(group, columns).take([place - first for place in places])
            found.update(zip(places, table.to_pylist(), strict=True))
        return [found[position] for position in positions]

    def by_group(self, positions: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """The same positions in ascending order, each once, with the number of the row group that they are in."""
        return ((group, list(places)) for group, places in groupby(sorted(set(positions)), self._group_of))

    def groups(self, start: int = 0) -> Iterator[tuple[int, int, int]]:
        """The row groups that hold row ``start`` and those after it: number, first row, one past the last row."""
        for group in range(self._group_of(start), len(self._starts) - 1):
            yield group, int(self._starts[group]), int(self._starts[group + 1])

    def group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group."""
        return self._file.read_row_group(number, columns=list(columns) if columns is not None else None)

    def _group_of(self, position: int) -> int:
        return int(np.searchsorted(self._starts, position, side="right")) - 1


class IdIndex:
    """Where the rows of a table stand by their ids; it holds 16 bytes a row."""

    def __init__(self, path: Path) -> None:
        batches = (batch["id"].to_pylist() for batch in read_batches(path, ["id"]))
        self.hashes = np.concatenate([_NO_HASHES, *(_hashes(ids) for ids in batches)])
        """Of the ids, in the order of the rows."""
        self._order = np.argsort(self.hashes)

    def find(self, ids: Sequence[str]) -> IntArray:
        """Where each id should be looked for, or -1. Few ids share a hash: compare the id that stands there."""
        return self.places(_hashes(ids))

    def places(self, hashes: IntArray) -> IntArray:
        """The same by hashes, such as those of another table in the same process."""
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        near = np.searchsorted(self.hashes, hashes, sorter=self._order)
        found = self._order[np.minimum(near, len(self._order) - 1)]
        return np.where(self.hashes[found] == hashes, found, -1)


def _hashes(ids: Sequence[str]) -> IntArray:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


class TableWriter:
    """Writes a table row by row, holding one row group; used as a context. The last group is written on leaving it."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema)
        self._schema = schema
        self._held: list[Mapping[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None and self._held:
                self._write()
        finally:
            self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds one row; what it lacks is null."""
        self._held.append(row)
        if len(self._held) == ROWS:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema), row_group_size=ROWS)
        self._held = []
