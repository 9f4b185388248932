"""A run folder → report.md: the paper's tables and figures for this run, and what of its claims holds here."""

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retell.accuracy import (
    NO_ERRORS,
    ORIENTATION,
    TITLES,
    ablation_table,
    accuracy_table,
    beside_paper,
    compare,
    comparisons,
    markdown_table,
    title,
)
from retell.paper import PUBLISHED, Published, published_for
from retell.plots import logprob_histograms, loss_curves
from retell.recipe import Recipe
from retell.runfolder import RunFolder
from retell.stats import standard_error

_RUNGS = ("self", "guided", "expert")
_COLUMN = 58


def write_report(recipe: Recipe, folder: RunFolder) -> str:
    """Writes report.md and its figures from whatever stages the folder holds; returns the page's text."""
    evals = _evaluations(folder)
    table_1, table_2, table_3, table_4 = _tables(recipe, folder, evals)
    parts = [
        f"# {recipe.report.title}",
        _what_was_run(recipe, folder),
        table_1,
        table_2,
        _section("What holds in this run", comparisons(compare(folder, evals))),
        table_3,
        table_4,
        _section("Figure 3: log-probs by rung", _figure_3(folder)),
        _section("Figure 4: training curves", _figure_4(folder)),
        _section("Examples", _examples(folder)),
    ]
    page = _joined(parts) + "\n"
    folder.write_text("report.md", page)
    return page


def tables(recipe: Recipe, folder: RunFolder) -> str:
    """Tables 1 to 4 of the run as Markdown, the paper's beside them; empty where the folder has nothing for any."""
    return _joined(_tables(recipe, folder, _evaluations(folder)))


def _tables(recipe: Recipe, folder: RunFolder, evals: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str, str]:
    published = published_for(recipe.policy.model)
    return (
        _section("Table 1: where the training responses come from", _rung_table(folder, published)),
        _section("Table 2: accuracy", accuracy_table(evals, published)),
        _section("Table 3: log-probs under the policy before training", _logprob_table(folder, published)),
        _section("Table 4: which rung does it", ablation_table(evals, published)),
    )


def _section(heading: str, body: str) -> str:
    return f"## {heading}\n\n{body}" if body else ""


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def _evaluations(folder: RunFolder) -> dict[str, dict[str, Any]]:
    return {name: value for name in _made(folder, "evaluate/") if (value := folder.read_json(f"eval/{name}.json"))}


def _made(folder: RunFolder, stage: str) -> list[str]:
    """Names of the checkpoints or evaluations that are up to date, in the paper's order."""
    return sorted((name.removeprefix(stage) for name in folder.stages() if name.startswith(stage)), key=_order)


def _order(name: str) -> tuple[int, str]:
    names = list(TITLES)
    return (names.index(name) if name in names else len(names), name)


def _what_was_run(recipe: Recipe, folder: RunFolder) -> str:
    lines = [f"Policy `{recipe.policy.model}`, data `{recipe.data.path}`."]
    summary = folder.read_json("rewrite.json") if "rewrite" in folder.stages() else None
    if summary:
        r = recipe.rewrite
        drawn = sum(summary["samples"].values())
        lines.append(
            f"Rewriting: K = {r.k} samples a rung with the {r.engine} engine at temperature {r.temperature:g}, top_p "
            f"{r.top_p:g}, seed {r.seed}; {drawn} samples, {summary['truncated']} truncated, {summary['undecided']} "
            f"undecided, {summary['leaked']} correct retellings refused because they leak the reference."
        )
        if summary["rejected"]:
            lines.append("Rejected rows: " + ", ".join(f"{n} {why}" for why, n in summary["rejected"].items()) + ".")
    looked = (folder.read_json("contamination.json") or {}).get("benchmarks", {})
    if looked:
        found = [
            f"{name} {one['known']} of {one['problems']} ({one['equal']} equal{', dropped' if one['dropped'] else ''})"
            for name, one in looked.items()
            if one["known"]
        ]
        lines.append(
            f"Benchmark problems that overlap training problems: {', '.join(found) or 'none'}; looked for in "
            f"{', '.join(looked)}."
        )
    stale = _out_of_date(folder)
    if stale:
        lines.append(f"Left out, since what they rest on has been replaced: {', '.join(stale)}.")
    facts = ("loss", "mix", "rows", "learning_rate", "batch_size", "updates", "seed")
    made = {name: folder.read_json(f"checkpoints/{name}.json") or {} for name in _made(folder, "train/")}
    if made:
        header = ["training run", "loss", "data", "rows", "learning rate", "rows an update", "updates", "seed"]
        rows = [[title(name), *(f"{one[fact]}" for fact in facts)] for name, one in made.items()]
        lines.append(markdown_table(header, rows))
    return "\n\n".join(lines)


