"""Several runs on one page: in what they differ, and what they came to, beside one another."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from retell.charts import Dots, Part, dots, stacked
from retell.document import Block, Document, Figure, Prose, Section, Table
from retell.errors import RequestError
from retell.legend import OTHERS, RUNGS, in_order, title
from retell.paired import Paired
from retell.recipe import dump
from retell.results import Results
from retell.sections.accuracy import benchmarks_of, interval, weaknesses
from retell.sections.cost import count, hours
from retell.sections.differences import (
    PAIRED,
    SEEDS,
    alike,
    counts_of,
    difference_chart,
    difference_table,
    paired_or_none,
)
from retell.stats import plus_minus

Runs = Mapping[str, Results]
"""Run → what it holds, in the order in which the runs were given: the others are compared with the first."""
_NONE = "–"


def compare(runs: Runs) -> Document:
    """The page of several runs."""
    found = paired_runs(runs)
    sections = (_recipes(runs), _rungs(runs), _gaps(runs), _accuracies(runs), _differences(runs, found), _costs(runs))
    return Document(" and ".join(runs), [one for one in sections if one])


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """What to call each run: its folder's name, or its whole path where two have the same.

    Raises:
        RequestError: there are fewer than two, or one is given twice.
    """
    whole = [path.resolve() for path in paths]
    twice = [str(path) for number, path in enumerate(paths) if whole[number] in whole[:number]]
    if twice:
        raise RequestError(f"{twice[0]} is given twice: a run is compared with others")
    if len(paths) < 2:
        many = "one run" if paths else "no run"
        raise RequestError(f"{many} to compare: give the folders of two or more, `retell compare runs/one runs/two`")
    names = [path.name for path in whole]
    return {
        name if names.count(name) == 1 else str(path): given
        for name, path, given in zip(names, whole, paths, strict=True)
    }


def differing(runs: Runs) -> dict[str, list[str | None]]:
    """Keys of the recipes, and the policies, that are not the same in all runs; None where one is unset."""
    flat = [_flat(run) for run in runs.values()]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key) for one in flat] for key in keys}
    return {key: there for key, there in values.items() if len(set(there)) > 1}


def paired_runs(runs: Runs) -> dict[str, Paired]:
    """Each model of each run minus the same model of the first, on the problems that both were evaluated on.

    Evaluations with other settings are left out, and so are those on no common problem.
    """
    (first, reference), *others = runs.items()
    found = {}
    for model, (name, run) in product(in_order(reference.evaluations), others):
        if model in run.evaluations and alike(run.evaluations[model], reference.evaluations[model]):
            it = paired_or_none(counts_of(run.folder, model), counts_of(reference.folder, model))
            if it:
                found[f"{title(model)}: {name} − {first}"] = it
    return found


def _flat(run: Results) -> dict[str, str]:
    document: Mapping[str, Any] = dump(run.recipe)
    flat = {
        f"{section}.{key}": str(value)
        for section, keys in document.items()
        for key, value in keys.items()
        if section != "report"
    }
    drawn_by = (run.rewrite or {}).get("policy")
    return flat | ({"policy's fingerprint": str(drawn_by)} if drawn_by else {})


def _recipes(runs: Runs) -> Section:
    rows = [[key, *(_NONE if one is None else one for one in values)] for key, values in differing(runs).items()]
    blocks: list[Block] = [Table(["key", *runs], rows, words=True)] if rows else []
    blocks.append(Prose(f"{'The other keys of their' if rows else 'Their'} recipes are the same."))
    return Section("In what they differ", "Recipes", blocks)


def _rungs(runs: Runs) -> Section | None:
    told = {name: run.rewrite for name, run in runs.items() if run.rewrite}
    if not told:
        return None
    rows = [
        [
            name,
            *(f"{one['rungs'][rung]:,} ({one['rungs'][rung] / one['problems']:.1%})" for rung in RUNGS),
            f"{one['problems']:,}",
            f"{sum(one['rejected'].values()):,}",
        ]
        for name, one in told.items()
    ]
    parts = [Part(rung, rung, [100 * one["rungs"][rung] / one["problems"] for one in told.values()]) for rung in RUNGS]
    alt = "Share of the rungs in each run: " + "; ".join(f"{row[0]} self {row[1]}, guided {row[2]}" for row in rows)
    chart = stacked("Where the training responses come from", list(told), parts, "share of the rows, %", f"{alt}.")
    return Section("Rungs", "Rungs", [Figure([chart], Table(["", *RUNGS, "rows", "rejected"], rows), folded=False)])


def _gaps(runs: Runs) -> Section | None:
    rows = []
    for rung, (name, run) in product((*RUNGS, "all"), runs.items()):
        one = (run.gap or {}).get(rung) or {}
        if one.get("expert") and one.get("rewritten"):
            pair = one["expert"], one["rewritten"]
            shown = (("sum_logprob", 2), ("mean_token_logprob", 3), ("token_ess", 3))
            cells = [" → ".join(f"{side[key]:.{places}f}" for side in pair) for key, places in shown]
            rows.append([f"{rung}: {name}", f"{one['rows']:,}", *cells])
    if not rows:
        return None
    note = "Expert → rewritten, under each run's own policy before training."
    header = ["rung and run", "rows", "summed log-prob", "per token", "token ESS"]
    return Section("Log-probs and weights", "Gap", [Table(header, rows, note)])


def _accuracies(runs: Runs) -> Section | None:
    models = in_order({model for run in runs.values() for model in run.evaluations})
    if not models:
        return None
    pairs = [(model, name) for model in models for name in runs if model in runs[name].evaluations]
    evals = {(model, name): runs[name].evaluations[model] for model, name in pairs}
    benchmarks = list(dict.fromkeys(b for run in runs.values() for b in benchmarks_of(run.evaluations)))
    rows = []
    for (model, name), e in evals.items():
        scores = [e["benchmarks"].get(b) for b in benchmarks]
        cells = [plus_minus(one["avg_at_k"], one["stderr"]) if one else _NONE for one in scores]
        rows.append([f"{title(model)}: {name}", *cells, plus_minus(e["average"], e["average_stderr"])])
    shown = [
        Dots(
            name,
            f"other-{number % OTHERS + 1}",
            [evals[model, name]["average"] if (model, name) in evals else None for model in models],
            [
                interval(evals[model, name]["average"], evals[model, name]["average_stderr"])
                if (model, name) in evals
                else None
                for model in models
            ],
        )
        for number, name in enumerate(runs)
    ]
    alt = "Average accuracy of each model in each run: " + ", ".join(f"{row[0]} {row[-1]}" for row in rows)
    chart = dots("Average accuracy, with 95 % intervals", [*map(title, models)], shown, "correct, %", f"{alt}.")
    blocks: list[Block] = [Figure([chart], Table(["model and run", *benchmarks, "average"], rows), folded=False)]
    for name, run in runs.items():
        if run.evaluations:
            k = ", ".join(str(k) for k in dict.fromkeys(e["k"] for e in run.evaluations.values()))
            blocks.append(
                Prose(" ".join([f"{name}: avg@{k}, ± standard error over problems.", *weaknesses(run.evaluations)]))
            )
    return Section("Accuracy", "Accuracy", blocks)


def _differences(runs: Runs, found: Mapping[str, Paired]) -> Section | None:
    if not any(run.evaluations for run in runs.values()):
        return None
    blocks: list[Block] = []
    if found:
        blocks.append(Figure([difference_chart(found)], difference_table(found), folded=False))
        blocks.append(Prose(f"{PAIRED} {SEEDS}"))
    else:
        blocks.append(Prose("No model was evaluated in two runs on common problems with the same settings."))
    return Section(f"Differences from {next(iter(runs))}", "Differences", blocks)


def _costs(runs: Runs) -> Section | None:
    if not any(run.rewrite or run.trainings for run in runs.values()):
        return None
    rows = []
    for name, run in runs.items():
        one = run.rewrite or {}
        trained = [training.get("tokens") for training in run.trainings.values()]
        rows.append(
            [
                name,
                count(sum(one["samples"].values()) if one else None),
                count(sum(one["not_drawn"].values()) if "not_drawn" in one else None),
                count(one.get("tokens", {}).get("generated")),
                count(one.get("tokens_saved")),
                hours(run.seconds.get("rewrite")),
                count(sum(n or 0 for n in trained) if trained and None not in trained else None),
            ]
        )
    header = ["", "samples", "not needed", "tokens", "tokens saved, ≈", "hours", "trained on, tokens"]
    note = f"Samples, tokens and hours are those of rewriting; {_NONE} is not recorded."
    return Section("Cost", "Cost", [Table(header, rows, note)])
