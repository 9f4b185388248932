import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retell.errors import StorageError
from retell.journal import Journal, Marks, graded_by
from retell.records import Completion, Sample, Verdict

TOKENS = st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)
LOGPROBS = st.none() | st.lists(st.floats(width=32, allow_nan=False), max_size=20).map(tuple)
TEXT = st.text()  # hypothesis draws no surrogates unless asked to
COMPLETIONS = st.builds(
    Completion,
    text=TEXT,
    ids=TOKENS,
    logprobs=LOGPROBS,
    stop=st.sampled_from(["stop", "length"]),  # a request that failed is no sample
    usage=st.none() | st.integers(0, 2**31),
)
SAMPLES = st.lists(
    st.builds(
        Sample,
        key=TEXT,
        problem=TEXT,
        rung=TEXT,
        round=st.integers(0, 2**31),
        index=st.integers(0, 2**31),
        completion=COMPLETIONS,
    ),
    max_size=8,
    unique_by=lambda sample: sample.key,
)
VERDICTS = st.lists(
    st.tuples(
        TEXT,
        st.builds(
            Verdict,
            outcome=st.sampled_from(["correct", "wrong", "undecided"]),
            extracted=st.none() | TEXT,
            reason=TEXT,
        ),
    ),
    max_size=8,
    unique_by=lambda pair: pair[0],
)


def count(journal: Journal) -> int:
    return int(journal._db.execute("SELECT count(*) FROM samples").fetchone()[0])


def sample(key: str, text: str = "two") -> Sample:
    return Sample(key, "p", "self", 0, 0, Completion(text, (1, 2), (-0.5, -1.0), "stop"))


