"""A run's accuracies: Tables 2 and 4, the paper's figures beside them, and which of its orderings hold."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pyarrow.parquet as pq

from retell.errors import DataError
from retell.hashing import digest
from retell.paired import Counts, Paired, paired
from retell.paper import PROBLEMS, PUBLISHED, QWEN, Published
from retell.runfolder import RunFolder
from retell.stats import plus_minus

TITLES = {
    "base": "base",
    "sft": "SFT",
    "dft": "DFT",
    "dr-sft": "DR + SFT",
    "dr-dft": "DR + DFT",
    "self-dft": "self only + DFT",
    "guided-dft": "guided only + DFT",
}
"""What the paper calls the evaluations, in its order."""
ORDERINGS = (
    ("dft", "sft"),
    ("dr-sft", "sft"),
    ("dr-dft", "dft"),
    ("dr-dft", "dr-sft"),
    ("dft", "dr-sft"),
    ("dr-dft", "self-dft"),
    ("dr-dft", "guided-dft"),
)
"""What the averages of the paper's Table 2 (both of its models) and Table 4 (one) say: better, worse."""
ORIENTATION = (
    "For orientation only: figures of another policy, on other data or other benchmarks, are not comparable with those "
    "of this run."
)
NO_ERRORS = (
    "The paper gives no standard errors: ± is that of this run alone, and a difference is less certain than its ± says."
)
_ABLATION = {"dft": "none", "self-dft": "self only", "guided-dft": "guided only", "dr-dft": "full"}
_METHODS = ("sft", "dr-sft", "dft", "dr-dft")
_SETTINGS = ("temperature", "top_p", "max_tokens", "grader", "prompt", "system")
"""What two evaluations must share to be compared; more samples of one only make it more certain."""

Evaluations = Mapping[str, Mapping[str, Any]]
"""Evaluation → what its eval/NAME.json says."""
Pair = tuple[str, str]
Figure = tuple[str, float, float | None, float]
"""What it is, this run's value with its standard error, the paper's value."""


def title(name: str) -> str:
    """What an evaluation or training run is called on the page."""
    return TITLES.get(name, name)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned in a terminal too; the first column is text, the others numbers."""
    # Names of benchmarks and evaluations are somebody's own.
    header, rows = _escaped(header), [_escaped(cells) for cells in rows]
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        for cells in (header, rule, *rows)
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _escaped(cells: Sequence[str]) -> list[str]:
    return [" ".join(cell.replace("\\", "\\\\").replace("|", "\\|").split()) for cell in cells]


def beside_paper(what: str, figures: Sequence[Figure]) -> str:
    """A table of this run's figures, the paper's, and the differences; the error is this run's. Empty without any."""
    rows = []
    for name, value, error, published in figures:
        difference = f"{value - published:+.1f}" + (f" ± {error:.1f}" if error is not None else "")
        rows.append([name, plus_minus(value, error), f"{published:.2f}", difference])
    return markdown_table([what, "this run", "paper", "difference"], rows) if rows else ""


def accuracy_table(evals: Evaluations, published: Published | None) -> str:
    """Table 2; ``published`` is what the paper says of the run's policy, if anything."""
    if not evals:
        return ""
    benchmarks = _benchmarks(evals)
    rows = []
    for name, e in evals.items():
        places = 2 if e["rounded"] else 1  # a rounding that nobody could see otherwise
        cells = [_score(e["benchmarks"].get(b), places) for b in benchmarks]
        rows.append([title(name), *cells, plus_minus(e["average"], e["average_stderr"], places)])
    first, any_eval = next(iter(evals.items()))
    sizes = ", ".join(f"{b} {one['n']}" for b, one in any_eval["benchmarks"].items())
    note = (
        f"avg@{any_eval['k']} in percent at temperature {any_eval['temperature']:g}, ± standard error over problems "
        f"(problems: {sizes}). Grader: {any_eval['grader']}."
    )
    if any_eval["rounded"]:
        note += " As in the paper, each run's accuracy is rounded to one decimal before the runs are averaged."
    others = [_otherwise(title(name), e, title(first), any_eval) for name, e in evals.items()]
    note += "".join(f" {words}" for words in others if words)
    shortened = {b: one["shortened"] for b, one in any_eval["benchmarks"].items() if one["shortened"]}
    if shortened:
        note += (
            f" The context of {any_eval['context']:,} tokens leaves less than {any_eval['max_tokens']:,} for a "
            f"response: {', '.join(f'{b} {n}' for b, n in shortened.items())} problems."
        )
    truncated = max(one["truncated"] for e in evals.values() for one in e["benchmarks"].values())
    if truncated:
        note += f" At most {truncated:.1f} % of a benchmark's responses were cut off and score 0."
    left_out = ", ".join(f"{b} {n}" for b, n in any_eval["rejected"].items() if n)
    if left_out:
        note += f" Rows of the benchmarks that could not be used: {left_out}."
    undecided = max(one["undecided"] for e in evals.values() for one in e["benchmarks"].values())
    if undecided:
        note += f" At most {undecided:.2f} % of a benchmark's responses are undecided and score 0."
    papers = _accuracy_beside(evals, published) if published else [*map(_paper_table_2, PUBLISHED), ORIENTATION]
    return "\n\n".join([markdown_table(["", *benchmarks, "average"], rows), note, *papers])


