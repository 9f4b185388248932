"""Samples and verdicts in Parquet files, one for each block of problems: what workers on many machines write.

SAMPLES/PLAN/000123.parquet holds what was drawn and judged for block 123 by a plan, which stands for all that decides
what is drawn. A file is written beside its place and moved there when it is whole, so that a block is done if its file
is there; with ``.part`` in its name it is not done, because some requests failed or it was drawn in pieces. What is in
a file is never changed, and no file ever replaces another.
"""

import contextlib
import errno
import os
import re
import time
import uuid
from array import array
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retell.errors import StorageError, first_line
from retell.records import Completion, Sample, Verdict

_VERDICT = pa.struct([(name, pa.string()) for name in ("grader", "outcome", "extracted", "reason")])
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "problem", "rung")),
        ("round", pa.int32()),
        ("index", pa.int32()),
        ("text", pa.string()),
        ("ids", pa.binary()),
        ("logprobs", pa.binary()),
        ("usage", pa.int64()),
        ("stop", pa.string()),
        ("verdicts", pa.list_(_VERDICT)),
    ]
)
"""``stop`` is null in a row that only adds verdicts to a sample which is stored elsewhere."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OPEN = 8
"""Files that are held decoded: the samples of a problem are in one, and problems are asked for in their order."""
_PAGE = 500
_WHOLE = re.compile(r"(\d+)\.parquet")

Found = dict[str, tuple[Sample | None, dict[str, Verdict]]]
"""By key, a sample (None where the row only adds verdicts) and its verdicts by grader."""


class Shards:
    """Reads all that workers have written under a folder, but for the files ``without``; what is written later is not
    seen.

    It holds 12 bytes a row: half of its key, and which file it is in. Where a sample was drawn twice, because a worker
    was thought lost that was not, the first file counts: its sample, and the verdicts on that one.
    """

    def __init__(self, folder: Path, without: Collection[Path] = ()) -> None:
        found = folder.glob("*/[!.]*.parquet") if folder.is_dir() else ()
        self._files = sorted(path for path in found if path not in without)
        self._index: tuple[_Places, _Places] | None = None
        self._decoded: OrderedDict[int, Found] = OrderedDict()

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._files)

    def samples(self, keys: Sequence[str]) -> dict[str, Sample]:
        """The stored samples among ``keys``."""
        found = ((key, self._drawn(key, files)) for key, files in self._samples().holders(keys))
        return {key: row[0] for key, row in found if row and row[0]}

    def all_verdicts(self, keys: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts of every grader on the samples ``keys``, by (sample key, grader)."""
        found: dict[tuple[str, str], Verdict] = {}
        for key, files in self._samples().holders(keys):
            _, verdicts = self._drawn(key, files) or (None, {})
            found |= {(key, grader): verdict for grader, verdict in verdicts.items()}
        for key, files in self._added().holders(keys):
            for file in files:
                _, verdicts = self._file(file).get(key, (None, {}))
                for grader, verdict in verdicts.items():
                    found.setdefault((key, grader), verdict)
        return found

    def rungs(self) -> dict[str, int]:
        """How many samples are stored of each rung or benchmark."""
        counts: Counter[str] = Counter()
        for number in range(len(self._files)):
            for batch in self._batches(number, ["key", "rung", "stop"]):
                drawn = batch.filter(batch["stop"].is_valid())
                here = self._first_here(drawn["key"].to_pylist(), number)
                counts.update(rung for rung, counted in zip(drawn["rung"].to_pylist(), here, strict=True) if counted)
        return dict(counts)

    def pages(self, rungs: Sequence[str]) -> Iterator[list[Sample]]:
        """The stored samples of some rungs or benchmarks, file by file; one that is in several files comes once."""
        for number in range(len(self._files)):
            drawn = [sample for sample, _ in self._file(number).values() if sample and sample.rung in rungs]
            here = self._first_here([sample.key for sample in drawn], number)
            counted = [sample for sample, first in zip(drawn, here, strict=True) if first]
            for start in range(0, len(counted), _PAGE):
                yield counted[start : start + _PAGE]

    def _drawn(self, key: str, files: Iterable[int]) -> tuple[Sample | None, dict[str, Verdict]] | None:
        """The first row among some files that has a sample of this key."""
        rows = (self._file(file).get(key) for file in files)
        return next((row for row in rows if row and row[0]), None)

    def _first_here(self, keys: Sequence[str], number: int) -> list[bool]:
        """Whether a file is the first that has a sample, for samples that it has."""
        found = dict(self._samples().holders(keys))
        return [not self._drawn(key, (file for file in found[key] if file < number)) for key in keys]

    def _samples(self) -> "_Places":
        """Where samples are."""
        return self._indexed()[0]

    def _added(self) -> "_Places":
        """Where verdicts are on samples that are stored elsewhere."""
        return self._indexed()[1]

    def _indexed(self) -> "tuple[_Places, _Places]":
        if self._index is None:
            drawn, added = _Places(), _Places()
            for number in range(len(self._files)):
                for batch in self._batches(number, ["key", "stop"]):
                    hashes = _hashes(batch["key"].to_pylist())
                    sampled = batch["stop"].is_valid().to_numpy(zero_copy_only=False)
                    drawn.add(hashes[sampled], number)
                    added.add(hashes[~sampled], number)
            self._index = drawn, added
        return self._index

    def _file(self, number: int) -> Found:
        """What a file holds, from those that were last asked for."""
        if number not in self._decoded:
            self._decoded[number] = {
                row["key"]: decoded(row) for batch in self._batches(number, None) for row in batch.to_pylist()
            }
            if len(self._decoded) > _OPEN:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(number)
        return self._decoded[number]

    def _batches(self, number: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        path = self._files[number]
        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(columns=columns)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"cannot read {path}: {first_line(error)}; remove it, and what it held is drawn again"
            ) from error


