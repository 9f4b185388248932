"""Rows of a file that somebody else sampled → a verdict for each, in the order of the rows.

Verdicts are written beside where they are to be and moved there when all are in; a start after a kill goes on after the
last whole line. Memory is bounded for files of any size.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from retell.errors import DataError, RecipeError, RunError, StorageError, first_line
from retell.graders.base import Case
from retell.graders.pool import GraderPool
from retell.hashing import file_digest
from retell.progress import progress
from retell.recipe import is_text
from retell.records import Verdict
from retell.rollout import TRUNCATED

Summary = dict[str, Any]
Id = str | int | float | None
_LONGEST = 1 << 24
"""Bytes of one row."""
_WINDOW, _HELD = 20_000, 1 << 26
"""Rows, and bytes of them, that are read ahead of the first one still undecided."""
_STRIDE = 64
"""Rows read before the graders are heard again."""
_REASONS = 1000
"""Different reasons that are counted one by one."""
_OUTCOMES = ("correct", "wrong", "undecided", "rejected")


def grade_file(source: Path, out: Path, graders: GraderPool) -> Summary:
    """Grades JSON lines {id, response, gold} into {id, verdict, extracted, reason, grader}; returns a summary.

    ``problem`` is handed to the grader where a row has it; a response whose ``stop`` or ``finish_reason`` is "length"
    was cut off and gives no answer. Every row gives one line; that of a row that cannot be used has a null verdict.
    What an earlier start wrote on the same rows with the same grader is kept.

    Raises:
        RequestError: there is no such file, none of its rows can be used, or ``out`` cannot be written.
        RunError: it cannot go on; what was graded is kept.
    """
    _check_rows(source)
    started = time.monotonic()
    with _Output(source, out) as output:
        before = _version(source)
        identity = {"input": file_digest(source), "grader": graders.name}
        finished = output.finished(identity)
        if finished:
            print(f"grade: nothing to do, {out} holds the verdicts on these rows already", file=sys.stderr)
            return finished
        tally = output.resume(identity)
        kept = tally.rows
        total = sum(1 for _ in _rows(source)) - kept

        def figures() -> dict[str, str]:
            rate = (tally.rows - kept) / (time.monotonic() - started)
            return {"rows": f"{rate:,.0f}/s", "so far": str(tally)}

        with progress(f"grading {source.name}", total, figures) as tick:
            for rows in _graded(islice(_rows(source), kept, None), graders):
                lines = [row.line(graders.name) for row in rows]
                output.append(lines)
                for line in lines:
                    tally.add(line)
                tick(tally.rows - kept)
        if _version(source) != before:
            raise RunError(f"{source} was changed while it was graded: start again")
        seconds = time.monotonic() - started
        return output.finish(
            identity,
            {
                "path": str(out),
                "grader": graders.name,
                **tally.summary(),
                "seconds": round(seconds, 3),
                "rows_per_second": round((tally.rows - kept) / seconds, 1),
            },
        )


@dataclass(slots=True)
class _Row:
    """A row on its way: its id, what is judged, and what is said of it: a verdict, or why it cannot be used."""

    id: Id
    case: Case | None = None
    said: Verdict | str | None = None

    def line(self, grader: str) -> dict[str, Any]:
        verdict = self.said if isinstance(self.said, Verdict) else None
        return {
            "id": self.id,
            "verdict": verdict.outcome if verdict else None,
            "extracted": verdict.extracted if verdict else None,
            "reason": verdict.reason if verdict else self.said,
            "grader": grader,
        }


class _Tally:
    """Counts the lines by outcome and reason."""

    def __init__(self) -> None:
        self.rows = 0
        self._reasons: dict[str, Counter[str]] = {outcome: Counter() for outcome in _OUTCOMES}

    def __str__(self) -> str:
        return " ".join(f"{outcome} {n}" for outcome, n in self._counts().items() if n)

    def add(self, line: Mapping[str, Any]) -> None:
        verdict, reason = line["verdict"], line["reason"]
        if verdict is None:
            verdict, reason = "rejected", reason.partition(":")[0]
        counted = self._reasons[verdict]
        self.rows += 1
        counted[reason if reason in counted or len(counted) < _REASONS else "other reasons"] += 1

    def summary(self) -> Summary:
        frequent = {outcome: dict(counted.most_common(10)) for outcome, counted in self._reasons.items() if counted}
        return {"rows": self.rows, **self._counts(), "reasons": frequent}

    def _counts(self) -> dict[str, int]:
        return {outcome: counted.total() for outcome, counted in self._reasons.items()}


class _Output:
    """Where verdicts go, locked against a second process while open: rows as they come, a record of what they are of,
    and at the end the file itself.
    """

    def __init__(self, source: Path, out: Path) -> None:
        if not is_text(str(out)):
            raise RecipeError(f"the name {str(out)!r} is no valid UTF-8: choose another --out")
        self._out = out
        self._target = Path(os.path.realpath(out))
        if os.path.exists(self._target) and not os.path.isfile(self._target):
            raise RecipeError(f"--out {out} is there and is no file: choose another")
        self._part = self._target.with_name(f".{self._target.name}.part")
        self._record = self._target.with_name(f".{self._target.name}.record")
        if any(os.path.exists(path) and path.samefile(source) for path in (self._target, self._part, self._record)):
            raise RecipeError(f"--out {out} is the file that is to be graded: choose another")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            try:
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._lock = os.open(self._record, os.O_RDWR | os.O_CREAT, 0o644)
                opened.callback(os.close, self._lock)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._rows = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
                opened.callback(os.close, self._rows)
            except BlockingIOError:
                raise RecipeError(f"another retell is writing {self._out}: wait for it, or choose --out") from None
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise StorageError(
                        f"cannot write {self._out}: the disk is full; make room and start again"
                    ) from error
                raise RecipeError(f"cannot write {self._out}: {error.strerror}: choose another --out") from error
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if os.fstat(self._rows).st_size == 0:
            self._part.unlink(missing_ok=True)
        self._opened.close()

    def finished(self, identity: Mapping[str, str]) -> Summary | None:
        """The summary, if all was done before and the file is still as it was written."""
        record = self._read_record()
        if {name: record.get(name) for name in identity} != identity or not self._target.is_file():
            return None
        summary: Summary | None = record.get("summary")
        return summary if summary and file_digest(self._target) == record.get("output") else None

    def resume(self, identity: Mapping[str, str]) -> _Tally:
        """Counts the lines that an earlier start wrote, and cuts off what follows the last whole one."""
        tally, good = _Tally(), 0
        record = self._read_record()
        if self._target.exists() and file_digest(self._target) != record.get("output"):
            raise RecipeError(f"{self._out} is there and is not what retell wrote: choose another --out, or remove it")
        if {name: record.get(name) for name in identity} == identity:
            with self._part.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    try:
                        tally.add(json.loads(line))
                    except (ValueError, KeyError, TypeError):
                        break  # the last one of a start that was killed
                    good += len(line)
        elif os.fstat(self._rows).st_size:
            print(
                f"grade: what was begun for {self._out} is of other rows or another grader: begun anew", file=sys.stderr
            )
        with self._storing():
            os.ftruncate(self._rows, good)
            # What stands at --out until the end is still an output of ours.
            self._write_record({**identity, **({"output": record["output"]} if "output" in record else {})})
        return tally

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Writes lines; a killed process loses none of them."""
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with self._storing():
            _write(self._rows, text.encode("utf-8", "replace"))

    def finish(self, identity: Mapping[str, str], summary: Summary) -> Summary:
        """Moves the lines to their place."""
        with self._storing():
            self._write_record({**identity, "output": file_digest(self._part), "summary": summary})
            os.replace(self._part, self._target)
        return summary

    def _read_record(self) -> dict[str, Any]:
        try:
            record = json.loads(os.pread(self._lock, _LONGEST, 0))
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}

    def _write_record(self, record: Mapping[str, Any]) -> None:
        data = json.dumps(record).encode()
        os.pwrite(self._lock, data, 0)  # in one piece, before what was longer is cut off
        os.ftruncate(self._lock, len(data))

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot write {self._out}: {error.strerror}; what was graded is kept: make room and start again"
            ) from error


