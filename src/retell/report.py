"""A run folder → report.md: the paper's tables and figures for this run, and what of its claims holds here."""

import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from retell.plots import logprob_histograms, loss_curves
from retell.recipe import Recipe
from retell.runfolder import RunFolder
from retell.stats import plus_minus, standard_error

_TITLES = {
    "base": "base",
    "sft": "SFT",
    "dft": "DFT",
    "dr-sft": "DR + SFT",
    "dr-dft": "DR + DFT",
    "self-dft": "self only + DFT",
    "guided-dft": "guided only + DFT",
}
_ABLATION = {"dft": "none", "self-dft": "self only", "guided-dft": "guided only", "dr-dft": "full"}
_ORDERINGS = (
    ("dft", "sft"),
    ("dr-sft", "sft"),
    ("dr-dft", "dft"),
    ("dr-dft", "dr-sft"),
    ("dft", "dr-sft"),
    ("dr-dft", "self-dft"),
    ("dr-dft", "guided-dft"),
)
"""What the averages of the paper's Table 2 (both of its models) and Table 4 (one) say."""
_RUNGS = ("self", "guided", "expert")
_COLUMN = 58


def write_report(recipe: Recipe, folder: RunFolder) -> str:
    """Writes report.md and its figures from whatever stages the folder holds; returns the page's text."""
    evals = _evaluations(folder)
    parts = [
        f"# {recipe.report.title}",
        _what_was_run(recipe, folder),
        _section("Table 1: where the training responses come from", _rung_table(folder)),
        _section("Table 2: accuracy", _accuracy_table(evals)),
        _section("What holds in this run", _orderings(evals, folder)),
        _section("Table 3: log-probs under the policy before training", _logprob_table(folder)),
        _section("Table 4: which rung does it", _ablation_table(evals)),
        _section("Figure 3: log-probs by rung", _figure_3(folder)),
        _section("Figure 4: training curves", _figure_4(folder)),
        _section("Examples", _examples(folder)),
    ]
    page = "\n\n".join(part for part in parts if part) + "\n"
    folder.write_text("report.md", page)
    return page


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others numbers."""
    align = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, align, *rows))


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _evaluations(folder: RunFolder) -> dict[str, dict[str, Any]]:
    return {name: value for name in _made(folder, "evaluate/") if (value := folder.read_json(f"eval/{name}.json"))}


def _made(folder: RunFolder, stage: str) -> list[str]:
    """Names of the checkpoints or evaluations that are up to date, in the paper's order."""
    return sorted((name.removeprefix(stage) for name in folder.stages() if name.startswith(stage)), key=_order)


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
    stale = _out_of_date(folder)
    if stale:
        lines.append(f"Left out, since what they rest on has been replaced: {', '.join(stale)}.")
    facts = ("loss", "mix", "rows", "learning_rate", "batch_size", "updates", "seed")
    made = {name: folder.read_json(f"checkpoints/{name}.json") or {} for name in _made(folder, "train/")}
    if made:
        titles = ["training run", "loss", "data", "rows", "learning rate", "rows an update", "updates", "seed"]
        rows = [[_title(name), *(f"{one[fact]}" for fact in facts)] for name, one in made.items()]
        lines.append(markdown_table(titles, rows))
    return "\n\n".join(lines)


def _out_of_date(folder: RunFolder) -> list[str]:
    """Stages that were finished once and are not up to date with those before them."""
    files = {"gap": "gap.json"}
    for stage, place in (("train", "checkpoints"), ("evaluate", "eval")):
        files |= {f"{stage}/{path.stem}": f"{place}/{path.name}" for path in (folder.path / place).glob("[!.]*.json")}
    made = folder.stages()
    return sorted(stage for stage, file in files.items() if stage not in made and (folder.path / file).is_file())


def _rung_table(folder: RunFolder) -> str:
    summary = folder.read_json("rewrite.json") if "rewrite" in folder.stages() else None
    if not summary:
        return ""
    total = summary["problems"]
    counts = [f"{summary['rungs'][rung]} ({summary['rungs'][rung] / total:.1%})" for rung in _RUNGS]
    return markdown_table(["", *_RUNGS, "total"], [["rows", *counts, str(total)]])


def _accuracy_table(evals: Mapping[str, Mapping[str, Any]]) -> str:
    if not evals:
        return ""
    benchmarks = list(dict.fromkeys(b for e in evals.values() for b in e["benchmarks"]))
    rows = []
    for name, e in evals.items():
        cells = [_score(e["benchmarks"].get(b)) for b in benchmarks]
        rows.append([_title(name), *cells, plus_minus(e["average"], e["average_stderr"])])
    any_eval = next(iter(evals.values()))
    sizes = ", ".join(f"{b} {one['n']}" for b, one in any_eval["benchmarks"].items())
    note = (
        f"avg@{any_eval['k']} in percent at temperature {any_eval['temperature']:g}, ± standard error over problems "
        f"(problems: {sizes}). Grader: {any_eval['grader']}."
    )
    left_out = ", ".join(f"{b} {n}" for b, n in any_eval["rejected"].items() if n)
    if left_out:
        note += f" Rows of the benchmarks that could not be used: {left_out}."
    undecided = max(one["undecided"] for e in evals.values() for one in e["benchmarks"].values())
    if undecided:
        note += f" At most {undecided:.2f} % of a benchmark's responses are undecided and score 0."
    return markdown_table(["", *benchmarks, "average"], rows) + "\n\n" + note


