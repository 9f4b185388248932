"""Scoring in blocks, each kept as a whole file until all are done: a killed process costs one block."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from retell.packing import Pair
from retell.runfolder import RunFolder
from retell.tables import ROWS

BLOCK = 2 * ROWS
"""Rows that are scored together, sorted by length, and kept as one part."""

Scorer = Callable[[Sequence[Pair]], Iterator[tuple[int, list[float]]]]
"""Prompts with their responses → the number of each, in any order, and the log-prob of each response token."""
T = TypeVar("T")


def blocks(rows: Iterable[T]) -> Iterator[list[T]]:
    """The rows in their order, a block at a time."""
    rest = iter(rows)
    while block := list(islice(rest, BLOCK)):
        yield block


class Parts:
    """Tables of finished blocks in ``place``, a folder of the run. Those of other ``inputs`` are removed at once."""

    def __init__(self, folder: RunFolder, place: str, inputs: str) -> None:
        self._folder = folder
        self._place = place
        self._inputs = inputs
        for path in self._files():
            if not path.name.startswith(inputs):
                path.unlink()

    def part(self, name: str, make: Callable[[], pa.Table]) -> pa.Table:
        """The table of one block: as it was kept, or made now and kept."""
        file = f"{self._place}/{self._inputs}-{name}.parquet"
        # What a power cut has torn is made again.
        with contextlib.suppress(FileNotFoundError, pa.ArrowInvalid):
            return pq.read_table(self._folder.path / file)
        table = make()
        with self._folder.replacing(file) as path:
            pq.write_table(table, path)
        return table

    def discard(self) -> None:
        """Removes what was kept: the result holds it now."""
        for path in self._files():
            path.unlink()
        for place in (self._folder.path / self._place, (self._folder.path / self._place).parent):
            with contextlib.suppress(OSError):  # another stage's parts are in it
                place.rmdir()

    def _files(self) -> list[Path]:
        place = self._folder.path / self._place
        return list(place.iterdir()) if place.is_dir() else []
