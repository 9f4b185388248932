import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.finder import Finder, Found, Query
from retell.rewrite import SCHEMA
from retell.rows import Opened, Rows
from retell.runfolder import RunFolder
from retell.tables import ROWS

MANY = 3 * ROWS + 17
"""Rows in four row groups."""
RUNGS = ("self", "guided", "expert")


def rung(n: int) -> str:
    return RUNGS[n % 3]


def text(n: int) -> str:
    return f"Ünïque {n} word" if n % 100 == 0 else f"nothing of note in {n % 7}"


def correct(n: int) -> int:
    return n % 2


def undecided(n: int) -> int:
    return n % 3 if n % 5 == 0 else 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finder")
    rows = [
        {
            "id": f"r{n}",
            "source": "s",
            "problem": f"p{n}?",
            "answer": "1",
            "solution": text(n),
            "response": "the response",
        }
        | {"rung": rung(n), "samples_self": 2, "correct_self": correct(n), "samples_guided": 1, "correct_guided": 0}
        for n in range(MANY)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path / "rewritten.parquet", row_group_size=ROWS)
    return path


def count_undecided() -> Mapping[str, int]:
    return {f"r{n}": undecided(n) for n in range(MANY) if undecided(n)} | {"not here": 1}


@pytest.fixture(scope="module")
def finder(folder: Path) -> Finder:
    return Finder(Rows(RunFolder(folder), Opened(None)), count_undecided)


def all_of(finder: Finder, query: Query, seconds: float = 1.0) -> list[int]:
    """Every row, page by page, as the browser asks."""
    positions: list[int] = []
    start: int | None = 0
    while start is not None:
        found = finder.find(query, start, 10, seconds)
        assert len(found.positions) <= 10
        assert (
            found.next is None or found.next > max([start, *found.positions]) or (found.next, seconds) == (start, 0.0)
        )
        positions += found.positions
        start = found.next
    return positions


def test_without_a_question_the_rows_come_page_by_page(finder: Finder) -> None:
    assert finder.find(Query(), 0, 10, 1.0) == Found(list(range(10)), 10, MANY, 0)
    assert finder.find(Query(), MANY - 4, 10, 1.0) == Found(list(range(MANY - 4, MANY)), None, MANY, MANY - 4)
    assert finder.find(Query(), MANY + 99, 10, 1.0) == Found([], None, MANY, MANY)
    assert all_of(finder, Query()) == list(range(MANY))


@pytest.mark.parametrize("wanted", RUNGS)
def test_a_rung_filters(finder: Finder, wanted: str) -> None:
    assert all_of(finder, Query(rung=wanted)) == [n for n in range(MANY) if rung(n) == wanted]


def test_a_verdict_is_that_of_any_attempt(finder: Finder) -> None:
    assert all_of(finder, Query(verdict="correct")) == [n for n in range(MANY) if correct(n)]
    assert all_of(finder, Query(verdict="undecided")) == [n for n in range(MANY) if undecided(n)]
    assert all_of(finder, Query(verdict="wrong")) == [n for n in range(MANY) if correct(n) + undecided(n) < 3]
    total = sum(correct(n) > 0 and rung(n) == "guided" for n in range(MANY))
    assert finder.find(Query("guided", "correct"), 0, 10, 1.0).total == total


@given(
    st.sampled_from(
        ["ünïque", "UNIQUE", "WORD", "r30", "p7?", "the response", "9 word", "no such text", ".", "(", "\\"]
    )
)
def test_a_search_finds_each_row_once_whatever_the_time_it_has(finder: Finder, words: str) -> None:
    def has(n: int) -> bool:
        return any(words.lower() in one.lower() for one in (f"r{n}", f"p{n}?", text(n), "the response"))

    expected = [n for n in range(MANY) if has(n)]
    assert all_of(finder, Query(text=words)) == expected
    assert all_of(finder, Query(text=words), 0.0) == expected
    guided = [n for n in expected if rung(n) == "guided"]
    assert all_of(finder, Query(rung="guided", text=words), 0.0) == guided


def test_a_search_stops_in_time_and_says_where_to_go_on(finder: Finder) -> None:
    found = finder.find(Query(text="no such text"), 5, 10, 0.0)
    assert found == Found([], ROWS)


def test_what_is_counted_slowly_is_waited_for_elsewhere(folder: Path) -> None:
    asked, counted = [], threading.Event()

    def slowly() -> Mapping[str, int]:
        asked.append(1)
        counted.wait()
        return {"r3": 1}

    finder = Finder(Rows(RunFolder(folder), Opened(None)), slowly)
    assert finder.find(Query(verdict="correct"), 0, 10, 0.0).positions[:2] == [1, 3]
    assert asked == []
    assert finder.find(Query(verdict="undecided"), 7, 10, 0.0) == Found([], 7)
    counted.set()
    assert finder.find(Query(verdict="undecided"), 0, 10, 60.0).positions == [3]
    assert asked == [1]


def test_what_cannot_be_counted_is_told_to_whoever_asks(folder: Path) -> None:
    def broken() -> Mapping[str, int]:
        raise OSError("the disk is gone")

    finder = Finder(Rows(RunFolder(folder), Opened(None)), broken)
    with pytest.raises(OSError, match="the disk is gone"):
        finder.find(Query(verdict="wrong"), 0, 10, 60.0)


def test_a_run_without_rows_has_none(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([], schema=SCHEMA), tmp_path / "rewritten.parquet")
    finder = Finder(Rows(RunFolder(tmp_path), Opened(None)), dict)
    assert finder.find(Query(), 0, 10, 1.0) == Found([], None, 0, 0)
    assert finder.find(Query(text="x", verdict="wrong"), 0, 10, 1.0) == Found([], None)
