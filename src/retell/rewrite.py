"""The rewriting stage: every problem climbs the ladder, and becomes a row of rewritten.parquet."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pyarrow as pa

from retell.errors import DataError, EngineError
from retell.executor import Executor, Job
from retell.ladder import Climb, Ladder, reject
from retell.problems import Loaded
from retell.problemtable import chosen
from retell.progress import progress
from retell.prompts import Prompter
from retell.records import Problem, Reject, Row
from retell.rollout import Stream
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


def rewrite(loaded: Loaded, ladder: Ladder, executor: Executor, stream: Stream, folder: RunFolder) -> dict[str, Any]:
    """Climbs the ladder with every problem; writes rewritten.parquet (in the order of the problems) and rejected.jsonl,
    and returns what rewrite.json says of them.

    Every problem given becomes a row or, where the engine failed, a reject; what was rejected before is written too.
    """
    started = time.monotonic()
    live = Tally(ladder.exhaustive)
    total = len(loaded.problems)

    def figures() -> dict[str, str]:
        return (live.figures() if live.rows else {}) | dict(executor.figures())

    with progress("rewriting", total, figures, executor.seconds_left) as tick:
        for done in executor.draw(_jobs(ladder, loaded), live.add):
            tick(done)
    tally = Tally(ladder.exhaustive)
    reasons = Counter(reject.reason for reject in loaded.rejected)
    failed = _write(folder, loaded.rejected, executor.settle(_jobs(ladder, loaded)), tally, total)
    reasons.update(failed)
    return {
        "problems": tally.rows,
        **tally.summary(),
        "rejected": dict(reasons),
        "failed": failed.total(),
        "faults": dict(executor.faults),
        "seconds": round(time.monotonic() - started, 3),
        "policy": stream.policy,
    }


def _jobs(ladder: Ladder, loaded: Loaded) -> Iterator[Job[Climb]]:
    return (Job(problem.id, partial(ladder.climb, problem)) for problem in loaded.problems)


def _write(
    folder: RunFolder, before: Sequence[Reject], climbs: Iterator[Climb], tally: Tally, total: int
) -> Counter[str]:
    """Writes rows and rejects as they come; how many are newly rejected, by reason.

    Raises:
        EngineError: no problem has a row.
    """
    failed: Counter[str] = Counter()
    why = ""
    with (
        folder.replacing("rewritten.parquet") as path,
        TableWriter(path, SCHEMA) as table,
        folder.replacing("rejected.jsonl") as rejected,
        rejected.open("w", encoding="utf-8") as lines,
        progress("writing", total) as tick,
    ):
        for reject in before:
            lines.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")
        for climb in climbs:
            tally.add(climb)
            if isinstance(climb.result, Row):
                messages = [dict(message) for message in climb.result.messages]
                table.add({name: getattr(climb.result, name) for name in SCHEMA.names} | {"messages": messages})
            else:
                failed[climb.result.reason] += 1
                why = why or climb.result.detail
                lines.write(json.dumps(asdict(climb.result), ensure_ascii=False) + "\n")
            tick(tally.rows + failed.total())
        if not tally.rows:
            raise EngineError(f"no problem has a row: {why}; mend the cause and start again")
    return failed


def reject_untrainable(loaded: Loaded, prompter: Prompter, tokenizer: ChatTokenizer | None, max_length: int) -> Loaded:
    """Moves problems that cannot be trained on with the expert's solution to the rejects: longer than ``max_length``
    tokens, refused by the chat template, or with a control token spelled out, which would forge a turn of the prompt.

    Without a tokenizer nothing of this is known and nothing is moved.

    Raises:
        DataError: no problem is left.
    """
    if tokenizer is None:
        return loaded
    keep: list[bool] = []
    rejected: list[Reject] = list(loaded.rejected)
    with progress("measuring lengths", len(loaded.problems)) as tick:
        for problem in loaded.problems:
            fault = _untrainable(problem, prompter, tokenizer, max_length)
            keep.append(fault is None)
            rejected += [fault] if fault else []
            tick(len(keep))
    if not any(keep):
        why = f"{rejected[-1].reason}, {rejected[-1].detail}"
        raise DataError(f"none of the {len(loaded.problems)} problems can be trained on; the last: {why}")
    return replace(loaded, problems=chosen(loaded.problems, keep), rejected=tuple(rejected))


def _untrainable(problem: Problem, prompter: Prompter, tokenizer: ChatTokenizer, max_length: int) -> Reject | None:
    control = tokenizer.control_token(problem.problem) or tokenizer.control_token(problem.solution)
    if control:
        return reject(problem, "control_token", f"it spells out {control!r}")
    try:
        prompt, response = tokenizer.training_ids(prompter.conversation(problem.problem, problem.solution))
    except DataError as error:
        return reject(problem, "chat_template", str(error))
    length = len(prompt) + len(response)
    return reject(problem, "overlong", f"{length} tokens, the limit is {max_length}") if length > max_length else None
