"""Warnings: what weakens the results, and what was looked for and is in order."""

from collections.abc import Iterator

from retell.document import Notice, Section
from retell.legend import title
from retell.results import Results, Summary
from retell.sections.accuracy import weaknesses


def caveats(results: Results) -> Section | None:
    """A notice for each thing that was looked for."""
    notices = [*_out_of_date(results), *_rewriting(results.rewrite), *_contamination(results.contamination)]
    notices += [*_left_out(results), *_scores(results)]
    notices.sort(key=lambda notice: not notice.grave)
    return Section("Warnings", "Warnings", notices) if notices else None


def _out_of_date(results: Results) -> Iterator[Notice]:
    if results.stale:
        yield Notice("Out of date", f"Left out, since what they rest on has been replaced: {', '.join(results.stale)}.")


def _rewriting(summary: Summary | None) -> Iterator[Notice]:
    if not summary:
        return
    drawn = sum(summary["samples"].values())
    for key, name, none, some in (
        ("truncated", "Truncation", "cut off", "were cut off at the length limit, and are never correct"),
        ("undecided", "Undecided", "without a verdict", "have no verdict, and are never kept"),
        (
            "leaked",
            "Leaks",
            "refused for a leak",
            "are correct retellings that were refused, for they leak the reference",
        ),
    ):
        n = summary[key]
        text = f"{n:,} of {drawn:,} samples ({n / drawn:.1%}) {some}." if n else f"No sample was {none}."
        yield Notice(name, text, grave=bool(n))
    if summary.get("failed") or summary.get("faults"):
        faults = ", ".join(f"{n:,} {fault}" for fault, n in summary.get("faults", {}).items())
        listed = f"; faults: {faults}" if faults else ""
        yield Notice("Engine", f"It gave no sample at all for {summary.get('failed', 0):,} rows{listed}.")


def _contamination(found: Summary | None) -> Iterator[Notice]:
    looked = (found or {}).get("benchmarks", {})
    if not looked:
        return
    known = [
        f"{name} {one['known']} of {one['problems']} ({one['equal']} equal{', dropped' if one['dropped'] else ''})"
        for name, one in looked.items()
        if one["known"]
    ]
    text = (
        f"Benchmark problems that overlap training problems: {', '.join(known) or 'none'}; looked for in "
        f"{', '.join(looked)}."
    )
    yield Notice("Contamination", text, grave=bool(known))


def _left_out(results: Results) -> Iterator[Notice]:
    gap = (results.gap or {}).get("all", {}).get("rejected")
    if gap:
        yield Notice("Gap", f"{gap:,} rows could not be scored, since the chat template refuses them.")
    for name, one in results.trainings.items():
        if one.get("rejected"):
            why = ", ".join(f"{n:,} {reason}" for reason, n in one["rejected"].items())
            yield Notice(f"Training {title(name)}", f"Rows that were not trained on: {why}.")


def _scores(results: Results) -> Iterator[Notice]:
    if not results.evaluations:
        return
    told = weaknesses(results.evaluations)
    if told:
        yield Notice("Evaluation", " ".join(told))
    else:
        yield Notice("Evaluation", "No response was cut off, undecided or left out.", grave=False)
