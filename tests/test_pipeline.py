"""The method end to end on the packaged policy, cut down to seconds; real processes, killed for real."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w

import retell
from retell import pipeline, steps
from retell.cli import main
from retell.engines.scripted import ScriptedEngine
from retell.records import Completion, Request
from retell.runfolder import RunFolder

TINY = Path(retell.__file__).parent / "tiny"


def recipe(folder: Path, **changes: dict[str, Any]) -> Path:
    document: dict[str, dict[str, Any]] = {
        "policy": {"model": str(TINY / "policy")},
        "data": {"path": str(TINY / "data/train.jsonl"), "limit": 24, "max_length": 320},
        "rewrite": {"k": 2, "max_tokens": 100, "guided_template": str(TINY / "guided.txt")},
        "train": {"runs": ["sft", "dr-dft"], "batch_size": 8, "learning_rate": 3e-4, "dtype": "float32"},
        "evaluate": {"benchmark": [str(TINY / "data/bench-1.jsonl")], "limit": 6, "k": 2, "max_tokens": 100},
    }
    for section, keys in changes.items():
        document.setdefault(section, {}).update(keys)
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(document), encoding="utf-8")
    return path


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    status = main([*arguments, "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


def test_a_recipe_runs_every_stage_and_not_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    status, summary, _ = command(capsys, "run", str(recipe(tmp_path)), "--out", str(out))
    assert status == 0
    assert sum(summary["rewrite"]["rungs"].values()) == 24
    assert summary["evaluate"].keys() == {"base", "sft", "dr-dft"}
    for name in ("rewritten.parquet", "gap.json", "checkpoints/dr-dft/metrics.jsonl", "eval/sft.json", "report.html"):
        assert (out / name).is_file(), name
    card = (out / "checkpoints/dr-dft/README.md").read_text(encoding="utf-8")
    assert "learning_rate: `0.0003`" in card and "dtype: `float32`" in card
    page = (out / "report.md").read_text(encoding="utf-8")
    for part in ("Table 1", "Table 2", "Table 3", "Figure 3", "Figure 4", "the expert"):
        assert part in page

    took = RunFolder(out).seconds()
    evaluated = {f"evaluate/{name}" for name in summary["evaluate"]}
    assert took.keys() == {"rewrite", "gap", "train/sft", "train/dr-dft"} | evaluated
    assert min(took.values()) > 0

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.suffix in (".parquet", ".safetensors")}
    status, again, err = command(capsys, "run", str(recipe(tmp_path)), "--out", str(out))
    assert status == 0
    assert again == summary
    assert err.count("nothing to do") == 7  # rewrite, gap, two trainings, three evaluations
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert main(["run", str(recipe(tmp_path)), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.html")

    changed = recipe(tmp_path, train={"learning_rate": 1e-4})
    status, third, err = command(capsys, "run", str(changed), "--out", str(out))
    assert status == 0
    assert err.count("nothing to do") == 3  # rewrite, gap and the base's evaluation
    assert third["train"]["sft"]["last"] != summary["train"]["sft"]["last"]


def test_the_stages_one_by_one_equal_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole", str(tmp_path / "parts")
    recipe_path = str(recipe(tmp_path))
    _, summary, _ = command(capsys, "run", recipe_path, "--out", str(whole))
    guided, data, bench = str(TINY / "guided.txt"), str(TINY / "data/train.jsonl"), str(TINY / "data/bench-1.jsonl")
    policy = ["--model", str(TINY / "policy")]
    sizes = ["--limit", "24", "--max-length", "320", "--k", "2", "--max-tokens", "100", "--guided-template", guided]
    assert command(capsys, "rewrite", *policy, "--data", data, *sizes, "--out", parts)[0] == 0
    status, gap, _ = command(capsys, "gap", parts)
    assert (status, gap) == (0, summary["gap"])
    training = ["--batch-size", "8", "--learning-rate", "3e-4", "--dtype", "float32"]
    status, tuned, _ = command(capsys, "train", parts, "--loss", "dft", "--data", "rewritten", *training)
    assert tuned["last"] == summary["train"]["dr-dft"]["last"]
    options = ["--benchmark", bench, "--limit", "6", "--k", "2", "--max-tokens", "100"]
    model = f"{parts}/checkpoints/dr-dft"
    status, scores, _ = command(capsys, "evaluate", "--model", model, *options, "--out", parts)
    assert scores == summary["evaluate"]["dr-dft"]
    status, base, _ = command(capsys, "evaluate", "--out", parts)
    assert base == summary["evaluate"]["base"]
    assert command(capsys, "report", parts)[0] == 0


def test_a_file_of_ready_made_rows_can_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert command(capsys, "run", str(recipe(tmp_path, train={"runs": []})), "--out", out)[0] == 0
    rows = [
        {"messages": [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "\\boxed{2}"}]},
        {"prompt": "1 + 2", "response": "\\boxed{3}"},
        {"prompt": [{"role": "user", "content": "2 + 2"}], "completion": [{"role": "assistant", "content": "4"}]},
        {"prompt": "no response"},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n{torn", encoding="utf-8")
    status, summary, _ = command(capsys, "train", out, "--loss", "sft", "--data", str(file))
    assert (status, summary["name"], summary["rows"]) == (0, "mine-sft", 3)
    assert summary["rejected"] == {"no_conversation": 1, "broken_line": 1}


def test_what_a_later_stage_needs_is_checked_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    for change, named in (
        ({"evaluate": {"benchmark": ["./nowhere.jsonl"]}}, "nowhere.jsonl"),
        ({"evaluate": {"engine_args": {"batch_siz": 3}}}, "batch_size"),
        ({"evaluate": {"grader": "maths"}}, "maths"),
        ({"rewrite": {"grader": "qwen"}}, "force-grader"),
        ({"train": {"runs": ["sft:./nowhere.jsonl"]}}, "nowhere.jsonl"),
        ({"train": {"runs": ["sftt"]}}, "sftt"),
        ({"train": {"runs": ["sft:expertt"]}}, "expert"),
        ({"train": {"runs": ["sft:"]}}, "LOSS:MIX"),
        ({"train": {"runs": ["dfft:expert"]}}, "did you mean dft"),
        ({"train": {"runs": ["dft,powr=2:expert"]}}, "power"),
        ({"train": {"rounds": 4}}, "online"),
        ({"train": {"keep": "best"}}, "holdout"),
        ({"train": {"report_to": ["tensorbord"]}}, "tensorboard"),
    ):
        status, summary, err = command(capsys, "run", str(recipe(tmp_path, **change)), "--out", out)
        assert (status, summary) == (2, None)
        assert named in err
        assert err.count("\n") == 1
    assert not (tmp_path / "run" / "journal.sqlite").exists()


def test_an_evaluation_finds_the_verdicts_of_samples_graded_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bench = str(tmp_path / "run"), str(TINY / "data/bench-1.jsonl")
    sizes = ["--benchmark", bench, "--limit", "6", "--k", "2", "--max-tokens", "100"]
    _, scores, _ = command(capsys, "evaluate", "--model", str(TINY / "policy"), *sizes, "--out", out)
    status, again, _ = command(capsys, "grade", out, "--grader", "qwen")
    assert status == 0
    graded = again["rungs"]["bench-1"]
    assert graded["samples"] == graded["compared"] == 12
    assert graded["correct_before"] == round(12 * scores["average"] / 100)
    before = verdicts(tmp_path / "run")
    assert len(before) == 24
    status, other, err = command(capsys, "evaluate", "--grader", "qwen", "--out", out)
    assert (status, other["grader"]) == (0, again["graders"]["evaluate"])
    assert "nothing to do" not in err
    assert round(12 * other["average"] / 100) == graded["correct"]
    assert verdicts(tmp_path / "run") == before


def test_every_flag_of_a_run_reaches_its_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (TINY / "data/valid.jsonl").read_text(encoding="utf-8").splitlines()[:6]
    (tmp_path / "other.jsonl").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--data.path", str(tmp_path / "other.jsonl"), "--rewrite.k", "1", "--train.runs", "sft", "dft"]
    changed = recipe(tmp_path, evaluate={"benchmark": []}, train={"runs": []})
    status, summary, _ = command(capsys, "run", str(changed), "--out", str(tmp_path / "run"), *flags)
    assert status == 0
    assert summary["rewrite"]["problems"] == summary["rewrite"]["samples"]["self"] == 6
    assert summary["train"].keys() == {"sft", "dft"}


def test_a_checkpoint_of_replaced_data_does_not_stand_for_its_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    path = str(recipe(tmp_path, train={"runs": ["dr-dft"]}))
    assert command(capsys, "run", path, "--out", out)[0] == 0
    assert command(capsys, "rewrite", "--k", "1", "--out", out)[0] == 0
    tuned = ["evaluate", "--model", f"{out}/checkpoints/dr-dft", "--out", out]
    status, _, err = command(capsys, *tuned)
    assert status == 2
    assert "has been replaced" in err
    assert command(capsys, *tuned, "--name", "old")[0] == 0
    assert command(capsys, "report", out)[0] == 0
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "Left out, since what they rest on has been replaced: evaluate/dr-dft, gap, train/dr-dft." in page


def test_a_restart_does_not_discard_what_the_new_run_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    path = str(recipe(tmp_path, train={"runs": ["sft"]}, evaluate={"benchmark": []}))
    assert command(capsys, "run", path, "--out", str(out))[0] == 0
    model = str(out / "checkpoints" / "sft")
    status, _, err = command(capsys, "rewrite", "--model", model, "--out", str(out), "--restart")
    assert status == 2
    assert "which this run needs" in err
    assert (out / "checkpoints" / "sft" / "model.safetensors").is_file()
    assert (out / "journal.sqlite").is_file()


def test_a_refused_request_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = recipe(tmp_path, rewrite={"engine_args": {"dtype": "fp16"}})
    status, _, err = command(capsys, "run", str(changed), "--out", str(tmp_path / "run"))
    assert status == 2
    assert "fp16" in err
    assert not (tmp_path / "run").exists()


def test_a_model_that_changed_since_the_rewriting_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = Path(shutil.copytree(TINY / "policy", tmp_path / "policy"))
    out = str(tmp_path / "run")
    changed = recipe(tmp_path, policy={"model": "./policy"}, train={"runs": []}, evaluate={"benchmark": []})
    assert command(capsys, "run", str(changed), "--out", out)[0] == 0
    config = policy / "tokenizer_config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    for stage in (["gap", out], ["train", out, "--loss", "sft", "--data", "expert"]):
        status, _, err = command(capsys, *stage)
        assert status == 2
        assert "is not the model" in err


def test_recorded_rows_that_are_too_long_are_rejected_where_a_model_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"problem": f"{i} + 1?", "solution": f"\\boxed{{{i + 1}}}" + " so" * 50 * i, "candidates": ["\\boxed{9}"]}
        for i in range(2)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sizes = ["--data", str(data), "--engine", "recorded", "--max-length", "60"]
    _, summary, _ = command(capsys, "rewrite", *sizes, "--out", str(tmp_path / "a"))
    assert (summary["problems"], summary["rejected"]) == (2, {})
    model = ["--model", str(TINY / "policy")]
    _, summary, _ = command(capsys, "rewrite", *sizes, *model, "--out", str(tmp_path / "b"))
    assert (summary["problems"], summary["rejected"]) == (1, {"overlong": 1})
    _, summary, _ = command(capsys, "train", str(tmp_path / "a"), *model, "--loss", "sft", "--data", "rewritten")
    assert (summary["rows"], summary["rejected"]) == (1, {"overlong": 1})


def samples(folder: Path) -> dict[str, tuple[Any, ...]]:
    with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as db:
        made = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'samples'").fetchone()
        return {row[0]: row[1:] for row in db.execute("SELECT * FROM samples")} if made[0] else {}


def verdicts(folder: Path) -> set[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as db:
        return set(db.execute("SELECT * FROM verdicts"))


@pytest.mark.timeout(600)
def test_a_killed_rewriting_goes_on_and_draws_nothing_again(tmp_path: Path) -> None:
    arguments = [
        sys.executable, "-m", "retell", "rewrite", "--model", str(TINY / "policy"), "--data",
        str(TINY / "data/train.jsonl"), "--limit", "150", "--k", "4", "--max-tokens", "100", "--guided-template",
        str(TINY / "guided.txt"), "--engine-args.batch-size", "16", "--out", str(tmp_path), "--json",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    luck = random.Random(0)
    stored: dict[str, tuple[Any, ...]] = {}
    grown = 0
    for _ in range(4):
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if (tmp_path / "journal.sqlite").is_file() and len(samples(tmp_path)) > len(stored) + luck.randrange(40):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = samples(tmp_path)
        assert {key: now[key] for key in stored} == stored
        grown += len(now) > len(stored)
        stored = now
    assert grown >= 3
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    final = samples(tmp_path)
    assert {key: final[key] for key in stored} == stored
    summary = json.loads(done.stdout)
    assert summary["problems"] == sum(summary["rungs"].values()) == 150
    rows = pq.read_table(tmp_path / "rewritten.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == 150
    assert sum(summary["samples"].values()) == len(final)


class Faulty(ScriptedEngine):
    """Fails on the first problems it is asked for, as long as it is ``down``."""

    down = True

    def __init__(self) -> None:
        super().__init__(self._say)

    def _say(self, request: Request, _: object) -> Completion:
        if self.down and request.problem.startswith(("train-0000", "train-0001")):
            return Completion("", None, None, "error", error="timeout")
        return Completion("I count \\boxed{1}", (1, 2, 3), None, "stop")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    engine = Faulty()
    monkeypatch.setattr(steps, "open_engine_of", lambda *_: engine)
    return engine


def test_what_the_engine_failed_on_is_tried_again_and_what_rests_on_the_rest_stays_till_it_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], faulty: Faulty
) -> None:
    given, out = str(recipe(tmp_path, train={"runs": []}, evaluate={"benchmark": []})), str(tmp_path / "run")
    status, first, err = command(capsys, "run", given, "--out", out)
    assert status == 0
    failed = first["rewrite"]["failed"]
    assert failed > 0 and f"failed on {failed}" in err
    assert first["rewrite"]["rejected"] == {"engine_failed": failed}
    _, again, err = command(capsys, "run", given, "--out", out)
    assert again["rewrite"]["failed"] == failed and err.count("nothing to do") == 1  # the gap
    faulty.down = False
    _, mended, err = command(capsys, "run", given, "--out", out)
    assert mended["rewrite"]["failed"] == 0 and "nothing to do" not in err
    assert mended["rewrite"]["problems"] == first["rewrite"]["problems"] + failed == 24
    _, _, err = command(capsys, "run", given, "--out", out)
    assert err.count("nothing to do") == 2


def test_budgets_of_both_stages_stop_their_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], faulty: Faulty
) -> None:
    faulty.down = False
    given, out = str(recipe(tmp_path, train={"runs": []})), str(tmp_path / "run")
    status, _, err = command(capsys, "run", given, "--out", out, "--rewrite.max-tokens-total", "30")
    assert status == 130 and "max_tokens_total = 30" in err
    status, _, err = command(capsys, "run", given, "--out", out, "--evaluate.max-tokens-total", "10")
    assert status == 130 and "max_tokens_total = 10" in err
    assert (tmp_path / "run" / "gap.json").exists()
    assert command(capsys, "run", given, "--out", out)[0] == 0


@pytest.mark.parametrize("argument", ["dtype", "quantization", "kv-cache-dtype", "served-model"])
def test_another_precision_or_served_model_is_another_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], faulty: Faulty, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.setattr(pipeline, "check_engine", lambda *_: None)
    faulty.down = False
    given, out = str(recipe(tmp_path, train={"runs": []}, evaluate={"benchmark": []})), str(tmp_path / "run")
    assert command(capsys, "run", given, "--out", out)[0] == 0
    status, _, err = command(capsys, "run", given, "--out", out, f"--rewrite.engine-args.{argument}", "float16")
    assert status == 2
    assert f"another {argument.replace('-', '_' if argument.startswith('kv') else ' ')}" in err


LEAKED = "A train leaves at nine and travels 60 miles an hour for 3 hours: how far does it get in all?"


def with_a_benchmark(folder: Path) -> tuple[list[str], Path]:
    """A rewriting of four problems, of which one is a benchmark's, and that benchmark."""
    rows = [{"id": str(i), "problem": f"What is {i} + 1?", "solution": f"\\boxed{{{i + 1}}}"} for i in range(3)]
    rows.append({"id": "leaked", "problem": LEAKED.upper(), "solution": "\\boxed{180}"})
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({**row, "candidates": ["?"]}) + "\n" for row in rows), encoding="utf-8")
    bench = folder / "exam.jsonl"
    exam = [{"id": "e0", "problem": LEAKED, "answer": "180"}, {"id": "e1", "problem": "What is 9 + 9?", "answer": "18"}]
    bench.write_text("".join(json.dumps(row) + "\n" for row in exam), encoding="utf-8")
    rewriting = ["rewrite", "--engine", "recorded", "--data", str(data), "--out", str(folder / "run")]
    return [*rewriting, "--against", str(bench)], bench


