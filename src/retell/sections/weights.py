"""The weights: what training multiplies a token or a response by."""

from collections.abc import Mapping
from typing import Any

from retell.charts import Counts, histogram
from retell.document import Block, Chart, Figure, Prose, Section, Table
from retell.legend import RUNGS
from retell.results import Results, Summary
from retell.sections.logprobs import Column, Spreads, arrows, colour, sides, whose
from retell.spread import WEIGHTS
from retell.stats import plus_minus

TOKEN_ESS: Column = ("token ESS", lambda s: f"{s['token_ess']:.3f}")
_VARIANCE: Column = ("weight variance", lambda s: f"{s['token_weight_variance']:.4f}")
_UNLIKELY: Column = ("tokens p < 0.1", lambda s: f"{s['share_below_0.1']:.1%}")


def weights(results: Results, spreads: Spreads) -> Section | None:
    """DFT's weights of tokens, and true ratios of responses where they are recorded."""
    if not results.gap:
        return None
    note = (
        "Expert → rewritten. A weight is the token's probability (DFT, denominator 1), which favours what the policy "
        "likes already. Token ESS is (Σw)² / (n Σw²): 1 means that all tokens weigh the same."
    )
    table = arrows(results.gap, (TOKEN_ESS, _VARIANCE, _UNLIKELY), note)
    return Section("Weights", "Weights", [table, *_figure(spreads), *_ratios(results.gap)])


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
            f"{one['ess']:.3f}",
            _tail(one),
            plus_minus(round(one["kl"], 3) + 0.0, one.get("kl_stderr"), 3),
        ]
        for rung, entry in gap.items()
        if (one := entry.get("sequence"))
    ]
    note = (
        "True ratios π(y | training prompt) / π_β(y | prompt that drew y) of whole responses, from recorded "
        "log-probs. ESS as above. Pareto k̂ is the shape of their tail: from 0.7 on an average with such weights is not "
        "reliable (Vehtari et al., arXiv 1507.02646). KL is the mean of −log ratio, nats a response, ± standard error "
        "over rows. All of it is conditional on acceptance: a kept response was drawn from the policy restricted to "
        "accepted ones, and the ratio lacks the chance of acceptance, one unknown factor a problem. So this is no "
        "KL(π_β ‖ π), and can be negative."
    )
    return [Table(["true ratios", "rows", "ESS", "Pareto k̂", "KL"], rows, note)] if rows else []


def _tail(one: Mapping[str, Any]) -> str:
    if one.get("pareto_k") is None:
        return str(one.get("note") or "unknown")
    return f"{one['pareto_k']:.2f} ({'reliable' if one.get('reliable') else 'not reliable'})"
