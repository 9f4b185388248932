"""The short tables that commands print for people."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from retell.progress import duration
from retell.runfolder import RunFolder
from retell.stats import plus_minus

if TYPE_CHECKING:
    from retell.checks.base import Finding
    from retell.hub import Shipment

Summary = dict[str, Any]
_REASONS = 5
_NO = "–"
_REGRADED = ("correct", "changed", "undecided")


def run(summary: Summary, folder: RunFolder) -> None:
    """Rungs, accuracies and the page."""
    rewrite(summary["rewrite"], folder)
    evaluations = summary.get("evaluate", {})
    if evaluations:
        rows = [[name, plus_minus(e["average"], e["average_stderr"])] for name, e in evaluations.items()]
        _table(["model", f"avg@{next(iter(evaluations.values()))['k']}, %"], rows)
    print(summary["report"]["path"])


def rewrite(summary: Summary, folder: RunFolder) -> None:
    """Where the responses come from, and what was rejected."""
    total = summary["problems"]
    rows = [[rung, str(n), f"{n / total:.1%}"] for rung, n in summary["rungs"].items()]
    rows += [[f"rejected: {reason}", str(n), ""] for reason, n in summary["rejected"].items()]
    rows += [[name, str(summary[name]), ""] for name in ("undecided", "truncated", "leaked") if summary[name]]
    rows += [[f"fault: {name}", str(n), ""] for name, n in summary["faults"].items()]
    _table(["rung", "rows", "share"], rows)
    for rung, drawn in summary["samples"].items():
        rate = summary["pass_rate"][rung]
        if rate:
            passed = plus_minus(rate["percent"], rate["stderr"])
            missing = summary["not_drawn"][rung]
            print(f"{rung}: {passed} % correct at one try; {drawn} samples drawn, {missing} not needed")
    print(folder.path / "rewritten.parquet")


def gap(summary: Summary, folder: RunFolder, file: str) -> None:
    """Log-probs and weights, expert → rewritten; where they were measured, true ratios and a tuned model's drift."""
    drift = summary.get("drift")
    rungs = {rung: entry for rung, entry in summary.items() if rung != "drift" and entry["expert"]}
    keys = {"sum_logprob": 2, "mean_token_logprob": 3, "token_ess": 3}
    rows = [
        [
            rung,
            str(entry["rows"]),
            *(f"{entry['expert'][key]:.{n}f} → {entry['rewritten'][key]:.{n}f}" for key, n in keys.items()),
            f"{one['expert']:.2f} → {one['rewritten']:.2f} ({one['share']:.0%})" if (one := entry["matched"]) else _NO,
        ]
        for rung, entry in rungs.items()
    ]
    _table(["rung", "rows", "summed log-prob", "per token", "token ESS", "at equal length"], rows)
    ratios = {rung: one for rung, entry in rungs.items() if (one := entry["sequence"])}
    if ratios:
        shown = [
            [rung, str(one["rows"]), f"{one['ess']:.3f}", _tail(one), plus_minus(one["kl"], one["kl_stderr"], 3)]
            for rung, one in ratios.items()
        ]
        _table(["true ratios", "rows", "ESS", "Pareto k̂", "KL, nats a response"], shown)
        print("conditional on acceptance: see docs/gap.md")
    if drift:
        found = [
            [group, plus_minus(one["kl"], one["stderr"], 5), str(one["problems"]), str(one["tokens"])]
            for group, one in drift.items()
            if one["kl"] is not None
        ]
        _table(["KL(base ‖ tuned)", "nats a token", "problems", "tokens"], found)
        for group, one in drift.items():
            if one["reason"]:
                print(f"{group}: {one['reason']}")
    print(folder.path / file)


def _tail(one: Summary) -> str:
    if one["pareto_k"] is None:
        return str(one["note"])
    return f"{one['pareto_k']:.2f} ({'reliable' if one['reliable'] else 'not reliable'})"


