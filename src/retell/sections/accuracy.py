"""Tables 2 and 4: a run's accuracies, and the paper's figures beside them."""

from collections.abc import Mapping
from typing import Any

from retell.charts import Dots, dots
from retell.document import Block, Figure, Prose, Section, Table
from retell.legend import colours, title
from retell.paper import PROBLEMS, PUBLISHED, QWEN, Published, published_for
from retell.results import Results, Summary
from retell.sections.beside import NO_ERRORS, ORIENTATION, beside_paper
from retell.stats import plus_minus

SETTINGS = ("temperature", "top_p", "max_tokens", "grader", "prompt", "system")
"""What two evaluations must share to be compared; more samples of one only make it more certain."""
NORMAL = 1.96
"""So many standard errors to either side make a 95 % interval."""
_ABLATION = {"dft": "none", "self-dft": "self only", "guided-dft": "guided only", "dr-dft": "full"}
_OTHER_AVERAGE = "The average is of other benchmarks than the paper's five, and not comparable with its own."

Evaluations = Mapping[str, Summary]
"""Evaluation → what its eval/NAME.json says."""


def accuracy(results: Results) -> Section | None:
    """Table 2: avg@k of every model on every benchmark, with its standard error."""
    evals = results.evaluations
    if not evals:
        return None
    published = published_for(results.recipe.policy.model)
    benchmarks = benchmarks_of(evals)
    rows = []
    for name, e in evals.items():
        places = 2 if e["rounded"] else 1  # a rounding that nobody could see otherwise
        cells = [_score(e["benchmarks"].get(b), places) for b in benchmarks]
        rows.append([title(name), *cells, plus_minus(e["average"], e["average_stderr"], places)])
    table = Table(["", *benchmarks, "average"], rows)
    alt = "Accuracy of each model on each benchmark. Averages: " + ", ".join(
        f"{title(name)} {plus_minus(e['average'], e['average_stderr'])}" for name, e in evals.items()
    )
    shown = _dots(evals, benchmarks, colours(results.models), published)
    papers = "; hollow: the paper's" if any(one.hollow for one in shown) else ""
    chart = dots(
        f"Accuracy by benchmark, with 95 % intervals{papers}",
        [*benchmarks, "average"],
        shown,
        "responses that are correct, %",
        f"{alt}.",
    )
    blocks: list[Block] = [Figure([chart], table, folded=False), Prose(_settings(evals))]
    blocks += _beside(evals, published) if published else [*map(_paper_table, PUBLISHED), Prose(ORIENTATION)]
    return Section("Table 2: accuracy", "Accuracy", blocks)


def ablation(results: Results) -> Section | None:
    """Table 4; the paper has it for one policy only."""
    own = {name: results.evaluations[name] for name in _ABLATION if name in results.evaluations}
    if len(own) < 2:
        return None
    rows = [[_ABLATION[name], plus_minus(e["average"], e["average_stderr"])] for name, e in own.items()]
    blocks: list[Block] = [Table(["rewriting, on DFT", "average"], rows)]
    published = published_for(results.recipe.policy.model)
    if published and published.ablation:
        figures = [
            (_ABLATION[name], e["average"], e["average_stderr"], published.ablation[name])
            for name, e in own.items()
            if _has_the_five(e)
        ]
        blocks += beside_paper("average", figures, NO_ERRORS) or [Prose(_OTHER_AVERAGE)]
    else:
        theirs = [[_ABLATION[name], f"{value:.2f}"] for name, value in QWEN.ablation.items()]
        blocks.append(Table([f"paper, {QWEN.policy}", "average"], theirs, ORIENTATION))
    return Section("Table 4: which rung does it", "Ablation", blocks)


def benchmarks_of(evals: Evaluations) -> list[str]:
    """All benchmarks that any of the models was evaluated on."""
    return list(dict.fromkeys(b for e in evals.values() for b in e["benchmarks"]))


def interval(value: float, error: float | None) -> tuple[float, float] | None:
    """The ends of a percentage's 95 % interval, if its standard error is known."""
    return None if error is None else (max(value - NORMAL * error, 0.0), min(value + NORMAL * error, 100.0))


def _dots(
    evals: Evaluations, benchmarks: list[str], colour: Mapping[str, str], published: Published | None
) -> list[Dots]:
    shown = []
    for name, e in evals.items():
        scores = [e["benchmarks"].get(b) for b in benchmarks]
        values = [one and one["avg_at_k"] for one in scores]
        ends = [one and interval(one["avg_at_k"], one["stderr"]) for one in scores]
        average = interval(e["average"], e["average_stderr"])
        shown.append(Dots(title(name), colour[name], [*values, e["average"]], [*ends, average]))
        if published and name in published.accuracy:
            theirs: list[float | None] = [published.accuracy[name].get(b) for b in benchmarks]
            average_of_the_five = published.average[name] if _has_the_five(e) else None
            if any(theirs):
                paper = f"{title(name)}, paper"
                shown.append(Dots(paper, colour[name], [*theirs, average_of_the_five], hollow=True))
    return shown


