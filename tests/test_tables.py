import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.tables import ROWS, IdIndex, TableReader, TableWriter, count_rows, read_batches, read_rows, read_slice

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def written(path: Path, rows: int) -> Path:
    with TableWriter(path, SCHEMA) as table:
        for number in range(rows):
            table.add({"id": number, "text": f"row {number}"})
    return path


@pytest.mark.parametrize("rows", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS])
def test_what_was_added_is_read_in_its_order(rows: int, tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", rows)
    assert count_rows(path) == rows
    assert list(read_rows(path)) == [{"id": n, "text": f"row {n}"} for n in range(rows)]
    assert list(read_rows(path, ["text"])) == [{"text": f"row {n}"} for n in range(rows)]


def test_no_more_than_a_group_is_held(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", 2 * ROWS + 5)
    assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert [batch.num_rows for batch in read_batches(path)] == [ROWS, ROWS, 5]


@pytest.mark.parametrize("start", [0, 7, ROWS - 3, ROWS, 2 * ROWS + 2, 2 * ROWS + 5, 9 * ROWS])
@pytest.mark.parametrize("count", [0, 1, 10, ROWS + 9, 5 * ROWS])
def test_a_slice_is_those_rows_and_no_others(start: int, count: int, tmp_path: Path) -> None:
    rows = 2 * ROWS + 5
    path = written(tmp_path / "t.parquet", rows)
    assert [row["id"] for row in read_slice(path, start, count, ["id"])] == list(range(rows))[start : start + count]


def test_rows_here_and_there_come_in_the_order_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", 2 * ROWS + 5)
    asked = [2 * ROWS + 4, 0, ROWS, ROWS - 1, 0, ROWS + 1]
    with TableReader(path) as table:
        assert len(table) == 2 * ROWS + 5
        assert [row["id"] for row in table.rows(asked, ["id"])] == asked
        assert table.rows([]) == []
        assert list(table.groups(ROWS)) == [(1, ROWS, 2 * ROWS), (2, 2 * ROWS, 2 * ROWS + 5)]
        assert list(table.groups(2 * ROWS + 5)) == []
        assert table.group(2, ["id"])["id"].to_pylist() == list(range(2 * ROWS, 2 * ROWS + 5))


def test_a_reader_goes_on_with_the_file_that_it_opened(tmp_path: Path) -> None:
    with TableReader(written(tmp_path / "t.parquet", 2 * ROWS)) as table:
        written(tmp_path / "new.parquet", 3).replace(tmp_path / "t.parquet")
        assert table.rows([ROWS + 7], ["text"]) == [{"text": f"row {ROWS + 7}"}]


@given(st.lists(st.text(), unique=True, max_size=20), st.lists(st.text(), max_size=5))
def test_an_id_is_found_where_it_stands(ids: list[str], others: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        with TableWriter(path, pa.schema([("id", pa.string())])) as table:
            for one in ids:
                table.add({"id": one})
        index = IdIndex(path)
    wanted = [*others, *ids]
    assert index.find(wanted).tolist() == [ids.index(one) if one in ids else -1 for one in wanted]


def test_what_a_row_lacks_is_null(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.parquet", SCHEMA) as table:
        table.add({"id": 1})
    assert list(read_rows(tmp_path / "t.parquet")) == [{"id": 1, "text": None}]


def test_what_has_been_read_is_not_kept(tmp_path: Path) -> None:
    groups, size = 24, 100
    with TableWriter(tmp_path / "t.parquet", SCHEMA) as table:
        for number in range(groups * ROWS):
            table.add({"id": number, "text": random.Random(number).randbytes(size).hex()})
    before, most = pa.total_allocated_bytes(), 0
    for _ in read_batches(tmp_path / "t.parquet"):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < groups * ROWS * 2 * size / 3
