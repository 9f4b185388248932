"""Table 3 and Figure 3: how likely the texts are under the policy before training."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import Any

from retell.charts import Counts, histogram
from retell.document import Block, Chart, Figure, Prose, Section, Table
from retell.legend import RUNGS, WHOSE
from retell.paper import PUBLISHED, Published, published_for
from retell.results import Results, Summary
from retell.sections.beside import NO_ERRORS, ORIENTATION, beside_paper
from retell.spread import Histograms, Spread, together
from retell.stats import plus_minus

Spreads = Mapping[str, tuple[Spread, Spread]]
SIDES = ("expert", "rewritten")
Statistics = Mapping[str, Any]
"""Of the expert's or the rewritten responses of a rung: see `retell.weights.TokenSums.statistics`."""
Column = tuple[str, Callable[[Statistics], str]]
"""Its head, and how a statistic is written."""
SUMMED: Column = ("summed log-prob", lambda s: plus_minus(s["sum_logprob"], s.get("sum_logprob_stderr"), 2))
PER_TOKEN: Column = ("per token", lambda s: f"{s['mean_token_logprob']:.3f}")
_PERPLEXITY: Column = ("perplexity", lambda s: f"{math.exp(min(-s['mean_token_logprob'], 700.0)):.3f}")
_TOKENS: Column = ("tokens", lambda s: f"{s['mean_tokens']:.1f}")
_ROWS = 12


def logprobs(results: Results) -> Section | None:
    """Table 3: mean log-probs of the expert's and of the rewritten responses by rung, also at equal length."""
    gap = results.gap
    if not gap:
        return None
    note = (
        "Expert → rewritten, means over rows, ± standard error over rows. The summed log-prob, which the paper's Table "
        "3 shows, falls with length; the mean over tokens, whose perplexity is exp(−mean), does not."
    )
    blocks: list[Block] = [arrows(gap, (SUMMED, PER_TOKEN, _PERPLEXITY, _TOKENS), note), *matched(gap)]
    published = published_for(results.recipe.policy.model)
    blocks += _beside(gap, published) if published else [_paper_table()]
    return Section("Table 3: log-probs under the policy before training", "Gap", blocks)


def arrows(rungs: Summary, columns: Sequence[Column], note: str, of: str = "rung") -> Table:
    """A row for each rung: how many rows, and each statistic of the expert's → of the rewritten responses."""
    rows = [
        [name, f"{one['rows']:,}", *(f"{shown(one['expert'])} → {shown(one['rewritten'])}" for _, shown in columns)]
        for name, one in rungs.items()
        if one.get("expert") and one.get("rewritten")
    ]
    return Table([of, "rows", *(head for head, _ in columns)], rows, note)


def matched(rungs: Summary, of: str = "rung") -> list[Table]:
    """The summed log-probs of both sides over one distribution of lengths; none where they were not compared."""
    rows = [
        [
            name,
            f"{one['share']:.1%}",
            f"{one['expert']:.2f} → {one['rewritten']:.2f}",
            plus_minus(one["difference"], one["stderr"], 2),
            f"{one['expert_tokens']:.1f} → {one['rewritten_tokens']:.1f}",
        ]
        for name, entry in rungs.items()
        if (one := entry.get("matched"))
    ]
    note = (
        "Expert → rewritten, both weighted to one distribution of token lengths; the share of the rows is what the two "
        "sides have in common. What is left of the difference is not one of length."
    )
    return [Table([f"{of}, at equal length", "of the rows", "summed log-prob", "difference", "tokens"], rows, note)][
        : len(rows)
    ]


def _beside(gap: Summary, published: Published) -> list[Table]:
    figures = []
    for rung in RUNGS:
        for words, side, theirs in zip(("expert's text", "rewritten"), SIDES, published.logprobs[rung], strict=True):
            own = (gap.get(rung) or {}).get(side)
            if own and theirs is not None:
                figures.append((f"{rung}: {words}", own["sum_logprob"], own.get("sum_logprob_stderr"), theirs))
    note = (
        f"Paper: {published.policy}; its released script scores without a chat template and without the end token, "
        f"which are both in the figures of this run. {NO_ERRORS}"
    )
    return beside_paper("summed log-prob", figures, note)


