"""The drift of a tuned model from its base: KL(base ‖ tuned) on the base's own samples, as they lie in the journal.

RL's Razor (arXiv 2509.04259) finds that this KL, on the prompts of the new task, tells how much a tuned model forgets.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retell.firsts import Group
from retell.journal import Journal
from retell.parts import Parts, Scorer, blocks
from retell.progress import progress

Floats = NDArray[np.float64]

_SCHEMA = pa.schema([("kl", pa.float64()), ("tokens", pa.int64())])


def measure_drift(
    groups: Mapping[str, Group | str], journal: Journal, score: Scorer, parts: Parts
) -> dict[str, dict[str, Any]]:
    """KL(base ‖ tuned) by group of prompts; ``score`` gives the tuned model's log-probs.

    A group that is a text has no samples to measure it on: the text says why, and becomes its ``reason``.
    """
    return {
        name: _nothing(0, group) if isinstance(group, str) else _measured(name, number, group, journal, score, parts)
        for number, (name, group) in enumerate(groups.items())
    }


def token_kl(base: Sequence[float], tuned: Sequence[float]) -> float:
    """An unbiased estimate of KL(base ‖ tuned) of one response, from its tokens' log-probs under both.

    With r = tuned / base at each token, E_base[r − 1 − log r] = E_base[−log r] = KL of that token's distributions, for
    E_base[r] = 1; summed along a response that the base drew, that is the KL of whole responses by the chain rule. The
    term r − 1 is of mean zero and falls where −log r rises: no token's estimate is negative, and near the base their
    variance is of higher order (J. Schulman's k3). docs/log.md has it beside the plain −log r.
    """
    log_ratio_T = np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)
    return float(np.sum(np.expm1(log_ratio_T) - log_ratio_T))


def drift_statistics(kl_P: Floats, tokens_P: NDArray[np.int64], missing: int) -> dict[str, Any]:
    """Of the estimates for single responses, one a problem: ``kl`` is nats a token, Σ KL / Σ tokens, with its standard
    error over problems; ``kl_per_response`` is their mean.
    """
    problems, tokens = len(kl_P), int(tokens_P.sum())
    if not tokens:
        return _nothing(missing, "the journal has none of the base's samples on them with its log-probs")
    kl = float(kl_P.sum()) / tokens
    spread = float(np.square(kl_P - kl * tokens_P).sum())
    error = (spread * problems / (problems - 1)) ** 0.5 / tokens if problems > 1 else None
    return {
        "kl": kl,
        "stderr": error,
        "kl_per_response": float(kl_P.mean()),
        "problems": problems,
        "tokens": tokens,
        "missing": missing,
        "reason": None,
    }


def _nothing(missing: int, reason: str) -> dict[str, Any]:
    figures = {"kl": None, "stderr": None, "kl_per_response": None, "problems": 0, "tokens": 0}
    return {**figures, "missing": missing, "reason": reason}


def _measured(name: str, number: int, group: Group, journal: Journal, score: Scorer, parts: Parts) -> dict[str, Any]:
    kept: list[tuple[Floats, NDArray[np.int64]]] = [(np.zeros(0), np.zeros(0, dtype=np.int64))]
    done = 0
    with progress(f"drift on {name}", group.number) as tick:
        for place, block in enumerate(blocks(group.rows)):
            part = parts.part(f"drift-{number}-{place:06}", partial(_scored, block, group, journal, score))
            kept.append((part["kl"].to_numpy(), part["tokens"].to_numpy()))
            done += len(block)
            tick(done)
    kl_P, tokens_P = (np.concatenate(column) for column in zip(*kept, strict=True))
    return drift_statistics(kl_P, tokens_P, done - len(kl_P))


def _scored(block: Sequence[Mapping[str, Any]], group: Group, journal: Journal, score: Scorer) -> pa.Table:
    asks = {group.stream.request(ask, 0).key: ask for ask in map(group.ask_of, block)}
    samples = [
        (asks[key].prompt.ids or (), sample.completion.ids, sample.completion.logprobs)
        for key, sample in journal.samples(list(asks)).items()
        if sample.completion.ids and sample.completion.logprobs
    ]
    found = [0.0] * len(samples)
    for number, logprobs in score([(prompt, ids or ()) for prompt, ids, _ in samples]):
        found[number] = token_kl(samples[number][2] or (), logprobs)
    return pa.table({"kl": found, "tokens": [len(ids or ()) for _, ids, _ in samples]}, schema=_SCHEMA)
