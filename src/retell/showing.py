"""What can be done with a run that is there: pages, exports, its rows for people, its samples graded again."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from retell.browse import sampled_rows
from retell.comparison import compare, differing, named
from retell.errors import MissingExtraError, RecipeError, RequestError, RunFolderError
from retell.export import export
from retell.exports.datacard import Origin
from retell.exports.licence import given_licence, inherited_licence
from retell.exports.named import check_export
from retell.finder import Finder
from retell.graders.base import Grader
from retell.graders.custom import CustomGrader
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.markdown import markdown
from retell.prompts import Prompter
from retell.recipe import Grading, Recipe, overlay
from retell.records import Rung, Sample, Sampling
from retell.regrade import Gold, golds_of_evaluation, golds_of_rewriting, regrade
from retell.report import tables, write_report
from retell.results import Results, results_of
from retell.rollout import Stream
from retell.rows import Opened, Rows, SampleSource
from retell.runfolder import RunFolder
from retell.steps import (
    own_policy,
    rewritten_path,
)
from retell.store import open_store
from retell.webpage import webpage

Summary = dict[str, Any]


def run_report(recipe: Recipe, folder: RunFolder) -> Summary:
    """The page of whatever the folder holds: report.html, and the same in report.md."""
    _check_reportable(folder)
    rows = None
    if recipe.report.rows and "rewrite" in folder.stages():
        rows = asdict(sampled_rows(folder, open_rows(recipe, folder), recipe.report.rows))
    write_report(recipe, folder, rows)
    return {"path": str(folder.path / "report.html"), "markdown": str(folder.path / "report.md")}


def run_tables(recipe: Recipe, folder: RunFolder) -> Summary:
    """Tables 1 to 4 of whatever the folder holds, as Markdown; nothing is written."""
    _check_reportable(folder)
    return {"tables": tables(recipe, folder)}


def _check_reportable(folder: RunFolder) -> None:
    if not any((folder.path / name).exists() for name in ("rewrite.json", "gap.json", "eval")):
        raise RunFolderError(f"{folder.path} holds nothing to report: run `retell rewrite` or `retell evaluate` first")


def run_compare(paths: Sequence[Path], out: Path) -> Summary:
    """Several runs in one table and page: compare.html, compare.md. The run folders are only read."""
    runs = {name: _read(path) for name, path in named(paths).items()}
    document = compare(runs)
    place = RunFolder(out)
    place.write_text("compare.html", webpage(document))
    place.write_text("compare.md", markdown(document))
    told = {"runs": {name: str(run.folder.path) for name, run in runs.items()}, "differing": differing(runs)}
    averages = {name: {model: e["average"] for model, e in run.evaluations.items()} for name, run in runs.items()}
    return told | {"averages": averages, "path": str(out / "compare.html"), "markdown": str(out / "compare.md")}


def _read(path: Path) -> Results:
    """What a run folder holds.

    Raises:
        RunFolderError: it is none, or nothing in it is up to date.
    """
    folder = RunFolder(path)
    recipe = folder.recipe()
    if recipe is None:
        raise RunFolderError(f"{path} is no run folder: give folders that retell has written")
    results = results_of(recipe, folder)
    if results.empty:
        raise RunFolderError(f"{path} holds no results: run `retell rewrite` or `retell evaluate` first")
    return results


def run_export(
    recipe: Recipe, folder: RunFolder, format: str, mix: str, licence: str | None = None, repo: str | None = None
) -> Summary:
    """The rewritten data as another tool loads it, under one of the named mixes: export/FORMAT, always made anew.

    ``licence`` and ``repo``, the name on the hub, are for the card of the format `hf`.
    """
    check_export(format, mix)
    source = rewritten_path(folder)
    known = None
    if format == "hf":
        known = inherited_licence(recipe.data) if licence is None else given_licence(licence)
    rewritten, contamination = (folder.read_json(name) or {} for name in ("rewrite.json", "contamination.json"))
    name = f"export/{format}"
    folder.begin(name)
    summary = export(source, format, mix, Origin(recipe, rewritten, contamination, known, repo), folder)
    folder.finished(name, mix, [name])
    return summary


def run_view(recipe: Recipe, folder: RunFolder, port: int, announce: Callable[[Summary], None]) -> None:
    """Serves the rows of a run on loopback until it is interrupted; ``announce`` gets the address. Nothing is written,
    and another command may be running in the folder.
    """
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "view")
    from retell.view import make_app, serve

    rewritten_path(folder)
    summary = folder.read_json("rewrite.json") or {}
    undecided, grader = summary.get("undecided"), summary.get("grader")

    def count_undecided() -> Mapping[str, int]:
        with open_store(folder.path, readonly=True) as journal:
            return journal.judged("undecided", grader) if undecided and grader else {}

    with Rows(folder, open_rows(recipe, folder)) as rows:
        finder = Finder(rows, count_undecided)
        rows.read(range(min(1, len(rows))))  # what is loaded at first use is loaded before anybody waits for it
        facts = {"path": str(folder.path), "rows": len(rows)}
        serve(
            lambda token: make_app(rows, finder, folder.path.resolve().name, token),
            port,
            lambda url: announce({"url": url, **facts}),
        )


def open_rows(recipe: Recipe, folder: RunFolder) -> Opened:
    """What finds the samples behind the run's rows, as far as the policy is at hand; the folder is only read."""
    settings = recipe.rewrite
    drawn_by = (folder.read_json("rewrite.json") or {}).get("policy")
    try:
        named = recipe.policy.model or settings.engine not in ("recorded", "server")
        tokenizer = own_policy(recipe, folder).tokenizer if named else None
        built_by = [None] if (drawn_by or "").startswith("served:") else [tokenizer]
        if drawn_by is None and tokenizer:
            built_by.append(None)  # a model may have been named after recorded responses were rewritten
        prompters = tuple(Prompter(recipe.policy, one, settings.guided_template) for one in built_by)
        graders = tuple(_graders_of("rewrite", recipe, folder))
    except RequestError as error:
        return Opened(None, f"Attempts and the log-probs of tokens are not shown: {error}.")
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens)
    stream = Stream("rewrite", drawn_by, settings.seed)
    store = open_store(folder.path, readonly=True)
    return Opened(SampleSource(store, stream, prompters, tokenizer, sampling, settings.k, graders))


