"""The gap: log-probs and weights of expert and rewritten responses under a model, by rung."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retell.errors import DataError, PolicyError
from retell.matching import Side, matched
from retell.mixes import expert_ids, kept_ids
from retell.packing import Pair
from retell.parts import Parts, Scorer, blocks
from retell.progress import progress
from retell.ratios import ratio_statistics
from retell.records import TrainRow
from retell.runfolder import RunFolder
from retell.tables import ROWS, count_rows, read_batches, read_rows
from retell.tokens import ChatTokenizer
from retell.weights import Scored, TokenSums

RULES = 2
"""Another number where what is written, or how it is computed, is another."""
RUNGS = ("self", "guided", "expert")
_READ = ("id", "rung", "solution", "messages", "response_token_ids", "behaviour_logprobs")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("rung", pa.string()),
        ("expert_logprobs", pa.list_(pa.float32())),
        ("rewritten_logprobs", pa.list_(pa.float32())),
        ("log_ratio", pa.float32()),
    ]
)
"""gap.parquet: ``log_ratio`` is log π(kept | training prompt) − log π_β(kept | prompt that drew it), null where the
latter was not recorded.
"""


def measure_gap(
    rewritten: Path, tokenizer: ChatTokenizer, score: Scorer, parts: Parts, folder: RunFolder, table: str
) -> dict[str, Any]:
    """Scores both responses of every row of a rewritten dataset; writes ``table`` (see `SCHEMA`) and returns its
    statistics.

    A response that is the expert's own is scored once. A row that the chat template cannot take is counted as rejected.
    Memory is that of a block and a few numbers a row.

    Raises:
        DataError: no row can be scored.
        PolicyError: the model gives log-probs that are no numbers.
    """
    gathered = _Gathered()
    done, number = 0, count_rows(rewritten)
    with (
        progress("log-probs", number) as tick,
        folder.replacing(table) as path,
        pq.ParquetWriter(path, SCHEMA) as writer,
    ):
        for place, block in enumerate(blocks(read_rows(rewritten, _READ))):
            advance = partial(_advance, tick, done, len(block))
            part = parts.part(f"{place:06}", partial(_scored, block, tokenizer, score, advance))
            writer.write_table(part, row_group_size=ROWS)
            gathered.add_table(part)
            gathered.rejected += len(block) - len(part)
            done += len(block)
            tick(done)
        if not gathered.rows:
            raise DataError(f"none of the {done} rows of {rewritten} fits the chat template: see policy.system")
    return gathered.summary()


def measured_before(path: Path, rejected: int) -> dict[str, Any]:
    """The statistics of a table that `measure_gap` wrote, computed again."""
    gathered = _Gathered()
    for batch in read_batches(path):
        gathered.add_table(pa.Table.from_batches([batch]))
    gathered.rejected = rejected
    return gathered.summary()


def summarise(
    rungs: Sequence[str], expert: Sequence[Sequence[float]], rewritten: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Statistics of both responses' token log-probs by rung, and over all."""
    gathered = _Gathered()
    gathered.add(rungs, Scored.of(expert), Scored.of(rewritten), np.full(len(rungs), np.nan))
    return gathered.summary()


def statistics(rows: Sequence[Sequence[float]]) -> dict[str, Any] | None:
    """Of rows of token log-probs: see `retell.weights.TokenSums.statistics`; None for no rows."""
    scored, sums = Scored.of(rows), TokenSums(1)
    sums.add(scored, np.zeros(len(rows), dtype=np.int64))
    return sums.statistics([0], scored.sums)


def _advance(tick: Callable[[int], None], done: int, rows: int, share: float) -> None:
    tick(done + int(share * rows))