def _out_of_date(folder: RunFolder) -> list[str]:
    """Stages that were finished once and are not up to date with those before them."""
    files = {"gap": "gap.json"}
    for stage, place in (("train", "checkpoints"), ("evaluate", "eval")):
        files |= {f"{stage}/{path.stem}": f"{place}/{path.name}" for path in (folder.path / place).glob("[!.]*.json")}
    made = folder.stages()
    return sorted(stage for stage, file in files.items() if stage not in made and (folder.path / file).is_file())


def _rung_table(folder: RunFolder, published: Published | None) -> str:
    summary = folder.read_json("rewrite.json") if "rewrite" in folder.stages() else None
    if not summary:
        return ""
    counts, total = summary["rungs"], summary["problems"]
    own = markdown_table(["", *_RUNGS, "total"], [["rows", *_counts_and_shares(counts, total), f"{total:,}"]])
    if not published:
        rows = [[f"paper, {p.policy}", *_counts_and_shares(p.rows, p.total), f"{p.total:,}"] for p in PUBLISHED]
        return _joined([own, markdown_table(["", *_RUNGS, "total"], rows), ORIENTATION])
    shares = {rung: counts[rung] / total for rung in _RUNGS}
    figures = [
        (rung, 100 * share, 100 * (share * (1 - share) / total) ** 0.5, 100 * published.rows[rung] / published.total)
        for rung, share in shares.items()
    ]
    note = (
        f"Paper: {published.policy}, {published.total:,} rows of NuminaMath-CoT ("
        + ", ".join(f"{published.rows[rung]:,} {rung}" for rung in _RUNGS)
        + f"); it does not say how many samples a rung had. {NO_ERRORS}"
    )
    return _joined([own, beside_paper("share of the rows, %", figures), note])


def _counts_and_shares(counts: Mapping[str, int], total: int) -> list[str]:
    return [f"{counts[rung]:,} ({counts[rung] / total:.1%})" for rung in _RUNGS]


def _logprob_table(folder: RunFolder, published: Published | None) -> str:
    gap = folder.read_json("gap.json") if "gap" in folder.stages() else None
    if not gap:
        return ""
    columns: dict[str, Callable[[Mapping[str, float]], str]] = {
        "summed log-prob": lambda s: f"{s['sum_logprob']:.2f}",
        "per token": lambda s: f"{s['mean_token_logprob']:.3f}",
        "token ESS": lambda s: f"{s['token_ess']:.3f}",
        "weight variance": lambda s: f"{s['token_weight_variance']:.4f}",
        "tokens p < 0.1": lambda s: f"{s['share_below_0.1']:.1%}",
        "tokens": lambda s: f"{s['mean_tokens']:.1f}",
    }
    rows = []
    for rung, entry in gap.items():
        expert, rewritten = entry["expert"], entry["rewritten"]
        if expert and rewritten:
            rows.append([rung, str(entry["rows"]), *(f"{f(expert)} → {f(rewritten)}" for f in columns.values())])
    note = (
        "Expert → rewritten, means over rows. The summed log-prob, which the paper's Table 3 shows, falls with length; "
        "the mean over tokens does not. Weights are DFT's (denominator 1)."
    )
    papers = _logprobs_beside(folder, published) if published else [_paper_table_3(), ORIENTATION]
    return _joined([markdown_table(["rung", "rows", *columns], rows), note, *papers])


