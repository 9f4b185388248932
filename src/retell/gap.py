"""The gap: log-probs and denominator-1 weights of expert and rewritten responses under the policy, by rung."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedModel

from retell.logprobs import row_logprobs
from retell.packing import Pair
from retell.progress import progress
from retell.recipe import Gap
from retell.runfolder import RunFolder
from retell.stats import effective_share

LOW = 0.1
"""Below this probability the policy would hardly have written the token itself."""


@dataclass(frozen=True, slots=True)
class GapRow:
    """One problem: its rung, and token ids of the expert's and of the kept response after the training prompt."""

    id: str
    rung: str
    expert: Pair
    rewritten: Pair


def measure_gap(
    rows: Sequence[GapRow], rejected: int, model: PreTrainedModel, settings: Gap, folder: RunFolder
) -> dict[str, Any]:
    """Scores both responses of every row in one batched pass; writes gap.parquet and gap.json, and returns the latter.

    A response that is the expert's own is scored once. ``rejected`` counts the rows that could not be measured.
    """
    pairs = [row.expert for row in rows]
    place: list[int] = []
    for number, row in enumerate(rows):
        place.append(number if row.rewritten == row.expert else len(pairs))
        if row.rewritten != row.expert:
            pairs.append(row.rewritten)
    scored: dict[int, list[float]] = {}
    with progress("log-probs", len(pairs)) as tick:
        for number, logprobs in row_logprobs(model, pairs, settings.batch_tokens):
            scored[number] = logprobs
            tick(len(scored))
    expert = [scored[number] for number in range(len(rows))]
    rewritten = [scored[number] for number in place]
    summary = summarise([row.rung for row in rows], expert, rewritten)
    summary["all"]["rejected"] = rejected
    table = {
        "id": [row.id for row in rows],
        "rung": [row.rung for row in rows],
        "expert_logprobs": pa.array(expert, pa.list_(pa.float32())),
        "rewritten_logprobs": pa.array(rewritten, pa.list_(pa.float32())),
    }
    with folder.replacing("gap.parquet") as path:
        pq.write_table(pa.table(table), path)
    folder.write_json("gap.json", summary)
    return summary


def summarise(
    rungs: Sequence[str], expert: Sequence[Sequence[float]], rewritten: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Statistics of both responses' token log-probs by rung, and over all."""
    summary: dict[str, Any] = {}
    for rung in ("self", "guided", "expert", "all"):
        chosen = [i for i, name in enumerate(rungs) if rung in (name, "all")]
        summary[rung] = {
            "rows": len(chosen),
            "expert": statistics([expert[i] for i in chosen]),
            "rewritten": statistics([rewritten[i] for i in chosen]),
        }
    return summary


def statistics(rows: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """Of rows of token log-probs: the mean summed log-prob, the mean over tokens, and how skewed the weights are.

    ``token_ess`` is (Σw)² / (n Σw²) in (0, 1] with w = π(y_t), the weights of DFT, over all tokens; None for no rows.
    """
    tokens = np.concatenate([np.asarray(row, dtype=np.float64) for row in rows]) if rows else np.zeros(0)
    if not tokens.size:
        return None
    weights = np.exp(tokens)
    return {
        "sum_logprob": float(np.mean([np.sum(row) for row in rows])),
        "mean_token_logprob": float(tokens.mean()),
        "token_ess": effective_share(weights),
        "token_weight_variance": float(weights.var()),
        "share_below_0.1": float((weights < LOW).mean()),
        "mean_tokens": float(tokens.size / len(rows)),
    }