def ablation_table(evals: Evaluations, published: Published | None) -> str:
    """Table 4; the paper has it for one policy only."""
    own = {name: evals[name] for name in _ABLATION if name in evals}
    if len(own) < 2:
        return ""
    rows = [[_ABLATION[name], plus_minus(e["average"], e["average_stderr"])] for name, e in own.items()]
    parts = [markdown_table(["rewriting, on DFT", "average"], rows)]
    if published and published.ablation:
        figures = [
            (_ABLATION[name], e["average"], e["average_stderr"], published.ablation[name])
            for name, e in own.items()
            if _has_the_five(e)
        ]
        parts += [beside_paper("average", figures), NO_ERRORS] if figures else [_OTHER_AVERAGE]
    else:
        theirs = [[_ABLATION[name], f"{value:.2f}"] for name, value in QWEN.ablation.items()]
        parts += [markdown_table([f"paper, {QWEN.policy}", "average"], theirs), ORIENTATION]
    return "\n\n".join(parts)


def _otherwise(name: str, e: Mapping[str, Any], first: str, other: Mapping[str, Any]) -> str:
    """In which settings two evaluations differ."""
    shown = [f"{key} {e[key]}" for key in ("k", *_SETTINGS[:4]) if e[key] != other[key]]
    shown += ["another prompt"] if any(e[key] != other[key] for key in ("prompt", "system")) else []
    return f"{name} was evaluated otherwise than {first}: {', '.join(shown)}." if shown else ""


def compare(folder: RunFolder, evals: Evaluations) -> dict[Pair, Paired | None]:
    """Paired differences: every evaluation against the base, the four methods, and the paper's orderings.

    None where two were evaluated on no common problem. Those that were evaluated with other settings are left out.
    """
    names = list(evals)
    pairs = [(name, "base") for name in names if name != "base"]
    pairs += [(better, worse) for worse, better in combinations(_METHODS, 2)]
    pairs = [pair for pair in dict.fromkeys([*pairs, *ORDERINGS]) if set(pair) <= set(names)]
    pairs = [(one, other) for one, other in pairs if all(evals[one][key] == evals[other][key] for key in _SETTINGS)]
    counts = {name: _counts(folder, name) for name in {name for pair in pairs for name in pair}}
    found: dict[Pair, Paired | None] = {}
    for one, other in pairs:
        try:
            found[one, other] = paired(counts[one], counts[other])
        except DataError:
            found[one, other] = None
    return found


def comparisons(found: Mapping[Pair, Paired | None]) -> str:
    """Which of the paper's orderings hold, and all the differences."""
    if not found:
        return ""
    lines = [
        f"- {title(better)} > {title(worse)}: {in_words(found[better, worse])}."
        for better, worse in ORDERINGS
        if (better, worse) in found
    ]
    note = (
        "Differences are in points of the average, paired by problem. Interval: bootstrap over problems with their "
        "samples; it decides the words. p: two-sided, from flipping signs of the problems' differences, not corrected "
        "for the number of comparisons. It is one training seed each: the variance between training seeds is left out."
    )
    if lines:
        note = f"These are the orderings of the averages in the paper's Tables 2 and 4. {note}"
    rows = [
        [f"{title(one)} − {title(other)}", _signed(it.difference), _interval(it), _p(it.p), str(it.problems)]
        for (one, other), it in found.items()
        if it
    ]
    table = markdown_table(["difference", "points", "95 % interval", "p", "problems"], rows) if rows else ""
    return "\n\n".join(part for part in ("\n".join(lines), table, note) if part)


