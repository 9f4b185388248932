"""The rewriting stage: every problem climbs the ladder, and becomes a row of rewritten.parquet."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from retell.engines.base import Engine
from retell.errors import DataError, EngineError
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.ladder import Ladder, reject
from retell.meter import Meter
from retell.problems import Loaded
from retell.progress import progress
from retell.prompts import Prompter
from retell.records import Problem, Reject, Row
from retell.rollout import Stream, run_plans
from retell.runfolder import RunFolder
from retell.tables import TableWriter
from retell.tally import Tally
from retell.tokens import ChatTokenizer

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "source", "problem", "answer", "solution", "rung", "response")),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("response_token_ids", pa.list_(pa.int32())),
        ("behaviour_logprobs", pa.list_(pa.float32())),
        *((name, pa.int32()) for name in ("samples_self", "correct_self", "samples_guided", "correct_guided")),
        ("verdict", pa.string()),
        ("policy", pa.string()),
        ("seed", pa.int64()),
    ]
)


def rewrite(
    loaded: Loaded,
    ladder: Ladder,
    engine: Engine,
    graders: GraderPool,
    journal: Journal,
    stream: Stream,
    meter: Meter,
    folder: RunFolder,
) -> dict[str, Any]:
    """Climbs the ladder with every problem; writes rewritten.parquet (in the order of the problems) and rejected.jsonl,
    and returns what rewrite.json says of them.

    Every problem given becomes a row or, where the engine failed, a reject; what was rejected before is written too.
    """
    started = time.monotonic()
    tally = Tally(ladder.exhaustive)
    rows: dict[str, Row] = {}
    failed: dict[str, Reject] = {}

    def figures() -> dict[str, str]:
        return tally.figures() | meter.figures()

    with progress("rewriting", len(loaded.problems), figures, meter.seconds_left) as tick:
        plans = (ladder.climb(problem) for problem in loaded.problems)
        for climb in run_plans(plans, engine, graders, journal, stream, meter):
            if isinstance(climb.result, Row):
                rows[climb.result.id] = climb.result
            elif climb.result.id is not None:
                failed[climb.result.id] = climb.result
            tally.add(climb)
            tick(len(rows) + len(failed))
    ordered = [rows[problem.id] for problem in loaded.problems if problem.id in rows]
    rejected = [*loaded.rejected, *(failed[problem.id] for problem in loaded.problems if problem.id in failed)]
    if not ordered:
        why = next(iter(failed.values())).detail
        raise EngineError(f"no problem has a row: {why}; mend the cause and start again")
    _write(folder, ordered, rejected)
    return {
        "problems": len(ordered),
        **tally.summary(),
        "rejected": dict(Counter(reject.reason for reject in rejected)),
        "failed": len(failed),
        "faults": dict(engine.faults),
        "seconds": round(time.monotonic() - started, 3),
        "policy": stream.policy,
    }


def reject_untrainable(loaded: Loaded, prompter: Prompter, tokenizer: ChatTokenizer | None, max_length: int) -> Loaded:
    """Moves problems that cannot be trained on with the expert's solution to the rejects: longer than ``max_length``
    tokens, refused by the chat template, or with a control token spelled out, which would forge a turn of the prompt.

    Without a tokenizer nothing of this is known and nothing is moved.

    Raises:
        DataError: no problem is left.
    """
    if tokenizer is None:
        return loaded
    kept: list[Problem] = []
    rejected: list[Reject] = list(loaded.rejected)
    for problem in loaded.problems:
        control = tokenizer.control_token(problem.problem) or tokenizer.control_token(problem.solution)
        if control:
            rejected.append(reject(problem, "control_token", f"it spells out {control!r}"))
            continue
        try:
            prompt, response = tokenizer.training_ids(prompter.conversation(problem.problem, problem.solution))
        except DataError as error:
            rejected.append(reject(problem, "chat_template", str(error)))
            continue
        length = len(prompt) + len(response)
        if length > max_length:
            rejected.append(reject(problem, "overlong", f"{length} tokens, the limit is {max_length}"))
        else:
            kept.append(problem)
    if not kept:
        why = f"{rejected[-1].reason}, {rejected[-1].detail}"
        raise DataError(f"none of the {len(loaded.problems)} problems can be trained on; the last: {why}")
    return replace(loaded, problems=tuple(kept), rejected=tuple(rejected))


def _write(folder: RunFolder, rows: list[Row], rejected: Sequence[Reject]) -> None:
    with folder.replacing("rewritten.parquet") as path, TableWriter(path, SCHEMA) as table:
        for row in rows:
            messages = [dict(message) for message in row.messages]
            table.add({name: getattr(row, name) for name in SCHEMA.names} | {"messages": messages})
    with folder.replacing("rejected.jsonl") as path:
        lines = (json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejected)
        path.write_text("".join(lines), encoding="utf-8")
