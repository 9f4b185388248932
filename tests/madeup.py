"""Run folders made up by hand: what each stage writes, without running it."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retell.gap import summarise
from retell.runfolder import RunFolder

COLUMNS = ("id", "rung", "problem", "solution", "response")
SUMMARY = {"samples": {"self": 3, "guided": 0}, "truncated": 0, "undecided": 0, "leaked": 0, "rejected": {}}


def evaluation(folder: RunFolder, name: str, scores: list[int], benchmarks: tuple[str, ...] = ("easy",)) -> None:
    """An evaluation with a single sample of each problem, alike on every benchmark."""
    rows = [
        {
            "benchmark": b,
            "id": f"p{i}",
            "problem": f"{i}?",
            "answer": "1",
            "index": 0,
            "verdict": "correct" if s else "wrong",
            "stop": "stop",
        }
        for b in benchmarks
        for i, s in enumerate(scores)
    ]
    average = 100 * sum(scores) / len(scores)
    with folder.replacing(f"eval/{name}.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows), path)
    one: dict[str, Any] = {"avg_at_k": average, "stderr": 1.0, "pass_at_k": average, "n": len(scores), "undecided": 0.0}
    one |= {"truncated": 0.0, "shortened": 0}
    folder.write_json(
        f"eval/{name}.json",
        {"model": name, "k": 1, "temperature": 1.0, "grader": "g", "benchmarks": dict.fromkeys(benchmarks, one)}
        | {"rounded": False, "context": None, "max_tokens": 99, "top_p": 1.0, "prompt": "{problem}", "system": None}
        | {"rejected": dict.fromkeys(benchmarks, 0), "average": average, "average_stderr": 0.5},
    )
    folder.finished(f"evaluate/{name}", name, [f"eval/{name}.json"])


def rewriting(folder: RunFolder, own: int, guided: int, expert: int) -> None:
    rungs = {"self": own, "guided": guided, "expert": expert}
    folder.write_json("rewrite.json", {**SUMMARY, "problems": own + guided + expert, "rungs": rungs})
    folder.finished("rewrite", 1, ["rewrite.json"], 7200.0)


def gap(folder: RunFolder, rungs: list[str], expert: list[list[float]], rewritten: list[list[float]]) -> None:
    logprobs = {"expert_logprobs": expert, "rewritten_logprobs": rewritten}
    lists = {name: pa.array(rows, pa.list_(pa.float32())) for name, rows in logprobs.items()}
    with folder.replacing("gap.parquet") as path:
        pq.write_table(pa.table({"id": [f"p{i}" for i in range(len(rungs))], "rung": rungs, **lists}), path)
    folder.write_json("gap.json", summarise(rungs, expert, rewritten))
    folder.finished("gap", 1, ["gap.json"])


def training(folder: RunFolder, name: str, losses: list[float], mix: str = "expert") -> None:
    """A training whose updates have these losses, and an NLL that is larger by 1."""
    lines = [{"step": i + 1, "tokens": 10, "loss": one, "nll": one + 1} for i, one in enumerate(losses)]
    folder.write_text(f"checkpoints/{name}/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    summary = {"name": name, "loss": name, "mix": mix, "rows": 8, "updates": len(losses), "tokens": 10 * len(losses)}
    summary |= {"learning_rate": 1e-3, "batch_size": 4, "seed": 0, "rejected": {}}
    folder.write_json(f"checkpoints/{name}.json", summary)
    folder.finished(f"train/{name}", name, [f"checkpoints/{name}.json", f"checkpoints/{name}"], 900.0)


def whole(folder: RunFolder) -> None:
    """A run that has something for every section but the rows to read."""
    rewriting(folder, 6, 3, 1)
    summary = folder.read_json("rewrite.json")
    assert summary
    rate = {"percent": 40.0, "stderr": 5.0, "problems": 10}
    drawn = {"samples": {"self": 40, "guided": 12}, "not_drawn": {"self": 40, "guided": 20}, "seconds": 7200.0}
    folder.write_json(
        "rewrite.json",
        summary
        | drawn
        | {"rejected": {"overlong": 2}, "pass_rate": {"self": rate, "guided": None}, "tokens_saved": 3000}
        | {"truncated": 1, "leaked": 1, "tokens": {"prompt": 100, "generated": 1000}, "policy": "abc", "grader": "g"},
    )
    rungs = ["self"] * 6 + ["guided"] * 3 + ["expert"]
    expert = [[-1.0 - i / 9, -2.0] for i in range(10)]
    gap(folder, rungs, expert, [[-0.5, -0.25 - i / 9] for i in range(9)] + expert[9:])
    for strength, name in enumerate(("base", "sft", "dft", "dr-sft", "dr-dft", "mine")):
        if name != "base":
            training(folder, name, [1 / (i + strength) for i in range(30)])
        evaluation(folder, name, [1] * (strength + 1) + [0] * 12, ("easy", "math500"))
    with folder.replacing("rewritten.parquet") as path:
        pq.write_table(pa.table({name: pa.array([], pa.string()) for name in COLUMNS}), path)
