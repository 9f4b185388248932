"""Parquet tables of a run, some rows at a time: memory does not grow with the number of rows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1024
"""Rows of a row group: what is read to show a single row of a large table, and what is held to write one."""


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
    rows: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            if first < start + count and last > start:
                table = file.read_row_group(group, columns=list(columns) if columns is not None else None)
                begin = max(start - first, 0)
                rows += table.slice(begin, start + count - first - begin).to_pylist()
            first = last
    return rows


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
