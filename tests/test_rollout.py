import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import coin, problems

from retell.engines.base import Batches, Take
from retell.engines.scripted import ScriptedEngine
from retell.errors import BudgetError, EngineError
from retell.graders.base import Case
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.meter import Budget, Meter
from retell.prompts import Prompter
from retell.recipe import Policy
from retell.records import Attempt, Completion, Problem, Request, Sampling, Stop, Verdict
from retell.rollout import Ask, Plan, Stream, run_plans

SAMPLING = Sampling(1.0, 1.0, 64)
PROMPTER = Prompter(Policy(), None)


def ask(problem: Problem, rung: str, indices: range) -> Ask:
    return Ask(problem, rung, PROMPTER.solve(problem.problem), SAMPLING, indices)


def two_waves(problem: Problem) -> Plan[tuple[str, list[Attempt]]]:
    """Asks for two samples, and for three more if none of them is right."""
    attempts = yield ask(problem, "self", range(2))
    if not any(attempt.correct for attempt in attempts):
        attempts = attempts + (yield ask(problem, "self", range(2, 5)))
    return problem.id, attempts


def drive(
    path: Path, engine: ScriptedEngine, n: int = 30, policy: str = "a", seed: int = 0
) -> dict[str, list[Attempt]]:
    with Journal(path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        plans = (two_waves(problem) for problem in problems(n))
        return dict(run_plans(plans, engine, graders, journal, Stream("test", policy, seed), Meter()))


class Counting(ScriptedEngine):
    """Remembers which requests it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        super().__init__(self._note, batch=7)

    def _note(self, request: Request, random: object) -> Completion | str:
        self.asked[request.key] += 1
        return coin(request, random)  # type: ignore[arg-type]


def test_plans_get_their_attempts_in_index_order_and_ask_again_only_when_needed(tmp_path: Path) -> None:
    results = drive(tmp_path, ScriptedEngine(coin))
    assert results.keys() == {problem.id for problem in problems(30)}
    for attempts in results.values():
        assert [attempt.sample.index for attempt in attempts] == list(range(len(attempts)))
        assert len(attempts) == (2 if any(attempt.correct for attempt in attempts[:2]) else 5)
    assert {len(attempts) for attempts in results.values()} == {2, 5}


def test_results_do_not_depend_on_batch_size(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert drive(tmp_path / "a", ScriptedEngine(coin, batch=1)) == drive(tmp_path / "b", ScriptedEngine(coin, batch=64))


def test_nothing_stored_is_drawn_again(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    before = drive(tmp_path, first, n=20)
    after = drive(tmp_path, second, n=30)
    assert set(first.asked.values()) == {1}
    assert not first.asked.keys() & second.asked.keys()
    assert {key: after[key] for key in before} == before
    assert not Counting().asked


def test_what_is_stored_is_handed_out_before_all_of_it_has_been_looked_at(tmp_path: Path) -> None:
    drive(tmp_path, ScriptedEngine(coin, batch=64), n=600)
    started = 0

    def plans() -> Iterator[Plan[tuple[str, list[Attempt]]]]:
        nonlocal started
        for problem in problems(700):
            started += 1
            yield two_waves(problem)

    with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        found = run_plans(plans(), ScriptedEngine(coin), graders, journal, Stream("test", "a", 0), Meter())
        next(found)
        assert started < 300
        assert len(list(found)) == 699


def test_a_sample_without_verdict_is_graded_and_not_drawn_again(tmp_path: Path) -> None:
    before = drive(tmp_path, ScriptedEngine(coin))
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal._db.execute("DELETE FROM verdicts")
    again = Counting()
    assert drive(tmp_path, again) == before
    assert not again.asked


def test_a_corrected_gold_is_judged_anew_and_nothing_is_drawn_again(tmp_path: Path) -> None:
    def outcome(gold: str, engine: ScriptedEngine) -> str:
        problem = Problem("p0", "What is 0 + 100?", gold, "", "test")
        with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
            plans = iter([two_waves(problem)])
            ((_, attempts),) = run_plans(plans, engine, graders, journal, Stream("test", "a", 0), Meter())
        return attempts[0].verdict.outcome

    assert outcome("99", ScriptedEngine(lambda *_: "\\boxed{100}")) == "wrong"
    again = Counting()
    assert outcome("100", again) == "correct"
    assert not again.asked


def test_an_engine_that_leaves_requests_unanswered_is_an_error(tmp_path: Path) -> None:
    class Lazy(ScriptedEngine):
        def sample(self, take: Take):  # type: ignore[no-untyped-def]
            take(1, True)
            yield from ()

    with pytest.raises(EngineError, match="unanswered"):
        drive(tmp_path, Lazy(coin))


def test_what_is_in_flight_is_called_off_before_an_interruption_gets_any_further(tmp_path: Path) -> None:
    class Noting(ScriptedEngine):
        called_off = False

        def sample(self, take: Take) -> Batches:
            try:
                yield from super().sample(take)
            finally:
                self.called_off = True

    class Interrupted(GraderPool):
        def submit(self, ticket: str, case: Case) -> None:
            raise KeyboardInterrupt

    engine = Noting(coin)
    with Journal(tmp_path / "j") as journal, Interrupted(MathGrader(), 1) as graders:
        plans = (two_waves(problem) for problem in problems(3))
        try:
            list(run_plans(plans, engine, graders, journal, Stream("test", None, 0), Meter()))
        except KeyboardInterrupt:
            assert engine.called_off  # while the traceback still holds on to the generator
        else:
            pytest.fail("it was not interrupted")


def test_keys_and_seeds_come_from_content() -> None:
    problem, other = problems(2)
    base = Stream("rewrite", "policy", 0).request(ask(problem, "self", range(1)), 0)
    changed = [
        Stream("rewrite", "other", 0).request(ask(problem, "self", range(1)), 0),
        Stream("rewrite", "policy", 1).request(ask(problem, "self", range(1)), 0),
        Stream("rewrite", "policy", 0, round=1).request(ask(problem, "self", range(1)), 0),
        Stream("rewrite", "policy", 0).request(ask(other, "self", range(1)), 0),
        Stream("rewrite", "policy", 0).request(ask(problem, "guided", range(1)), 0),
        Stream("rewrite", "policy", 0).request(ask(problem, "self", range(2)), 1),
        Stream("rewrite", "policy", 0).request(
            Ask(problem, "self", PROMPTER.solve(problem.problem), Sampling(0.9, 1.0, 64), range(1)), 0
        ),
    ]
    assert len({request.key for request in [base, *changed]}) == 8
    assert Stream("rewrite", "policy", 0).request(ask(problem, "self", range(5)), 0) == base
    seeds = {request.seed for request in [base, *changed]}
    assert len(seeds) == 6  # policy and sampling parameters change the key alone


def test_an_ask_for_nothing_is_answered_with_nothing(tmp_path: Path) -> None:
    def plan(problem: Problem) -> Plan[list[Attempt]]:
        return (yield ask(problem, "self", range(0)))

    with Journal(tmp_path / "j") as journal, GraderPool(MathGrader(), 1) as graders:
        plans = (plan(problem) for problem in problems(3))
        results = list(run_plans(plans, ScriptedEngine(coin), graders, journal, Stream("test", None, 0), Meter()))
    assert results == [[], [], []]


def test_an_engine_that_asks_for_more_than_there_is_gets_what_is_due(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Greedy(ScriptedEngine):
        def sample(self, take: Take):  # type: ignore[no-untyped-def]
            def counted(room: int, idle: bool) -> list[Request]:
                taken = take(room, idle)
                sizes.append(len(taken))
                return taken

            return super().sample(counted)

    assert len(drive(tmp_path, Greedy(coin, batch=1000), n=30)) == 30
    assert sizes[0] == 60  # all problems start at once


class Watched(GraderPool):
    """Remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(MathGrader(), 1)
        self.given: list[Case] = []

    def submit(self, ticket: str, case: Case) -> None:
        self.given.append(case)
        super().submit(ticket, case)


def test_graders_are_given_the_problem_the_response_and_the_gold(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal, Watched() as graders:
        plans = iter([two_waves(problems(1)[0])])
        list(
            run_plans(
                plans, ScriptedEngine(lambda *_: "\\boxed{100}"), graders, journal, Stream("test", None, 0), Meter()
            )
        )
    assert graders.given == [Case("What is 0 + 100?", "\\boxed{100}", "100", "self")] * 2


def three(problem: Problem) -> Plan[list[Attempt]]:
    return (yield ask(problem, "self", range(3)))


def test_what_did_not_end_by_itself_is_wrong_without_being_graded(tmp_path: Path) -> None:
    def cut(request: Request, _: object) -> Completion | str:
        stops: tuple[Stop, ...] = ("stop", "length", "length")
        return Completion("\\boxed{100}", None, None, stops[request.index])

    def run(engine: ScriptedEngine, graded: int) -> list[Verdict]:
        with Journal(tmp_path / "journal.sqlite") as journal, Watched() as graders:
            plans = iter([three(problems(1)[0])])
            (attempts,) = run_plans(plans, engine, graders, journal, Stream("test", None, 0), Meter())
            assert len(graders.given) == graded
        return [attempt.verdict for attempt in attempts]

    found = run(ScriptedEngine(cut), 1)
    assert found[0].outcome == "correct"
    assert found[1:] == [Verdict("wrong", None, "stopped for length")] * 2
    again = Counting()
    assert run(again, 0) == found  # they are stored like any other
    assert not again.asked


def test_a_request_that_failed_is_undecided_is_not_stored_and_is_drawn_by_another_start(tmp_path: Path) -> None:
    def run(engine: ScriptedEngine, meter: Meter) -> list[Attempt]:
        with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
            plans = iter([three(problems(1)[0])])
            (attempts,) = run_plans(plans, engine, graders, journal, Stream("test", None, 0), meter)
        return attempts

    def second_fails(request: Request, _: object) -> Completion | str:
        failed = Completion("", None, None, "error", error="503: overloaded")
        return failed if request.index == 1 else "\\boxed{100}"

    meter = Meter()
    found = run(ScriptedEngine(second_fails), meter)
    assert [attempt.verdict.outcome for attempt in found] == ["correct", "undecided", "correct"]
    assert found[1].verdict.reason == "the engine failed: 503: overloaded"
    assert (meter.drawn, meter.failed) == (2, 1)
    again, meter = Counting(), Meter()
    assert [attempt.sample.completion.stop for attempt in run(again, meter)] == ["stop"] * 3
    assert len(again.asked) == 1
    assert (meter.drawn, meter.found, meter.failed) == (1, 2, 0)


def test_many_failures_in_a_row_stop_the_run_with_the_cause(tmp_path: Path) -> None:
    asked: list[str] = []

    def dies(request: Request, _: object) -> Completion | str:
        asked.append(request.key)
        return "\\boxed{0}" if len(asked) <= 10 else Completion("", None, None, "error", error="500: out of memory")

    with pytest.raises(EngineError, match=r"20 requests failed in a row.*500: out of memory.*stored"):
        drive(tmp_path, ScriptedEngine(dies, batch=1), n=30)
    assert len(asked) == 30
    assert len(drive(tmp_path, ScriptedEngine(coin), n=30)) == 30


def test_what_lies_in_the_request_does_not_stop_the_run(tmp_path: Path) -> None:
    def refuses(request: Request, _: object) -> Completion | str:
        too_long = Completion("", None, None, "error", error="400: too long", lasting=True)
        return too_long if int(request.problem[1:]) >= 5 else "\\boxed{0}"

    for _ in range(2):  # where a run goes on, nothing but these is asked
        results = drive(tmp_path, ScriptedEngine(refuses, batch=4), n=60)
        assert len(results) == 60
        assert all(a.verdict.outcome == "undecided" for name in ("p5", "p59") for a in results[name])


@pytest.mark.parametrize("batch", [1, 8])
def test_failures_with_successes_in_between_do_not_stop_the_run(tmp_path: Path, batch: int) -> None:
    def flickers(request: Request, luck: random.Random) -> Completion | str:
        return Completion("", None, None, "error", error="500") if luck.random() < 0.5 else "\\boxed{0}"

    results = drive(tmp_path, ScriptedEngine(flickers, batch=batch), n=60)
    failed = [a for attempts in results.values() for a in attempts if a.sample.completion.stop == "error"]
    assert len(failed) > 60
    assert all(attempt.verdict.outcome == "undecided" for attempt in failed)


@pytest.mark.parametrize("budget", [Budget(tokens=100), Budget(hours=1e-9)])
def test_a_budget_stops_the_run_between_requests_and_the_same_command_goes_on(tmp_path: Path, budget: Budget) -> None:
    def costly(request: Request, luck: random.Random) -> Completion:
        said = coin(request, luck)
        text = said if isinstance(said, str) else said.text
        return Completion(text, tuple(range(7)), None, "stop")

    def start(meter: Meter, engine: ScriptedEngine) -> dict[str, list[Attempt]]:
        with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
            plans = (two_waves(problem) for problem in problems(30))
            return dict(run_plans(plans, engine, graders, journal, Stream("test", "a", 0), meter))

    meter = Meter(budget)
    with pytest.raises(BudgetError, match="reached"):
        start(meter, ScriptedEngine(costly, batch=4))
    if budget.tokens:
        assert 100 <= meter.tokens < 100 + 4 * 7  # what was in flight is finished and stored
    else:
        assert meter.drawn < 60
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert sum(journal.rungs().values()) == meter.drawn
    rest = Meter()
    whole = start(rest, ScriptedEngine(costly, batch=4))
    assert rest.found == meter.drawn
    (tmp_path / "journal.sqlite").unlink()
    assert whole == start(Meter(), ScriptedEngine(costly, batch=4))


@pytest.mark.parametrize("verdicts_are_lost", [False, True])
def test_a_plan_of_many_stored_asks_does_not_fill_the_stack(tmp_path: Path, verdicts_are_lost: bool) -> None:
    def patient(problem: Problem) -> Plan[int]:
        for index in range(1500):
            yield ask(problem, "self", range(index, index + 1))
        return 1500

    def run(engine: ScriptedEngine) -> list[int]:
        with Journal(tmp_path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
            if verdicts_are_lost:
                journal._db.execute("DELETE FROM verdicts")
            plans = (patient(problem) for problem in problems(2))
            return list(run_plans(plans, engine, graders, journal, Stream("test", None, 0), Meter()))

    cut = ScriptedEngine(lambda *_: Completion("", None, None, "length"))
    again = Counting()
    assert run(cut) == run(again) == [1500, 1500]
    assert not again.asked
