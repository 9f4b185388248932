import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripts import problems

import retell
from retell.cli import main
from retell.engines.scripted import ScriptedEngine
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.online import OnlineRewriter
from retell.policy import fingerprint
from retell.prompts import Prompter
from retell.recipe import Policy, Rewrite
from retell.records import Completion, Request
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
TOKENIZER = ChatTokenizer(TINY / "policy")


def half(request: Request, luck: random.Random) -> str:
    gold = int(request.problem[1:]) + 100
    return f"So \\boxed{{{gold}}}" if luck.random() < 0.5 else "So \\boxed{0}"


@contextmanager
def rewriter(folder: Path, engine: ScriptedEngine) -> Iterator[OnlineRewriter]:
    prompter = Prompter(Policy(), TOKENIZER, "guided")
    with Journal(folder / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        settings = Rewrite(k=4)
        yield OnlineRewriter(
            problems(12), "base", settings, 2048, prompter, TOKENIZER, engine, graders, journal, folder / "rounds.json"
        )


def stored(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "journal.sqlite") as db:
        return db.execute("SELECT key, problem, round, text FROM samples ORDER BY key").fetchall()


def test_a_round_is_drawn_by_the_policy_of_then_and_never_mixes_with_another(tmp_path: Path) -> None:
    engine = ScriptedEngine(half)
    wanted = ["p3", "p1", "p7"]
    with rewriter(tmp_path, engine) as online:
        assert online.ids == tuple(f"p{i}" for i in range(12))
        first = online.rows(0, wanted, None)
        assert engine.loaded == []
        before = stored(tmp_path)
        second = online.rows(1, wanted, TINY / "policy")
        assert engine.loaded == [TINY / "policy"]
    assert first.keys() == second.keys() == set(wanted)
    after = stored(tmp_path)
    assert [row for row in after if row[2] == 0] == before
    assert {row[1] for row in after if row[2] == 1} == set(wanted)
    assert [told["policy"] for told in online.told] == ["base", fingerprint(TINY / "policy")]
    for rows in (first, second):
        for id, row in rows.items():
            assert row.id == id
            assert row.response[-1] == TOKENIZER.training_end


def test_a_round_that_was_drawn_is_not_drawn_again(tmp_path: Path) -> None:
    with rewriter(tmp_path, ScriptedEngine(half)) as online:
        first = [online.rows(0, ["p1", "p2"], None), online.rows(1, ["p3", "p4"], TINY / "policy")]

    def never(request: Request, luck: random.Random) -> str:
        raise AssertionError("it was drawn")

    with rewriter(tmp_path, ScriptedEngine(never)) as online:
        again = [online.rows(0, ["p1", "p2"], None), online.rows(1, ["p3", "p4"], TINY / "policy")]
    assert again == first


def test_a_problem_that_the_engine_failed_on_is_left_out_and_counted(tmp_path: Path) -> None:
    def fails(request: Request, luck: random.Random) -> Completion | str:
        if request.problem == "p2":
            return Completion("", None, None, "error", error="it is down", lasting=True)
        return half(request, luck)

    with rewriter(tmp_path, ScriptedEngine(fails)) as online:
        assert online.rows(0, ["p1", "p2"], None).keys() == {"p1"}
        assert online.told[0]["rejected"] == {"engine_failed": 1}


def arguments(folder: Path, *more: str, rounds: int = 3) -> list[str]:
    given = f"--loss dft --data online --rounds {rounds} --batch-size 8 --learning-rate 3e-3 --dtype float32"
    return ["train", str(folder), *given.split(), *more]


def rewritten(folder: Path) -> Path:
    data, guided = TINY / "data/train.jsonl", TINY / "guided.txt"
    given = f"--model {TINY / 'policy'} --data {data} --limit 48 --max-length 320 --guided-template {guided}"
    sizes = "--k 2 --max-tokens 100"
    assert main(["rewrite", *given.split(), *sizes.split(), "--out", str(folder)]) == 0
    return folder


def metrics(folder: Path) -> list[Mapping[str, Any]]:
    text = (folder / "checkpoints/online-dft/metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_online_training_begins_with_what_offline_rewriting_drew_and_samples_the_rest_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rewritten(tmp_path)
    offline = stored(folder)
    assert main([*arguments(folder), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [told["problems"] for told in summary["rounds"]] == [16, 16, 16]
    assert len({told["policy"] for told in summary["rounds"]}) == 3
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5, 6]
    rates = [line["learning_rate"] for line in metrics(folder)]
    assert rates[1:] == sorted(rates[1:], reverse=True), "one schedule runs through all rounds"
    after = stored(folder)
    assert [row for row in after if row[2] == 0] == offline
    assert {row[2] for row in after} == {0, 1, 2}
    assert not (folder / "training").exists()


def test_a_killed_online_training_goes_on_with_the_same_metrics_and_draws_nothing_twice(tmp_path: Path) -> None:
    undisturbed = rewritten(tmp_path / "a")
    assert main(arguments(undisturbed)) == 0
    folder = rewritten(tmp_path / "b")
    process = subprocess.Popen([sys.executable, "-m", "retell", *arguments(folder)])
    checkpoint = folder / "training/online-dft/checkpoint-4/trainer_state.json"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.01)
    while process.poll() is None and not [row for row in stored(folder) if row[2] == 2]:
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = stored(folder)
    assert main(arguments(folder)) == 0
    assert set(left) <= set(stored(folder)) == set(stored(undisturbed))
    for one, other in zip(metrics(undisturbed), metrics(folder), strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"rungs"}:
            assert one[name] == pytest.approx(other[name], rel=1e-4), (one["step"], name)
    told = json.loads((folder / "checkpoints/online-dft.json").read_text(encoding="utf-8"))["rounds"]
    assert [round["round"] for round in told] == [0, 1, 2]


@pytest.mark.parametrize(
    ("rounds", "more", "says"),
    [
        (1, (), "at least 2"),
        (7, (), "only 6 updates"),
        (3, ("--epochs", "2"), "epochs"),
        (3, ("--holdout", "0.1"), "holdout"),
    ],
)
def test_what_online_training_cannot_do_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rounds: int, more: tuple[str, ...], says: str
) -> None:
    folder = rewritten(tmp_path)
    capsys.readouterr()
    assert main(arguments(folder, *more, rounds=rounds)) == 2
    assert says in capsys.readouterr().err


def test_online_training_on_other_problems_than_were_rewritten_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    lines = (TINY / "data/train.jsonl").read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join(lines[:8]), encoding="utf-8")
    given = f"--model {TINY / 'policy'} --data {data} --max-length 320 --guided-template {TINY / 'guided.txt'} --k 1"
    assert main(["rewrite", *given.split(), "--max-tokens", "60", "--out", str(tmp_path / "run")]) == 0
    data.write_text("\n".join(lines[:9]), encoding="utf-8")
    capsys.readouterr()
    assert main(arguments(tmp_path / "run")) == 2
    assert "another data" in capsys.readouterr().err


def test_rounds_without_an_online_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = rewritten(tmp_path)
    capsys.readouterr()
    assert main(["train", str(folder), "--loss", "dft", "--data", "rewritten", "--rounds", "3"]) == 2
    assert "online" in capsys.readouterr().err


def test_an_online_run_of_responses_that_somebody_else_draws_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"problem": f"{i} + 1", "solution": f"\\boxed{{{i + 1}}}", "candidates": [f"\\boxed{{{i + 1}}}"]}
        for i in range(4)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    folder = tmp_path / "run"
    given = ["--model", str(TINY / "policy"), "--data", str(data), "--engine", "recorded"]
    assert main(["rewrite", *given, "--out", str(folder)]) == 0
    assert main(arguments(folder)) == 2
    assert "recorded" in capsys.readouterr().err
