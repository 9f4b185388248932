"""Table 1: where the training responses come from."""

from collections.abc import Mapping

from retell.document import Block, Branch, Flow, Prose, Section, Table
from retell.legend import RUNGS, WHOSE
from retell.paper import PUBLISHED, Published, published_for
from retell.results import Results, Summary
from retell.sections.beside import NO_ERRORS, ORIENTATION, beside_paper
from retell.stats import plus_minus


def rungs(results: Results) -> Section | None:
    """The counts of the rungs, the way of the rows as a picture, and what a sample's chances were."""
    summary = results.rewrite
    if not summary:
        return None
    counts, total = summary["rungs"], summary["problems"]
    blocks: list[Block] = [
        _flow(summary, results.recipe.rewrite.k),
        Table(["", *RUNGS, "total"], [["rows", *_counts_and_shares(counts, total), f"{total:,}"]]),
    ]
    if summary["rejected"]:
        listed = ", ".join(f"{n:,} {reason}" for reason, n in summary["rejected"].items())
        blocks.append(Prose(f"Rejected rows, kept with their reasons in `rejected.jsonl`: {listed}."))
    blocks += _chances(summary)
    blocks += _beside(counts, total, published_for(results.recipe.policy.model))
    return Section("Table 1: where the training responses come from", "Rungs", blocks)


def _flow(summary: Summary, k: int) -> Flow:
    counts, total = summary["rungs"], summary["problems"]
    rejected = sum(summary["rejected"].values())
    says = {
        "self": f"solved by the policy itself, in at most {k} samples",
        "guided": f"else retold by the policy with the solution in sight, in at most {k} samples",
        "expert": "else the expert's text is kept",
    }
    branches = [Branch(rung, counts[rung], rung, says[rung]) for rung in RUNGS]
    if rejected:
        branches.append(Branch("rejected", rejected, "rejected", "cannot be used, with the reason", aside=True))
    parts = [f"{counts[rung]:,} keep the {WHOSE[rung]} ({counts[rung] / total:.1%})" for rung in RUNGS]
    alt = f"Of {total + rejected:,} rows {f'{rejected:,} are rejected; of the others ' if rejected else ''}"
    return Flow("rows of the data", branches, alt + ", ".join(parts) + ".")


def _counts_and_shares(counts: Mapping[str, int], total: int) -> list[str]:
    return [f"{counts[rung]:,} ({counts[rung] / total:.1%})" for rung in RUNGS]


def _chances(summary: Summary) -> list[Table]:
    rows = [
        [rung, f"{rate['problems']:,}", plus_minus(rate["percent"], rate["stderr"])]
        for rung, rate in summary.get("pass_rate", {}).items()
        if rate
    ]
    note = "Over the problems that reached the rung, ± standard error over problems."
    return [Table(["rung", "problems", "correct at one try, %"], rows, note)] if rows else []


def _beside(counts: Mapping[str, int], total: int, published: Published | None) -> list[Block]:
    if not published:
        rows = [[f"paper, {p.policy}", *_counts_and_shares(p.rows, p.total), f"{p.total:,}"] for p in PUBLISHED]
        return [Table(["", *RUNGS, "total"], rows, ORIENTATION)]
    shares = {rung: counts[rung] / total for rung in RUNGS}
    figures = [
        (rung, 100 * share, 100 * (share * (1 - share) / total) ** 0.5, 100 * published.rows[rung] / published.total)
        for rung, share in shares.items()
    ]
    listed = ", ".join(f"{published.rows[rung]:,} {rung}" for rung in RUNGS)
    note = (
        f"Paper: {published.policy}, {published.total:,} rows of NuminaMath-CoT ({listed}); it does not say how many "
        f"samples a rung had. {NO_ERRORS}"
    )
    return [*beside_paper("share of the rows, %", figures, note)]
