import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scripts import here, loaded, problems

from retell.benchmarks import BENCHMARKS, load_benchmarks
from retell.engines.base import Engine
from retell.engines.scripted import ScriptedEngine
from retell.errors import DataError, EngineError
from retell.evaluate import _won, evaluate
from retell.graders.base import Case
from retell.graders.math import MathGrader
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.problems import Loaded
from retell.prompts import Prompter
from retell.recipe import Evaluate, Policy
from retell.records import Attempt, Completion, Message, Request, Sample, Verdict
from retell.runfolder import RunFolder
from retell.scores import Answered


def scored(folder: Path, engine: Engine, k: int, sizes: dict[str, int]) -> dict[str, Any]:
    benchmarks = {name: loaded(problems(n)) for name, n in sizes.items()}
    with (
        RunFolder(folder) as run,
        Journal(folder / "journal.sqlite") as journal,
        GraderPool(MathGrader(), 1) as graders,
    ):
        executor = here(engine, graders, journal, "evaluate", k)
        return evaluate("base", benchmarks, Prompter(Policy(), None), Evaluate(k=k), executor, graders, run)


def first(n: int) -> ScriptedEngine:
    """Answers problem pi right in its first i % (n + 1) samples."""

    def script(request: Request, _: random.Random) -> str:
        number = int(request.problem[1:])
        return f"\\boxed{{{number + 100 if request.index < number % (n + 1) else 0}}}"

    return ScriptedEngine(script)


def test_scores_equal_their_closed_forms(tmp_path: Path) -> None:
    summary = scored(tmp_path, first(4), 4, {"easy": 5, "one": 1})
    means = [0.0, 25.0, 50.0, 75.0, 100.0]
    spread = (sum((m - 50) ** 2 for m in means) / 4) ** 0.5
    easy = summary["benchmarks"]["easy"]
    assert easy["avg_at_k"] == pytest.approx(50.0)
    assert easy["stderr"] == pytest.approx(spread / 5**0.5)
    assert easy["pass_at_k"] == pytest.approx(80.0)
    assert (easy["n"], easy["undecided"], easy["truncated"]) == (5, 0, 0)
    assert summary["benchmarks"]["one"]["stderr"] is None
    assert summary["average"] == pytest.approx(25.0)


def test_every_response_is_kept_with_its_verdict(tmp_path: Path) -> None:
    scored(tmp_path, first(4), 4, {"easy": 5})
    rows = pq.read_table(tmp_path / "eval" / "base.parquet").to_pylist()
    assert [(row["id"], row["index"]) for row in rows] == [(f"p{i}", j) for i in range(5) for j in range(4)]
    assert sum(row["verdict"] == "correct" for row in rows) == 10
    assert all(row["extracted"] for row in rows)


def test_truncated_responses_score_nothing_and_are_counted(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request, _: Completion(f"\\boxed{{{request.problem[1:]}}}", None, None, "length"))
    easy = scored(tmp_path, engine, 2, {"easy": 3})["benchmarks"]["easy"]
    assert (easy["avg_at_k"], easy["truncated"]) == (0, 100)


def test_one_problem_in_two_benchmarks_is_sampled_for_each(tmp_path: Path) -> None:
    seen = []

    def script(request: Request, random_: random.Random) -> str:
        seen.append(random_.random())
        return "\\boxed{0}"

    scored(tmp_path, ScriptedEngine(script), 3, {"a": 2, "b": 2})
    assert len(set(seen)) == 12


def test_scores_do_not_depend_on_batch_or_interruption(tmp_path: Path) -> None:
    def script(request: Request, random_: random.Random) -> str:
        return f"\\boxed{{{int(request.problem[1:]) + (100 if random_.random() < 0.4 else 0)}}}"

    whole = scored(tmp_path / "a", ScriptedEngine(script, batch=64), 4, {"x": 20})
    left = 33

    def dying(request: Request, random_: random.Random) -> str:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return script(request, random_)

    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path / "b", ScriptedEngine(dying, batch=1), 4, {"x": 20})
    assert scored(tmp_path / "b", ScriptedEngine(script, batch=1), 4, {"x": 20}) == whole