def preview(summary: Summary, folder: RunFolder | None = None) -> None:
    """What some of the problems say of all: rungs, cost, the gap, and the advice."""
    rows = [
        [rung, str(n), _percent(summary["shares"][rung]), _ends(summary["shares"][rung], "{:.1f}".format)]
        for rung, n in summary["rungs"].items()
    ]
    rows += [[f"rejected: {reason}", str(n), "", ""] for reason, n in summary["rejected"].items()]
    _table([f"{summary['problems']:,} of {summary['of']:,} problems", "rows", "share, %", "95 %"], rows)
    for rung, rate in summary["pass_rate"].items():
        if rate:
            passed, ends = _percent(rate), _ends(rate, "{:.1f}".format)
            print(f"{rung}: {passed} % correct at one try ({ends}); {summary['samples'][rung]:,} samples drawn")
    samples = sum(summary["samples"].values())
    counts = {name: summary[name] for name in ("truncated", "undecided", "leaked") if summary[name]}
    for name, n in counts.items():
        print(f"{name}: {n:,} of {samples:,} samples ({n / samples:.1%})")
    if summary["failed"]:
        print(f"failed: the engine gave nothing for {summary['failed']:,} problems, which are left out")
    for reason, n in summary["unusable"].items():
        print(f"not among the {summary['of']:,}: {n:,} rows with {reason}")
    _whole(summary["whole"], summary["of"])
    _gaps(summary["gap"])
    for line in summary["advice"]["words"]:
        print(_line(line))
    if folder:
        print(folder.path / "preview.json")


def _whole(whole: Summary, problems: int) -> None:
    """What all of the data takes."""
    speed = {name: "?" if rate is None else f"{rate:,.0f}" for name, rate in whole["tokens_per_second"].items()}
    tokens, hours = whole["tokens"], whole["hours"]
    lines: list[tuple[str, Summary | None, Callable[[float], str]]] = [
        *((f"samples, {rung}", one, _about) for rung, one in whole["samples"].items()),
        ("tokens generated", tokens["generated"], _about),
        (f"time of that, at {speed['generated']} tokens/s", hours["generated"], _time),
        ("tokens scored by the gap", tokens.get("scored"), _about),
        (f"time of that, at {speed['scored']} tokens/s", hours["scored"], _time),
        ("tokens of an epoch on the rewritten", tokens.get("trained"), _about),
    ]
    rows = [[name, "?" if one is None else shown(one["value"]), _ends(one, shown)] for name, one, shown in lines]
    rows.append(["bytes on disk", "", _span(whole["disk_bytes"]["all"])])
    _table([f"all {problems:,} problems", "expected", "95 %"], rows)


def _about(number: float) -> str:
    """Three figures of a large number."""
    return f"{float(f'{number:.3g}'):,.0f}"


def _time(hours: float) -> str:
    return duration(3600 * hours)


def _gaps(gap: Summary) -> None:
    """How likely the texts are under the policy."""
    if not gap:
        print("the gap is unknown: it needs the policy at hand (--model)")
        return
    rows = []
    for text in ("expert", "rewritten", "own"):
        one = gap[text]
        low = one["share_below_0.1"]
        rows.append(
            [
                text,
                *(f"{one[key]['value']:.3f}" for key in ("mean_token_logprob", "perplexity", "token_ess")),
                f"{100 * low['value']:.1f}",
                f"{one['mean_tokens']['value']:,.0f}",
            ]
        )
    _table(["text", "log-prob a token", "perplexity", "token ESS", "p < 0.1, %", "tokens"], rows)


def _percent(estimate: Summary) -> str:
    return f"{estimate['value']:.1f}"


def _ends(estimate: Summary | None, shown: Callable[[float], str]) -> str:
    """An interval."""
    if estimate is None:
        return "?"
    low, high = (None if estimate[end] is None else shown(estimate[end]) for end in ("low", "high"))
    return f"≥ {low}" if high is None else f"{low}" if low == high else f"{low}–{high}"


def train(summary: Summary, folder: RunFolder) -> None:
    """First and last update of a training run."""
    rows = [[key, f"{summary['first'][key]:.4f}", f"{summary['last'][key]:.4f}"] for key in summary["first"]]
    _table([f"{summary['name']}: {summary['updates']} updates", "first", "last"], rows)
    for reason, n in summary["rejected"].items():
        print(f"rejected: {n} {reason}")
    print(summary["path"])


