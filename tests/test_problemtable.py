import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import problems

from retell.errors import DataError, StorageError
from retell.problems import load_problems
from retell.problemtable import ProblemTable, chosen, placed, write_problems
from retell.recipe import Data
from retell.records import Problem

ROWS = [
    replace(problem, candidates=(None, (), ("a", ""), ("é\n",))[number % 4])
    for number, problem in enumerate(problems(2500))
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "problems.parquet"
    write_problems(path, iter(ROWS))
    return path


def test_a_table_is_the_sequence_that_was_written(path: Path) -> None:
    table = ProblemTable(path)
    assert len(table) == 2500
    assert list(table) == ROWS
    assert list(table) == ROWS, "it can be read again"
    assert [table[number] for number in (0, 1023, 1024, 2499, -1)] == [ROWS[n] for n in (0, 1023, 1024, 2499, -1)]
    assert list(table[1000:1100]) == ROWS[1000:1100]
    assert list(table[::-500][:3]) == ROWS[::-500][:3]
    assert ROWS[1500] in table
    with pytest.raises(IndexError):
        table[2500]


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.001, 0.3, 0.999, 1.0]), start=st.integers(0, 2600))
def test_some_of_a_table_are_those_of_the_sequence(path: Path, seed: int, share: float, start: int) -> None:
    luck = random.Random(seed)
    keep = [luck.random() < share for _ in ROWS]
    table, rows = chosen(ProblemTable(path), keep), chosen(ROWS, keep)
    assert isinstance(table, ProblemTable)
    assert list(table) == list(rows)
    assert table.part(start, 70) == list(rows[start : start + 70])
    again = [luck.random() < 0.5 for _ in rows]
    assert list(chosen(table, again)) == list(chosen(rows, again))


def test_it_can_be_sent_elsewhere_and_weighs_a_number_a_row(path: Path) -> None:
    table = ProblemTable(path).where([number % 2 == 0 for number in range(2500)])
    assert table[3] == ROWS[6]
    sent = pickle.dumps(table)
    assert len(sent) < 8 * len(table) + 1000
    assert list(pickle.loads(sent)) == ROWS[::2]


def test_what_was_moved_is_read_where_it_is_now(path: Path, tmp_path: Path) -> None:
    (tmp_path / "there.parquet").write_bytes(path.read_bytes())
    table = ProblemTable(path).where([number < 3 for number in range(2500)])
    assert list(placed(table, tmp_path / "there.parquet")) == ROWS[:3]
    assert placed(ROWS, tmp_path / "nowhere.parquet") is ROWS


def test_a_row_group_is_read_once_where_rows_are_asked_for_in_their_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retell import problemtable

    read: list[int] = []

    def noting(path: Path, start: int, count: int) -> object:
        read.append(start)
        return slice_(path, start, count)

    slice_ = problemtable.read_slice
    monkeypatch.setattr(problemtable, "read_slice", noting)
    table = ProblemTable(path)
    found: list[Problem] = []
    for start in range(0, 2500, 32):
        found += table.part(start, 32)
    assert found == ROWS
    assert read == [0, 1024, 2048]


def test_problems_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    """Ids that repeat, rejects and all; a lone surrogate is no text also where it is a candidate."""
    lines = [
        '{"id": "a", "problem": "1 + 1?", "solution": "It is \\\\boxed{2}.", "candidates": ["\\ud800", "2"]}',
        '{"id": "a", "problem": "1 + \\ud800?", "solution": "It is \\\\boxed{2}."}',
        '{"problem": "no gold", "solution": "None."}',
        "no JSON",
        '{"problem": "3?", "solution": "It is \\\\boxed{3}.", "candidates": []}',
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for data in (Data(path=str(tmp_path / "data.jsonl")), Data(path=str(tmp_path / "data.jsonl"), sample=3)):
        held = load_problems(data)
        spooled = load_problems(data, spool=tmp_path / "spool.parquet")
        assert isinstance(spooled.problems, ProblemTable)
        assert (tuple(spooled.problems), spooled.rejected, spooled.digest) == (
            tuple(held.problems),
            held.rejected,
            held.digest,
        )
    assert [problem.candidates for problem in load_problems(Data(path=str(tmp_path / "data.jsonl"))).problems] == [
        ("?", "2"),
        None,
        (),
    ]


def test_a_disk_that_is_full_is_no_fault_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retell.problemtable.TableWriter.add", full)
    with pytest.raises(StorageError, match=r"p\.parquet: No space left on device; make room"):
        write_problems(tmp_path / "p.parquet", problems(3))

    def broken() -> object:
        yield problems(1)[0]
        raise DataError("the data is broken")

    monkeypatch.undo()
    with pytest.raises(DataError, match="the data is broken"):
        write_problems(tmp_path / "p.parquet", broken())  # type: ignore[arg-type]