def test_what_the_engine_failed_on_is_no_response_and_scores_nothing(tmp_path: Path) -> None:
    def script(request: Request, _: random.Random) -> Completion | str:
        failed = request.index == 0 or request.problem == "p1"
        gold = int(request.problem[1:]) + 100
        return Completion("", None, None, "error", error="timeout") if failed else f"\\boxed{{{gold}}}"

    summary = scored(tmp_path, ScriptedEngine(script), 4, {"easy": 3})
    easy = summary["benchmarks"]["easy"]
    assert (easy["avg_at_k"], easy["n"], easy["failed"], easy["undecided"]) == (100, 2, 6, 0)
    assert summary["failed"] == 6
    assert pq.read_table(tmp_path / "eval" / "base.parquet").num_rows == 6


def test_a_benchmark_without_a_response_has_no_score(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda *_: Completion("", None, None, "error", error="503: overloaded"))
    with pytest.raises(EngineError, match=r"base has no response on easy.*503: overloaded"):
        scored(tmp_path, engine, 2, {"easy": 3})
    assert not (tmp_path / "eval" / "base.json").exists()


def outside() -> str:
    if "RETELL_TEST_DATA" not in os.environ:
        pytest.skip("RETELL_TEST_DATA names no folder of data")
    return str(Path(os.environ["RETELL_TEST_DATA"]) / "benchmarks")


def scores(folder: Path, engine: Engine, benchmarks: dict[str, Loaded], grader: str, **settings: Any) -> dict[str, Any]:
    chosen = Evaluate(grader=grader, **settings)
    with (
        RunFolder(folder) as run,
        Journal(folder / "journal.sqlite") as journal,
        GraderPool(grader_named(grader), chosen.grader_workers) as graders,
    ):
        executor = here(engine, graders, journal, "evaluate", [chosen.k, grader])
        return evaluate("base", benchmarks, Prompter(Policy(), None), chosen, executor, graders, run)


@pytest.mark.parametrize("grader", ["math", "qwen"])
def test_golds_score_all_and_other_answers_nothing_on_every_benchmark(tmp_path: Path, grader: str) -> None:
    benchmarks = load_benchmarks(Evaluate(benchmark=tuple(BENCHMARKS), data_dir=outside()))
    golds = {(name, p.id): p.answer for name, loaded in benchmarks.items() for p in loaded.problems}
    right = ScriptedEngine(lambda request, _: f"So it is \\boxed{{{golds[request.rung, request.problem]}}}.", batch=64)
    found = scores(tmp_path / "right", right, benchmarks, grader, k=1)["benchmarks"]
    assert {name: one["avg_at_k"] for name, one in found.items()} == dict.fromkeys(BENCHMARKS, 100.0)
    wrong = ScriptedEngine(lambda *_: "So it is \\boxed{-987654.321}.", batch=64)
    found = scores(tmp_path / "wrong", wrong, benchmarks, grader, k=1)["benchmarks"]
    assert {name: one["avg_at_k"] for name, one in found.items()} == dict.fromkeys(BENCHMARKS, 0.0)


def test_scores_are_the_same_for_every_batch_worker_and_interruption(tmp_path: Path) -> None:
    def script(request: Request, random_: random.Random) -> str:
        chance = int(request.problem[1:]) / 20
        return f"\\boxed{{{int(request.problem[1:]) + (100 if random_.random() < chance else random_.randrange(3))}}}"

    benchmarks = {"x": loaded(problems(20)), "y": loaded(problems(7))}
    found = [
        scores(tmp_path / f"{batch}-{workers}", ScriptedEngine(script, batch=batch), benchmarks, "math", k=16,
               grader_workers=workers)
        for batch in (1, 64) for workers in (1, 2)
    ]  # fmt: skip
    assert all(one == found[0] for one in found[1:])
    assert 0 < found[0]["benchmarks"]["x"]["majority_at_k"] <= found[0]["benchmarks"]["x"]["pass_at_k"]