def _graded(lines: Iterator[bytes], graders: GraderPool) -> Iterator[list[_Row]]:
    """The rows in order with what is said of them, some at a time, as soon as that of the first is known."""
    ahead: deque[tuple[_Row, int]] = deque()
    judged: dict[str, _Row] = {}
    number = held = 0
    exhausted = False
    while ahead or not exhausted:
        started = number
        while not exhausted and number - started < _STRIDE and len(ahead) < _WINDOW and held < _HELD:
            line = next(lines, None)
            if line is None:
                exhausted = True
                break
            row = _row(line)
            ahead.append((row, len(line)))
            held += len(line)
            number += 1
            if row.case:
                judged[str(number)] = row
                graders.submit(str(number), row.case)
                row.case = None
        for ticket, verdict in graders.collect(wait=number == started):
            judged.pop(ticket).said = verdict
        done = []
        while ahead and ahead[0][0].said is not None:
            row, size = ahead.popleft()
            held -= size
            done.append(row)
        if done:
            yield done


def _row(line: bytes) -> _Row:
    if len(line) >= _LONGEST:
        return _Row(None, said=f"longer than {_LONGEST >> 20} MiB")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _Row(None, said=f"not JSON: {first_line(error)}")
    if not isinstance(row, dict):
        return _Row(None, said=f"no object: a {type(row).__name__}")
    given, response = row.get("id"), row.get("response")
    id_: Id = given if isinstance(given, int | float) and _text(given) else _text(given)
    flaw = _flaw(row)
    if flaw:
        return _Row(id_, said=flaw)
    if "length" in (row.get("stop"), row.get("finish_reason")):
        return _Row(id_, said=TRUNCATED)
    return _Row(id_, Case(_text(row.get("problem")) or "", _text(response) or "", _text(row["gold"]) or ""))


