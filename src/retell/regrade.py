"""The stored samples of a run → verdicts by another grader, or by a newer version of the same; nothing is drawn.

Verdicts are stored where the stages look for them: a stage that is then run with that grader finds nothing to grade.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from retell.benchmarks import load_benchmarks
from retell.errors import DataError, RequestError
from retell.graders.base import Case
from retell.graders.pool import GraderPool
from retell.journal import graded_by
from retell.problems import load_problems
from retell.progress import progress
from retell.recipe import Data, Evaluate
from retell.records import Attempt, Outcome, Sample, Verdict
from retell.rollout import TRUNCATED
from retell.store import Store
from retell.tables import read_rows

Summary = dict[str, Any]
Gold = tuple[str, str]
"""The text of a problem and its gold answer."""
GoldOf = Callable[[Sample], Gold | None]
_BACKLOG = 4096
"""Responses that wait for a grader before further samples are read."""


def golds_of_rewriting(data: Data, folder: Path) -> dict[str, Gold]:
    """The golds by problem: from the rewritten rows, or from the data where no rewriting was finished."""
    path = folder / "rewritten.parquet"
    if path.is_file():
        rows = read_rows(path, ["id", "problem", "answer"])
        return {row["id"]: (row["problem"], row["answer"]) for row in rows}
    try:
        return {problem.id: (problem.problem, problem.answer) for problem in load_problems(data).problems}
    except RequestError:
        return {}


def golds_of_evaluation(settings: Evaluate, folder: Path, *, with_texts: bool) -> dict[tuple[str, str], Gold]:
    """The golds by benchmark and problem: from the benchmarks, or from what was written of their responses where they
    are not there any more. The latter lacks the problem's text: it is left out ``with_texts``.
    """
    golds: dict[tuple[str, str], Gold] = {}
    for path in () if with_texts else sorted((folder / "eval").glob("[!.]*.parquet")):
        for row in read_rows(path, ["benchmark", "id", "answer"]):
            golds[row["benchmark"], row["id"]] = ("", row["answer"])
    for benchmark in settings.benchmark:
        try:
            loaded = load_benchmarks(settings.model_copy(update={"benchmark": (benchmark,), "limit": None}))
        except DataError:
            continue
        golds |= {(name, p.id): (p.problem, p.answer) for name, one in loaded.items() for p in one.problems}
    return golds


def regrade(
    journal: Store, rungs: Sequence[str], gold_of: GoldOf, earlier: Sequence[str], graders: GraderPool
) -> dict[str, Summary]:
    """Grades the stored samples of some rungs (or benchmarks), and says for each what changed.

    ``earlier`` names the graders whose verdicts are compared with: the first one that is stored. Verdicts are stored as
    they come; those that are there already are not reached again.
    """
    counts = {rung: Counter[str]() for rung in rungs}
    undecided = {rung: Counter[str]() for rung in rungs}
    stored = journal.rungs()
    with progress("grading", sum(stored[rung] for rung in rungs)) as tick:
        for done, (sample, before, after) in enumerate(_judged(journal, rungs, gold_of, earlier, graders), 1):
            counted = counts[sample.rung]
            counted["no_gold"] += after is None
            if after:
                counted["correct"] += Attempt(sample, after).correct
                counted["compared"] += before is not None
            if after and before:
                counted["correct_before"] += Attempt(sample, before).correct
                counted["changed"] += _outcome(sample, before) != _outcome(sample, after)
            if after and after.outcome == "undecided":
                undecided[sample.rung][after.reason] += 1
            tick(done)
    return {
        rung: {
            "samples": stored[rung],
            **{name: counts[rung][name] for name in ("no_gold", "compared", "correct_before", "correct", "changed")},
            "undecided": undecided[rung].total(),
            "undecided_reasons": dict(undecided[rung].most_common(10)),
        }
        for rung in rungs
    }


def _judged(
    journal: Store, rungs: Sequence[str], gold_of: GoldOf, earlier: Sequence[str], graders: GraderPool
) -> Iterator[tuple[Sample, Verdict | None, Verdict | None]]:
    """Every sample with its earlier and its new verdict, in any order; None for the latter where there is no gold."""
    pending: dict[str, tuple[Sample, str, Verdict | None]] = {}

    def collected(*, wait: bool) -> Iterator[tuple[Sample, Verdict | None, Verdict]]:
        verdicts = graders.collect(wait=wait)
        journal.add_verdicts((key, pending[key][1], verdict) for key, verdict in verdicts)
        for key, verdict in verdicts:
            sample, _, before = pending.pop(key)
            yield sample, before, verdict

    for page in journal.pages(rungs):
        stored = journal.all_verdicts([sample.key for sample in page])
        ungraded = []
        for sample in page:
            found = gold_of(sample)
            if found is None:
                yield sample, None, None
                continue
            problem, gold = found
            by = graded_by(graders.name, gold)
            known = [stored.get((sample.key, graded_by(name, gold))) for name in earlier]
            before = next((verdict for verdict in known if verdict), None)
            if (sample.key, by) in stored:
                yield sample, before, stored[sample.key, by]
            elif sample.completion.stop != "stop":
                ungraded.append((sample.key, by, TRUNCATED))
                yield sample, before, TRUNCATED
            else:
                pending[sample.key] = sample, by, before
                graders.submit(sample.key, Case(problem, sample.completion.text, gold, sample.rung))
        journal.add_verdicts(ungraded)
        yield from collected(wait=False)
        while graders.backlog > _BACKLOG:
            yield from collected(wait=True)
    while graders.pending:
        yield from collected(wait=True)


def _outcome(sample: Sample, verdict: Verdict) -> Outcome:
    """A response that did not end by itself gives no answer."""
    return verdict.outcome if sample.completion.stop == "stop" else "wrong"