class _Places:
    """In which files a key may be: half of it is held, which says so with a chance of error that can be neglected where
    it is checked.
    """

    def __init__(self) -> None:
        self._hashes: list[Any] = [np.zeros(0, np.uint64)]
        self._files: list[Any] = [np.zeros(0, np.int32)]
        self._sorted = False

    def add(self, hashes: Any, file: int) -> None:
        """Adds keys of a file, by their hashes; files come in their order."""
        self._hashes.append(hashes)
        self._files.append(np.full(len(hashes), file, np.int32))

    def holders(self, keys: Sequence[str]) -> list[tuple[str, list[int]]]:
        """Those of the keys that are anywhere, each with its files in their order."""
        if not self._sorted:
            hashes, files = np.concatenate(self._hashes), np.concatenate(self._files)
            order = np.argsort(hashes, kind="stable")
            self._hashes, self._files, self._sorted = [hashes[order]], [files[order]], True
        wanted = _hashes(keys)
        begins, ends = (np.searchsorted(self._hashes[0], wanted, side) for side in ("left", "right"))
        return [
            (key, self._files[0][begin:end].tolist())
            for key, begin, end in zip(keys, begins, ends, strict=True)
            if begin < end
        ]


def shard_path(folder: Path, plan: str, block: int, part: str | None = None) -> Path:
    """Where the samples of a block are; ``part`` names those of a block that is not done."""
    return folder / plan / (f"{block:06}.parquet" if part is None else f"{block:06}.part-{part}.parquet")


def part_path(folder: Path, plan: str, block: int) -> Path:
    """Where some samples of a block can be written that is not done, or has been written whole by somebody else."""
    return shard_path(folder, plan, block, f"{time.time_ns():020}-{uuid.uuid4().hex}")  # the first to be written counts


def undo_blocks(folder: Path, plan: str, blocks: Iterable[int]) -> None:
    """Makes parts of blocks that are not done after all: what they rested on, in other files, is gone.

    Raises:
        StorageError: a file cannot be renamed.
    """
    for block in blocks:
        path = shard_path(folder, plan, block)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, part_path(folder, plan, block))
        except OSError as error:
            raise StorageError(f"cannot rename {path}: {error.strerror or error}; what was stored is kept") from error


def blocks_done(folder: Path, plan: str) -> set[int]:
    """The blocks whose files are there, found by their names alone."""
    with contextlib.suppress(FileNotFoundError):
        return {int(found[1]) for name in os.listdir(folder / plan) if (found := _WHOLE.fullmatch(name))}
    return set()


def write_shard(path: Path, samples: Sequence[Sample], verdicts: Mapping[str, Mapping[str, Verdict]]) -> None:
    """Writes samples with their verdicts, by sample key and grader, and verdicts on samples that are elsewhere.

    The file is there as a whole or not at all, also if the machine dies.

    Raises:
        StorageError: it cannot be written.
    """
    rows = [_columns(sample) | _judged(verdicts.get(sample.key, {})) for sample in samples]
    here = {sample.key for sample in samples}
    rows += [{"key": key} | _judged(by) for key, by in verdicts.items() if key not in here]
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # machines may share process numbers
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        remedy = "make room and start again" if error.errno in _FULL else "see to that storage and start again"
        raise StorageError(
            f"cannot write {path}: {error.strerror or first_line(error)}; what was stored is kept: {remedy}"
        ) from error


def decoded(row: Mapping[str, Any]) -> tuple[Sample | None, dict[str, Verdict]]:
    """A row as it was given to `write_shard`."""
    verdicts = {one["grader"]: Verdict(one["outcome"], one["extracted"], one["reason"]) for one in row["verdicts"]}
    if row["stop"] is None:
        return None, verdicts
    completion = Completion(
        text=row["text"],
        ids=tuple(array("I", row["ids"])) if row["ids"] is not None else None,
        logprobs=tuple(array("f", row["logprobs"])) if row["logprobs"] is not None else None,
        stop=row["stop"],
        usage=row["usage"],
    )
    return Sample(row["key"], row["problem"], row["rung"], row["round"], row["index"], completion), verdicts


def _columns(sample: Sample) -> dict[str, Any]:
    c = sample.completion
    return {
        "key": sample.key,
        "problem": sample.problem,
        "rung": sample.rung,
        "round": sample.round,
        "index": sample.index,
        "text": c.text,
        "ids": array("I", c.ids).tobytes() if c.ids is not None else None,
        "logprobs": array("f", c.logprobs).tobytes() if c.logprobs is not None else None,
        "usage": c.usage,
        "stop": c.stop,
    }


def _judged(verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    return {
        "verdicts": [
            {"grader": grader, "outcome": v.outcome, "extracted": v.extracted, "reason": v.reason}
            for grader, v in verdicts.items()
        ]
    }


def _hashes(keys: Sequence[str]) -> Any:
    """Keys are digests already: their first 16 hexadecimal digits are 64 good bits."""
    return np.frombuffer(bytearray.fromhex("".join(key[:16] for key in keys)), dtype=">u8").astype(np.uint64)
