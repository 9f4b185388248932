"""Samples and verdicts in Parquet files, one for each block of problems: what workers on many machines write.

SAMPLES/PLAN/000123.parquet holds what was drawn and judged for block 123 by a plan, which stands for all that decides
what is drawn. A file is written beside its place and moved there when it is whole, so that a block is done if its file
is there; with ``.part`` in its name it is not done, because some requests failed. Files are never changed.
"""

import contextlib
import os
import re
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
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
_OPEN = 8
"""Files that are held decoded: the samples of a problem are in one, and problems are asked for in their order."""
_PAGE = 500
_WHOLE = re.compile(r"(\d+)\.parquet")

Found = dict[str, tuple[Sample | None, dict[str, Verdict]]]
"""By key, a sample (None where the row only adds verdicts) and its verdicts by grader."""


class Shards:
    """Reads all that workers have written under a folder; what is written later is not seen.

    It holds 12 bytes a sample: half of a hash of its key, and which file it is in.
    """

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.glob("*/[!.]*.parquet")) if folder.is_dir() else []
        self._index: tuple[Any, Any] | None = None
        self._decoded: OrderedDict[int, Found] = OrderedDict()

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._files)

    def samples(self, keys: Sequence[str]) -> dict[str, Sample]:
        """The stored samples among ``keys``."""
        found: dict[str, Sample] = {}
        for key, file in self._holders(keys):
            sample, _ = self._file(file).get(key, (None, {}))
            if sample and key not in found:
                found[key] = sample
        return found

    def all_verdicts(self, keys: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts of every grader on the samples ``keys``, by (sample key, grader)."""
        found: dict[tuple[str, str], Verdict] = {}
        for key, file in self._holders(keys):
            _, verdicts = self._file(file).get(key, (None, {}))
            for grader, verdict in verdicts.items():
                found.setdefault((key, grader), verdict)
        return found

    def rungs(self) -> dict[str, int]:
        """How many samples are stored of each rung or benchmark."""
        counts: dict[str, int] = {}
        for number in range(len(self._files)):
            for batch in self._batches(number, ["rung", "stop"]):
                for entry in batch.filter(batch["stop"].is_valid())["rung"].value_counts().to_pylist():
                    counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        return counts

    def pages(self, rungs: Sequence[str]) -> Iterator[list[Sample]]:
        """The stored samples of some rungs or benchmarks, file by file; one that is in several files comes once."""
        for number in range(len(self._files)):
            keys = [
                key for key, (sample, _) in self._file(number).items() if sample is not None and sample.rung in rungs
            ]
            first = dict(reversed(self._holders(keys)))
            for start in range(0, len(keys), _PAGE):
                held = self._file(number)
                page = [held[key][0] for key in keys[start : start + _PAGE] if first[key] == number]
                yield [sample for sample in page if sample is not None]

    def _holders(self, keys: Sequence[str]) -> list[tuple[str, int]]:
        """(key, file) of every file that may hold a key, in the order of the files."""
        if not self._files or not keys:
            return []
        if self._index is None:
            self._index = self._indexed()
        hashes, files = self._index
        wanted = _hashes(keys)
        begins, ends = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
        return [
            (key, int(file))
            for key, begin, end in zip(keys, begins, ends, strict=True)
            if begin < end
            for file in sorted(files[begin:end])
        ]

    def _indexed(self) -> tuple[Any, Any]:
        hashes, files = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        for number in range(len(self._files)):
            for batch in self._batches(number, ["key"]):
                hashes.append(_hashes(batch["key"].to_pylist()))
                files.append(np.full(batch.num_rows, number, np.int32))
        whole, of = np.concatenate(hashes), np.concatenate(files)
        order = np.argsort(whole, kind="stable")
        return whole[order], of[order]

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


def shard_path(folder: Path, plan: str, block: int, part: str | None = None) -> Path:
    """Where the samples of a block are; ``part`` names those of a block that is not done."""
    return folder / plan / (f"{block:06}.parquet" if part is None else f"{block:06}.part-{part}.parquet")


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
        raise StorageError(
            f"cannot write {path}: {error.strerror or first_line(error)}; what was stored is kept: make room and start "
            "again"
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