def evaluation(summary: Summary, folder: RunFolder) -> None:
    """avg@k and pass@k by benchmark."""
    rows = [
        [
            name,
            str(one["n"]),
            plus_minus(one["avg_at_k"], one["stderr"]),
            f"{one['pass_at_k']:.1f}",
            "–" if one["majority_at_k"] is None else f"{one['majority_at_k']:.1f}",
            "–" if one["mean_tokens"] is None else f"{one['mean_tokens']:,.0f}",
            f"{one['truncated']:.1f}",
        ]
        for name, one in summary["benchmarks"].items()
    ]
    rows.append(["average", "", plus_minus(summary["average"], summary["average_stderr"]), "", "", "", ""])
    k = summary["k"]
    shown = [f"avg@{k}, %", f"pass@{k}, %", f"majority@{k}, %", "tokens", "cut off, %"]
    _table([summary["model"], "problems", *shown], rows)
    if summary["rounded"]:
        print("each run's accuracy is rounded to one decimal, and the runs averaged, as in the paper")
    for name, one in summary["benchmarks"].items():
        if one["shortened"]:
            print(
                f"{name}: {one['shortened']} problems have less room than {summary['max_tokens']:,} tokens in the "
                f"context of {summary['context']:,}"
            )
        if one["failed"]:
            print(
                f"{name}: the engine failed on {one['failed']} responses, which are left out; start again to draw them"
            )
        if one["undecided"]:
            print(f"{name}: {one['undecided']:.1f} % undecided, which score 0")
    print(folder.path / "eval" / f"{summary['model']}.json")


def tables(summary: Summary) -> None:
    """Markdown, as it is."""
    print(summary["tables"])


def graded(summary: Summary) -> None:
    """Verdicts on the rows of a file, each with its most frequent reasons."""
    rows = []
    for outcome in ("correct", "wrong", "undecided", "rejected"):
        if summary[outcome]:
            rows.append([outcome, str(summary[outcome]), f"{summary[outcome] / summary['rows']:.1%}"])
            reasons = list(summary["reasons"][outcome].items())
            rows += [[f"  {_short(reason)}", str(n), ""] for reason, n in reasons[:_REASONS]]
    _table(["verdict", "rows", "share"], rows)
    print(f"{summary['rows']} rows by {summary['grader']}, {summary['rows_per_second']:.0f} rows/s")
    print(summary["path"])


def regraded(summary: Summary, folder: RunFolder) -> None:
    """Correct samples of each rung and benchmark before and after, and how many verdicts changed."""
    rows = []
    undecided: Counter[str] = Counter()
    for rung, one in summary["rungs"].items():
        of = "" if one["compared"] == one["samples"] else f" of {one['compared']}"
        counts = [one["samples"], f"{one['correct_before']}{of}", *(one[key] for key in _REGRADED), one["no_gold"]]
        rows.append([rung, *map(str, counts)])
        undecided.update(one["undecided_reasons"])
    _table(["samples of", "n", "correct before", *(key for key in _REGRADED), "without gold"], rows)
    for reason, n in undecided.most_common(_REASONS):
        print(f"undecided: {n} {_short(reason)}")
    for stage, grader in summary["graders"].items():
        print(f"{stage}: {grader}")
    print(folder.path / "journal.sqlite")


def exported(summary: Summary) -> None:
    """Whose text was exported, what was left out, and the files."""
    rows = [[rung, str(n), f"{n / summary['rows']:.1%}"] for rung, n in summary["rungs"].items()]
    rows += [[f"rejected: {reason}", str(n), ""] for reason, n in summary["rejected"].items()]
    _table([f"{summary['mix']} for {summary['format']}", "rows", "share"], rows)
    for file in summary["files"]:
        print(f"{summary['path']}/{file}")
    if "pushed" in summary:
        print(summary["pushed"]["url"] if summary["pushed"] else "nothing was sent")


def shipment(ship: "Shipment") -> None:
    """What would be sent to the hub, and what it does to what is there; to standard error."""
    seen = "public: everyone sees it" if ship.public else "private"
    made = "which is made" if ship.head is None else "which is there already"
    print(f"To be sent to the data set {ship.repo} on {ship.endpoint}, {made}, {seen}:", file=sys.stderr)
    for name, size in ship.files:
        print(f"  {size:>15,} bytes  {name}{'  (replaces it)' if name in ship.replaced else ''}", file=sys.stderr)
    for name in ship.removed:
        print(f"  {'removed there':>21}  {name}", file=sys.stderr)


def report(summary: Summary, folder: RunFolder) -> None:
    """Where the page is."""
    print(summary["path"])


