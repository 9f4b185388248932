"""The weights: what training multiplies a token or a response by, and how far the texts are from the policy."""

from collections.abc import Mapping
from typing import Any

from retell.charts import Counts, histogram
from retell.document import Block, Chart, Figure, Prose, Section, Table
from retell.legend import RUNGS, title
from retell.results import Results, Summary
from retell.sections.logprobs import Column, Spreads, arrows, colour, sides, whose
from retell.spread import WEIGHTS
from retell.stats import plus_minus

_COLUMNS: tuple[Column, ...] = (
    ("token ESS", "token_ess", "{:.3f}".format),
    ("weight variance", "token_weight_variance", "{:.4f}".format),
    ("tokens p < 0.1", "share_below_0.1", "{:.1%}".format),
)
_CONDITIONAL = (
    "They are conditional on acceptance: a kept response was drawn from the policy restricted to accepted ones, whose "
    "density is the policy's divided by the chance of acceptance, one unknown factor a problem."
)


def weights(results: Results, spreads: Spreads) -> Section | None:
    """DFT's weights of tokens, true ratios of responses where they are recorded, and the drift of tuned models."""
    blocks: list[Block] = []
    if results.gap:
        note = (
            "Expert → rewritten. A weight is the token's probability (DFT, denominator 1), which favours what the "
            "policy likes already. Token ESS is (Σw)² / (n Σw²): 1 means that all tokens weigh the same."
        )
        blocks.append(arrows(results.gap, _COLUMNS, note))
        blocks += _figure(spreads) + _ratios(results.gap)
    blocks += _drift(results.drifts)
    return Section("Weights", "Weights", blocks) if blocks else None


def _figure(spreads: Spreads) -> list[Block]:
    rungs = [rung for rung in RUNGS if rung in spreads]
    edges = [i / WEIGHTS for i in range(WEIGHTS + 1)]
    shares = {
        (rung, side): [n / max(1, spreads[rung][side].weights.sum()) for n in spreads[rung][side].weights.tolist()]
        for rung in rungs
        for side in sides(rung)
    }
    header = ["weight of a token", *(f"{rung}: {whose(rung, side)}" for rung, side in shares)]
    rows = [
        [f"{edges[i]:g} to {edges[i + 1]:g}", *(f"{share[i]:.2%}" for share in shares.values())] for i in range(WEIGHTS)
    ]
    note = "Shares of the tokens, on a logarithmic axis."
    least = min((share for all_of_it in shares.values() for share in all_of_it if share), default=1.0)
    charts = [_chart(rung, edges, shares, least) for rung in rungs]
    return [Figure(charts, Table(header, rows), "Weights of the tokens"), Prose(note)] if charts else []


def _chart(rung: str, edges: list[float], shares: Mapping[tuple[str, int], list[float]], least: float) -> Chart:
    counted = [
        Counts(whose(of, side), colour(of, side), edges, share) for (of, side), share in shares.items() if of == rung
    ]
    alt = f"Histogram of the tokens' weights, rung {rung}. " + " ".join(
        f"{one.name}: {one.counts[0]:.2%} of the tokens weigh less than {edges[1]:g}, {one.counts[-1]:.1%} more than "
        f"{edges[-2]:g}."
        for one in counted
    )
    return histogram(rung, counted, "weight of a token, π(token)", "tokens", alt, share_from=least)


def _ratios(gap: Summary) -> list[Block]:
    """The true ratios of responses that the policy drew, where their log-probs were recorded."""
    rows = [
        [
            rung,
            f"{one['rows']:,}",
            _number(one.get("ess"), 3),
            _number(one.get("pareto_k"), 2),
            {True: "yes", False: "no"}.get(one.get("reliable"), "unknown"),
            "–" if one.get("kl") is None else plus_minus(one["kl"], one.get("kl_stderr"), 2),
        ]
        for rung, entry in gap.items()
        if (one := entry.get("sequence"))
    ]
    if not rows:
        return []
    note = (
        "True ratios π(y | x) / π_β(y | prompt that drew y) of whole responses, from recorded log-probs. ESS as above. "
        "Pareto k̂ says how heavy their tail is: above 0.7 an average of them is not reliable (Vehtari et al., "
        f"arXiv 1507.02646). KL is the mean log of the inverse ratio, nats a response. {_CONDITIONAL}"
    )
    return [Table(["rung", "rows", "ESS", "Pareto k̂", "reliable", "KL, nats"], rows, note)]


def _number(value: float | None, places: int) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _drift(drifts: Mapping[str, Summary]) -> list[Block]:
    """How far the tuned models have gone from the policy."""
    rows = [
        [title(name), group, plus_minus(one["kl"], one.get("stderr"), 4), *_counts(one)]
        for name, summary in drifts.items()
        for group, one in (summary.get("drift") or {}).items()
        if one and one.get("kl") is not None
    ]
    if not rows:
        return []
    note = (
        "Drift: KL of a tuned model from the policy before training, nats a token, on responses that the policy drew, "
        "± standard error over problems. Where only accepted responses are used it is conditional on acceptance."
    )
    return [Table(["model", "responses", "KL, nats a token", "problems", "tokens"], rows, note)]


def _counts(one: Mapping[str, Any]) -> list[str]:
    return [f"{one[key]:,}" if one.get(key) is not None else "–" for key in ("problems", "tokens")]
