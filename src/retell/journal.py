"""The journal: every sample and verdict of a run, stored once and for good, in SQLite."""

import contextlib
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from retell.errors import StorageError
from retell.hashing import digest
from retell.records import Completion, Outcome, Sample, Verdict

_SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    key TEXT PRIMARY KEY, problem TEXT NOT NULL, rung TEXT NOT NULL, round INTEGER NOT NULL, idx INTEGER NOT NULL,
    text TEXT NOT NULL, ids BLOB, logprobs BLOB, usage INTEGER, stop TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdicts (
    sample TEXT NOT NULL, grader TEXT NOT NULL, outcome TEXT NOT NULL, extracted TEXT, reason TEXT NOT NULL,
    PRIMARY KEY (sample, grader)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS done (plan TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (plan, job)) WITHOUT ROWID;
"""
_MANY = 500
"""Keys in one query; SQLite's limit of variables is higher everywhere."""
_SAMPLE = "SELECT key, problem, rung, round, idx, text, ids, logprobs, usage, stop FROM samples"


def graded_by(grader: str, gold: str) -> str:
    """What a verdict is stored under: it is on a response against a gold, and does not count for a corrected one."""
    return f"{grader}#{digest(gold)[:12]}"


class Journal:
    """Samples by key and verdicts by (sample, grader).

    A request that failed is no sample: why it failed is not kept. What is added is committed before the call returns,
    so that a killed process loses nothing that was added. What was stored is never replaced: a second sample under
    the same key is ignored. ``readonly`` is for whoever reads beside the command that writes, from any thread: nothing
    is created or changed, and what is not there is empty.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        if readonly:
            return
        with self._guarded():
            self._db = sqlite3.connect(path, isolation_level=None)
            # A killed process loses nothing in either mode; in WAL a commit need not wait for the disk.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._db:
            self._db.close()

    def samples(self, keys: Sequence[str]) -> dict[str, Sample]:
        """The stored samples among ``keys``."""
        return {row[0]: _sample(row) for row in self._select(f"{_SAMPLE} WHERE key IN", keys)}

    def rungs(self) -> dict[str, int]:
        """How many samples are stored of each rung or benchmark."""
        with self._guarded() as db:
            return dict(db.execute("SELECT rung, COUNT(*) FROM samples GROUP BY rung ORDER BY rung").fetchall())

    def pages(self, rungs: Sequence[str]) -> Iterator[list[Sample]]:
        """The stored samples of some rungs or benchmarks, some hundred at a time, in the order of the keys."""
        query = f"{_SAMPLE} WHERE key > ? AND rung IN ({','.join('?' * len(rungs))}) ORDER BY key LIMIT {_MANY}"
        last = ""
        while True:
            with self._guarded() as db:
                rows = db.execute(query, (last, *rungs)).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield [_sample(row) for row in rows]

    def verdicts(self, keys: Sequence[str], grader: str) -> dict[str, Verdict]:
        """The stored verdicts of one grader (see `graded_by`) on the samples ``keys``."""
        query = "SELECT sample, outcome, extracted, reason FROM verdicts WHERE grader = ? AND sample IN"
        return {row[0]: Verdict(row[1], row[2], row[3]) for row in self._select(query, keys, grader)}

    def all_verdicts(self, keys: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts of every grader on the samples ``keys``, by (sample key, grader)."""
        query = "SELECT sample, grader, outcome, extracted, reason FROM verdicts WHERE sample IN"
        return {(row[0], row[1]): Verdict(*row[2:]) for row in self._select(query, keys)}

    def judged(self, outcome: Outcome, grader: str) -> dict[str, int]:
        """The problems of which rewriting drew samples that a grader judged so, whatever the gold, and how many. It
        reads all verdicts: with millions of them that takes seconds.
        """
        query = (  # a cross join looks samples up by their keys, and does not read them all
            "SELECT problem, COUNT(*) FROM verdicts CROSS JOIN samples ON key = sample "
            "WHERE outcome = ? AND substr(grader, 1, ?) = ? AND rung IN ('self', 'guided') AND round = 0 "
            "GROUP BY problem"
        )
        with self._guarded() as db:
            return dict(db.execute(query, (outcome, len(grader) + 1, f"{grader}#")).fetchall())

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Stores samples; they are durable when this returns."""
        self._insert("samples", 10, (_columns(sample) for sample in samples))

    def add_verdicts(self, verdicts: Iterable[tuple[str, str, Verdict]]) -> None:
        """Stores (sample key, grader, verdict); they are durable when this returns."""
        self._insert("verdicts", 5, ((key, grader, v.outcome, v.extracted, v.reason) for key, grader, v in verdicts))

    def marked(self, plan: str) -> set[str]:
        """The jobs that are marked as done under a plan."""
        with self._guarded() as db:
            return {job for (job,) in db.execute("SELECT job FROM done WHERE plan = ?", (plan,))}

    def add_marks(self, marks: Iterable[tuple[str, str]]) -> None:
        """Marks (plan, job) as done."""
        self._insert("done", 2, marks)

    def remove_marks(self, marks: Iterable[tuple[str, str]]) -> None:
        """Unmarks (plan, job)."""
        self._change("DELETE FROM done WHERE plan = ? AND job = ?", marks)

    def _select(self, query: str, keys: Sequence[str], *first: str) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), _MANY):
            part = keys[start : start + _MANY]
            with self._guarded() as db:
                rows = db.execute(f"{query} ({','.join('?' * len(part))})", (*first, *part)).fetchall()
            yield from rows

    def _insert(self, table: str, width: int, rows: Iterable[tuple[Any, ...]]) -> None:
        self._change(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * width)})", rows)

    def _change(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with self._guarded() as db:
            db.execute("BEGIN")
            try:
                db.executemany(statement, rows)
                db.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled back already; the first error is the one to report.
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._db:
                yield self._db
            else:
                with contextlib.closing(_reading(self._path)) as db:
                    yield db
        except sqlite3.Error as error:
            raise StorageError(
                f"the journal {self._path} cannot be used: {error}; what was stored is kept: mend it and start again"
            ) from error


def _reading(path: Path) -> sqlite3.Connection:
    """A connection for a single query, which leaves nothing behind: one that stays open would keep the writer from
    putting its write-ahead log away.
    """
    if not path.is_file():
        db = sqlite3.connect(":memory:")
        db.executescript(f"{_SCHEMA}PRAGMA query_only=1;")
        return db
    log = path.with_name(f"{path.name}-wal")
    # Without a log nobody writes, and SQLite need not coordinate, which a folder that is read-only would not let it.
    how = "mode=ro" if log.is_file() and log.stat().st_size else "immutable=1"
    return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None)


def _columns(sample: Sample) -> tuple[Any, ...]:
    c = sample.completion
    ids = array("I", c.ids).tobytes() if c.ids is not None else None
    logprobs = array("f", c.logprobs).tobytes() if c.logprobs is not None else None
    # Lone surrogates cannot be stored as text; an engine that returns one has returned no valid text there.
    text = c.text.encode("utf-8", "replace").decode()
    return (sample.key, sample.problem, sample.rung, sample.round, sample.index, text, ids, logprobs, c.usage, c.stop)


def _sample(row: tuple[Any, ...]) -> Sample:
    key, problem, rung, round_, index, text, ids, logprobs, usage, stop = row
    completion = Completion(
        text=text,
        ids=tuple(array("I", ids)) if ids is not None else None,
        logprobs=tuple(array("f", logprobs)) if logprobs is not None else None,
        stop=stop,
        usage=usage,
    )
    return Sample(key, problem, rung, round_, index, completion)


class Marks:
    """Which jobs of a plan are done, so that another start need not go through what they have drawn.

    Marks are kept beside the samples and written after them, some at a time: one that is lost costs a look.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._unwritten: list[tuple[str, str]] = []

    def done(self, plan: str) -> set[str]:
        """The jobs that are done under a plan."""
        return self._journal.marked(plan)

    def mark(self, plan: str, job: str) -> None:
        """Notes that a job is done."""
        self._unwritten.append((plan, job))
        if len(self._unwritten) >= _MANY:
            self.flush()

    def flush(self) -> None:
        """Writes what was noted."""
        self._journal.add_marks(self._unwritten)
        self._unwritten = []

    def unmark(self, plan: str, jobs: Iterable[str]) -> None:
        """Takes marks back: of jobs whose samples are not there after all."""
        self._journal.remove_marks((plan, job) for job in jobs)