def _scored(
    block: Sequence[Mapping[str, Any]], tokenizer: ChatTokenizer, score: Scorer, advance: Callable[[float], None]
) -> pa.Table:
    rows: list[tuple[TrainRow, TrainRow]] = []
    for row in block:
        with contextlib.suppress(DataError):
            rows.append((expert_ids(row, tokenizer), kept_ids(row, tokenizer)))
    pairs: list[Pair] = [(expert.prompt, expert.response) for expert, _ in rows]
    place: list[int] = []
    for number, (_, kept) in enumerate(rows):
        same = (kept.prompt, kept.response) == pairs[number]
        place.append(number if same else len(pairs))
        if not same:
            pairs.append((kept.prompt, kept.response))
    scored: list[list[float]] = [[]] * len(pairs)
    for done, (number, logprobs) in enumerate(score(pairs), 1):
        if not np.isfinite(logprobs).all():
            raise PolicyError("the model gives log-probs that are no numbers: is its checkpoint damaged?")
        scored[number] = logprobs
        advance(done / len(pairs))
    ratios = [
        None if kept.behaviour is None else math.fsum(scored[number]) - math.fsum(kept.behaviour)
        for (_, kept), number in zip(rows, place, strict=True)
    ]
    columns = {
        "id": [kept.id for _, kept in rows],
        "rung": [kept.rung for _, kept in rows],
        "expert_logprobs": scored[: len(rows)],
        "rewritten_logprobs": [scored[number] for number in place],
        "log_ratio": ratios,
    }
    return pa.table(columns, schema=SCHEMA)


class _Gathered:
    """What rows come to by rung and over all: sums over tokens, and six numbers a row."""

    def __init__(self) -> None:
        self.rows = self.rejected = 0
        self._expert, self._rewritten = TokenSums(len(RUNGS)), TokenSums(len(RUNGS))
        self._columns: list[tuple[np.ndarray, ...]] = []

    def add_table(self, table: pa.Table) -> None:
        """Adds rows of `SCHEMA`."""
        expert, rewritten = (Scored.column(table[f"{side}_logprobs"]) for side in ("expert", "rewritten"))
        ratios = table["log_ratio"].to_numpy(zero_copy_only=False).astype(np.float64)
        self.add(table["rung"].to_pylist(), expert, rewritten, ratios)

    def add(self, rungs: Sequence[str], expert: Scored, rewritten: Scored, ratios: np.ndarray) -> None:
        """Adds rows; a log-ratio that is no number was not recorded."""
        rung_of = np.array([RUNGS.index(rung) for rung in rungs], dtype=np.int64)
        self._expert.add(expert, rung_of)
        self._rewritten.add(rewritten, rung_of)
        lengths = (expert.lengths.astype(np.int32), rewritten.lengths.astype(np.int32))
        self._columns.append((rung_of.astype(np.int8), expert.sums, rewritten.sums, *lengths, ratios))
        self.rows += len(rungs)

    def summary(self) -> dict[str, Any]:
        """Statistics by rung, and over all."""
        columns = [np.concatenate(parts) for parts in zip(*self._columns, strict=True)]
        groups = {rung: [number] for number, rung in enumerate(RUNGS)} | {"all": list(range(len(RUNGS)))}
        summary = {name: self._group(numbers, columns) for name, numbers in groups.items()}
        summary["all"]["rejected"] = self.rejected
        return summary

    def _group(self, numbers: Sequence[int], columns: Sequence[np.ndarray]) -> dict[str, Any]:
        chosen = np.isin(columns[0], numbers)
        expert_sums, rewritten_sums, expert_lengths, rewritten_lengths, ratios = (one[chosen] for one in columns[1:])
        recorded = np.isfinite(ratios)
        return {
            "rows": int(chosen.sum()),
            "expert": self._expert.statistics(numbers, expert_sums),
            "rewritten": self._rewritten.statistics(numbers, rewritten_sums),
            "matched": matched(Side(expert_sums, expert_lengths), Side(rewritten_sums, rewritten_lengths)),
            "sequence": ratio_statistics(ratios[recorded], int(rewritten_lengths[recorded].sum())),
        }