def compared(summary: Summary) -> None:
    """In what the recipes differ, and the average accuracies of each model."""
    runs = list(summary["runs"])
    differing = [[_short(key), *(_short(one or _NO, 40) for one in row)] for key, row in summary["differing"].items()]
    if differing:
        _table(["key", *map(_short, runs)], differing)
    else:
        print("their recipes are the same")
    models = dict.fromkeys(model for averages in summary["averages"].values() for model in averages)
    rows = [
        [model, *(f"{one[model]:.1f}" if model in one else _NO for one in summary["averages"].values())]
        for model in models
    ]
    if rows:
        _table(["average accuracy, %", *map(_short, runs)], rows)
    print(summary["path"])


def view(summary: Summary) -> None:
    """How many rows there are, and where."""
    print(f"{summary['rows']:,} rows of {summary['path']}; Ctrl-C ends this")
    print(summary["url"])


def finding(found: "Finding") -> None:
    """One thing that `retell doctor` has found."""
    print(f"{found.state:<6} {found.what:<20} {_line(found.says)}", flush=True)
    if found.remedy:
        print(f"{'':<27} → {_line(found.remedy)}", flush=True)


def doctor(summary: Summary) -> None:
    """The prompt as the policy sees it, and its reply."""
    prompt, reply = summary["prompt"], summary["reply"]
    if prompt:
        said = prompt["text"] or "\n".join(f"{one['role']}: {one['content']}" for one in prompt["messages"])
        print(f"\nprompt:\n  {_exact(said)}")
    if reply:
        print(f"\nreply:\n  {_exact(reply['text'])}")


def forecast(summary: Summary) -> None:
    """What a run comes to, what the estimates rest on, and the checks."""
    rows = []
    for step in summary["steps"]:
        stage = step["stage"].replace("/", " ")
        name = stage if stage.startswith(step["kind"]) else f"{stage} rounds"
        counts = {key: _span(step[key], "{:,}".format) for key in ("samples", "rows", "updates")}
        counted = ("samples",) if counts["samples"] != _NO else ("rows", "updates")
        work = ", ".join(f"{counts[key]} {key}" for key in counted if counts[key] != _NO)
        most = step["tokens_at_most"]
        hours = "done" if step["done"] else _span(step["hours"], _hours)
        tokens = _span(step["tokens"]), _span(None if most is None else (most, most))
        rows.append([name, work, *tokens, _span(step["disk_bytes"]), hours])
    total = summary["total"]
    samples = f"{_span(total['samples'])} samples"
    rows.append(["all", samples, "", "", _span(total["disk_bytes"]), _span(total["hours"], _hours)])
    _table(["step", "work", "tokens", "at most", "bytes", "GPU hours"], rows)
    print("Nothing was drawn, trained or written. ? is unknown, – is none. What the estimates rest on:")
    for line in dict.fromkeys(line for step in summary["steps"] for line in step["rests_on"]):
        print(f"- {_line(line)}")
    for kind, rate in summary["rates"].items():
        print(f"- {kind}: {rate['tokens_per_second']:,.0f} tokens/s, {_line(rate['says'])}")
    print()
    width = max(len(check["what"]) for check in summary["checks"])
    for check in summary["checks"]:
        print(f"{check['state']:<8} {check['what']:<{width}} {_line(check['says'])}")


def _span(numbers: Sequence[float] | None, shown: Callable[[float], str] | None = None) -> str:
    """A range: ? where it is unknown, – where there is none."""
    if numbers is None:
        return "?"
    if not numbers[1]:
        return _NO
    fewest, most = map(shown or _scaled, numbers)
    return most if fewest == most else f"{fewest}–{most}" if numbers[0] else f"≤ {most}"


def _scaled(number: float) -> str:
    """A number in short: 950, 4,000, 13k, 1.1G."""
    if number < 10_000:
        return f"{number:,.0f}"
    power = min((len(f"{number:.0f}") - 1) // 3, 4)
    scaled = number / 1000**power
    return f"{scaled:.{0 if scaled >= 9.95 else 1}f}{'kMGT'[power - 1]}"


def _hours(hours: float) -> str:
    return "< 0.1" if hours < 0.05 else f"{hours:,.{0 if hours >= 9.95 else 1}f}"


def _line(text: str) -> str:
    """Somebody else's text in one line."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _exact(text: str) -> str:
    """Somebody else's text as it is: what cannot be printed is escaped, and a line shows that it ends."""
    shown = ("\\n\n  " if c == "\n" else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown).removesuffix("\n  ")


def _short(text: str, width: int = 60) -> str:
    """A line of somebody else's text."""
    line = _line(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(header):
        table.add_column(title, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
