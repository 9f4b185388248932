import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripts import asked, coin, problems
from team import task_of

from retell.drawing import Task, Work, starter
from retell.engines.base import Engine
from retell.engines.scripted import ScriptedEngine
from retell.errors import EngineError, StorageError
from retell.executor import Job, settle
from retell.graders.base import Grader
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.graders.qwen import QwenGrader
from retell.journal import Journal
from retell.leases import Blocks, Item, Lease, Report
from retell.meter import Meter
from retell.recipe import Evaluate, Policy, Recipe
from retell.records import Completion, Problem, Request
from retell.rollout import run_plans
from retell.shards import Shards, blocks_done, shard_path
from retell.store import open_store
from retell.worker import Worker

PLAN = "plan"


class Desk:
    """Lends what it was given, and keeps what was reported."""

    def __init__(self, leases: Iterable[Lease]) -> None:
        self.leases = list(leases)
        self.reports: dict[int, Report] = {}
        self.events: list[str] = []

    def next(self) -> Lease | None:
        lease = self.leases.pop(0) if self.leases else None
        self.events.append(f"next {lease.number}" if lease else "none")
        return lease

    def done(self, number: int, report: Report) -> None:
        self.events.append(f"done {number}")
        self.reports[number] = report

    def alive(self) -> None:
        self.events.append("alive")


def lent(n: int, size: int, *, alone: bool = False) -> list[Lease]:
    blocks = Blocks(problems(n), size)
    return [Lease(number, number, blocks.items(number), True, alone, again=alone) for number in range(len(blocks))]


def drawing(engine: Engine | None = None, task: Task | None = None, grader: Grader | None = None) -> tuple[Work, Task]:
    engine, task = engine or ScriptedEngine(coin), task or task_of()
    return Work(engine, grader or MathGrader(), starter(task, None, engine)), task


def work(folder: Path, desk: Desk, engine: Engine | None = None, **options: Any) -> Desk:
    """What a worker does with all that a desk lends."""
    opened, task = drawing(engine, **options)
    with GraderPool(opened.grader, 1) as graders:
        Worker(opened, graders, task.stream, folder, PLAN, desk).run()
    return desk


def results(folder: Path, items: Iterable[Item], task: Task | None = None, grader: Grader | None = None) -> list[Any]:
    """What the stage makes of what is stored."""
    opened, task = drawing(task=task)
    jobs = (Job(one.id, lambda name=name, one=one: opened.start(name, one)) for name, one in items)
    with open_store(folder) as store, GraderPool(grader or MathGrader(), 1) as graders:
        return list(settle(jobs, {}, graders, store, task.stream))


def undisturbed(folder: Path, items: Iterable[Item], task: Task | None = None) -> list[Any]:
    """What one engine on one machine makes."""
    opened, task = drawing(task=task)
    with Journal(folder / "alone.sqlite") as journal, GraderPool(opened.grader, 1) as graders:
        plans = (opened.start(*item) for item in items)
        return list(run_plans(plans, opened.engine, graders, journal, task.stream, Meter()))


def of(rows: list[Problem]) -> list[Item]:
    return [("", problem) for problem in rows]


def test_what_a_worker_stores_is_what_one_machine_makes(tmp_path: Path) -> None:
    desk = work(tmp_path, Desk(lent(20, 6)))
    assert blocks_done(tmp_path / "samples", PLAN) == {0, 1, 2, 3}
    items = of(problems(20))
    assert sorted(map(repr, results(tmp_path, items))) == sorted(map(repr, undisturbed(tmp_path, items)))
    assert desk.reports.keys() == {0, 1, 2, 3}
    samples = [sample for page in Shards(tmp_path / "samples").pages(["self", "guided"]) for sample in page]
    reports = desk.reports.values()
    assert sum(report.drawn for report in reports) == len(samples)
    assert sum(report.truncated for report in reports) == sum(s.completion.stop == "length" for s in samples)
    assert [report.file for report in reports] == [f"00000{number}.parquet" for number in desk.reports]
    assert sum(report.found for report in reports) == sum(report.undecided for report in reports) == 0


