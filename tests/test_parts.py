from pathlib import Path

import pyarrow as pa
import pytest

from retell import parts
from retell.parts import Parts, blocks
from retell.runfolder import RunFolder


def table(number: int) -> pa.Table:
    return pa.table({"n": [number]})


def never() -> pa.Table:
    raise AssertionError("made again")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet"))


@pytest.mark.parametrize("rows", [0, 1, 5, 6, 13])
def test_blocks_are_the_rows_in_their_order(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK", 3)
    found = list(blocks(range(rows)))
    assert [row for block in found for row in block] == list(range(rows))
    assert all(len(block) == 3 for block in found[:-1])
    assert all(0 < len(block) <= 3 for block in found)


def test_a_part_is_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        mine = Parts(folder, ".gap/model", "inputs")
        assert mine.part("0", lambda: table(7)).equals(table(7))
        assert Parts(folder, ".gap/model", "inputs").part("0", never).equals(table(7))
        assert Parts(folder, ".gap/other", "inputs").part("0", lambda: table(8)).equals(table(8))
        Parts(folder, ".gap/model", "changed").part("0", lambda: table(9))
        assert files(tmp_path) == [".gap/model/changed-0.parquet", ".gap/other/inputs-0.parquet"]


def test_what_was_torn_is_made_again(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        mine = Parts(folder, ".gap/model", "inputs")
        mine.part("0", lambda: table(7))
        for content in (b"", b"PAR1 and no more"):
            (tmp_path / ".gap/model/inputs-0.parquet").write_bytes(content)
            assert mine.part("0", lambda: table(8)).equals(table(8))
        assert mine.part("0", never).equals(table(8))


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        Parts(folder, ".gap/model", "inputs").part("0", lambda: table(7))
        (tmp_path / ".gap/model/.inputs-1.parquet.tmp").write_bytes(b"PAR1")
        mine = Parts(folder, ".gap/model", "inputs")
        assert mine.part("0", never).equals(table(7))
        mine.discard()
        assert not (tmp_path / ".gap").exists()


def test_what_was_kept_is_removed_in_the_end_and_only_that(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        mine, other = Parts(folder, ".gap/model", "inputs"), Parts(folder, ".gap/other", "inputs")
        for one in (mine, other):
            one.part("0", lambda: table(1))
        mine.discard()
        assert files(tmp_path) == [".gap/other/inputs-0.parquet"]
        other.discard()
        assert not (tmp_path / ".gap").exists()
        other.discard()


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        with pytest.raises(AssertionError):
            Parts(folder, ".gap/model", "inputs").part("0", never)
        assert files(tmp_path) == []