def test_benchmark_problems_in_the_data_are_reported_and_dropped_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewriting, _ = with_a_benchmark(tmp_path)
    out = tmp_path / "run"
    status, summary, err = command(capsys, *rewriting)
    assert status == 0 and sum(summary["rungs"].values()) == 4
    assert "exam: 1 of 2 problems overlap 1 training problems (1 equal one)" in err
    assert json.loads((out / "contamination.json").read_text(encoding="utf-8")) == {
        "benchmarks": {
            "exam": {"problems": 2, "known": 1, "equal": 1, "training_problems": 1, "dropped": False},
        },
        "overlaps": [{"id": "leaked", "benchmark": "exam", "benchmark_id": "e0", "share": 1.0}],
    }
    status, summary, _ = command(capsys, *rewriting, "--overlap", "drop")
    assert status == 0 and summary["rejected"] == {"contaminated": 1}
    assert sum(summary["rungs"].values()) == 3
    [rejected] = (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(rejected)["id"] == "leaked" and "100% of exam e0" in rejected
    assert set(pq.read_table(out / "rewritten.parquet").column("id").to_pylist()) == {"0", "1", "2"}
    status, again, err = command(capsys, *rewriting, "--overlap", "drop")
    assert (status, again) == (0, summary) and "nothing to do" in err
    assert contamination(out)["benchmarks"]["exam"]["dropped"]
    status, _, err = command(capsys, *rewriting, "--overlap", "report", "--restart")
    assert status == 0 and not contamination(out)["benchmarks"]["exam"]["dropped"]
    assert "overlap training problems: exam 1 of 2 (1 equal)" in page(out)


def contamination(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "contamination.json").read_text(encoding="utf-8"))
    return found