@settings(max_examples=30)
@given(SAMPLES, VERDICTS)
def test_what_goes_in_comes_out_also_after_closing(samples: list[Sample], verdicts: list[tuple[str, Verdict]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        with Journal(path) as journal:
            journal.add_samples(samples)
            journal.add_verdicts((key, "grader/1", verdict) for key, verdict in verdicts)
        with Journal(path) as journal:
            assert count(journal) == len(samples)
            assert journal.samples([one.key for one in samples]) == {one.key: one for one in samples}
            assert journal.verdicts([key for key, _ in verdicts], "grader/1") == dict(verdicts)
            assert journal.verdicts([key for key, _ in verdicts], "grader/2") == {}


def test_text_that_is_no_text_is_stored_as_near_as_can_be(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples([sample("a", "ab\udcffc\0d")])
        assert journal.samples(["a"])["a"].completion.text == "ab?c\0d"


def test_what_was_stored_is_never_replaced(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples([sample("a", "first")])
        journal.add_samples([sample("a", "second"), sample("b", "other"), sample("b", "again")])
        journal.add_verdicts([("a", "g", Verdict("correct", "2", "same text"))])
        journal.add_verdicts([("a", "g", Verdict("wrong", "2", "integers"))])
        found = journal.samples(["a", "b"])
        assert (found["a"].completion.text, found["b"].completion.text) == ("first", "other")
        assert journal.verdicts(["a"], "g")["a"].outcome == "correct"


def test_any_number_of_keys_can_be_asked_for(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(1801)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples(sample(key) for key in keys[::2])
        assert journal.samples(keys).keys() == set(keys[::2])
        assert journal.samples([]) == {}


def test_a_failing_batch_is_stored_not_at_all(tmp_path: Path) -> None:
    def torn() -> object:
        yield sample("a")
        raise ZeroDivisionError

    with Journal(tmp_path / "journal.sqlite") as journal:
        with pytest.raises(ZeroDivisionError):
            journal.add_samples(torn())  # type: ignore[arg-type]
        assert count(journal) == 0
        journal.add_samples([sample("a")])
        assert count(journal) == 1


def test_a_killed_process_loses_nothing_that_was_added(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from retell.journal import Journal
from retell.records import Completion, Sample
journal = Journal(Path({str(tmp_path / "journal.sqlite")!r}))
for number in range(50):
    journal.add_samples([Sample(str(number), "p", "self", 0, number, Completion("x", None, None, "stop"))])
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.samples([str(number) for number in range(50)]).keys() == {str(number) for number in range(50)}


def test_a_torn_write_ahead_log_costs_the_last_batches_only(tmp_path: Path) -> None:
    batches = [[sample(f"{batch}/{number}") for number in range(3)] for batch in range(12)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        for batch in batches:
            journal.add_samples(batch)
        log = (tmp_path / "journal.sqlite-wal").read_bytes()
        kept = []
        for part in range(9):
            folder = tmp_path / f"cut{part}"
            folder.mkdir()
            shutil.copy(tmp_path / "journal.sqlite", folder)
            (folder / "journal.sqlite-wal").write_bytes(log[: len(log) * part // 8 - (5 if part else 0)])
            with Journal(folder / "journal.sqlite") as torn:
                whole = [len(torn.samples([one.key for one in batch])) for batch in batches]
                assert whole == sorted(whole, reverse=True), "a later batch was kept and an earlier one lost"
                assert set(whole) <= {0, 3}, "a batch was kept in part"
                kept.append(whole.count(3))
                torn.add_samples(one for batch in batches for one in batch)  # what was lost is owed again
                assert count(torn) == 36
        assert kept[0] == 0
        assert kept[-1] == 11  # the last frame alone was torn


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to look at" * 100, b"SQLite format 3\0" * 99]
)
def test_a_broken_file_is_a_storage_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal.sqlite").write_bytes(content)
    with pytest.raises(StorageError, match=r"journal\.sqlite"):
        Journal(tmp_path / "journal.sqlite")


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/journal\.sqlite"):
        Journal(tmp_path / "nowhere" / "journal.sqlite")


def test_reading_beside_a_writer_sees_what_is_committed_and_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal(path, readonly=True) as reader:
        assert reader.samples(["a"]) == {}
        assert list(tmp_path.iterdir()) == []
        with Journal(path) as writer:
            writer.add_samples([sample("a")])
            there = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
            assert reader.samples(["a"]) == {"a": sample("a")}
            writer.add_samples([sample("b")])
            assert reader.rungs() == {"self": 2}
            assert there.keys() == {file.name for file in tmp_path.iterdir()}
        assert [file.name for file in tmp_path.iterdir()] == ["journal.sqlite"], "the writer could not clean up"
        written = path.stat().st_mtime_ns
        assert reader.samples(["b"]).keys() == {"b"}
        assert [file.name for file in tmp_path.iterdir()] == ["journal.sqlite"]
        assert path.stat().st_mtime_ns == written


def test_reading_works_from_another_thread(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as writer:
        writer.add_samples([sample("a")])
        with Journal(tmp_path / "journal.sqlite", readonly=True) as reader, ThreadPoolExecutor(1) as pool:
            assert pool.submit(reader.samples, ["a"]).result().keys() == {"a"}


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root can")
def test_reading_works_in_a_folder_that_must_not_be_written(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    with Journal(folder / "journal.sqlite") as writer:
        writer.add_samples([sample("a")])
    folder.chmod(0o755)
    read = f"""
import os
os.setuid(65534)
assert not os.access({str(folder)!r}, os.W_OK)
from pathlib import Path
from retell.journal import Journal
print(*Journal(Path({str(folder / "journal.sqlite")!r}), readonly=True).samples(["a"]))
"""
    code = f"from retell.journal import Journal\n{read}"  # what another user could not import is imported before
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    shutil.rmtree(folder)
    assert (done.stdout, done.stderr) == ("a\n", "")


@pytest.mark.parametrize("there", [True, False])
def test_nothing_can_be_added_to_what_is_only_read(there: bool, tmp_path: Path) -> None:
    if there:
        with Journal(tmp_path / "journal.sqlite") as writer:
            writer.add_samples([sample("a")])
    with Journal(tmp_path / "journal.sqlite", readonly=True) as reader, pytest.raises(StorageError, match="readonly"):
        reader.add_samples([sample("b")])


def test_problems_are_found_by_the_verdicts_of_one_grader(tmp_path: Path) -> None:
    samples = [Sample(f"{p}{n}", p, "self", 0, n, Completion("x", None, None, "stop")) for p in "pqr" for n in range(2)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples(samples)
        lost, found = Verdict("undecided", None, "time"), Verdict("wrong", "1", "no")
        journal.add_verdicts([("p0", graded_by("g", "1"), lost), ("p1", graded_by("g", "2"), lost)])
        journal.add_verdicts([("q0", graded_by("g", "1"), lost), ("q1", graded_by("g", "1"), found)])
        journal.add_verdicts([("r0", graded_by("g2", "1"), lost), ("q1", graded_by("gg", "1"), lost)])
        assert journal.judged("undecided", "g") == {"p": 2, "q": 1}
        assert journal.judged("wrong", "g") == {"q": 1}
        assert journal.judged("correct", "g") == {}


def test_marks_are_of_their_plan_and_can_be_taken_back(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        marks = Marks(journal)
        for number in range(1201):
            marks.mark("a", f"p{number}")
        assert len(Marks(journal).done("a")) == 1000, "marks are written some at a time"
        marks.flush()
        marks.mark("b", "p0")
        marks.flush()
        marks.flush()
    with Journal(tmp_path / "journal.sqlite") as journal:
        marks = Marks(journal)
        assert marks.done("a") == {f"p{number}" for number in range(1201)}
        marks.unmark("a", [f"p{number}" for number in range(1, 1201)])
        assert (marks.done("a"), marks.done("b"), marks.done("c")) == ({"p0"}, {"p0"}, set())


def test_samples_of_benchmarks_and_of_later_rounds_are_not_those_of_rewriting(tmp_path: Path) -> None:
    ended = Completion("x", None, None, "stop")
    samples = [Sample("a", "1", "self", 0, 0, ended), Sample("b", "1", "gsm8k", 0, 0, ended)]
    samples.append(Sample("c", "1", "guided", 1, 0, ended))
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples(samples)
        journal.add_verdicts((one.key, graded_by("g", "1"), Verdict("undecided", None, "time")) for one in samples)
        assert journal.judged("undecided", "g") == {"1": 1}