def run_grade(recipe: Recipe, folder: RunFolder, given: Grading) -> Summary:
    """Grades the stored samples again, with the given grader or else that of their stage, and stores the verdicts.

    Nothing is drawn and no table changes: a stage that is run with that grader afterwards finds its verdicts there.
    """
    started = time.monotonic()
    sections = {"rewrite": overlay(recipe.rewrite, given), "evaluate": overlay(recipe.evaluate, given)}
    chosen = {stage: grader_named(section.grader) for stage, section in sections.items()}
    summary: Summary = {"path": str(folder.path), "graders": {}, "rungs": {}}
    with open_store(folder.path) as journal:
        stored = journal.rungs()
        if not stored:
            raise RunFolderError(f"{folder.path} holds no samples: run `retell rewrite` or `retell evaluate` first")
        for stage, grader in chosen.items():
            rungs = [rung for rung in stored if (rung in get_args(Rung)) == (stage == "rewrite")]
            if rungs:
                gold_of = _gold_of(stage, recipe, folder, grader)
                with GraderPool(grader, sections[stage].grader_workers) as graders:
                    earlier = _graders_of(stage, recipe, folder)
                    summary["rungs"] |= regrade(journal, rungs, gold_of, earlier, graders)
                summary["graders"][stage] = grader.name
    summary["seconds"] = round(time.monotonic() - started, 3)
    return summary


def _gold_of(stage: str, recipe: Recipe, folder: RunFolder, grader: Grader) -> Callable[[Sample], Gold | None]:
    if stage == "rewrite":
        of_problems = golds_of_rewriting(recipe.data, folder.path)
        return lambda sample: of_problems.get(sample.problem)
    # The graders that come with retell do not look at the problem; somebody's own may.
    golds = golds_of_evaluation(recipe.evaluate, folder.path, with_texts=isinstance(grader, CustomGrader))
    return lambda sample: golds.get((sample.rung, sample.problem))


def _graders_of(stage: str, recipe: Recipe, folder: RunFolder) -> list[str]:
    """Names of the graders that a stage's files rest on, and of the one that it would use now."""
    evaluations = sorted((folder.path / "eval").glob("[!.]*.json"))
    files = ["rewrite.json"] if stage == "rewrite" else [f"eval/{path.name}" for path in evaluations]
    names = [(folder.read_json(file) or {}).get("grader") for file in files]
    section: Grading = recipe.rewrite if stage == "rewrite" else recipe.evaluate
    with contextlib.suppress(RecipeError):  # its module may be gone
        names.append(grader_named(section.grader).name)
    return [name for name in dict.fromkeys(names) if name]
