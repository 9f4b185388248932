"""`retell rewrite --ray` and `retell evaluate --ray` with the packaged policy."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from team import until

import retell as package
from retell.cli import main

TINY = Path(package.__file__).parent / "tiny"
JUDGE = """
def judge(problem, response, gold):
    return "\\\\boxed{" + gold + "}" in response
"""


def place(folder: Path) -> Path:
    """A folder with a policy, problems and a grader, where commands are given that name them as they stand there."""
    shutil.copytree(TINY / "policy", folder / "policy")
    shutil.copy(TINY / "data" / "train.jsonl", folder)
    shutil.copy(TINY / "data" / "bench-1.jsonl", folder / "one.jsonl")
    shutil.copy(TINY / "data" / "bench-1.jsonl", folder / "two.jsonl")
    (folder / "judges.py").write_text(JUDGE)
    (folder / "prompt.txt").write_text("{problem}\n")
    return folder


def rewriting(*more: str, limit: int = 40) -> list[str]:
    given = {"--model": "policy", "--template": "prompt.txt", "--data": "train.jsonl", "--grader": "judges:judge"}
    given |= {"--limit": str(limit), "--k": "3", "--max-tokens": "30", "--engine-args.device": "cpu"}
    return ["rewrite", *(word for pair in given.items() for word in pair), *more]


def evaluating(*more: str) -> list[str]:
    given = {"--model": "policy", "--template": "prompt.txt", "--k": "2", "--limit": "6", "--max-tokens": "30"}
    return ["evaluate", "--benchmark", "one.jsonl", "two.jsonl", *(w for pair in given.items() for w in pair), *more]


def assert_same_rows(one: Path, other: Path) -> None:
    """But for the last bits of log-probs, which depend on what was drawn beside a sample."""
    mine, theirs = (pq.read_table(path / "rewritten.parquet").to_pylist() for path in (one, other))
    for row in (*mine, *theirs):
        row["behaviour_logprobs"] = np.array(row["behaviour_logprobs"] or [])
    assert len(mine) == len(theirs)
    for row, same in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(row.pop("behaviour_logprobs"), same.pop("behaviour_logprobs"), atol=1e-4)
        assert row == same


def test_a_rewriting_on_a_cluster_is_that_on_one_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of paths that are relative, and with a grader of one's own beside them."""
    monkeypatch.chdir(place(tmp_path))
    assert main(rewriting("--ray", cluster.address, "--workers", "2", "--out", "many", "--json")) == 0
    many = json.loads(capsys.readouterr().out)
    assert main(rewriting("--out", "one", "--json")) == 0
    one = json.loads(capsys.readouterr().out)
    assert_same_rows(tmp_path / "many", tmp_path / "one")
    assert (tmp_path / "many" / "rejected.jsonl").read_text() == (tmp_path / "one" / "rejected.jsonl").read_text()
    for summary in (one, many):
        del summary["seconds"]
    assert one == many
    assert shards(tmp_path / "many") == 2
    # Nothing is left to draw: no worker is opened, and the rows are written again.
    (tmp_path / "many" / "rewritten.parquet").unlink()
    assert main(rewriting("--ray", cluster.address, "--out", "many", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["rungs"] == one["rungs"]
    assert_same_rows(tmp_path / "many", tmp_path / "one")
    # Without --ray it goes on where the samples are.
    assert main(rewriting("--out", "many", "--json")) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main(["grade", "many", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["rungs"]
    assert sum(rung["samples"] for rung in told.values()) == sum(one["samples"].values())
    assert sum(rung["changed"] for rung in told.values()) == 0
    # A restart discards what workers have written, too.
    assert main(rewriting("--restart", "--ray", cluster.address, "--out", "many", "--json", limit=2)) == 0
    assert pq.read_table(tmp_path / "many" / "rewritten.parquet").num_rows == 2
    assert shards(tmp_path / "many") == 1
    assert len(list((tmp_path / "many" / "samples").iterdir())) == 1


def test_an_evaluation_on_a_cluster_is_that_on_one_machine(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two benchmarks whose problems have the same ids."""
    monkeypatch.chdir(place(tmp_path))
    assert main(evaluating("--ray", cluster.address, "--workers", "1", "--out", "many", "--json")) == 0
    many = json.loads(capsys.readouterr().out)
    assert main(evaluating("--out", "one", "--json")) == 0
    assert many == json.loads(capsys.readouterr().out)
    responses = [pq.read_table(tmp_path / name / "eval" / "base.parquet").to_pylist() for name in ("many", "one")]
    assert responses[0] == responses[1]
    assert {row["benchmark"] for row in responses[0]} == {"one", "two"}


def test_an_unreachable_cluster_leaves_nothing_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place(tmp_path))
    unreachable = ("--ray", "127.0.0.1:9")
    assert main(rewriting("--out", "run", *unreachable)) == 2
    assert capsys.readouterr().err.startswith("retell: no Ray cluster answers at 127.0.0.1:9: Connection refused")
    assert not (tmp_path / "run").exists()
    assert main(rewriting("--out", "run", limit=2)) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert main(rewriting("--out", "run", "--restart", *unreachable, limit=2)) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_the_doctor_looks_at_a_cluster(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--ray", cluster.address, "--workers", "2", "--json"]) == 0
    assert said_of_the_cluster(capsys) == ("ok", "1 machine(s) with 2 CPUs and 0 GPUs in all: 2 worker(s) of 1 CPU")
    assert main(["doctor", "--ray", cluster.address]) == 0
    assert "1 machine(s) with 2 CPUs" in capsys.readouterr().out
    assert main(["doctor", "--ray", cluster.address, "--workers", "9", "--json"]) == 1
    assert said_of_the_cluster(capsys)[0] == "wrong"
    assert main(["doctor", "--ray", "127.0.0.1:9", "--json"]) == 1
    assert said_of_the_cluster(capsys) == ("wrong", "")


def said_of_the_cluster(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """How it is, and what is said after Ray's version."""
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = (one for one in findings if one["what"] == "cluster")
    return found["state"], found["says"].partition(f"Ray {version('ray')}, ")[2]


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "retell", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: sockets have no longer ones."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


def shards(folder: Path) -> int:
    return len(list(folder.glob("samples/*/[0-9]*.parquet")))


def started(*words: str) -> list[psutil.Process]:
    """The processes that have all these words in their command line."""
    return [
        one for one in psutil.process_iter(["cmdline"]) if all(word in (one.info["cmdline"] or ()) for word in words)
    ]


def test_sigterm_ends_a_command_and_its_workers(cluster: Any, tmp_path: Path) -> None:
    """With which clusters end a job."""
    place(tmp_path)
    options = ("--ray", cluster.address, "--workers", "1", "--out", "run")
    with command(tmp_path, *rewriting(*options, limit=2000)) as driver:
        until(lambda: shards(tmp_path / "run") or driver.poll() is not None)
        # Those of the tests that run beside this one have other graders.
        graders = started("retell.graders.worker", "judges:judge")
        workers = [one for one in started("ray::_Actor.run") if one in [grader.parent() for grader in graders]]
        driver.terminate()
        output, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert output == ""
    assert "interrupted; what was stored is kept, to go on: retell rewrite" in errors
    assert workers
    until(lambda: not any(process.is_running() for process in workers + graders), 30)
    assert shards(tmp_path / "run") > 0
    assert not (tmp_path / "run" / "rewritten.parquet").exists()


def test_a_bare_ray_starts_a_cluster_of_its_own_that_listens_to_nobody_else_and_ends_with_it(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    place(tmp_path)
    with command(tmp_path, *rewriting("--out", "run", "--ray", "--workers", "1", limit=2000)) as driver:
        until(lambda: shards(tmp_path / "run") or driver.poll() is not None)
        family = psutil.Process(driver.pid).children(recursive=True)
        listening = {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in family
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        os.killpg(driver.pid, signal.SIGINT)  # as Ctrl-C does
        output, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert output == ""
    assert errors.strip().splitlines()[-1].startswith("retell: interrupted; what was stored is kept")
    assert "--ray=auto" in errors
    assert len(family) > 4
    assert listening == {"127.0.0.1"}
    until(lambda: not any(process.is_running() for process in family), 30)