def _flaw(row: Mapping[str, Any]) -> str | None:
    """Why a row cannot be used, if it cannot."""
    for name in ("id", "response", "gold", "problem"):
        value = row.get(name)
        if value is None and name != "problem":
            return f"no {name}"
        number = isinstance(value, int | float) and name in ("id", "gold")
        if value is not None and (_text(value) is None or not (number or isinstance(value, str))):
            return f"{name} is no text: a {type(value).__name__}"
    return None if str(row["gold"]).strip() else "no gold: it is empty"


def _text(value: Any) -> str | None:
    """A value as text; numbers are written out, and None stands for what is no text."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # A lone surrogate is valid JSON and no valid text: it could not be written.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _rows(path: Path) -> Iterator[bytes]:
    """The rows of a file, each cut off at `_LONGEST` bytes. A blank line is no row."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                rest = line
                while len(rest) == _LONGEST and not rest.endswith(b"\n"):
                    rest = file.readline(_LONGEST)
                if line.strip():
                    yield line
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _check_rows(path: Path) -> None:
    """Refuses a file of which no row can be used: it is something else."""
    if not os.path.isfile(path):  # unlike Path's, never raises
        raise DataError(f"{path} is no file" if os.path.exists(path) else f"there is no file {path}: check the path")
    flaws: Counter[str] = Counter()
    for line in _rows(path):
        flaw = _row(line).said
        if not isinstance(flaw, str):
            return
        flaws[flaw.partition(":")[0]] += 1
    if not flaws:
        raise DataError(f"{path} is empty: it holds no rows")
    why = ", ".join(f"{n} {flaw}" for flaw, n in flaws.most_common(3))
    wanted = 'JSON lines such as {"id": 1, "response": "…", "gold": "…"}'
    raise DataError(f"no row of {path} can be graded: {why}; it takes {wanted}")


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