def _score(one: Mapping[str, Any] | None) -> str:
    return plus_minus(one["avg_at_k"], one["stderr"]) if one else "–"


def _orderings(evals: Mapping[str, Mapping[str, Any]], folder: RunFolder) -> str:
    lines = []
    for better, worse in _ORDERINGS:
        if better in evals and worse in evals:
            difference, error = _paired_difference(folder, better, worse)
            lines.append(f"- {_title(better)} > {_title(worse)}: {_in_words(difference, error)}.")
    if not lines:
        return ""
    note = (
        "These are the orderings of the averages in the paper's Tables 2 and 4. Differences are in points of the "
        "average, paired by problem, ± their standard error over problems. It is one training seed each: the "
        "variance between seeds is left out."
    )
    return "\n".join(lines) + "\n\n" + note


def _in_words(difference: float, error: float | None) -> str:
    figure = f"{difference:+.1f}" + (f" ± {error:.1f}" if error is not None else "")
    if error is not None and abs(difference) < 2 * error:
        return f"undecided, within the noise ({figure})"
    return f"{'holds' if difference > 0 else 'does not hold'} ({figure})"


def _paired_difference(folder: RunFolder, one: str, other: str) -> tuple[float, float | None]:
    """Mean over benchmarks of the difference in accuracy, and its standard error over problems."""
    mine, theirs = _problem_means(folder, one), _problem_means(folder, other)
    means, errors = [], []
    for benchmark in mine:
        shared = mine[benchmark].keys() & theirs.get(benchmark, {}).keys()
        if shared:
            differences = [mine[benchmark][i] - theirs[benchmark][i] for i in sorted(shared)]
            means.append(fmean(differences))
            errors.append(standard_error(differences))
    known = [error for error in errors if error is not None]
    error = sum(e * e for e in known) ** 0.5 / len(known) if known and len(known) == len(errors) else None
    return (fmean(means) if means else 0.0), error


def _problem_means(folder: RunFolder, name: str) -> dict[str, dict[str, float]]:
    table = pq.read_table(folder.path / "eval" / f"{name}.parquet", columns=["benchmark", "id", "verdict", "stop"])
    scores: dict[str, dict[str, list[float]]] = {}
    for row in table.to_pylist():
        correct = row["verdict"] == "correct" and row["stop"] == "stop"
        scores.setdefault(row["benchmark"], {}).setdefault(row["id"], []).append(100.0 * correct)
    return {benchmark: {i: fmean(values) for i, values in rows.items()} for benchmark, rows in scores.items()}


def _logprob_table(folder: RunFolder) -> str:
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
    return markdown_table(["rung", "rows", *columns], rows) + "\n\n" + note


def _ablation_table(evals: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [label, plus_minus(evals[name]["average"], evals[name]["average_stderr"])]
        for name, label in _ABLATION.items()
        if name in evals
    ]
    return markdown_table(["rewriting, on DFT", "average"], rows) if len(rows) > 1 else ""


def _figure_3(folder: RunFolder) -> str:
    path = folder.path / "gap.parquet"
    if "gap" not in folder.stages():
        return ""
    table = pq.read_table(path).to_pylist()
    sums = {}
    for rung in _RUNGS:
        rows = [row for row in table if row["rung"] == rung]
        if rows:
            sums[rung] = ([sum(r["expert_logprobs"]) for r in rows], [sum(r["rewritten_logprobs"]) for r in rows])
    with folder.replacing("figures/figure-3.png") as target:
        logprob_histograms(sums, target)
    return "![Histograms of summed log-probs, expert against rewritten, by rung](figures/figure-3.png)"


def _figure_4(folder: RunFolder) -> str:
    curves = {}
    for name in _made(folder, "train/"):
        text = (folder.path / "checkpoints" / name / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        curves[_title(name)] = [line for line in lines if "loss" in line]
    if not curves:
        return ""
    with folder.replacing("figures/figure-4.png") as target:
        loss_curves(curves, target)
    return (
        "![Training loss and plain NLL by update](figures/figure-4.png)\n\n"
        "The losses are weighted differently and cannot be compared with one another; the NLL can, on the same data."
    )


def _order(name: str) -> tuple[int, str]:
    names = list(_TITLES)
    return (names.index(name) if name in names else len(names), name)


def _examples(folder: RunFolder) -> str:
    path = folder.path / "rewritten.parquet"
    if "rewrite" not in folder.stages():
        return ""
    columns = ["id", "rung", "problem", "solution", "response"]
    rows = pq.read_table(path, columns=columns).to_pylist()
    parts = []
    for rung, title in (("self", "the policy's own solution"), ("guided", "the policy's retelling")):
        row = next((row for row in rows if row["rung"] == rung), None)
        if row:
            text = "\n\n".join(
                (_wrap(row["problem"]), _side_by_side("the expert", row["solution"], title, row["response"]))
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
