from dataclasses import replace
from pathlib import Path

import pytest

from retell.errors import StorageError
from retell.graders.base import Case, Grader
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.hashing import digest
from retell.journal import Journal, graded_by
from retell.records import Completion, Sample, Verdict
from retell.regrade import regrade
from retell.shards import part_path, shard_path, write_shard
from retell.store import Layered, open_store

RIGHT, WRONG, OPEN = Verdict("correct", "2", "equal"), Verdict("wrong", "3", "not"), Verdict("undecided", None, "time")


def drawn(name: str, text: str = "\\boxed{2}", rung: str = "self") -> Sample:
    return Sample(digest(name), name[0], rung, 0, int(name[1:] or 0), Completion(text, None, None, "stop"))


def keys(*names: str) -> list[str]:
    return [digest(name) for name in names]


class Noting(GraderPool):
    """Notes what it is to grade."""

    def __init__(self, grader: Grader, workers: int) -> None:
        super().__init__(grader, workers)
        self.seen: list[Case] = []

    def submit(self, ticket: str, case: Case) -> None:
        self.seen.append(case)
        super().submit(ticket, case)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run begun on one machine, a0 and a1, which went on with workers, b0 and b1."""
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples([drawn("a0"), drawn("a1", rung="guided")])
        journal.add_verdicts([(digest("a0"), "g", RIGHT), (digest("b1"), "g", OPEN)])
    here = {digest("b0"): {"g": WRONG, "h": RIGHT}, digest("a0"): {"h": OPEN}}
    write_shard(shard_path(tmp_path / "samples", "plan", 0), [drawn("b0"), drawn("b1")], here)
    return tmp_path


def test_a_journal_and_shards_are_read_as_one(folder: Path) -> None:
    with open_store(folder) as store:
        assert isinstance(store, Layered)
        everything = keys("a0", "a1", "b0", "b1", "c0")
        assert store.samples(everything).keys() == set(keys("a0", "a1", "b0", "b1"))
        assert store.verdicts(everything, "g") == {
            digest("a0"): RIGHT,
            digest("b0"): WRONG,
            digest("b1"): OPEN,
        }
        assert store.verdicts(everything, "h") == {digest("a0"): OPEN, digest("b0"): RIGHT}
        assert len(store.all_verdicts(everything)) == 5
        assert store.rungs() == {"guided": 1, "self": 3}
        pages = [sample.key for page in store.pages(["self", "guided"]) for sample in page]
        assert sorted(pages) == sorted(keys("a0", "a1", "b0", "b1"))
        assert [sample.key for page in store.pages(["guided"]) for sample in page] == keys("a1")


def test_what_is_added_is_found_by_whoever_comes_next(folder: Path) -> None:
    with open_store(folder) as store:
        store.add_samples([drawn("c0")])
        store.add_verdicts([(digest("c0"), "g", RIGHT), (digest("b0"), "new", OPEN)])
    with open_store(folder, readonly=True) as store:
        assert store.samples(keys("c0")) == {digest("c0"): drawn("c0")}
        assert store.verdicts(keys("c0"), "g") == {digest("c0"): RIGHT}
        assert store.verdicts(keys("b0"), "new") == {digest("b0"): OPEN}


def test_without_shards_it_is_the_journal(tmp_path: Path) -> None:
    (tmp_path / "samples" / "plan").mkdir(parents=True)
    (tmp_path / "samples" / "plan" / "about.json").write_text("{}")
    with open_store(tmp_path) as store:
        assert isinstance(store, Journal)


def test_readers_create_nothing_and_see_what_a_writer_has_committed(tmp_path: Path) -> None:
    with open_store(tmp_path, readonly=True) as reader:
        assert reader.samples(keys("a0")) == {}
        assert reader.rungs() == {}
    assert list(tmp_path.iterdir()) == []
    with open_store(tmp_path) as writer, open_store(tmp_path, readonly=True) as reader:
        writer.add_samples([drawn("a0")])
        assert reader.samples(keys("a0"))
        with pytest.raises(StorageError):
            reader.add_samples([drawn("a1")])


def test_shards_that_a_reader_does_not_need_are_left_out(folder: Path) -> None:
    with open_store(folder, readonly=True, without={shard_path(folder / "samples", "plan", 0)}) as store:
        assert store.samples(keys("a0", "b0")).keys() == set(keys("a0"))


def test_stored_samples_of_shards_are_graded_again_and_verdicts_kept(tmp_path: Path) -> None:
    """Those of a block that is done and of one that is not; nothing is graded twice."""
    by, golds = graded_by(MathGrader().name, "2"), {"a": ("?", "2"), "b": ("?", "2")}
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples([drawn("a0"), drawn("a1", "\\boxed{3}")])
    here = [drawn("b0"), drawn("b1", "\\boxed{3}")]
    write_shard(shard_path(tmp_path / "samples", "plan", 0), here, {digest("b0"): {by: RIGHT}})
    write_shard(part_path(tmp_path / "samples", "plan", 1), [drawn("b2"), drawn("b0", "again")], {})
    for start in range(2):
        with open_store(tmp_path) as store, Noting(MathGrader(), 1) as graders:
            told = regrade(store, ["self"], lambda sample: golds[sample.problem], [], graders)
            assert told["self"]["samples"] == 5
            assert told["self"]["correct"] == 3
            assert len(graders.seen) == (0 if start else 4)
            assert len(store.verdicts(keys("a0", "a1", "b0", "b1", "b2"), by)) == 5


def test_problems_are_found_by_the_verdicts_of_one_grader(folder: Path) -> None:
    """Wherever the sample and wherever the verdict is."""
    one, other = graded_by("math", "1"), graded_by("math", "2")
    with open_store(folder) as store:
        store.add_verdicts([(digest("a0"), one, OPEN), (digest("b0"), one, OPEN), (digest("b1"), other, OPEN)])
        store.add_verdicts([(digest("a1"), one, WRONG), (digest("a1"), graded_by("math2", "1"), OPEN)])
        assert store.judged("undecided", "math") == {"a": 1, "b": 2}
        assert store.judged("wrong", "math") == {"a": 1}
        assert store.judged("correct", "math") == {}


def test_samples_of_online_rounds_are_not_told_of_as_those_of_the_rewriting(folder: Path) -> None:
    grader = graded_by("math", "1")
    with open_store(folder) as store:
        store.add_samples([replace(drawn("c0"), round=2)])
        store.add_verdicts([(key, grader, OPEN) for key in keys("a0", "c0")])
        assert store.judged("undecided", "math") == {"a": 1}


def test_a_sample_that_both_have_comes_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_samples([drawn("a0")])
    write_shard(shard_path(tmp_path / "samples", "plan", 0), [drawn("a0", "again"), drawn("b0")], {})
    with open_store(tmp_path) as store:
        told = [sample for page in store.pages(["self"]) for sample in page]
        assert sorted(sample.key for sample in told) == sorted(keys("a0", "b0"))
        assert {sample.completion.text for sample in told if sample.key == digest("a0")} == {
            store.samples(keys("a0"))[digest("a0")].completion.text
        }
