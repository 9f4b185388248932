"""Rewritten rows and a scripted scorer that several tests of the gap use."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gate import wait_at

import retell
from retell import parts
from retell.gap import measure_gap
from retell.packing import Pair
from retell.parts import Parts, Scorer
from retell.prompts import Prompter
from retell.recipe import Policy
from retell.rewrite import SCHEMA
from retell.runfolder import RunFolder
from retell.tables import TableWriter
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"


def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(TINY / "policy")


def rewritten_rows(number: int) -> list[dict[str, Any]]:
    """Rows of the packaged problems, of every rung; every other kept response has ids and behaviour log-probs."""
    lines = (TINY / "data/train.jsonl").read_text(encoding="utf-8").splitlines()
    prompter, reader = Prompter(Policy(), None), tokenizer()
    rows = []
    for n, line in enumerate(lines[:number]):
        problem = json.loads(line)
        rung = ("self", "guided", "expert")[n % 3]
        own = f"I begin.\n{problem['solution']}" + " I am done." * (n % 4)
        response = problem["solution"] if rung == "expert" else own
        messages = [dict(message) for message in prompter.conversation(problem["problem"], response)]
        recorded = rung != "expert" and n % 2 == 0
        ids = reader.training_ids(messages)[1] if recorded else None
        behaviour = [-0.5 - 0.01 * i for i in range(len(ids))] if ids else None
        rows.append(
            {name: problem[name] for name in ("id", "problem", "answer", "solution", "source")}
            | {"rung": rung, "response": response, "messages": messages, "policy": "p", "seed": 0}
            | {"response_token_ids": ids, "behaviour_logprobs": behaviour}
        )
    return rows


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with TableWriter(path, SCHEMA) as table:
        for row in rows:
            table.add(row)
    return path


def scripted(pairs: Sequence[Pair]) -> Iterator[tuple[int, list[float]]]:
    """Log-probs that depend on a response, on its place and on its prompt's length; last pair first."""
    for number in reversed(range(len(pairs))):
        prompt, response = pairs[number]
        yield number, [-((token * 31 + place * 7 + len(prompt)) % 64) / 16 for place, token in enumerate(response)]


def slowly(pairs: Sequence[Pair]) -> Iterator[tuple[int, list[float]]]:
    """The same behind a gate in the working directory."""
    for scored in scripted(pairs):
        time.sleep(0.005)
        wait_at(Path("gate"))
        yield scored


def measured(
    run: Path, score: Scorer = scripted, reader: ChatTokenizer | None = None, block: int | None = None
) -> dict[str, Any]:
    """Measures the rows of run/rewritten.parquet; writes gap.parquet and gap.json."""
    usual = parts.BLOCK
    parts.BLOCK = block or usual
    try:
        with RunFolder(run) as folder:
            kept = Parts(folder, ".gap/scripted", "inputs")
            summary = measure_gap(run / "rewritten.parquet", reader or tokenizer(), score, kept, folder, "gap.parquet")
            folder.write_json("gap.json", summary)
            kept.discard()
    finally:
        parts.BLOCK = usual
    return summary