def test_a_worker_says_now_and_then_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is done with anything."""
    assert "alive" not in work(tmp_path / "short", Desk(lent(6, 6))).events
    monkeypatch.setattr("retell.worker._TELL_SECONDS", -1.0)
    events = work(tmp_path / "long", Desk(lent(6, 6))).events
    assert events.index("alive") < events.index("done 0")


def test_each_sample_is_in_the_file_of_its_block(tmp_path: Path) -> None:
    work(tmp_path, Desk(lent(20, 6)), ScriptedEngine(coin, batch=16, steps=lambda c: len(c.text)))
    for block in range(4):
        others = {shard_path(tmp_path / "samples", PLAN, other) for other in range(4)} - {
            shard_path(tmp_path / "samples", PLAN, block)
        }
        pages = Shards(tmp_path / "samples", others).pages(["self", "guided"])
        assert {s.problem for page in pages for s in page} == {f"p{n}" for n in range(20) if n // 6 == block}


def test_the_next_lease_is_taken_before_the_last_is_done(tmp_path: Path) -> None:
    desk = work(tmp_path, Desk(lent(24, 4)), ScriptedEngine(coin, batch=4))
    assert desk.events.index("next 1") < desk.events.index("done 0")
    assert desk.events.index("done 0") < desk.events.index("next 5"), "all is taken at once"
    assert Counter(event.split()[0] for event in desk.events) == {"next": 6, "done": 6, "none": 1}


def test_tokens_are_counted_where_they_are_known(tmp_path: Path) -> None:
    def counted(request: Request, _: random.Random) -> Completion:
        text = f"\\boxed{{{int(request.problem[1:]) + 100}}}"
        return Completion(text, None, None, "stop", usage=None if request.problem == "p1" else 7)

    (report,) = work(tmp_path, Desk(lent(4, 4)), ScriptedEngine(counted)).reports.values()
    assert (report.drawn, report.tokens, report.uncounted) == (4, 21, 1)


def test_faults_are_told_once(tmp_path: Path) -> None:
    engine = ScriptedEngine(coin, batch=1)
    engine.faults["at the start"] = 1

    def failing(request: Request, luck: random.Random) -> Completion | str:
        engine.faults["late"] += 1
        return coin(request, luck)

    engine._script = failing
    reports = work(tmp_path, Desk(lent(8, 2)), engine).reports.values()
    assert sum((Counter(report.faults) for report in reports), Counter()) == Counter(
        late=sum(report.drawn for report in reports)
    )


def test_a_block_with_a_failed_request_is_not_done_and_keeps_what_was_drawn(tmp_path: Path) -> None:
    def failing(request: Request, luck: random.Random) -> Completion | str:
        if request.problem == "p2":
            return Completion("", None, None, "error", error="it cannot be drawn", lasting=True)
        return coin(request, luck)

    desk = work(tmp_path, Desk(lent(12, 4)), ScriptedEngine(failing))
    assert blocks_done(tmp_path / "samples", PLAN) == {1, 2}
    assert list(desk.reports[0].failed.values()) == ["it cannot be drawn"]
    assert desk.reports[0].file and ".part-" in desk.reports[0].file
    assert desk.reports[1].failed == {}
    engine, notes = asked()
    again = work(tmp_path, Desk(lent(4, 4)), engine)
    assert {request.problem for request in notes} == {"p2"}
    assert again.reports[0].found > 0
    assert blocks_done(tmp_path / "samples", PLAN) == {0, 1, 2}
    items = of(problems(12))
    assert sorted(map(repr, results(tmp_path, items))) == sorted(map(repr, undisturbed(tmp_path, items)))


def test_where_every_request_of_a_block_fails_there_is_nothing_to_write(tmp_path: Path) -> None:
    dead = ScriptedEngine(lambda *_: Completion("", None, None, "error", error="no", lasting=True))
    (report,) = work(tmp_path, Desk(lent(4, 4)), dead).reports.values()
    assert (report.file, report.drawn, len(report.failed)) == (None, 0, 4)
    assert not (tmp_path / "samples").exists()


def test_an_engine_that_stops_leaves_what_it_has_drawn(tmp_path: Path) -> None:
    def stopping(request: Request, luck: random.Random) -> Completion | str:
        if request.problem == "p9":
            raise EngineError("out of breath")
        return coin(request, luck)

    engine, notes = asked(stopping, batch=2)
    desk = Desk(lent(12, 12))
    with pytest.raises(EngineError, match="out of breath"):
        work(tmp_path, desk, engine)
    drawn = {request.key for request in notes if request.problem != "p9"}
    stored = [sample.key for page in Shards(tmp_path / "samples").pages(["self", "guided"]) for sample in page]
    assert len(stored) == len(set(stored))
    assert set(stored) <= drawn
    assert len(drawn) - len(stored) <= 2, "no more is lost than what was in flight"
    assert blocks_done(tmp_path / "samples", PLAN) == set(desk.reports) == set()


def test_who_comes_after_a_worker_that_was_lost_with_its_block_written_loses_nothing(tmp_path: Path) -> None:
    """It was killed after it had written the block and before it could say so."""

    class Killed(Desk):
        def done(self, number: int, report: Report) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, Killed(lent(4, 4)))
    assert blocks_done(tmp_path / "samples", PLAN) == {0}
    engine, notes = asked()
    desk = work(tmp_path, Desk(lent(4, 4, alone=True)), engine)
    assert notes == []
    assert desk.reports[0].drawn == 0 and desk.reports[0].found > 0
    items = of(problems(4))
    assert sorted(map(repr, results(tmp_path, items))) == sorted(map(repr, undisturbed(tmp_path, items)))


def test_what_was_left_while_a_worker_was_at_work_is_found_with_the_piece_of_who_was_lost(tmp_path: Path) -> None:
    class Late(Desk):
        def next(self) -> Lease | None:
            if self.leases and self.leases[0].alone:
                work(tmp_path, Desk(lent(8, 4)[1:]))
            return super().next()

    engine, notes = asked()
    work(tmp_path, Late([*lent(8, 4)[:1], *lent(8, 4, alone=True)[1:]]), engine)
    assert {request.problem for request in notes} == {"p0", "p1", "p2", "p3"}


def test_who_was_thought_lost_and_writes_late_doubles_nothing(tmp_path: Path) -> None:
    """Two have the same block, and neither sees what the other stores."""
    first, second = Desk(lent(4, 4)), Desk(lent(4, 4))
    next_ = second.next

    def while_the_other_works() -> Lease | None:
        if not second.leases:
            work(tmp_path, first)
        return next_()

    second.next = while_the_other_works  # type: ignore[method-assign]
    work(tmp_path, second)
    assert first.reports[0].drawn == second.reports[0].drawn > 0
    assert len(list((tmp_path / "samples" / PLAN).iterdir())) == 2
    stored = [sample.key for page in Shards(tmp_path / "samples").pages(["self", "guided"]) for sample in page]
    assert len(stored) == len(set(stored)) == first.reports[0].drawn
    items = of(problems(4))
    assert sorted(map(repr, results(tmp_path, items))) == sorted(map(repr, undisturbed(tmp_path, items)))


def test_what_the_journal_holds_is_not_drawn_again(tmp_path: Path) -> None:
    opened, task = drawing()
    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        plans = (opened.start("", problem) for problem in problems(3))
        list(run_plans(plans, opened.engine, graders, journal, task.stream, Meter()))
    before = (tmp_path / "journal.sqlite").read_bytes()
    engine, notes = asked()
    work(tmp_path, Desk(lent(4, 4)), engine)
    assert {request.problem for request in notes} == {"p3"}
    assert blocks_done(tmp_path / "samples", PLAN) == {0}
    assert (tmp_path / "journal.sqlite").read_bytes() == before
    items = of(problems(4))
    assert sorted(map(repr, results(tmp_path, items))) == sorted(map(repr, undisturbed(tmp_path, items)))


def test_a_larger_k_draws_what_is_missing(tmp_path: Path) -> None:
    work(tmp_path, Desk(lent(8, 4)), task=task_of(k=2))
    engine, notes = asked()
    task = task_of(k=5)
    opened, _ = drawing(engine, task)
    with GraderPool(opened.grader, 1) as graders:
        Worker(opened, graders, task.stream, tmp_path, "larger", Desk(lent(8, 4))).run()
    assert {request.index for request in notes} == {2, 3, 4}
    items = of(problems(8))
    found = results(tmp_path, items, task)
    assert sorted(map(repr, found)) == sorted(map(repr, undisturbed(tmp_path, items, task)))


def evaluating(k: int = 3) -> Task:
    return Task("evaluate", Recipe(evaluate=Evaluate(k=k)), Policy(), "scripted")


def test_benchmarks_may_have_problems_of_the_same_id(tmp_path: Path) -> None:
    """At once with the same worker: each sample goes to its own block."""
    other = [replace(problem, answer="0") for problem in problems(2)]
    leases = [
        Lease(0, 0, [("one", problem) for problem in problems(2)], True, alone=False, again=False),
        Lease(1, 1, [("two", problem) for problem in other], True, alone=False, again=False),
    ]
    work(tmp_path, Desk(leases), ScriptedEngine(coin, batch=64), task=evaluating())
    for block, name in enumerate(["one", "two"]):
        shards = Shards(tmp_path / "samples", {shard_path(tmp_path / "samples", PLAN, 1 - block)})
        assert shards.rungs() == {name: 6}
        keys = [sample.key for page in shards.pages([name]) for sample in page]
        assert len(shards.all_verdicts(keys)) == 6
    items = [item for lease in leases for item in lease.items]
    found = results(tmp_path, items, evaluating())
    assert [(one.benchmark, one.problem.id) for one in found] == [(name, one.id) for name, one in items]
    assert all(attempt.drawn for one in found for attempt in one.attempts)


def test_another_grader_adds_its_verdicts_to_samples_that_are_stored(tmp_path: Path) -> None:
    work(tmp_path, Desk(lent(4, 4)), task=evaluating())
    engine, notes = asked()
    opened, task = drawing(engine, evaluating(), QwenGrader())
    with GraderPool(opened.grader, 1) as graders:
        desk = Desk(lent(4, 4))
        Worker(opened, graders, task.stream, tmp_path, "qwen", desk).run()
    assert notes == []
    assert desk.reports[0].file == "000000.parquet"
    with open_store(tmp_path) as store:
        keys = [sample.key for page in store.pages(["self", ""]) for sample in page]
        by = Counter(grader.partition("/")[0] for _, grader in store.all_verdicts(keys))
    assert len(by) == 2 and len(set(by.values())) == 1
    assert blocks_done(tmp_path / "samples", "qwen") == {0}


def test_a_disk_that_is_full_stops_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retell.shards.os.fsync", full)
    desk = Desk(lent(8, 4))
    with pytest.raises(StorageError, match="No space left on device"):
        work(tmp_path, desk)
    assert desk.reports == {}


def test_blocks_of_others_are_not_read(tmp_path: Path) -> None:
    """A run with thousands of them would take minutes to begin; also where one of them cannot be read."""
    work(tmp_path, Desk(lent(8, 4)))
    shard_path(tmp_path / "samples", PLAN, 0).write_bytes(b"torn")
    shard_path(tmp_path / "samples", PLAN, 1).unlink()
    work(tmp_path, Desk(lent(8, 4)[1:]))
    assert blocks_done(tmp_path / "samples", PLAN) == {0, 1}
    with pytest.raises(StorageError, match=r"000000\.parquet"):
        work(tmp_path, Desk(lent(4, 4)))