def in_words(found: Paired | None) -> str:
    """Whether the first is better: undecided where the interval includes 0."""
    if found is None:
        return "unknown, since they were evaluated on no common problem"
    p = _p(found.p)
    figures = f"{_signed(found.difference)}, 95 % interval {_interval(found)}, p {p if p.startswith('<') else f'= {p}'}"
    if found.low is None or found.high is None:
        return f"undecided, since a benchmark has a single problem ({figures})"
    if found.low <= 0 <= found.high:
        return f"undecided, within the noise ({figures})"
    return f"{'holds' if found.difference > 0 else 'does not hold'} ({figures})"


def _interval(found: Paired) -> str:
    return "unknown" if found.low is None or found.high is None else f"{_signed(found.low)} to {_signed(found.high)}"


def _signed(value: float) -> str:
    """With a sign, unless it is nothing when rounded."""
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _counts(folder: RunFolder, name: str) -> Counts:
    """Correct and drawn samples of every problem of an evaluation; a problem is its text, whatever a copy calls it."""
    columns = ["benchmark", "problem", "answer", "verdict", "stop"]
    table = pq.read_table(folder.path / "eval" / f"{name}.parquet", columns=columns)
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for row in table.to_pylist():
        problems = counts.setdefault(row["benchmark"], {})
        text = digest(row["problem"], row["answer"])
        correct, drawn = problems.get(text, (0, 0))
        problems[text] = correct + (row["verdict"] == "correct" and row["stop"] == "stop"), drawn + 1
    return counts


def _benchmarks(evals: Evaluations) -> list[str]:
    return list(dict.fromkeys(b for e in evals.values() for b in e["benchmarks"]))


def _score(one: Mapping[str, Any] | None, places: int) -> str:
    return plus_minus(one["avg_at_k"], one["stderr"], places) if one else "–"


_OTHER_AVERAGE = "The average is of other benchmarks than the paper's five, and not comparable with its own."


def _has_the_five(evaluation: Mapping[str, Any]) -> bool:
    return set(evaluation["benchmarks"]) == set(PROBLEMS)


def _accuracy_beside(evals: Evaluations, published: Published) -> list[str]:
    """A table for every benchmark whose name is one of the paper's, one of the averages, and what to know of them."""
    tables, others = [], []
    both = {name: e for name, e in evals.items() if name in published.accuracy}
    for benchmark, size in PROBLEMS.items():
        scores = {name: e["benchmarks"][benchmark] for name, e in both.items() if benchmark in e["benchmarks"]}
        figures = [
            (title(name), one["avg_at_k"], one["stderr"], published.accuracy[name][benchmark])
            for name, one in scores.items()
        ]
        tables.append(beside_paper(benchmark, figures))
        sizes = sorted({one["n"] for one in scores.values()} - {size})
        others += [f"{benchmark} {' or '.join(map(str, sizes))} instead of {size}"] if sizes else []
    averages = [
        (title(name), e["average"], e["average_stderr"], published.average[name])
        for name, e in both.items()
        if _has_the_five(e)
    ]
    tables = [table for table in (*tables, beside_paper("average of the five", averages)) if table]
    if not tables:
        return [f"No benchmark here has the name of one of the paper's: {', '.join(PROBLEMS)}."]
    note = (
        f"Paper: {published.policy}, avg@16 at temperature 1 with at most 4,096 tokens, graded by Qwen2.5-Math's rules "
        f"(the grader `qwen`). {NO_ERRORS}"
    )
    if not averages:
        note += f" {_OTHER_AVERAGE}"
    if others:
        note += f" Another number of problems than the paper has: {', '.join(others)}."
    return [*tables, note]


def _paper_table_2(published: Published) -> str:
    rows = [
        [title(name), *(f"{scores[b]:.2f}" for b in PROBLEMS), f"{published.average[name]:.2f}"]
        for name, scores in published.accuracy.items()
    ]
    return markdown_table([f"paper, {published.policy}", *PROBLEMS, "average"], rows)