def test_wrong_answers_that_are_equal_outvote_the_right_one(tmp_path: Path) -> None:
    """Two right ones, and three ways to write one wrong value: the vote is lost, though each way has one vote."""
    said = ["100", "100", "1/2", "0.5", "\\frac{1}{2}"]
    engine = ScriptedEngine(lambda request, _: f"\\boxed{{{said[request.index]}}}")
    found = scored(tmp_path / "a", engine, 5, {"x": 1})["benchmarks"]["x"]
    assert (found["avg_at_k"], found["pass_at_k"], found["majority_at_k"]) == (40, 100, 0)
    said[4] = "7"
    found = scored(tmp_path / "b", engine, 5, {"x": 1})["benchmarks"]["x"]
    assert found["majority_at_k"] == 50


class Chained(GraderPool):
    """Holds a for b and b for c, and cannot tell of a and c."""

    def submit(self, ticket: str, case: Case) -> None:
        pair = {case.response, case.gold}
        self._decided.append((ticket, Verdict("correct" if "b" in pair else "undecided", case.response, "")))


def test_what_is_equal_to_the_same_votes_together() -> None:
    def attempt(index: int, said: str) -> Attempt:
        sample = Sample(f"k{index}", "p0", "x", 0, index, Completion(said, None, None, "stop"))
        return Attempt(sample, Verdict("correct" if said == "100" else "wrong", said, ""))

    said = ["100", "100", "100", "a", "b", "c", "c"]
    one = Answered("x", problems(1)[0], tuple(attempt(index, text) for index, text in enumerate(said)))
    with Chained(MathGrader()) as graders:
        assert _won([one], graders) == [0]  # three for the right answer, and four for the other
    three = replace(one, attempts=one.attempts[:-1])
    with Chained(MathGrader()) as graders:
        assert _won([three], graders) == [1 / 2]


def test_the_papers_rounding_comes_with_its_grader(tmp_path: Path) -> None:
    """Of 30 problems and 16 runs, ten runs have one right and six none."""

    def script(request: Request, _: random.Random) -> str:
        right = request.problem == "p0" and request.index < 10
        return f"\\boxed{{{100 if right else 7}}}"

    benchmarks = {"aime": loaded(problems(30))}
    rounded = scores(tmp_path / "qwen", ScriptedEngine(script), benchmarks, "qwen", k=16)
    assert round(rounded["benchmarks"]["aime"]["avg_at_k"], 2) == 2.06
    assert rounded["rounded"] and round(rounded["average"], 2) == 2.06
    exact = scores(tmp_path / "math", ScriptedEngine(script), benchmarks, "math", k=16)
    assert round(exact["benchmarks"]["aime"]["avg_at_k"], 2) == 2.08
    assert not exact["rounded"]


class Short(ScriptedEngine):
    context = 30


class Words:
    """The one method of a tokenizer that prompts need: a token a word."""

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(range(len(str(messages[-1]["content"]).split())))


def test_what_the_context_leaves_is_said(tmp_path: Path) -> None:
    def within(folder: Path, size: int) -> dict[str, Any]:
        rows = [replace(problems(1)[0], problem="word " * size), replace(problems(2)[1], problem="two words")]
        with RunFolder(folder) as run, Journal(folder / "j.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
            prompter = Prompter(Policy(), Words())  # type: ignore[arg-type]
            executor = here(Short(lambda *_: "\\boxed{100}"), graders, journal, "evaluate")
            chosen = Evaluate(k=1, max_tokens=28)
            return evaluate("base", {"x": loaded(rows)}, prompter, chosen, executor, graders, run)

    summary = within(tmp_path / "a", 10)
    assert (summary["context"], summary["max_tokens"], summary["benchmarks"]["x"]["shortened"]) == (30, 28, 1)
    within(tmp_path / "b", 29)
    with pytest.raises(DataError, match=r"x: the prompt of problem p0 fills the context of base, 30 tokens"):
        within(tmp_path / "c", 30)


def test_a_larger_k_draws_only_what_is_missing(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def script(request: Request, random_: random.Random) -> str:
        asked.append((request.problem, request.index))
        return f"\\boxed{{{100 if random_.random() < 0.5 else 0}}}"

    scored(tmp_path / "run", ScriptedEngine(script), 2, {"x": 3})
    grown = scored(tmp_path / "run", ScriptedEngine(script), 4, {"x": 3})
    assert sorted(asked) == sorted((f"p{i}", j) for i in range(3) for j in range(4))
    at_once = scored(tmp_path / "other", ScriptedEngine(script), 4, {"x": 3})
    assert grown == at_once