def _logprobs_beside(folder: RunFolder, published: Published) -> list[str]:
    figures = []
    for rung, ours in _summed_logprobs(folder).items():
        for whose, sums, theirs in zip(("expert's text", "rewritten"), ours, published.logprobs[rung], strict=True):
            if theirs is not None:
                figures.append((f"{rung}: {whose}", fmean(sums), standard_error(sums), theirs))
    note = (
        f"Paper: {published.policy}; its released script scores without a chat template and without the end token, "
        f"which are both in the figures of this run. {NO_ERRORS}"
    )
    return [beside_paper("summed log-prob", figures), note]


def _paper_table_3() -> str:
    rows = []
    for paper in PUBLISHED:
        pairs = [paper.logprobs[rung] for rung in _RUNGS]
        shown = [f"{expert:.2f}" + (f" → {new:.2f}" if new is not None else "") for expert, new in pairs]
        rows.append([f"paper, {paper.policy}", *shown])
    return markdown_table(["summed log-prob", *_RUNGS], rows)


def _summed_logprobs(folder: RunFolder) -> dict[str, tuple[list[float], list[float]]]:
    """By rung, the log-probs of the expert's and of the rewritten responses, each summed over its tokens."""
    table = pq.read_table(folder.path / "gap.parquet")
    rung_of, sums = np.array(table["rung"].to_pylist()), []
    for column in ("expert_logprobs", "rewritten_logprobs"):
        lists = table[column].combine_chunks()
        sums.append(np.bincount(pc.list_parent_indices(lists), lists.flatten(), len(lists)))
    expert, rewritten = sums
    return {
        rung: (expert[rung_of == rung].tolist(), rewritten[rung_of == rung].tolist())
        for rung in _RUNGS
        if rung in rung_of
    }


def _figure_3(folder: RunFolder) -> str:
    if "gap" not in folder.stages():
        return ""
    with folder.replacing("figures/figure-3.png") as target:
        logprob_histograms(_summed_logprobs(folder), target)
    return "![Histograms of summed log-probs, expert against rewritten, by rung](figures/figure-3.png)"


def _figure_4(folder: RunFolder) -> str:
    curves = {}
    for name in _made(folder, "train/"):
        text = (folder.path / "checkpoints" / name / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        curves[title(name)] = [line for line in lines if "loss" in line]
    if not curves:
        return ""
    with folder.replacing("figures/figure-4.png") as target:
        loss_curves(curves, target)
    return (
        "![Training loss and plain NLL by update](figures/figure-4.png)\n\n"
        "The losses are weighted differently and cannot be compared with one another; the NLL can, on the same data."
    )


def _examples(folder: RunFolder) -> str:
    path = folder.path / "rewritten.parquet"
    if "rewrite" not in folder.stages():
        return ""
    columns = ["id", "rung", "problem", "solution", "response"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    parts = []
    for rung, whose in (("self", "the policy's own solution"), ("guided", "the policy's retelling")):
        row = next((row for row in rows if row["rung"] == rung), None)
        if row:
            text = "\n\n".join(
                (_wrap(row["problem"]), _side_by_side("the expert", row["solution"], whose, row["response"]))
            )
            parts.append(f"Rung `{rung}`, row `{row['id']}`:\n\n{_fenced(text)}")
    return "\n\n".join(parts)


def _side_by_side(left_title: str, left: str, right_title: str, right: str) -> str:
    pairs = zip_longest(
        [left_title, "-" * _COLUMN, *_lines(left)], [right_title, "-" * _COLUMN, *_lines(right)], fillvalue=""
    )
    return "\n".join(f"{a:<{_COLUMN}} | {b}".rstrip() for a, b in pairs)


def _wrap(text: str) -> str:
    return "\n".join(_lines(text, 2 * _COLUMN))


def _lines(text: str, width: int = _COLUMN) -> list[str]:
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs(4))
    return [part for line in shown.splitlines() for part in textwrap.wrap(line, width) or [""]]


def _fenced(text: str) -> str:
    """Model text as a code block that nothing in it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
