"""What the run cost, as far as its stages recorded it."""

from retell.document import Section, Table
from retell.legend import title
from retell.results import Results, Summary

_NONE = "–"


def cost(results: Results) -> Section | None:
    """Samples drawn and not needed, tokens, and time of each stage."""
    took = results.seconds
    rows = [_rewriting(results.rewrite, took.get("rewrite"))] if results.rewrite else []
    rows += [_training(name, one, took.get(f"train/{name}")) for name, one in results.trainings.items()]
    rows += [_evaluation(name, one, took.get(f"evaluate/{name}")) for name, one in results.evaluations.items()]
    if not rows:
        return None
    note = (
        "Tokens are those generated, or trained on. What was not needed is what exact lazy sampling did not draw; its "
        "tokens are estimated from the samples of the same problem and rung. Hours are those of the start that "
        f"finished the stage; {_NONE} is not recorded."
    )
    return Section(
        "Cost", "Cost", [Table(["stage", "samples", "not needed", "tokens", "tokens saved", "hours"], rows, note)]
    )


def _rewriting(summary: Summary, seconds: float | None) -> list[str]:
    tokens, saved = summary.get("tokens", {}).get("generated"), summary.get("tokens_saved")
    share = f" ({saved / (saved + tokens):.0%})" if saved and tokens else ""
    return [
        "rewriting",
        f"{sum(summary['samples'].values()):,}",
        f"{sum(summary.get('not_drawn', {}).values()):,}",
        count(tokens),
        _NONE if saved is None else f"≈ {saved:,}{share}",
        hours(seconds),
    ]


def _training(name: str, summary: Summary, seconds: float | None) -> list[str]:
    return [
        f"training {title(name)}",
        _NONE,
        _NONE,
        count(summary.get("tokens")),
        _NONE,
        hours(seconds),
    ]


def _evaluation(name: str, summary: Summary, seconds: float | None) -> list[str]:
    each = [
        (one["n"] * summary["k"] - one.get("failed", 0), one.get("mean_tokens"))
        for one in summary["benchmarks"].values()
    ]
    known = all(mean is not None for _, mean in each)
    tokens = round(sum(n * (mean or 0) for n, mean in each)) if known else None
    return [
        f"evaluating {title(name)}",
        f"{sum(n for n, _ in each):,}",
        _NONE,
        count(tokens),
        _NONE,
        hours(seconds),
    ]


def hours(seconds: float | None) -> str:
    """A time in hours, in as many digits as it is worth."""
    return _NONE if seconds is None else f"{seconds / 3600:.{3 if seconds < 360 else 2 if seconds < 36_000 else 1}f}"


def count(number: int | None) -> str:
    """A number, if it is known."""
    return _NONE if number is None else f"{number:,}"
