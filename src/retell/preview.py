"""Some of the problems climb the ladder: what rewriting all of them comes to, and the gap of the expert's text."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retell.dryrun.footprint import of_gap, of_journal, of_rewritten
from retell.dryrun.spans import Mean, Range, total
from retell.engines.base import Engine
from retell.errors import DataError, EngineError, PolicyError
from retell.estimates import Estimate, bootstrap, everywhere, share
from retell.graders.pool import GraderPool
from retell.ladder import Climb, Ladder
from retell.meter import Meter
from retell.mixes import expert_ids, kept_ids
from retell.progress import progress
from retell.records import Problem, Row
from retell.rollout import Stream, run_plans
from retell.store import Desk
from retell.tally import Tally
from retell.tokens import ChatTokenizer
from retell.weights import LOW

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from retell.packing import Pair

Summary = dict[str, Any]
RUNGS = ("self", "guided", "expert")
DRAWN = ("self", "guided")
TEXTS = ("expert", "rewritten", "own")
"""What is scored of a problem: the expert's solution, the kept response, the policy's first sample whatever it says."""
_SUMS = 5
_STATISTICS = ("mean_token_logprob", "perplexity", "share_below_0.1", "token_ess", "sum_logprob", "mean_tokens")
_HOUR = 3600.0


def climb_some(
    problems: Sequence[Problem],
    ladder: Ladder,
    engine: Engine,
    graders: GraderPool,
    journal: Desk,
    stream: Stream,
    meter: Meter,
) -> list[Climb]:
    """Each problem climbs the ladder, as in rewriting; the climbs in the order of the problems.

    Raises:
        EngineError: the engine failed on every problem.
    """
    climbs: dict[str | None, Climb] = {}
    with progress("previewing", len(problems), meter.figures, meter.seconds_left) as tick:
        for climb in run_plans(map(ladder.climb, problems), engine, graders, journal, stream, meter):
            climbs[climb.result.id] = climb
            tick(len(climbs))
    if not any(isinstance(climb.result, Row) for climb in climbs.values()):
        raise EngineError("the engine failed on every problem: mend the cause and start again")
    return [climbs[problem.id] for problem in problems]


@dataclass(frozen=True, slots=True)
class Scored:
    """The texts of some problems under the policy, and what scoring them took."""

    sums: NDArray[np.float64]
    """[problems, texts, sums]: of a text's tokens t, how many there are and the sums of log π, π, π² and [π < 0.1]."""
    prompts: NDArray[np.float64]
    """[problems]: tokens of the prompt."""
    tokens_per_second: float
    left_out: int
    """Problems of which a text could not be scored."""

    @property
    def tokens(self) -> NDArray[np.float64]:
        """[problems, texts]: tokens of each response."""
        return self.sums[..., 0]


def score_texts(rows: Sequence[Climb], tokenizer: ChatTokenizer, model: "PreTrainedModel", batch: int | None) -> Scored:
    """Scores the texts of climbs that gave a row; ``batch`` is the most tokens of one forward pass, where it is given.

    Raises:
        DataError: the chat template keeps prompt and response apart for none of them.
        PolicyError: the model gives log-probs that are no numbers.
    """
    from retell.logprobs import row_logprobs

    pairs: list[Pair] = []
    for climb in rows:
        try:
            pairs += _pairs(climb, tokenizer)
        except DataError:
            continue
    if not pairs:
        raise DataError("the chat template keeps prompt and response of no problem apart: see policy.system")
    distinct = list(dict.fromkeys(pairs))
    sums: dict[Pair, list[float]] = {}
    started = time.monotonic()
    with progress("log-probs", len(distinct)) as tick:
        for number, logprobs in row_logprobs(model, distinct, batch):
            if not np.isfinite(logprobs).all():
                raise PolicyError("the model gives log-probs that are no numbers: is its checkpoint damaged?")
            sums[distinct[number]] = _sums(logprobs, LOW)
            tick(len(sums))
    seconds = time.monotonic() - started
    table = np.array([sums[pair] for pair in pairs]).reshape(-1, len(TEXTS), _SUMS)
    prompts = np.array([float(len(prompt)) for prompt, _ in pairs[:: len(TEXTS)]])
    tokens = sum(len(prompt) + len(response) for prompt, response in distinct)
    return Scored(table, prompts, tokens / max(seconds, 1e-9), len(rows) - len(table))


def _pairs(climb: Climb, tokenizer: ChatTokenizer) -> "list[Pair]":
    """Prompt and response ids of the three texts; where the policy has drawn nothing, the kept one is its own."""
    row = asdict(climb.result)
    first = climb.own.drawn[0].sample.completion if climb.own.drawn else None
    own = row
    if first:
        said = [*row["messages"][:-1], {"role": "assistant", "content": first.text}]
        own = row | {"messages": said, "response_token_ids": first.ids, "behaviour_logprobs": None}
    texts = expert_ids(row, tokenizer), kept_ids(row, tokenizer), kept_ids(own, tokenizer)
    return [(text.prompt, text.response) for text in texts]


def _sums(logprobs: Sequence[float], low: float) -> list[float]:
    logp = np.asarray(logprobs, dtype=np.float64)
    weights = np.exp(logp)
    return [float(one.sum()) for one in (np.ones_like(logp), logp, weights, weights**2, weights < low)]


def gap_of(scored: Scored) -> dict[str, dict[str, Estimate]]:
    """Token statistics of each text, and under ``difference`` how much likelier a token of the rewritten and of the
    policy's own text is than one of the expert's: the mean log-prob of a token minus the expert's.
    """
    n = len(scored.sums)
    rows = np.column_stack([scored.sums.reshape(n, -1), np.ones(n)])
    found = iter(bootstrap(rows, _statistics, "gap"))
    gap = {text: {name: next(found) for name in _STATISTICS} for text in TEXTS}
    return gap | {"difference": dict(zip(TEXTS[1:], found, strict=True))}


