"""Run folders that tests look into: really rewritten, with the packaged policy's tokens and samples that are played."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

import retell
from retell import pipeline, steps
from retell.engines.scripted import ScriptedEngine
from retell.hashing import seed_of
from retell.mixes import expert_ids, kept_ids
from retell.recipe import Data, Policy, Recipe, Rewrite
from retell.records import Completion, Request
from retell.runfolder import RunFolder
from retell.tables import TableWriter, read_rows
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
TOKENIZER = ChatTokenizer(TINY / "policy")
GAP = pa.schema(
    [("id", pa.string()), *((name, pa.list_(pa.float32())) for name in ("expert_logprobs", "rewritten_logprobs"))]
)


def scores(ids: Sequence[int]) -> list[float]:
    """Log-probs that follow from the ids alone."""
    return [-(seed_of("score", place, one) % 1000) / 100 for place, one in enumerate(ids)]


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes in a folder if anything is written there."""
    stats = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_mode) for name, stat in stats.items()}


def said(text: str) -> Completion:
    """A sample that says a text, with the policy's tokens."""
    ids = (*TOKENIZER.tokenizer.encode(text, add_special_tokens=False), TOKENIZER.training_end)
    return Completion(text, ids, tuple(scores(ids)), "stop")


def make_run(
    folder: Path,
    problems: Sequence[dict[str, str]],
    answer: Callable[[Request], Completion],
    *,
    gap: bool = True,
    model: Path = TINY / "policy",
    k: int = 2,
) -> Path:
    """A run folder of problems ``{id, problem, solution}`` with the samples of ``answer``; with ``gap``, log-probs of
    all rows but the second are there.
    """
    data = folder.parent / f"{folder.name}.jsonl"
    data.write_text("".join(json.dumps(problem) + "\n" for problem in problems), encoding="utf-8")
    recipe = Recipe(
        policy=Policy(model=str(model)),
        data=Data(path=str(data), max_length=8000),
        rewrite=Rewrite(k=k, max_tokens=4000, grader_workers=1, temperature=0.7),
    )
    engine = ScriptedEngine(lambda request, _: answer(request))
    with RunFolder(folder) as run, patch.object(steps, "open_engine_of", lambda *_: engine):
        pipeline.run_rewrite(recipe, run)
        if gap:
            write_gap(run)
    return folder


def write_gap(run: RunFolder) -> None:
    """Log-probs of every row but the second, in another order."""
    rows = list(read_rows(run.path / "rewritten.parquet"))
    with run.replacing("gap.parquet") as path, TableWriter(path, GAP) as table:
        for row in reversed([row for place, row in enumerate(rows) if place != 1]):
            expert, kept = expert_ids(row, TOKENIZER).response, kept_ids(row, TOKENIZER).response
            table.add({"id": row["id"], "expert_logprobs": scores(expert), "rewritten_logprobs": scores(kept)})
    run.write_json("gap.json", {})
    run.finished("gap", 1, ["gap.json", "gap.parquet"])


@contextmanager
def viewing(run: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`retell view --json`, and what it printed first."""
    command = [sys.executable, "-m", "retell", "view", str(run), "--json", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stderr
            line = process.stdout.readline()
            yield process, json.loads(line or process.stderr.read())
        finally:
            process.kill()
