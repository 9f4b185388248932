import errno
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_journal import COMPLETIONS, TEXT

from retell.errors import StorageError
from retell.hashing import digest
from retell.records import Completion, Sample, Verdict
from retell.shards import Shards, blocks_done, part_path, shard_path, undo_blocks, write_shard

RIGHT, WRONG = Verdict("correct", "2", "equal"), Verdict("wrong", None, "no answer")
KEYS = st.text(max_size=5).map(digest)
VERDICTS = st.builds(
    Verdict, outcome=st.sampled_from(["correct", "wrong", "undecided"]), extracted=st.none() | TEXT, reason=TEXT
)
BY_GRADER = st.dictionaries(TEXT, VERDICTS, max_size=3)
SAMPLES = st.lists(
    st.builds(
        Sample,
        key=KEYS,
        problem=TEXT,
        rung=TEXT,
        round=st.integers(0, 2**31 - 1),
        index=st.integers(0, 2**31 - 1),
        completion=COMPLETIONS,
    ),
    max_size=6,
    unique_by=lambda sample: sample.key,
)


def drawn(name: str, text: str = "two", rung: str = "self") -> Sample:
    return Sample(digest(name), name, rung, 0, 0, Completion(text, (1, 2), (-0.5, -1.0), "stop"))


def paged(shards: Shards, rungs: Sequence[str] = ("self",)) -> list[Sample]:
    return [sample for page in shards.pages(rungs) for sample in page]


@settings(max_examples=40)
@given(SAMPLES, st.dictionaries(KEYS, BY_GRADER, max_size=6))
def test_what_goes_in_comes_out(samples: list[Sample], verdicts: dict[str, dict[str, Verdict]]) -> None:
    """Also what is None, samples without a verdict, and verdicts on samples that are elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        write_shard(shard_path(Path(folder), "plan", 0), samples, verdicts)
        shards = Shards(Path(folder))
        keys = list({sample.key for sample in samples} | verdicts.keys())
        assert shards.samples([*keys, digest("nobody's")]) == {sample.key: sample for sample in samples}
        by_both = {(key, grader): verdict for key, by in verdicts.items() for grader, verdict in by.items()}
        assert shards.all_verdicts(keys) == by_both
        rungs = [sample.rung for sample in samples]
        assert shards.rungs() == {rung: rungs.count(rung) for rung in rungs}
        assert paged(shards, rungs) == samples


def test_nothing_at_all_can_be_read(tmp_path: Path) -> None:
    assert not Shards(tmp_path / "nowhere").any
    assert Shards(tmp_path / "nowhere").samples([digest("a")]) == {}
    write_shard(shard_path(tmp_path, "plan", 0), [], {})
    shards = Shards(tmp_path)
    assert shards.any
    assert shards.samples([digest("a")]) == {}
    assert shards.samples([]) == {}
    assert shards.rungs() == {}
    assert paged(shards) == []


def test_a_block_is_done_if_its_file_is_there_and_whole(tmp_path: Path) -> None:
    assert blocks_done(tmp_path, "plan") == set()
    for number in (0, 7, 1_234_567):
        write_shard(shard_path(tmp_path, "plan", number), [drawn(str(number))], {})
    write_shard(part_path(tmp_path, "plan", 3), [drawn("3")], {})
    write_shard(shard_path(tmp_path, "another plan", 5), [drawn("5")], {})
    assert blocks_done(tmp_path, "plan") == {0, 7, 1_234_567}
    assert len(paged(Shards(tmp_path))) == 5


def test_parts_of_a_block_are_read_in_the_order_in_which_they_were_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that of a sample that two workers have drawn it is always the same that counts."""
    times = iter([9, 10, 11, 100, 1_000])
    monkeypatch.setattr("retell.shards.time.time_ns", lambda: next(times))
    for number in range(5):
        write_shard(part_path(tmp_path, "plan", 0), [drawn("a", f"text {number}")], {})
    assert Shards(tmp_path).samples([digest("a")])[digest("a")].completion.text == "text 0"