def _statistics(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., texts × sums + 1] → [..., statistics], in the order of `gap_of`."""
    problems = rows[..., -1]
    found, means = [], []
    for at in range(0, len(TEXTS) * _SUMS, _SUMS):
        tokens, logprob, weight, square, low = (rows[..., at + i] for i in range(_SUMS))
        mean = logprob / tokens
        means.append(mean)
        found += [mean, np.exp(-mean), low / tokens, weight**2 / (tokens * square), logprob / problems]
        found.append(tokens / problems)
    return np.stack([*found, *(mean - means[0] for mean in means[1:])], axis=-1)


@dataclass(frozen=True, slots=True)
class Look:
    """What was looked at: the climbs that gave a row, and why other problems gave none; how many there are in all."""

    rows: Sequence[Climb]
    rejected: Mapping[str, int]
    everything: int
    exhaustive: bool
    scored: Scored | None
    generated_per_second: float | None

    @property
    def problems(self) -> int:
        """How many problems were looked at."""
        return len(self.rows) + sum(self.rejected.values())

    def of_all(self, some: int) -> int:
        """How many of all there are for so many of those looked at."""
        return round(self.everything * some / self.problems)


def summarise(look: Look) -> Summary:
    """What preview.json says but for the advice: what was seen, and what follows for all problems."""
    each = [_alone(climb, look.exhaustive) for climb in look.rows]
    trainable = look.of_all(len(each))
    rungs = {rung: [one["rungs"][rung] for one in each] for rung in RUNGS}
    rates = {rung: [one["pass_rate"][rung] for one in each if one["pass_rate"][rung]] for rung in DRAWN}
    gap = gap_of(look.scored) if look.scored else {}
    return {
        "problems": look.problems,
        "of": look.everything,
        "rejected": dict(look.rejected),
        "rungs": {rung: sum(taken) for rung, taken in rungs.items()},
        "shares": {rung: told(share(taken, trainable), 100) for rung, taken in rungs.items()},
        "pass_rate": {
            rung: told(share([rate["percent"] / 100 for rate in found], look.of_all(len(found))), 100)
            if found
            else None
            for rung, found in rates.items()
        },
        "samples": {rung: sum(one["samples"][rung] for one in each) for rung in DRAWN},
        **{name: sum(one[name] for one in each) for name in ("truncated", "undecided", "leaked")},
        "gap": {text: {name: told(one) for name, one in found.items()} for text, found in gap.items()},
        "left_out": look.scored.left_out if look.scored else None,
        "whole": _whole(look, each),
    }


def _alone(climb: Climb, exhaustive: bool) -> Summary:
    """What rewrite.json would say of a single climb."""
    tally = Tally(exhaustive)
    tally.add(climb)
    return dict(tally.summary())


def told(estimate: Estimate | None, factor: float = 1.0) -> Summary | None:
    """An estimate in JSON, where what is unknown or has no bound is null."""
    if estimate is None:
        return None
    return {name: factor * value if isfinite(value) else None for name, value in asdict(estimate).items()}


def _whole(look: Look, each: Sequence[Summary]) -> Summary:
    """What rewriting everything, measuring its gap and an epoch of training on it take."""

    def of_each(values: Sequence[float | None]) -> Estimate | None:
        known = [value for value in values if value is not None]
        none = [0.0] * (look.problems - len(values))
        return everywhere([*known, *none], look.everything) if len(known) == len(values) else None

    rows = of_each([1.0] * len(each))
    samples = {rung: of_each([one["samples"][rung] for one in each]) for rung in DRAWN}
    tokens = {name: of_each([one["tokens"][name] for one in each]) for name in ("generated", "prompt")}
    every = of_each([sum(one["samples"].values()) for one in each])
    disk = {"journal": of_journal(_range(every), _range(tokens["generated"]))}
    scored = look.scored
    if scored:
        expert, rewritten, _ = scored.tokens.T
        # A row that keeps the expert's text is scored once.
        again = np.any(scored.sums[:, 0] != scored.sums[:, 1], axis=1)
        tokens["scored"] = of_each(list(expert + scored.prompts + again * (rewritten + scored.prompts)))
        tokens["trained"] = of_each(list(rewritten + scored.prompts))
        disk["rewritten"] = of_rewritten(_range(rows), _mean(expert + rewritten + scored.prompts))
        disk["gap"] = of_gap(_range(rows), _mean(expert + rewritten))
    rates = {"generated": look.generated_per_second, "scored": scored.tokens_per_second if scored else None}
    hours = {name: _hours(tokens.get(name), rate) for name, rate in rates.items()}
    return {
        "rows": told(rows),
        "samples": {rung: told(one) for rung, one in samples.items()},
        "tokens": {name: told(one) for name, one in tokens.items()},
        "tokens_per_second": rates,
        "hours": {name: told(one) for name, one in hours.items()},
        "disk_bytes": disk | {"all": total(disk.values()) if scored else None},
    }


def _hours(tokens: Estimate | None, rate: float | None) -> Estimate | None:
    return tokens.times(1 / rate / _HOUR) if tokens and rate else None


def _range(estimate: Estimate | None) -> Range | None:
    return (round(estimate.low), round(estimate.high)) if estimate and isfinite(estimate.high) else None


def _mean(values: NDArray[np.float64]) -> Mean:
    return float(values.mean()), float(values.mean())
