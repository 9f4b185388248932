"""The rows of a rewritten table under a mix, as text, some at a time; and the lines of a JSON file."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retell.errors import DataError, first_line
from retell.mixes import KEPT
from retell.tables import read_batches

CHAT = ("rung", "solution", "messages")
"""The columns that a conversation is made from."""
_SAMPLED = ("response_token_ids", "behaviour_logprobs", "verdict")


class MixRows:
    """The rows of ``rewritten.parquet`` under one of the named mixes, counted as they pass.

    A row whose kept response is not in the mix has the expert's solution in its place, and says so: its rung is
    `expert`, and it has no ids, log-probs or verdict. ``rungs`` counts the rows that were given, by whose text they
    have; ``rejected`` those that were not, by reason.

    Raises:
        DataError: the table cannot be read.
    """

    def __init__(self, path: Path, mix: str) -> None:
        self.rungs: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self._path = path
        self._kept = KEPT[mix]
        try:
            self.schema: pa.Schema = pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read {path}: {first_line(error)}; rewrite again") from error

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows in their order; ``columns``, which have those of `CHAT` among them, leave the others unread.

        Raises:
            DataError: the table lacks a column, or cannot be read.
        """
        lacking = [name for name in columns or CHAT if name not in self.schema.names]
        if lacking:
            raise DataError(f"{self._path} has no column {lacking[0]}: rewrite again")
        try:
            for batch in read_batches(self._path, columns):
                given = self._of_mix(batch)
                self.rungs.update(given["rung"].to_pylist())
                if given.num_rows:
                    yield given
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read {self._path}: {first_line(error)}; rewrite again") from error

    def read(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The same, row by row."""
        for batch in self.batches(columns):
            yield from batch.to_pylist()

    def _of_mix(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        kept = [rung in self._kept for rung in batch["rung"].to_pylist()]
        if not all(kept):
            batch = _with_experts(batch, kept)
        # The end token alone would teach to say nothing.
        says = [bool(turns[-1]["content"].strip()) for turns in batch["messages"].to_pylist()]
        if all(says):
            return batch
        self.rejected["no_response"] += says.count(False)
        return batch.filter(pa.array(says))


def _with_experts(batch: pa.RecordBatch, kept: Sequence[bool]) -> pa.RecordBatch:
    """The expert's text in every row that is not kept, and nothing of the sample that stood there."""
    rows = zip(kept, batch["messages"].to_pylist(), batch["solution"].to_pylist(), strict=True)
    turns = [own if keeps else [*own[:-1], {"role": "assistant", "content": solution}] for keeps, own, solution in rows]
    experts = {"rung": pa.scalar("expert"), "response": batch["solution"]}
    experts |= {field.name: pa.scalar(None, field.type) for field in batch.schema if field.name in _SAMPLED}
    mask = pa.array(kept)
    columns = {
        name: pc.if_else(mask, batch[name], experts[name]) if name in experts else batch[name]
        for name in batch.schema.names
    }
    columns["messages"] = pa.array(turns, batch["messages"].type)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines, one row at a time."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
