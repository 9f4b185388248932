import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

import retell
from retell.cli import main
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
N = 40


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A cluster of one machine with room for two engines."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False},
        )
    yield cluster.address
    cluster.shutdown()


def rewriting(*more: str) -> list[str]:
    given = {"--model": str(TINY / "policy"), "--data": str(TINY / "data" / "train.jsonl"), "--limit": str(N)}
    given |= {"--k": "2", "--max-tokens": "60", "--engine": "vllm", "--engine-args.enforce-eager": "true"}
    given |= {"--engine-args.kv-cache-memory-bytes": str(1 << 26), "--grader-workers": "1", "--engine-args.window": "4"}
    return ["rewrite", *(word for pair in given.items() for word in pair), "--json", *more]


def rows(folder: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / "rewritten.parquet").to_pylist()
    return table


@pytest.mark.timeout(900)  # three engines are started, each in a minute where the machine is busy
def test_two_engines_on_a_cluster_make_the_rows_of_one(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {process.pid for process in psutil.process_iter()}
    assert main(rewriting("--out", str(tmp_path / "two"), "--ray", address, "--workers", "2")) == 0
    summary = json.loads(capsys.readouterr().out)
    assert sum(summary["rungs"].values()) == summary["problems"] == len(rows(tmp_path / "two")) == N
    assert (summary["failed"], summary["rejected"]) == (0, {})
    assert len(list((tmp_path / "two" / "samples").glob("*/[0-9]*.parquet"))) == 2
    tokenizer = ChatTokenizer(TINY / "policy")
    own = [row for row in rows(tmp_path / "two") if row["rung"] != "expert"]
    assert own
    for row in own:
        assert len(row["response_token_ids"]) == len(row["behaviour_logprobs"])
        assert tokenizer.decode(row["response_token_ids"]) == row["response"]
    engines = [
        one
        for one in psutil.process_iter(["name"])
        if "EngineCore" in (one.info["name"] or "") and one.pid not in before
    ]
    _, left = psutil.wait_procs(engines, timeout=30)
    assert not left, "engines outlive their workers"
    assert main(rewriting("--out", str(tmp_path / "one"))) == 0
    for mine, theirs in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        assert mine.pop("behaviour_logprobs") == pytest.approx(theirs.pop("behaviour_logprobs"), abs=1e-4)
        assert mine == theirs
