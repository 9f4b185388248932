import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from scripts import asked, coin, here, problems

from retell.engines.base import Engine
from retell.engines.scripted import ScriptedEngine
from retell.errors import EngineError, StorageError
from retell.evaluate import answer
from retell.executor import Executor, Job, settle
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.ladder import Climb, Ladder
from retell.prompts import Prompter
from retell.recipe import Evaluate, Policy, Rewrite
from retell.records import Completion, Problem, Prompt, Reject, Request, Row
from retell.rollout import Plan, Stream, run_plans
from retell.scores import Answered

PROMPTER = Prompter(Policy(), None, "guided")
STREAM = Stream("rewrite", "scripted", 0)


def jobs(rows: list[Problem], k: int = 3) -> Iterator[Job[Climb]]:
    ladder = Ladder(Rewrite(k=k), PROMPTER, ScriptedEngine(coin), "scripted", 2048)
    for problem in rows:
        yield Job(problem.id, lambda problem=problem: ladder.climb(problem))


def played(
    folder: Path,
    engine: Engine,
    rows: list[Problem],
    *,
    plan: object = 0,
    k: int = 3,
    started: Callable[[Iterable[Job[Climb]]], Iterable[Job[Climb]]] = lambda jobs: jobs,
) -> tuple[list[int], list[Climb]]:
    """Draws and settles jobs; what drawing has told of its progress, and what the jobs came to."""
    folder.mkdir(exist_ok=True)
    with Journal(folder / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        executor: Executor = here(engine, graders, journal, "rewrite", plan)
        told = list(executor.draw(started(jobs(rows, k=k)), lambda _: None))
        return told, list(executor.settle(jobs(rows, k=k)))


def test_what_is_settled_is_what_was_drawn_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    rows = problems(30)
    drawn: list[Climb] = []
    engine = ScriptedEngine(coin, batch=7, steps=lambda completion: len(completion.text))
    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        executor = here(engine, graders, journal, "rewrite")
        told = list(executor.draw(jobs(rows), drawn.append))
        settled = list(executor.settle(jobs(rows)))
    ids = [climb.result.id for climb in drawn]
    assert ids != [problem.id for problem in rows], "the short ones finish first"
    assert [climb.result.id for climb in settled] == [problem.id for problem in rows]
    assert sorted(map(repr, drawn)) == sorted(map(repr, settled))
    assert told == sorted(told) and told[-1] == 30


def test_settling_is_playing_from_the_journal_alone(tmp_path: Path) -> None:
    rows = problems(12)
    _, settled = played(tmp_path, ScriptedEngine(coin), rows)
    with Journal(tmp_path / "other.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        plans = (job.start() for job in jobs(rows))
        meter = here(ScriptedEngine(coin), graders, journal, "rewrite")._meter
        direct = list(run_plans(plans, ScriptedEngine(coin), graders, journal, STREAM, meter))
    assert sorted(map(repr, settled)) == sorted(map(repr, direct))


def test_a_second_start_asks_nothing_and_makes_no_prompt_of_what_is_done(tmp_path: Path) -> None:
    rows = problems(20)
    _, first = played(tmp_path, ScriptedEngine(coin), rows)
    engine, notes = asked()

    def never() -> Plan[Climb]:
        raise AssertionError("its prompt would be made")

    told, second = played(tmp_path, engine, rows, started=lambda given: (Job(job.name, never) for job in given))
    assert notes == []
    assert told == [20]
    assert second == first


def test_another_plan_looks_at_everything_and_draws_what_is_missing(tmp_path: Path) -> None:
    rows = problems(20)
    played(tmp_path, ScriptedEngine(coin), rows, plan="k = 2", k=2)
    engine, notes = asked()
    _, settled = played(tmp_path, engine, rows, plan="k = 4", k=4)
    assert {request.index for request in notes} == {2, 3}
    _, alone = played(tmp_path / "alone", ScriptedEngine(coin), rows, plan="k = 4", k=4)
    assert settled == alone


def test_a_request_that_failed_is_settled_as_failed_and_drawn_by_the_next_start(tmp_path: Path) -> None:
    rows = problems(10)

    def failing(request: Request, luck: random.Random) -> Completion | str:
        if request.problem in ("p3", "p7"):
            return Completion("", None, None, "error", error="it is asleep", lasting=request.problem == "p3")
        return coin(request, luck)

    _, settled = played(tmp_path, ScriptedEngine(failing), rows)
    assert [type(climb.result) for climb in settled] == [
        Reject if problem.id in ("p3", "p7") else Row for problem in rows
    ]
    rejects = [climb.result for climb in settled if isinstance(climb.result, Reject)]
    assert {reject.detail for reject in rejects} == {"the engine failed: it is asleep"}
    engine, notes = asked()
    _, settled = played(tmp_path, engine, rows)
    assert {request.problem for request in notes} == {"p3", "p7"}
    assert all(isinstance(climb.result, Row) for climb in settled)


@pytest.mark.parametrize("error", [KeyboardInterrupt, EngineError])
def test_an_interruption_keeps_what_was_done(tmp_path: Path, error: type[BaseException]) -> None:
    rows = problems(40)

    def stopping(request: Request, luck: random.Random) -> Completion | str:
        if request.problem == "p25":
            raise error
        return coin(request, luck)

    with pytest.raises(error):
        played(tmp_path, ScriptedEngine(stopping, batch=2), rows)
    started: list[str] = []

    def noting(given: Iterable[Job[Climb]]) -> Iterator[Job[Climb]]:
        for job in given:
            yield Job(job.name, lambda job=job: (started.append(job.name), job.start())[1])

    engine, notes = asked(batch=2)
    told, settled = played(tmp_path, engine, rows, started=noting)
    assert "p25" in started
    assert len(started) < 22, "what was done is looked at again"
    assert {request.problem for request in notes} <= set(started)
    assert told[-1] == 40
    assert settled == played(tmp_path / "alone", ScriptedEngine(coin), rows)[1]


def test_what_failed_before_an_interruption_is_drawn_by_the_next_start(tmp_path: Path) -> None:
    def stopping(request: Request, luck: random.Random) -> Completion | str:
        if request.problem == "p25":
            raise KeyboardInterrupt
        if request.problem == "p3":
            return Completion("", None, None, "error", error="it is asleep", lasting=True)
        return coin(request, luck)

    with pytest.raises(KeyboardInterrupt):
        played(tmp_path, ScriptedEngine(stopping, batch=2), problems(40))
    engine, notes = asked()
    _, settled = played(tmp_path, engine, problems(40))
    assert "p3" in {request.problem for request in notes}
    assert all(isinstance(climb.result, Row) for climb in settled)


def test_what_was_done_and_is_gone_is_a_reject_and_drawn_by_the_next_start(tmp_path: Path) -> None:
    rows = problems(10)
    _, first = played(tmp_path, ScriptedEngine(coin), rows)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal, journal:
        journal.execute("DELETE FROM samples WHERE problem = 'p4'")
    engine, notes = asked()
    _, second = played(tmp_path, engine, rows)
    assert notes == []
    (lost,) = [climb.result for climb in second if isinstance(climb.result, Reject)]
    assert (lost.id, lost.reason) == ("p4", "engine_failed")
    assert "not there any more" in lost.detail
    _, third = played(tmp_path, engine, rows)
    assert {request.problem for request in notes} == {"p4"}
    assert third == first


def test_a_mark_that_cannot_be_written_hides_no_other_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        executor = here(ScriptedEngine(coin), graders, journal, "rewrite")
        monkeypatch.setattr(journal, "add_marks", full)
        assert list(executor.draw(jobs(problems(5)), lambda _: None))[-1] == 5
        assert len(list(executor.settle(jobs(problems(5))))) == 5


def test_settling_holds_few_jobs_at_a_time(tmp_path: Path) -> None:
    rows = problems(3000)
    begun: list[str] = []

    def right(request: Request, _: random.Random) -> str:
        return f"\\boxed{{{int(request.problem[1:]) + 100}}}"

    def noting() -> Iterator[Job[Climb]]:
        for job in jobs(rows, k=1):
            begun.append(job.name)
            yield job

    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        executor = here(ScriptedEngine(right), graders, journal, "rewrite")
        list(executor.draw(jobs(rows, k=1), lambda _: None))
        settled = executor.settle(noting())
        ahead = [len(begun) - number for number, _ in enumerate(settled)]
    assert len(ahead) == 3000
    assert max(ahead) < 600


def test_a_problem_given_up_failed_on_its_benchmark_alone(tmp_path: Path) -> None:
    """Where two benchmarks have problems of the same id."""
    settings, (problem,) = Evaluate(k=2), problems(1)

    def both() -> Iterator[Job[Answered]]:
        for name in ("one", "two"):
            yield Job(f"{name}/p0", lambda name=name: answer(PROMPTER, settings, name, problem))

    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        settled = list(settle(both(), {("one", "p0"): "given up"}, graders, journal, STREAM))
    reasons = [[attempt.verdict.reason for attempt in one.attempts] for one in settled]
    assert reasons[0] == ["the engine failed: given up"] * 2
    assert all("not there any more" in reason for reason in reasons[1])
    assert [one.benchmark for one in settled] == ["one", "two"]


def test_why_a_request_failed_comes_before_why_its_problem_was_given_up(tmp_path: Path) -> None:
    (problem,) = problems(1)
    first = STREAM.requests(next(next(jobs([problem])).start()))[0]
    failed: dict[str | tuple[str, str], str] = {("", "p0"): "given up", first.key: "out of breath"}
    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        (climb,) = settle(jobs([problem]), failed, graders, journal, STREAM)
    assert isinstance(climb.result, Reject)
    assert climb.result.detail == "the engine failed: out of breath"


def test_progress_counts_what_is_passed_over_and_the_time_left_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("retell.meter.time.monotonic", lambda: now[0])

    def slowly(request: Request, luck: random.Random) -> Completion | str:
        now[0] += 1.0
        return f"\\boxed{{{int(request.problem[1:]) + 100}}}"

    played(tmp_path, ScriptedEngine(slowly), problems(60))
    rows = problems(100)
    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        executor = here(ScriptedEngine(slowly, batch=1), graders, journal, "rewrite")
        lefts = [(done, executor.seconds_left(done, 100)) for done in executor.draw(jobs(rows), lambda _: None)]
    assert lefts[0][0] == 61
    assert dict(lefts)[80] == pytest.approx(20, abs=2)
    assert lefts[-1][0] == 100


def test_prompts_of_a_job_are_made_anew_each_time() -> None:
    """A job is played twice, and a plan only once."""
    (job,) = jobs(problems(1))
    asks = [next(job.start()) for _ in range(2)]
    assert asks[0] == asks[1]
    assert isinstance(asks[0].prompt, Prompt)