def page(out: Path) -> str:
    assert main(["report", str(out)]) == 0
    return (out / "report.md").read_text(encoding="utf-8")


def test_what_is_looked_for_later_is_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewriting, bench = with_a_benchmark(tmp_path)
    out = tmp_path / "run"
    assert command(capsys, *rewriting[:-2])[0] == 0
    assert not (out / "contamination.json").exists()
    status, _, err = command(capsys, *rewriting)
    assert status == 0 and "nothing to do" in err
    assert contamination(out)["benchmarks"]["exam"]["known"] == 1
    shutil.copy(bench, tmp_path / "other.jsonl")
    evaluating = ["evaluate", "--benchmark", str(tmp_path / "other.jsonl"), "--limit", "1", "--k", "1"]
    evaluating += ["--max-tokens", "4", "--out", str(out), "--model", str(TINY / "policy")]
    assert command(capsys, *evaluating)[0] == 0
    assert {name: one["problems"] for name, one in contamination(out)["benchmarks"].items()} == {"exam": 2, "other": 2}
    assert [overlap["benchmark"] for overlap in contamination(out)["overlaps"]] == ["exam", "other"]


def test_an_online_run_leaves_out_what_is_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    bench = tmp_path / "exam.jsonl"
    lines = (TINY / "data/train.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    bench.write_text("\n".join(lines), encoding="utf-8")
    online = {"runs": ["dft:online"], "rounds": 2, "batch_size": 4}
    evaluation = {"benchmark": [str(bench)], "limit": 1, "k": 1}
    path = recipe(tmp_path, data={"overlap": "drop", "limit": 16}, train=online, evaluate=evaluation)
    status, summary, _ = command(capsys, "run", str(path), "--out", str(out))
    assert status == 0
    # All three of the benchmark, though one is evaluated.
    assert summary["rewrite"]["rejected"] == {"contaminated": 3}
    assert summary["train"]["online-dft"]["rows"] == 13


def test_a_drop_does_not_pretend_to_reach_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench, own = str(TINY / "data/bench-1.jsonl"), f"sft:{TINY / 'data/valid.jsonl'}"
    path = recipe(tmp_path, data={"overlap": "drop"}, train={"runs": [own]}, evaluate={"benchmark": [bench]})
    status, _, err = command(capsys, "run", str(path), "--out", str(tmp_path / "run"))
    assert status == 2 and "does not reach the rows of" in err and "valid.jsonl" in err
    rewriting, _ = with_a_benchmark(tmp_path)
    assert command(capsys, *rewriting, "--overlap", "drop")[0] == 0
    training = ["train", str(tmp_path / "run"), "--loss", "sft", "--data", str(TINY / "data/valid.jsonl")]
    status, _, err = command(capsys, *training, "--model", str(TINY / "policy"))
    assert status == 2 and "does not reach the rows of" in err


def test_an_evaluation_says_what_its_run_was_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewriting, bench = with_a_benchmark(tmp_path)
    assert command(capsys, *rewriting[:-2])[0] == 0
    assert not (tmp_path / "run/contamination.json").exists()
    evaluating = [
        "evaluate",
        "--benchmark",
        str(bench),
        "--k",
        "1",
        "--max-tokens",
        "4",
        "--out",
        str(tmp_path / "run"),
    ]
    status, _, err = command(capsys, *evaluating, "--model", str(TINY / "policy"))
    assert status == 0
    assert "exam: 1 of 2 problems overlap 1 training problems" in err
    assert (tmp_path / "run/contamination.json").is_file()


def test_a_drop_that_cannot_be_meant_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewriting, bench = with_a_benchmark(tmp_path)
    status, _, err = command(capsys, *rewriting[:-2], "--overlap", "drop")
    assert status == 2 and "data.overlap = 'drop' needs benchmarks" in err
    shutil.copy(tmp_path / "data.jsonl", bench)
    status, _, err = command(capsys, *rewriting, "--overlap", "drop")
    assert status == 2 and "nothing is left to train on" in err