def test_what_was_torn_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard_path(tmp_path, "plan", 0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retell.shards.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shard(path, [drawn("a")], {})
    monkeypatch.undo()
    (temporary,) = path.parent.iterdir()
    temporary.write_bytes(temporary.read_bytes()[:100])
    assert not Shards(tmp_path).any
    assert blocks_done(tmp_path, "plan") == set()
    write_shard(path, [drawn("a")], {})
    assert Shards(tmp_path).samples([digest("a")]).keys() == {digest("a")}


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "No space left on device.*make room"), (errno.ESTALE, "Stale.*see to that storage")],
)
def test_a_file_that_cannot_be_written_leaves_nothing_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def broken(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("retell.shards.os.fsync", broken)
    with pytest.raises(StorageError, match=rf"000000\.parquet: {says}"):
        write_shard(shard_path(tmp_path, "plan", 0), [drawn("a")], {})
    assert list((tmp_path / "plan").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all, but long enough to look at" * 100])
def test_a_corrupt_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    write_shard(shard_path(tmp_path, "plan", 0), [drawn("a")], {})
    shard_path(tmp_path, "plan", 1).write_bytes(content)
    with pytest.raises(StorageError, match=r"cannot read .*000001\.parquet: .*remove it, and what it held is drawn"):
        Shards(tmp_path).samples([digest("a")])
    assert Shards(tmp_path, {shard_path(tmp_path, "plan", 1)}).samples([digest("a")])


def test_a_file_torn_in_the_middle_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    path = shard_path(tmp_path, "plan", 0)
    write_shard(path, [drawn(str(number), os.urandom(500).hex()) for number in range(50)], {})
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"000000\.parquet"):
        paged(Shards(tmp_path))


def test_a_sample_in_two_files_counts_once_with_the_verdicts_on_it(tmp_path: Path) -> None:
    """A worker that was thought lost drew it, and so did the one that came after it, perhaps otherwise."""
    key = digest("a")
    write_shard(shard_path(tmp_path, "plan", 0), [drawn("a", "first")], {key: {"g": RIGHT}})
    write_shard(part_path(tmp_path, "plan", 0), [drawn("a", "second"), drawn("b")], {key: {"g": WRONG, "h": WRONG}})
    shards = Shards(tmp_path)
    assert shards.samples([key])[key].completion.text == "first"
    assert shards.all_verdicts([key]) == {(key, "g"): RIGHT}
    assert [sample.problem for sample in paged(shards)] == ["a", "b"]
    assert shards.rungs() == {"self": 2}


@pytest.mark.parametrize("plans", [("a", "b"), ("b", "a")])
def test_verdicts_that_were_added_later_hide_no_sample(tmp_path: Path, plans: tuple[str, str]) -> None:
    """Whichever of the two files comes first."""
    drew, judged = plans
    write_shard(shard_path(tmp_path, drew, 0), [drawn("x")], {digest("x"): {"g": RIGHT}})
    write_shard(shard_path(tmp_path, judged, 0), [], {digest("x"): {"h": WRONG, "g": WRONG}})
    shards = Shards(tmp_path)
    assert shards.all_verdicts([digest("x")]) == {(digest("x"), "g"): RIGHT, (digest("x"), "h"): WRONG}
    assert [sample.problem for sample in paged(shards)] == ["x"]
    assert shards.samples([digest("x")])
    assert shards.rungs() == {"self": 1}


def test_many_files_hold_what_each_was_given(tmp_path: Path) -> None:
    luck = random.Random(0)
    blocks = [[drawn(f"{block}/{n}", rung=luck.choice(["self", "guided"])) for n in range(7)] for block in range(40)]
    for number, samples in enumerate(blocks):
        verdicts = {sample.key: {"g": RIGHT if luck.random() < 0.5 else WRONG} for sample in samples}
        write_shard(shard_path(tmp_path, f"plan{number % 3}", number), samples, verdicts)
    everything = {sample.key: sample for samples in blocks for sample in samples}
    asked = luck.sample(sorted(everything), 200)
    shards = Shards(tmp_path)
    assert shards.samples(asked) == {key: everything[key] for key in asked}
    assert shards.all_verdicts(asked).keys() == {(key, "g") for key in asked}
    for rungs in (["self"], ["guided"], ["self", "guided"], []):
        wanted = [sample for sample in everything.values() if sample.rung in rungs]
        assert sorted(paged(shards, rungs), key=lambda s: s.key) == sorted(wanted, key=lambda s: s.key)
    assert sum(shards.rungs().values()) == 280
    assert all(len(page) <= 500 for page in shards.pages(["self", "guided"]))


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    one, other = (Sample("ab" * 8 + end, end, "self", 0, 0, drawn("x").completion) for end in ("0" * 16, "1" * 16))
    write_shard(shard_path(tmp_path, "plan", 0), [one], {one.key: {"g": RIGHT}, other.key: {"h": RIGHT}})
    write_shard(shard_path(tmp_path, "plan", 1), [other], {other.key: {"g": WRONG}})
    shards = Shards(tmp_path)
    assert shards.samples([one.key, other.key]) == {one.key: one, other.key: other}
    assert shards.all_verdicts([other.key]) == {(other.key, "g"): WRONG, (other.key, "h"): RIGHT}
    assert shards.all_verdicts([one.key]) == {(one.key, "g"): RIGHT}
    assert paged(shards) == [one, other]
    assert shards.rungs() == {"self": 2}


def test_files_are_read_once_however_many_samples_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in range(6):
        write_shard(shard_path(tmp_path, "plan", block), [drawn(f"{block}/{n}") for n in range(9)], {})
    shards, read = Shards(tmp_path), list[int]()
    batches = shards._batches

    def noting(number: int, columns: list[str] | None) -> Iterator[Any]:
        read.append(number)
        return batches(number, columns)

    monkeypatch.setattr(shards, "_batches", noting)
    for block in range(6):
        for n in range(9):
            assert shards.samples([digest(f"{block}/{n}")])
    assert sorted(read) == sorted([*range(6), *range(6)]), "each once for its keys and once for what it holds"


def test_a_block_that_is_not_done_after_all_keeps_its_samples(tmp_path: Path) -> None:
    for block in range(3):
        write_shard(shard_path(tmp_path, "plan", block), [drawn(str(block))], {})
    undo_blocks(tmp_path, "plan", [1, 2, 5])
    assert blocks_done(tmp_path, "plan") == {0}
    assert len(paged(Shards(tmp_path))) == 3
    assert len(list((tmp_path / "plan").iterdir())) == 3


def test_shards_are_compressed_parquet_that_anything_can_read(tmp_path: Path) -> None:
    write_shard(shard_path(tmp_path, "plan", 0), [drawn("a")], {digest("a"): {"g": RIGHT}})
    (row,) = pq.read_table(shard_path(tmp_path, "plan", 0)).to_pylist()
    assert (row["problem"], row["text"], row["stop"]) == ("a", "two", "stop")
    assert row["verdicts"] == [{"grader": "g", "outcome": "correct", "extracted": "2", "reason": "equal"}]