def _paper_table() -> Table:
    rows = []
    for paper in PUBLISHED:
        pairs = [paper.logprobs[rung] for rung in RUNGS]
        shown = [f"{expert:.2f}" + (f" → {new:.2f}" if new is not None else "") for expert, new in pairs]
        rows.append([f"paper, {paper.policy}", *shown])
    return Table(["summed log-prob", *RUNGS], rows, ORIENTATION)


def histograms(spreads: Spreads) -> Section | None:
    """Figure 3: the log-probs of single responses, summed over each and as a mean over its tokens."""
    if not spreads:
        return None
    blocks: list[Block] = []
    for words, axis, of in (
        ("summed over the response", "log-prob of a response, nats", attrgetter("summed")),
        ("mean over the response's tokens", "log-prob per token, nats", attrgetter("per_token")),
    ):
        rungs = [rung for rung in RUNGS if rung in spreads]
        pairs = [(rung, side) for rung in rungs for side in sides(rung)]
        binned = together([of(spreads[rung][side]) for rung, side in pairs])
        charts = [_chart(rung, pairs, binned, axis, words) for rung in rungs]
        blocks.append(Figure(charts, _counted(pairs, binned, words), f"{words[0].upper()}{words[1:]}"))
    blocks.append(
        Prose("The panels of a row have the same axis. The sum falls with length, the mean over tokens does not.")
    )
    return Section("Figure 3: log-probs by rung", "Histograms", blocks)


def sides(rung: str) -> tuple[int, ...]:
    """Which of the two texts of a rung are shown: where the expert's is kept, they are one."""
    return (0,) if rung == "expert" else (0, 1)


def whose(rung: str, side: int) -> str:
    """Whose text one side of a rung is."""
    return WHOSE[rung] if side else WHOSE["expert"]


def colour(rung: str, side: int) -> str:
    """And in which colour."""
    return rung if side else "expert"


def _chart(rung: str, pairs: list[tuple[str, int]], binned: Histograms, axis: str, words: str) -> Chart:
    shown = [(number, side) for number, (of, side) in enumerate(pairs) if of == rung]
    counted = [Counts(whose(rung, side), colour(rung, side), binned.edges, binned.counts[n]) for n, side in shown]
    rows = sum(binned.counts[shown[0][0]]) + binned.below[shown[0][0]]
    alt = f"Histogram of the log-probs, {words}, of {rows:,} rows of the rung {rung}. "
    alt += " ".join(f"Most of {one.name}: {_peak(one)}." for one in counted)
    return histogram(f"{rung}: {rows:,} rows", counted, axis, "rows", alt)


def _peak(one: Counts) -> str:
    highest = max(range(len(one.counts)), key=one.counts.__getitem__)
    return f"{one.edges[highest]:g} to {one.edges[highest + 1]:g}"


def _counted(pairs: list[tuple[str, int]], binned: Histograms, words: str) -> Table:
    """The histograms with fewer bins, in numbers."""
    step = -(-len(binned.edges) // _ROWS)
    rows: list[list[Any]] = []
    if any(binned.below):
        rows.append([f"below {binned.edges[0]:g}", *(f"{n:,}" for n in binned.below)])
    last = len(binned.edges) - 1
    ends = range(last % step or step, last + 1, step)  # those next to 0, where most rows are, are whole
    for start, end in pairwise([0, *ends]):
        name = f"{binned.edges[start]:g} to {binned.edges[end]:g}"
        rows.append([name, *(f"{sum(counts[start:end]):,}" for counts in binned.counts)])
    header = [f"log-prob, {words}", *(f"{rung}: {whose(rung, side)}" for rung, side in pairs)]
    note = f"Rows below {binned.edges[0]:g} are in the table and not in the charts." if any(binned.below) else ""
    return Table(header, rows, note)
