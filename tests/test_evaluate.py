import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scripts import loaded, problems

from retell.engines.base import Engine
from retell.engines.scripted import ScriptedEngine
from retell.errors import EngineError
from retell.evaluate import evaluate
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.meter import Meter
from retell.prompts import Prompter
from retell.recipe import Evaluate, Policy
from retell.records import Completion, Request
from retell.rollout import Stream
from retell.runfolder import RunFolder


def scored(folder: Path, engine: Engine, k: int, sizes: dict[str, int]) -> dict[str, Any]:
    benchmarks = {name: loaded(problems(n)) for name, n in sizes.items()}
    with (
        RunFolder(folder) as run,
        Journal(folder / "journal.sqlite") as journal,
        GraderPool(MathGrader(), 1) as graders,
    ):
        prompter, stream = Prompter(Policy(), None), Stream("evaluate", "scripted", 0)
        return evaluate("base", benchmarks, prompter, Evaluate(k=k), engine, graders, journal, stream, Meter(), run)


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
