"""What a dry run says, against what a run comes to; nothing here draws or trains but the run that is compared with."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import retell
from retell import pipeline
from retell.drawing import open_policy
from retell.dryrun import inputs
from retell.dryrun.footprint import Weights, of_gap, of_journal, weights_in
from retell.dryrun.forecast import Forecast, Step, forecast, summarise
from retell.dryrun.lengths import LOOKED_AT, by_characters, extrapolated, some_of
from retell.dryrun.offline import offline
from retell.dryrun.spans import times, total
from retell.recipe import Recipe, load_recipe
from retell.records import Problem
from retell.runfolder import RunFolder
from retell.schedule import held_out

TINY = Path(retell.__file__).parent / "tiny"
HUB = {"policy": {"model": "somebody/model"}, "data": {"path": "somebody/data"}}


def recipe(**changes: dict[str, Any]) -> Recipe:
    document: dict[str, dict[str, Any]] = {
        "policy": {"model": str(TINY / "policy")},
        "data": {"path": str(TINY / "data/train.jsonl"), "limit": 24, "max_length": 320},
        "rewrite": {"k": 2, "max_tokens": 100, "guided_template": str(TINY / "guided.txt")},
        "train": {"runs": ["sft", "dr-dft"], "batch_size": 8, "learning_rate": 3e-4, "dtype": "float32"},
        "evaluate": {"benchmark": [str(TINY / "data/bench-1.jsonl")], "limit": 6, "k": 2, "max_tokens": 100},
    }
    for section, keys in changes.items():
        document.setdefault(section, {}).update(keys)
    return Recipe.model_validate(document)


def steps(found: Forecast) -> dict[str, Step]:
    """By name; what an online training draws is ``NAME rounds``."""
    return {one.stage if one.stage.startswith(one.kind) else f"{one.stage} rounds": one for one in found.steps}


def states(found: Forecast, state: str) -> dict[str, str]:
    """What the checks in a state say."""
    return {check.what: check.says for check in found.checks if check.state == state}


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with sizes and times."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changed_policy(folder: Path) -> Path:
    """The packaged policy with another fingerprint."""
    other = Path(shutil.copytree(TINY / "policy", folder / "policy"))
    (other / "generation_config.json").write_text("{}", encoding="utf-8")
    return other


@pytest.fixture(autouse=True)
def _without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test, and nothing tested, may be lucky to have a network."""

    def refuse(*_: object) -> None:
        raise AssertionError("something was asked of the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# --- Against what a run comes to ---


def test_the_demo_can_run_and_what_it_comes_to(tmp_path: Path) -> None:
    found = forecast(load_recipe(TINY / "demo.toml"), tmp_path / "run")
    assert states(found, "wrong") == states(found, "unknown") == {}
    names = ["sft", "dft", "dr-sft", "dr-dft", "self-dft", "guided-dft"]
    assert [step.stage for step in found.steps] == [
        "rewrite",
        "gap",
        *(f"train/{name}" for name in names),
        "evaluate/base",
        *(f"evaluate/{name}" for name in names),
        "report",
    ]
    by_name = steps(found)
    assert by_name["rewrite"].samples == (2048, 2048 * 16)
    assert (by_name["train/dft"].rows, by_name["train/dft"].updates) == ((2048, 2048), (64, 64))
    assert by_name["evaluate/dft"].samples == (4000, 4000)
    assert by_name["evaluate/dft"].tokens_at_most == 4000 * 128
    assert summarise(found)["total"]["samples"] == (2048 + 7 * 4000, 2048 * 16 + 7 * 4000)
    assert all(step.rests_on for step in found.steps if step.stage != "report")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A real run of the small recipe, and its summary."""
    out = tmp_path_factory.mktemp("done") / "run"
    with RunFolder(out) as folder:
        return out, pipeline.run(recipe(train={"holdout": 0.2}), folder)


def test_a_run_comes_to_what_was_forecast(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    found = steps(forecast(recipe(train={"holdout": 0.2})))
    drawn = sum(summary["rewrite"]["samples"].values())
    fewest, most = found["rewrite"].samples or (0, 0)
    assert (fewest, most) == (24, 96)
    assert fewest <= drawn <= most
    assert summary["rewrite"]["tokens"]["generated"] <= (found["rewrite"].tokens_at_most or 0)
    for name, trained in summary["train"].items():
        step = found[f"train/{name}"]
        held = sum(1 for line in (out / f"checkpoints/{name}/metrics.jsonl").read_text().splitlines() if "loss" in line)
        assert step.updates == (trained["updates"], trained["updates"]) == (held, held)
        assert trained["tokens"] < (step.tokens_at_most or 0)
        size = (out / f"checkpoints/{name}/model.safetensors").stat().st_size
        assert step.disk_bytes == (size, size)
    for name, evaluated in summary["evaluate"].items():
        n = sum(one["n"] for one in evaluated["benchmarks"].values()) * evaluated["k"]
        assert found[f"evaluate/{name}"].samples == (n, n)


def test_a_run_leaves_about_as_many_bytes_as_was_forecast(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    fewest, most = total(step.disk_bytes for step in forecast(recipe(train={"holdout": 0.2})).steps) or (0, 0)
    assert fewest * 0.9 < sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < most * 1.1
    with sqlite3.connect(out / "journal.sqlite") as journal:
        samples, ids = journal.execute("SELECT COUNT(*), SUM(LENGTH(ids)) FROM samples").fetchone()
    fewest, most = of_journal((samples, samples), (ids // 4, ids // 4)) or (0, 0)
    assert fewest < (out / "journal.sqlite").stat().st_size < most
    scored = json.loads((out / "gap.json").read_text(encoding="utf-8"))["all"]
    tokens = scored["expert"]["mean_tokens"] + scored["rewritten"]["mean_tokens"]
    fewest, most = of_gap((24, 24), (tokens, tokens)) or (0, 0)
    metadata = 2_300  # of five columns
    assert fewest < (out / "gap.parquet").stat().st_size < most + metadata


def test_tokens_to_train_on_are_those_of_the_rows() -> None:
    changed = recipe(train={"runs": ["sft"], "epochs": 2})
    policy = open_policy(changed.policy)
    looked = inputs.look(changed)
    assert looked.loaded and looked.prompter
    lengths = [looked.prompter.training_length(one.problem, one.solution) or 0 for one in looked.loaded.problems]
    step = steps(forecast(changed))["train/sft"]
    assert step.tokens == (2 * sum(lengths), 2 * sum(lengths))
    assert step.tokens_at_most == 2 * 24 * 320
    assert looked.fingerprint == policy.fingerprint


def test_what_is_done_is_told_and_not_counted(done: tuple[Path, dict[str, Any]]) -> None:
    out, summary = done
    before = tree(out)
    same = recipe(train={"holdout": 0.2})
    found = forecast(same, out)
    assert [step.stage for step in found.steps if not step.done] == ["report"]
    assert summarise(found)["total"]["samples"] == (0, 0)
    assert not any(step.done for step in forecast(same, out, restart=True).steps)
    slower = forecast(recipe(train={"holdout": 0.2, "learning_rate": 1e-4}), out)
    assert [step.stage for step in slower.steps if step.done] == ["rewrite", "gap", "evaluate/base"]
    more = forecast(recipe(train={"holdout": 0.2, "runs": ["sft", "dft"]}), out)
    assert {step.stage for step in more.steps if not step.done} == {"train/dft", "evaluate/dft", "report"}
    seconds, tokens = summary["rewrite"]["seconds"], summary["rewrite"]["tokens"]["generated"]
    assert found.rates["rewrite"].tokens_per_second == tokens / seconds
    assert "rewrite.json" in found.rates["rewrite"].says
    assert found.rates["evaluate"] == found.rates["rewrite"]
    assert "train" not in found.rates
    assert tree(out) == before


# --- Rates ---


def test_a_given_rate_wins_and_without_one_hours_are_unknown(done: tuple[Path, dict[str, Any]]) -> None:
    out, _ = done
    unknown = forecast(recipe())
    assert {step.hours for step in unknown.steps if step.stage != "report"} == {None}
    assert summarise(unknown)["total"]["hours"] is None
    found = forecast(recipe(), out, generation_rate=10.0, training_rate=20.0)
    assert (found.rates["rewrite"].tokens_per_second, found.rates["rewrite"].says) == (10.0, "as given")
    by_name = steps(found)
    for name, rate in (("rewrite", 10), ("train/sft", 20), ("evaluate/sft", 10)):
        fewest, most = by_name[name].tokens or (0, 0)
        assert by_name[name].hours == (fewest / rate / 3600, most / rate / 3600)
    assert by_name["gap"].hours == (0.0, (by_name["gap"].tokens or (0, 0))[1] / 20 / 3600)
    hours = [step.hours or (0, 0) for step in found.steps]
    assert summarise(forecast(recipe(), generation_rate=10.0, training_rate=20.0))["total"]["hours"] == (
        sum(fewest for fewest, _ in hours),
        sum(most for _, most in hours),
    )


def test_a_rate_of_another_engine_or_policy_says_nothing(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = done
    assert not forecast(recipe(rewrite={"engine_args": {"batch_size": 3}}), out).rates
    assert "evaluate" not in forecast(recipe(evaluate={"engine_args": {"batch_size": 3}}), out).rates
    assert not forecast(recipe(policy={"model": str(changed_policy(tmp_path))}), out).rates


# --- What cannot be reached ---


def test_a_hub_that_is_not_reached_leaves_unknown_what_only_it_knows(tmp_path: Path) -> None:
    changed = recipe(**HUB, evaluate={"benchmark": ["math500", "olympiadbench", "somebody/bench"], "limit": 600})
    found = forecast(changed, tmp_path)
    unknown = states(found, "unknown")
    assert states(found, "wrong") == {}
    assert {"model", "data", "benchmark math500", "benchmark bench", "disk"} <= unknown.keys()
    for what, fetched in (("model", "somebody/model"), ("data", "somebody/data"), ("benchmark math500", "MATH-500")):
        assert fetched in unknown[what]
        assert "would fetch it" in unknown[what]
    by_name = steps(found)
    assert by_name["rewrite"].samples == (24, 96)  # by data.limit
    assert by_name["rewrite"].tokens is None
    assert by_name["rewrite"].tokens_at_most == 96 * 100
    assert by_name["train/sft"].tokens_at_most == 24 * 320
    assert by_name["train/sft"].disk_bytes is None
    assert by_name["evaluate/base"].samples == (2 * (500 + 600), 2 * (500 + 600 + 600))
    assert any("data.limit" in said for said in by_name["rewrite"].rests_on)
    assert summarise(found)["total"]["disk_bytes"] is None


def test_nothing_at_all_may_be_known() -> None:
    changed = recipe(**HUB, evaluate={"benchmark": ["somebody/bench"]}).model_dump()
    changed["data"]["limit"] = changed["evaluate"]["limit"] = None
    by_name = steps(forecast(Recipe.model_validate(changed), generation_rate=1.0))
    for name in ("rewrite", "evaluate/sft"):
        step = by_name[name]
        assert (step.samples, step.tokens, step.tokens_at_most, step.hours) == (None, None, None, None)
    assert (by_name["train/sft"].rows, by_name["train/sft"].updates) == (None, None)


def test_a_dry_run_is_made_where_the_hub_is_forbidden_and_unknown(tmp_path: Path) -> None:
    lines = (TINY / "demo.toml").read_text(encoding="utf-8").replace("./", f"{TINY}/")
    lines = lines.replace(f'"{TINY}/policy"', '"somebody/model"').replace(f'"{TINY}/data/train.jsonl"', '"some/data"')
    (tmp_path / "recipe.toml").write_text(lines, encoding="utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "retell", "run", str(tmp_path / "recipe.toml"), "--dry-run", "--json"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    unknown = {check["what"] for check in json.loads(made.stdout)["checks"] if check["state"] == "unknown"}
    assert unknown == {"model", "data", "disk"}
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.toml"]


def test_a_model_in_the_cache_of_the_hub_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "models--somebody--model"
    shutil.copytree(TINY / "policy", kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = forecast(recipe(policy={"model": "somebody/model"}))
    assert "snapshots/abc" in states(found, "ok")["model"]
    assert steps(found)["train/sft"].disk_bytes == (1_338_224, 1_338_224)


def test_the_hub_may_be_asked_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with offline():
        assert constants.is_offline_mode()
        assert datasets.config.HF_HUB_OFFLINE
    assert not constants.is_offline_mode()
    assert not datasets.config.HF_HUB_OFFLINE


# --- What is wrong ---


WRONG: list[tuple[dict[str, dict[str, Any]], str, str]] = [
    ({"policy": {"model": "/nowhere/model"}}, "model", "/nowhere/model"),
    ({"policy": {"model": "no such/na me"}}, "model", "na me"),
    ({"policy": {"model": None}}, "model", "no policy named"),
    ({"policy": {"template": "plane"}}, "prompts", "plane"),
    ({"policy": {"system": "A", "template": "qwen-boxed"}}, "prompts", "system"),
    ({"data": {"path": "nowhere.jsonl"}}, "data", "nowhere.jsonl"),
    ({"data": {"path": None}}, "data", "no data named"),
    ({"data": {"problem_field": "question"}}, "data", "missing_problem"),
    ({"data": {"max_length": 20}}, "rows", "overlong"),
    ({"data": {"against": ["nowhere.jsonl"]}}, "against nowhere", "nowhere.jsonl"),
    ({"data": {"overlap": "drop"}, "evaluate": {"benchmark": []}}, "against", "data.against"),
    ({"rewrite": {"guided_template": "plain"}}, "prompts", "{solution}"),
    ({"rewrite": {"grader": "qwen"}}, "rewrite grader", "force-grader"),
    ({"rewrite": {"grader": "maths"}}, "rewrite grader", "maths"),
    ({"rewrite": {"engine_args": {"batch_siz": 3}}}, "rewrite engine", "batch_size"),
    ({"rewrite": {"engine": "server"}}, "rewrite engine", "base-url"),
    ({"rewrite": {"engine": "server", "base_url": ["ftp://here"]}}, "rewrite engine", "ftp://here"),
    ({"rewrite": {"engine": "recorded"}}, "rewrite engine", "candidates"),
    ({"evaluate": {"benchmark": ["nowhere.jsonl"]}}, "benchmark nowhere", "nowhere.jsonl"),
    ({"evaluate": {"benchmark": ["aime24"], "data_dir": str(TINY)}}, "benchmark aime24", "no copy of aime24"),
    ({"evaluate": {"engine_args": {"dtype": "fp16"}}}, "evaluate engine", "fp16"),
    ({"evaluate": {"grader": "maths"}}, "evaluate grader", "maths"),
    ({"evaluate": {"prompt": "guided.txt"}}, "prompts", "guided.txt"),
    ({"evaluate": {"engine": "server", "base_url": ["http://a:1"]}}, "recipe", "cannot evaluate what this run trains"),
    ({"evaluate": {"benchmark": [str(TINY / "data/bench-1.jsonl")] * 2}}, "recipe", "two benchmarks"),
    ({"train": {"runs": ["sftt"]}}, "run sftt", "sftt"),
    ({"train": {"runs": ["dfft:expert"]}}, "run dfft:expert", "did you mean dft"),
    ({"train": {"runs": ["dft,powr=2:expert"]}}, "run dft,powr=2:expert", "powr"),
    ({"train": {"runs": ["sft:nowhere.jsonl"]}}, "run sft:nowhere.jsonl", "nowhere.jsonl"),
    ({"train": {"runs": ["is:expert"]}}, "run is:expert", "others=dft"),
    ({"train": {"runs": ["dft:online"]}}, "run dft:online", "train.rounds"),
    ({"train": {"runs": ["sft", "sft:expert"]}}, "recipe", "two of train.runs"),
    ({"train": {"rounds": 4}}, "recipe", "online"),
    ({"train": {"keep": "best"}}, "run sft", "holdout"),
    ({"train": {"report_to": ["tensorbord"]}}, "run sft", "tensorboard"),
    ({"train": {"lora_targets": ["q_proj"]}}, "run sft", "lora_rank"),
    ({"train": {"launch": "nowhere.yaml"}}, "run sft", "nowhere.yaml"),
]


@pytest.mark.parametrize(("change", "what", "says"), WRONG, ids=[f"{what}-{says}" for _, what, says in WRONG])
def test_what_is_wrong_is_named(change: dict[str, dict[str, Any]], what: str, says: str) -> None:
    wrong = states(forecast(recipe(**change)), "wrong")
    assert says in wrong[what]
    assert all("Error:" not in said for said in wrong.values())  # each was foreseen
    assert ("recipe" in wrong) == (what == "recipe")  # and is told once


def test_one_wrong_input_hides_no_other() -> None:
    found = forecast(
        recipe(
            policy={"model": "/nowhere", "template": "plane"},
            data={"path": "nowhere.jsonl"},
            rewrite={"grader": "maths", "engine_args": {"a": 1}},
            train={"runs": ["sftt", "dft", "psft,eps=no:expert"]},
            evaluate={"benchmark": ["gone.jsonl"], "grader": "maths", "engine_args": {"b": 1}},
        )
    )
    assert states(found, "wrong").keys() == {
        "model",
        "prompts",
        "benchmark gone",
        "data",
        "rewrite engine",
        "rewrite grader",
        "run sftt",
        "run psft,eps=no:expert",
        "evaluate engine",
        "evaluate grader",
    }
    assert states(found, "ok").keys() >= {"run dft", "charts"}
    assert "train/dft" in steps(found)


@pytest.mark.parametrize("name", ["peft", "plotly", "datasets"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    changed = recipe(train={"lora_rank": 2}, data={"path": "somebody/data"})
    monkeypatch.setitem(sys.modules, name, None)
    found = {"peft": "retell.train", "plotly": "retell.dryrun.inputs", "datasets": "retell.dryrun.offline"}[name]
    monkeypatch.setattr(f"{found}.find_spec", lambda asked: None if asked == name else object())
    if name == "plotly":
        monkeypatch.setattr(pipeline, "find_spec", lambda asked: None)
    wrong = states(forecast(changed), "wrong")
    assert {f"{name} is not installed" in said for said in wrong.values()} == {True}
    assert wrong.keys() == {"peft": {"run sft", "run dr-dft"}, "plotly": {"charts"}, "datasets": {"data"}}[name]


def test_an_unforeseen_error_of_a_check_is_told_with_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(inputs, "load_problems", fail)
    found = forecast(recipe())
    assert states(found, "wrong") == {"data": "ZeroDivisionError: by nothing"}
    assert found.checks[-1].what == "disk"


def test_a_model_that_lacks_a_file_or_its_weights(tmp_path: Path) -> None:
    model = Path(shutil.copytree(TINY / "policy", tmp_path / "policy"))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    changed = recipe(policy={"model": str(model)})
    found = forecast(changed)
    assert "lacks model-1.safetensors" in states(found, "wrong")["model"]
    assert "tokenizer" in states(found, "ok")
    (model / "model.safetensors.index.json").unlink()
    (model / "model.safetensors").unlink()
    assert "holds no weights" in states(forecast(changed), "wrong")["model"]
    (model / "tokenizer.json").unlink()
    assert states(forecast(changed), "wrong").keys() == {"model", "tokenizer"}


def test_layers_that_the_engine_cannot_sample_are_found_before(tmp_path: Path) -> None:
    model = Path(shutil.copytree(TINY / "policy", tmp_path / "policy"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 8}
    config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    wrong = states(forecast(recipe(policy={"model": str(model)})), "wrong")
    assert "full attention" in wrong["rewrite engine"]
    assert "full attention" in wrong["evaluate engine"]


def test_a_server_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = forecast(recipe(rewrite={"engine": "server", "base_url": ["http://127.0.0.1:9"]}))
    assert states(found, "wrong") == {}
    assert "http://127.0.0.1:9/v1" in states(found, "unknown")["rewrite server"]


def test_rows_without_logprobs_may_stop_a_loss_that_needs_them() -> None:
    unknown = states(forecast(recipe(train={"runs": ["is:rewritten", "is,others=dft:rewritten"]})), "unknown")
    assert "is,others=dft" in unknown["run is:rewritten"]
    assert "run is,others=dft:rewritten" not in unknown


# --- Nothing is done ---


def test_nothing_is_written_drawn_or_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("that is for a run")

    for name in ("load_model", "open_engine_of", "GraderPool"):
        monkeypatch.setattr(pipeline, name, refuse)
    for name in ("open_engine_of", "Crew", "GraderPool", "Journal", "open_store"):
        monkeypatch.setattr(f"retell.steps.{name}", refuse)
    monkeypatch.setattr(RunFolder, "__enter__", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    before = tree(tmp_path), tree(TINY / "data")
    for out in (None, Path("there"), Path("not/there/yet"), tmp_path / "there"):
        found = forecast(recipe(), out)
        assert states(found, "wrong") == {}
        json.dumps(summarise(found))
    assert (tree(tmp_path), tree(TINY / "data")) == before


# --- Disk ---


def test_room_on_the_disk_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fewest, most = summarise(forecast(recipe()))["total"]["disk_bytes"]
    for free, state in ((fewest - 1, "wrong"), (fewest, "unknown"), (most - 1, "unknown"), (most, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        check = forecast(recipe(), tmp_path / "not" / "there").checks[-1]
        assert (check.what, check.state) == ("disk", state)
        assert str(tmp_path) in check.says
    unknown = recipe(policy={"model": "somebody/model"})
    assert forecast(unknown, tmp_path).checks[-1].state == "unknown"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert forecast(unknown, tmp_path).checks[-1].state == "wrong"


def test_a_run_folder_that_cannot_be_one(tmp_path: Path) -> None:
    file = write(tmp_path / "file", [])
    wrong = states(forecast(recipe(), file / "run"), "wrong")
    assert wrong.keys() == {"out"}
    assert str(file) in wrong["out"]
    assert "name too long" in states(forecast(recipe(), tmp_path / ("a" * 300)), "wrong")["out"]


def test_a_folder_that_holds_another_run(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = done
    for change, named in (
        (recipe(rewrite={"temperature": 0.5}), "temperature"),
        (recipe(data={"limit": 23}), "data"),
        (recipe(policy={"model": str(changed_policy(tmp_path))}), "policy"),
    ):
        assert f"another {named}" in states(forecast(change, out), "wrong")["out"]
        assert states(forecast(change, out, restart=True), "wrong") == {}
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    assert "manifest.json" in states(forecast(recipe(), tmp_path), "wrong")["out"]


def test_what_is_there_to_go_on_from_counts_while_it_is_there() -> None:
    parameters = 333_504

    def passing(**train: Any) -> int | None:
        return steps(forecast(recipe(train={"runs": ["sft"], **train})))["train/sft"].passing_bytes

    assert passing() == 0  # three updates, and a checkpoint every fifty
    assert passing(save_every=2) == 12 * parameters
    assert passing(save_every=1) == 2 * 12 * parameters
    assert passing(save_every=1, holdout=0.1) == 3 * 12 * parameters


def test_adapters_are_counted_as_they_are_made() -> None:
    from peft import LoraConfig, get_peft_model

    from retell.policy import load_model

    weights = weights_in([TINY / "policy/model.safetensors"])
    for layers in ((), ("q_proj", "v_proj")):
        model = load_model(TINY / "policy", "auto", "cpu", False)
        assert weights.parameters == sum(one.numel() for one in model.parameters())
        config = LoraConfig(r=4, target_modules=list(layers) or "all-linear", task_type="CAUSAL_LM")
        adapted, _ = get_peft_model(model, config).get_nb_trainable_parameters()
        assert weights.adapters(4, layers) == adapted
    step = steps(forecast(recipe(train={"runs": ["sft"], "lora_rank": 4, "save_every": 2})))["train/sft"]
    adapters = weights.adapters(4)
    assert step.disk_bytes == (1_338_224 + 4 * adapters,) * 2
    assert step.passing_bytes == 12 * adapters


# --- Counting ---


def test_every_problem_may_take_all_samples_at_once() -> None:
    assert steps(forecast(recipe(rewrite={"exhaustive": True})))["rewrite"].samples == (24 * 2, 24 * 4)


def test_rows_held_out_are_not_counted() -> None:
    changed = recipe(train={"runs": ["sft"], "holdout": 0.5, "seed": 1})
    looked = inputs.look(changed)
    assert looked.loaded
    kept = sum(not held_out(problem.id, 0.5, 1) for problem in looked.loaded.problems)
    assert kept != 12
    assert steps(forecast(changed))["train/sft"].rows == (kept, kept)


def test_no_response_is_taken_for_longer_than_it_may_be() -> None:
    step = steps(forecast(recipe(rewrite={"max_tokens": 10})))["rewrite"]
    assert (step.tokens, step.tokens_at_most) == ((24 * 10, 96 * 10), 96 * 10)


def test_recorded_responses_are_counted_and_cost_nothing(tmp_path: Path) -> None:
    row = {"problem": "1 + 1?", "solution": "\\boxed{2}"}
    data = write(tmp_path / "data.jsonl", [row | {"candidates": ["1", "2", "3"]}, row, row | {"candidates": ["2"]}])
    changed = recipe(data={"path": str(data)}, rewrite={"engine": "recorded"})
    step = steps(forecast(changed, generation_rate=1.0))["rewrite"]
    assert (step.samples, step.tokens, step.tokens_at_most, step.hours) == ((4, 4), (0, 0), 0, (0.0, 0.0))


def test_an_online_run_draws_for_the_rounds_after_the_first() -> None:
    changed = recipe(train={"runs": ["dft:online"], "rounds": 3, "batch_size": 4})
    found = forecast(changed)
    by_name = steps(found)
    assert states(found, "wrong") == {}
    assert by_name["train/online-dft rounds"].samples == (16, 16 * 4)
    assert by_name["train/online-dft"].updates == (6, 6)
    assert by_name["train/online-dft"].passing_bytes == 2 * 12 * 333_504 + 1_338_224


def test_a_file_is_counted_and_not_measured(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl", [{"prompt": "1 + 1", "response": "\\boxed{2}"}] * 9)
    step = steps(forecast(recipe(train={"runs": [f"sft:{mine}"]})))["train/mine-sft"]
    assert (step.rows, step.updates, step.tokens, step.tokens_at_most) == ((9, 9), (2, 2), None, 9 * 320)


def test_problems_of_a_benchmark_are_dropped_from_the_count(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (TINY / "data/train.jsonl").read_text(encoding="utf-8").splitlines()[:5]]
    bench = write(tmp_path / "bench.jsonl", rows)
    changed = recipe(data={"overlap": "drop", "limit": 24}, evaluate={"benchmark": [str(bench)]})
    assert steps(forecast(changed))["rewrite"].rows == (19, 19)
    gone = recipe(data={"overlap": "drop", "limit": 5}, evaluate={"benchmark": [str(bench)]})
    assert "nothing is left" in states(forecast(gone), "wrong")["data"]


def test_of_many_rows_some_are_looked_at_and_the_others_are_guessed(tmp_path: Path) -> None:
    rows = [
        {"problem": f"{i} + 1?", "solution": f"\\boxed{{{i + 1}}}" + " so" * (400 if i % 5 == 0 else 0)}
        for i in range(3 * LOOKED_AT)
    ]
    data = write(tmp_path / "data.jsonl", rows)
    found = forecast(recipe(data={"path": str(data), "limit": len(rows)}))
    fewest, most = steps(found)["rewrite"].rows or (0, 0)
    assert fewest < 0.8 * len(rows) < most
    assert fewest > 0.74 * len(rows)
    assert most < 0.86 * len(rows)
    assert "overlong" in states(found, "ok")["rows"]
    said = steps(found)["rewrite"].rests_on[0]
    assert f"{LOOKED_AT:,} of them were tokenised" in said


def test_without_a_tokenizer_characters_bound_the_tokens() -> None:
    problems = [Problem(str(i), "x" * 40, "1", "y" * 80, "") for i in range(3)]
    lengths = by_characters(problems)
    assert (lengths.prompt, lengths.response) == ((10, 20), (20, 40))
    assert lengths.together(prompts=2) == (40, 80)
    real = steps(forecast(recipe()))["train/sft"].tokens or (0, 0)
    guessed = steps(forecast(recipe(policy={"model": "somebody/model"})))["train/sft"].tokens or (0, 0)
    assert guessed[0] < real[0] < guessed[1]


def test_a_share_is_extrapolated_with_its_error() -> None:
    assert extrapolated(7, 10, 10) == (7, 7)
    assert extrapolated(100, 100, 1000) == (1000, 1000)
    assert extrapolated(50, 100, 1000) == (400, 600)
    assert extrapolated(99, 100, 1000)[1] == 1000
    few = tuple(Problem(str(i), "", "", "", "") for i in range(LOOKED_AT * 2 + 1))
    assert len(some_of(few)) <= LOOKED_AT
    assert some_of(few[:LOOKED_AT]) == few[:LOOKED_AT]


def test_ranges_that_are_not_known_stay_unknown() -> None:
    assert times((2, 3), (1.5, 2.5)) == (3, 8)
    assert times(None, (1, 2)) is None
    assert total([(1, 2), (3, 4)]) == (4, 6)
    assert total([(1, 2), None]) is None
    assert Weights(0, {"a.weight": (2, 3), "b": (4,)}).parameters == 10
