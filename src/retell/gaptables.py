"""The tables of the gap as Markdown, from what was measured before: the paper's Table 3, and at equal length."""

from collections.abc import Callable, Mapping
from typing import Any

from retell.accuracy import NO_ERRORS, beside_paper, markdown_table, title
from retell.paper import Published
from retell.runfolder import RunFolder
from retell.stats import plus_minus

Gap = Mapping[str, Any]


def gap_tables(folder: RunFolder, published: Published | None) -> str:
    """Of the policy, the paper's figures beside where they are of the same one, and of every checkpoint scored."""
    stages = sorted(stage for stage in folder.stages() if stage == "gap" or stage.startswith("gap/"))
    parts: list[str] = []
    for stage in stages:
        gap = folder.read_json(f"{stage}.json") or {}
        under = "the policy before training" if stage == "gap" else title(stage.removeprefix("gap/"))
        rungs = {rung: entry for rung, entry in gap.items() if rung != "drift" and entry["expert"]}
        parts += [f"## Log-probs under {under}", _logprobs(rungs)]
        if stage == "gap" and published:
            parts.append(_beside(rungs, published))
        parts += [f"## At equal length, under {under}", _matched(rungs)]
    return "\n\n".join(part for part in parts if part)


def _logprobs(rungs: Gap) -> str:
    header = ["rung", "rows", "summed log-prob", "per token", "perplexity", "token ESS", "tokens p < 0.1", "tokens"]
    shown: tuple[Callable[[Gap], str], ...] = (
        lambda s: plus_minus(s["sum_logprob"], s["sum_logprob_stderr"], 2),
        lambda s: f"{s['mean_token_logprob']:.3f}",
        lambda s: f"{s['perplexity']:.3f}",
        lambda s: f"{s['token_ess']:.3f}",
        lambda s: f"{s['share_below_0.1']:.1%}",
        lambda s: f"{s['mean_tokens']:.1f}",
    )
    rows = [
        [rung, f"{entry['rows']:,}", *(f"{of(entry['expert'])} → {of(entry['rewritten'])}" for of in shown)]
        for rung, entry in rungs.items()
    ]
    note = "Expert → rewritten. The summed log-prob, which the paper's Table 3 shows, falls with length."
    return f"{markdown_table(header, rows)}\n\n{note}"


def _matched(rungs: Gap) -> str:
    header = ["rung", "share of the rows", "summed log-prob", "difference", "tokens"]
    rows = [
        [
            rung,
            f"{one['share']:.1%}",
            f"{one['expert']:.2f} → {one['rewritten']:.2f}",
            plus_minus(one["difference"], one["stderr"], 2),
            f"{one['expert_tokens']:.1f} → {one['rewritten_tokens']:.1f}",
        ]
        for rung, entry in rungs.items()
        if (one := entry["matched"])
    ]
    note = (
        "Expert → rewritten, both weighted to one distribution of token lengths; the share of the rows is what the two "
        "sides have in common."
    )
    return f"{markdown_table(header, rows)}\n\n{note}" if rows else "The two sides have no length in common."


def _beside(rungs: Gap, published: Published) -> str:
    figures = [
        (f"{rung}: {side}", rungs[rung][side]["sum_logprob"], rungs[rung][side]["sum_logprob_stderr"], paper)
        for rung, both in published.logprobs.items()
        if rung in rungs
        for side, paper in zip(("expert", "rewritten"), both, strict=True)
        if paper is not None
    ]
    note = (
        f"Paper: {published.policy}; its released script scores without a chat template and without the end token, "
        f"which are both in the figures of this run. {NO_ERRORS}"
    )
    return f"{beside_paper('summed log-prob', figures)}\n\n{note}"
