"""What holds in a run: models compared on the same problems, and the paper's orderings."""

from collections.abc import Mapping
from itertools import combinations

from retell.charts import Dots, dots
from retell.document import Block, Chart, Figure, Items, Prose, Section, Table
from retell.errors import DataError
from retell.hashing import digest
from retell.legend import title
from retell.paired import Counts, Paired, paired
from retell.results import Results, Summary
from retell.runfolder import RunFolder
from retell.sections.accuracy import SETTINGS
from retell.tables import read_rows

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
PAIRED = (
    "Differences are in points of the average, paired by problem. Interval: bootstrap over problems with their "
    "samples; it decides the words. p: two-sided, from flipping signs of the problems' differences, not corrected for "
    "the number of comparisons."
)
SEEDS = "It is one training seed each: the variance between training seeds is left out."
_METHODS = ("sft", "dr-sft", "dft", "dr-dft")

Pair = tuple[str, str]


def differences(results: Results) -> Section | None:
    """Which of the paper's orderings hold, and all the differences."""
    found = compared(results)
    if not found:
        return None
    lines = [
        f"{title(better)} > {title(worse)}: {in_words(found[better, worse])}."
        for better, worse in ORDERINGS
        if (better, worse) in found
    ]
    known = {f"{title(one)} − {title(other)}": it for (one, other), it in found.items() if it}
    note = f"{PAIRED} {SEEDS}"
    if lines:
        note = f"These are the orderings of the averages in the paper's Tables 2 and 4. {note}"
    blocks: list[Block] = [Items(lines)] if lines else []
    if known:
        blocks.append(Figure([difference_chart(known)], difference_table(known), folded=False))
    return Section("What holds in this run", "Differences", [*blocks, Prose(note)])


def compared(results: Results) -> dict[Pair, Paired | None]:
    """Paired differences: every evaluation against the base, the four methods, and the paper's orderings.

    None where two were evaluated on no common problem. Those that were evaluated with other settings are left out.
    """
    evals = results.evaluations
    pairs = [(name, "base") for name in evals if name != "base"]
    pairs += [(better, worse) for worse, better in combinations(_METHODS, 2)]
    pairs = [pair for pair in dict.fromkeys([*pairs, *ORDERINGS]) if set(pair) <= set(evals)]
    pairs = [(one, other) for one, other in pairs if alike(evals[one], evals[other])]
    counts = {name: counts_of(results.folder, name) for name in {name for pair in pairs for name in pair}}
    return {(one, other): paired_or_none(counts[one], counts[other]) for one, other in pairs}


def alike(one: Summary, other: Summary) -> bool:
    """Whether two evaluations were made with the same settings, so that they can be compared."""
    return all(one[key] == other[key] for key in SETTINGS)


def paired_or_none(mine: Counts, theirs: Counts) -> Paired | None:
    """The difference of two models, or None where they were evaluated on no common problem."""
    try:
        return paired(mine, theirs)
    except DataError:
        return None


def counts_of(folder: RunFolder, name: str) -> Counts:
    """Correct and drawn samples of every problem of an evaluation; a problem is its text, whatever a copy calls it."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    columns = ["benchmark", "problem", "answer", "verdict", "stop"]
    for row in read_rows(folder.path / "eval" / f"{name}.parquet", columns):
        problems = counts.setdefault(row["benchmark"], {})
        text = digest(row["problem"], row["answer"])
        correct, drawn = problems.get(text, (0, 0))
        problems[text] = correct + (row["verdict"] == "correct" and row["stop"] == "stop"), drawn + 1
    return counts


def difference_table(found: Mapping[str, Paired]) -> Table:
    """A row for each difference."""
    rows = [[name, signed(it.difference), _interval(it), _p(it.p), f"{it.problems:,}"] for name, it in found.items()]
    return Table(["difference", "points", "95 % interval", "p", "problems"], rows)


def difference_chart(found: Mapping[str, Paired]) -> Chart:
    """The same with their intervals, about the line of no difference."""
    ends = [None if it.low is None or it.high is None else (it.low, it.high) for it in found.values()]
    alt = "Paired differences: " + ", ".join(f"{name} {signed(it.difference)}" for name, it in found.items())
    shown = [Dots("difference", "ink", [it.difference for it in found.values()], ends)]
    axis = "difference of the averages, points"
    return dots("Paired differences, with 95 % intervals", list(found), shown, axis, f"{alt}.", zero=True)


def in_words(found: Paired | None) -> str:
    """Whether the first is better: undecided where the interval includes 0."""
    if found is None:
        return "unknown, since they were evaluated on no common problem"
    p = _p(found.p)
    figures = f"{signed(found.difference)}, 95 % interval {_interval(found)}, p {p if p.startswith('<') else f'= {p}'}"
    if found.low is None or found.high is None:
        return f"undecided, since a benchmark has a single problem ({figures})"
    if found.low <= 0 <= found.high:
        return f"undecided, within the noise ({figures})"
    return f"{'holds' if found.difference > 0 else 'does not hold'} ({figures})"


def signed(value: float) -> str:
    """With a sign, unless it is nothing when rounded."""
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def _interval(found: Paired) -> str:
    return "unknown" if found.low is None or found.high is None else f"{signed(found.low)} to {signed(found.high)}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
