"""A Hugging Face dataset folder: every column of the rewritten rows, in shards of bounded size."""

from pathlib import Path

import pyarrow.parquet as pq

from retell.exports.rows import MixRows

SHARD = 256 * 2**20
"""Bytes after which a shard is full."""


def write(rows: MixRows, target: Path) -> None:
    """Writes data/train-00000-of-0000N.parquet …; the card, README.md, is not made here."""
    folder = target / "data"
    folder.mkdir()
    left = rows.batches()
    shards: list[Path] = []
    for first in left:
        shards.append(folder / f"{len(shards)}.parquet")
        with pq.ParquetWriter(shards[-1], rows.schema) as table:
            table.write_batch(first)
            while shards[-1].stat().st_size < SHARD and (batch := next(left, None)):
                table.write_batch(batch)
    for number, shard in enumerate(shards):
        shard.rename(folder / f"train-{number:05}-of-{len(shards):05}.parquet")
