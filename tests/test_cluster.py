"""The executor of a cluster with a crew that is played; `tests/cluster` has real ones."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts import coin, problems
from team import BLOCK, task_of

from retell.cluster import Cluster, Crew, drawn_before
from retell.drawing import Work, starter
from retell.engines.scripted import ScriptedEngine
from retell.errors import RunFolderError, StorageError
from retell.executor import Job
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.leases import Blocks, Leases, Standing
from retell.meter import Budget
from retell.records import Row
from retell.runfolder import RunFolder
from retell.shards import blocks_done, shard_path
from retell.store import open_store
from retell.worker import Worker

PLAN = "plan"


class Played:
    """A crew of one, in this process."""

    def __init__(self, folder: Path, context: int | None = None) -> None:
        self.folder = folder
        self.context = context
        self.size = 1
        self.dismissed = False

    def dismiss(self) -> None:
        self.dismissed = True

    def work(self, blocks: Blocks, plan: str) -> Iterator[Standing]:
        self.seen = sorted(path.name for path in self.folder.iterdir())
        leases = Leases(blocks, blocks_done(self.folder / "samples", plan), Budget(), 1)
        task, engine = task_of(), ScriptedEngine(coin)

        class Line:
            next = staticmethod(lambda: leases.next("me"))
            done = staticmethod(leases.done)
            alive = staticmethod(lambda: leases.heard("me"))

        with GraderPool(MathGrader(), 1) as graders:
            Worker(
                Work(engine, MathGrader(), starter(task, None, engine)), graders, task.stream, self.folder, plan, Line()
            ).run()
        yield leases.standing()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run") as run:
        yield run


@pytest.fixture
def graders() -> Iterator[GraderPool]:
    with GraderPool(MathGrader(), 1) as graders:
        yield graders


def blocks(n: int = 20) -> Blocks:
    return Blocks(problems(n), BLOCK)


def cluster_of(run: RunFolder, graders: GraderPool, crew: Any) -> Cluster:
    return Cluster(crew, task_of(), blocks(), PLAN, graders, run)


def settled(cluster: Cluster) -> list[Any]:
    engine = ScriptedEngine(coin)
    start = starter(task_of(), None, engine)
    jobs = (Job(problem.id, lambda problem=problem: start("", problem)) for problem in blocks().problems)
    return [climb.result for climb in cluster.settle(jobs)]


def test_what_is_drawn_is_settled_when_the_crew_is_dismissed(run: RunFolder, graders: GraderPool) -> None:
    crew = Played(run.path, context=77)
    assert not drawn_before(run, blocks(), PLAN)
    cluster = cluster_of(run, graders, crew)
    assert list(cluster.draw([], lambda _: None)) == [20]
    assert crew.dismissed
    assert cluster.figures()["workers"] == "1"
    assert [row.id for row in settled(cluster)] == [problem.id for problem in problems(20)]
    assert drawn_before(run, blocks(), PLAN)
    later = cluster_of(run, graders, None)
    assert later.context == cluster.context == 77
    assert list(later.draw([], lambda _: None)) == [20]
    assert settled(later) == settled(cluster)
    assert "workers" not in later.figures()
    assert not drawn_before(run, blocks(), "another plan")


def test_a_write_ahead_log_that_a_killed_start_has_left_is_put_away_before_others_read(
    run: RunFolder, graders: GraderPool
) -> None:
    """Machines that share storage cannot share one."""
    code = f"""
import os, signal
from pathlib import Path
from retell.journal import Journal
from retell.records import Completion, Sample
journal = Journal(Path({str(run.path / "journal.sqlite")!r}))
journal.add_samples([Sample("a", "p", "self", 0, 0, Completion("x", None, None, "stop"))])
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (run.path / "journal.sqlite-wal").stat().st_size
    crew = Played(run.path)
    list(cluster_of(run, graders, crew).draw([], lambda _: None))
    assert "journal.sqlite" in crew.seen and "journal.sqlite-wal" not in crew.seen
    with Journal(run.path / "journal.sqlite") as journal:
        assert journal.samples(["a"])


def test_files_of_other_machines_that_are_seen_late_are_waited_for(run: RunFolder, graders: GraderPool) -> None:
    path = shard_path(run.path / "samples", PLAN, 1)

    class Slow(Played):
        def work(self, blocks: Blocks, plan: str) -> Iterator[Standing]:
            yield from super().work(blocks, plan)
            hidden = path.rename(path.with_suffix(".hidden"))
            threading.Thread(target=lambda: (time.sleep(0.7), hidden.rename(path))).start()

    cluster = cluster_of(run, graders, Slow(run.path))
    list(cluster.draw([], lambda _: None))
    assert all(isinstance(result, Row) for result in settled(cluster))


def test_files_that_are_never_seen_are_an_error_and_no_rejects(
    run: RunFolder, graders: GraderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is there on all machines, and it is not the same one."""
    monkeypatch.setattr("retell.cluster._SEEN_SECONDS", 0.1)

    class Elsewhere(Played):
        def work(self, blocks: Blocks, plan: str) -> Iterator[Standing]:
            yield from super().work(blocks, plan)
            for block in range(2):
                shard_path(run.path / "samples", plan, block).unlink()

    with pytest.raises(StorageError, match=r"2 files .* such as 000000\.parquet: put the run folder on storage"):
        list(cluster_of(run, graders, Elsewhere(run.path)).draw([], lambda _: None))


def test_a_block_whose_samples_are_gone_is_not_done_any_more(run: RunFolder, graders: GraderPool) -> None:
    cluster = cluster_of(run, graders, Played(run.path))
    list(cluster.draw([], lambda _: None))
    whole = settled(cluster)
    # All that its own file says of block 1 is that it is done: its samples were drawn by another plan.
    (run.path / "samples" / "other").mkdir()
    path = shard_path(run.path / "samples", PLAN, 1)
    moved = path.rename(shard_path(run.path / "samples", "other", 1))
    list(cluster_of(run, graders, Played(run.path)).draw([], lambda _: None))
    assert settled(cluster) == whole
    assert blocks_done(run.path / "samples", PLAN) == {0, 1, 2}
    moved.unlink()
    assert sum(isinstance(result, Row) for result in settled(cluster_of(run, graders, None))) == 12
    assert blocks_done(run.path / "samples", PLAN) == {0, 2}
    assert not drawn_before(run, blocks(), PLAN)
    list(cluster_of(run, graders, Played(run.path)).draw([], lambda _: None))
    assert settled(cluster) == whole
    with open_store(run.path) as store:
        assert sum(store.rungs().values()) == sum(len(page) for page in store.pages(["self", "guided"]))


def test_what_was_torn_of_a_plan_is_said(run: RunFolder, graders: GraderPool) -> None:
    cluster_of(run, graders, Played(run.path))
    (run.path / "samples" / PLAN / "about.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"about\.json"):
        cluster_of(run, graders, None)


def test_a_crew_is_not_there_before_it_is_entered(tmp_path: Path) -> None:
    """Nothing is connected, and nothing has to be ended."""
    crew = Crew(task_of(2, "a:1"), tmp_path, print)
    assert crew.size == 0
    crew.dismiss()
    assert os.listdir(tmp_path) == []