def _settings(evals: Evaluations) -> str:
    """How the models were evaluated, and what is to be known of it."""
    any_eval = next(iter(evals.values()))
    sizes = ", ".join(f"{b} {one['n']}" for b, one in any_eval["benchmarks"].items())
    note = (
        f"avg@{any_eval['k']} in percent at temperature {any_eval['temperature']:g}, ± standard error over problems "
        f"(problems: {sizes}). Grader: {any_eval['grader']}."
    )
    if any_eval["rounded"]:
        note += " As in the paper, each run's accuracy is rounded to one decimal before the runs are averaged."
    return " ".join([note, *weaknesses(evals)])


def weaknesses(evals: Evaluations) -> list[str]:
    """What makes the scores less than they look, or less comparable, in a sentence each."""
    first, any_eval = next(iter(evals.items()))
    told = [_otherwise(title(name), e, title(first), any_eval) for name, e in evals.items()]
    shortened = {b: one["shortened"] for b, one in any_eval["benchmarks"].items() if one["shortened"]}
    if shortened:
        told.append(
            f"The context of {any_eval['context']:,} tokens leaves less than {any_eval['max_tokens']:,} for a "
            f"response: {', '.join(f'{b} {n}' for b, n in shortened.items())} problems."
        )
    truncated = max(one["truncated"] for e in evals.values() for one in e["benchmarks"].values())
    if truncated:
        told.append(f"At most {truncated:.1f} % of a benchmark's responses were cut off and score 0.")
    left_out = ", ".join(f"{b} {n}" for b, n in any_eval["rejected"].items() if n)
    if left_out:
        told.append(f"Rows of the benchmarks that could not be used: {left_out}.")
    undecided = max(one["undecided"] for e in evals.values() for one in e["benchmarks"].values())
    if undecided:
        told.append(f"At most {undecided:.2f} % of a benchmark's responses are undecided and score 0.")
    failed = sum(one.get("failed", 0) for e in evals.values() for one in e["benchmarks"].values())
    if failed:
        told.append(f"The engine failed on {failed:,} responses, which are left out.")
    return [words for words in told if words]


def _otherwise(name: str, e: Summary, first: str, other: Summary) -> str:
    """In which settings two evaluations differ."""
    shown = [f"{key} {e[key]}" for key in ("k", *SETTINGS[:4]) if e[key] != other[key]]
    shown += ["another prompt"] if any(e[key] != other[key] for key in ("prompt", "system")) else []
    return f"{name} was evaluated otherwise than {first}: {', '.join(shown)}." if shown else ""


def _score(one: Mapping[str, Any] | None, places: int) -> str:
    return plus_minus(one["avg_at_k"], one["stderr"], places) if one else "–"


def _has_the_five(evaluation: Summary) -> bool:
    return set(evaluation["benchmarks"]) == set(PROBLEMS)


def _beside(evals: Evaluations, published: Published) -> list[Block]:
    """A table for every benchmark whose name is one of the paper's, one of the averages, and what to know of them."""
    tables, others = [], []
    both = {name: e for name, e in evals.items() if name in published.accuracy}
    for benchmark, size in PROBLEMS.items():
        scores = {name: e["benchmarks"][benchmark] for name, e in both.items() if benchmark in e["benchmarks"]}
        figures = [
            (title(name), one["avg_at_k"], one["stderr"], published.accuracy[name][benchmark])
            for name, one in scores.items()
        ]
        tables += beside_paper(benchmark, figures)
        sizes = sorted({one["n"] for one in scores.values()} - {size})
        others += [f"{benchmark} {' or '.join(map(str, sizes))} instead of {size}"] if sizes else []
    averages = [
        (title(name), e["average"], e["average_stderr"], published.average[name])
        for name, e in both.items()
        if _has_the_five(e)
    ]
    tables += beside_paper("average of the five", averages)
    if not tables:
        return [Prose(f"No benchmark here has the name of one of the paper's: {', '.join(PROBLEMS)}.")]
    note = (
        f"Paper: {published.policy}, avg@16 at temperature 1 with at most 4,096 tokens, graded by Qwen2.5-Math's rules "
        f"(the grader `qwen`). {NO_ERRORS}"
    )
    if not averages:
        note += f" {_OTHER_AVERAGE}"
    if others:
        note += f" Another number of problems than the paper has: {', '.join(others)}."
    return [*tables, Prose(note)]


def _paper_table(published: Published) -> Table:
    rows = [
        [title(name), *(f"{scores[b]:.2f}" for b in PROBLEMS), f"{published.average[name]:.2f}"]
        for name, scores in published.accuracy.items()
    ]
    return Table([f"paper, {published.policy}", *PROBLEMS, "average"], rows)
