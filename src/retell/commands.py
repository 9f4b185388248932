"""One command per stage. Heavy parts are imported by the command that needs them."""

import contextlib
import json
import math
import os
import sys
import webbrowser
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from retell import present
from retell.errors import DataError, RecipeError, RetellError, RunFolderError
from retell.processes import rank
from retell.recipe import (
    PACKAGED,
    Data,
    Evaluate,
    Gap,
    Grading,
    Policy,
    Recipe,
    Report,
    Rewrite,
    Section,
    Train,
    load_recipe,
    located,
    overlay,
)
from retell.runfolder import RunFolder

Summary = dict[str, Any]
_DEMO = f"{PACKAGED}tiny/demo.toml"
_FLAT = Parameter(name="*")
Folder = Annotated[Path, Parameter(help="Run folder.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the summary as one JSON object.")]
Restart = Annotated[bool, Parameter(negative="", help="Discard what retell wrote into the folder before.")]
DryRun = Annotated[bool, Parameter(negative="", help="Check every input, estimate what a run comes to; write nothing.")]

app = App(
    name="retell",
    help="Moves fine-tuning data to the policy before training: sample, verify, retell, train, evaluate.",
    version=version("retell"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
)


@app.command
def demo(*, out: Folder = Path("demo"), restart: Restart = False, as_json: Json = False) -> None:
    """The whole method on the packaged tiny policy, in about two minutes."""
    run(Path(located(_DEMO)), out=out, restart=restart, as_json=as_json)


@app.command
def run(
    recipe: Path,
    *,
    out: Folder | None = None,
    flags: Annotated[Recipe | None, _FLAT] = None,
    restart: Restart = False,
    dry_run: DryRun = False,
    generation_rate: Annotated[float | None, Parameter(help="Of a dry run: tokens generated in a second.")] = None,
    training_rate: Annotated[float | None, Parameter(help="Of a dry run: tokens trained on in a second.")] = None,
    as_json: Json = False,
) -> None:
    """Every stage of a recipe in order; a stage whose inputs are unchanged is not run again."""
    chosen = overlay(load_recipe(recipe), flags or Recipe())
    rates = {"--generation-rate": generation_rate, "--training-rate": training_rate}
    if dry_run:
        from retell.dryrun.forecast import forecast, summarise

        for flag, rate in rates.items():
            if rate is not None and not 0 < rate < math.inf:
                raise RecipeError(f"{flag} {rate:g}: it is a number of tokens in a second, more than 0")
        found = summarise(forecast(chosen, out, restart, generation_rate, training_rate))
        _show(as_json, found, present.forecast)
        wrong = [check["what"] for check in found["checks"] if check["state"] == "wrong"]
        if wrong:
            raise RecipeError(f"{len(wrong)} of {len(found['checks'])} checks are wrong: {', '.join(wrong)}")
        return
    useless = [flag for flag, rate in rates.items() if rate is not None]
    if useless:
        raise RecipeError(f"{useless[0]} has no effect without --dry-run, which estimates hours with it: leave it out")
    if out is None:
        raise RecipeError("where does the run go? Give --out DIR, or --dry-run to see what it comes to")
    with RunFolder(out, restart=restart) as folder:
        from retell import pipeline

        _show(as_json, pipeline.run(chosen, folder), present.run, folder)


@app.command
def rewrite(
    *,
    policy: Annotated[Policy | None, _FLAT] = None,
    data: Annotated[Data | None, _FLAT] = None,
    rewrite: Annotated[Rewrite | None, _FLAT] = None,
    out: Folder,
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Builds the rewritten dataset: the policy's own correct solution, else its retelling, else the expert's text."""
    with RunFolder(out, restart=restart) as folder:
        from retell import pipeline

        recipe = overlay(folder.recipe() or Recipe(), _changes(policy=policy, data=data, rewrite=rewrite))
        _show(as_json, pipeline.run_rewrite(recipe, folder), present.rewrite, folder)


@app.command
def gap(
    folder: Folder | None = None,
    *,
    preview: Annotated[
        int | None, Parameter(help="Instead: sample so many problems, say what rewriting all comes to and advise.")
    ] = None,
    policy: Annotated[Policy | None, _FLAT] = None,
    data: Annotated[Data | None, _FLAT] = None,
    rewrite: Annotated[Rewrite | None, _FLAT] = None,
    gap: Annotated[Gap | None, _FLAT] = None,
    tables: Annotated[
        bool, Parameter(negative="", help="Print the log-probs that were measured as Markdown; measure nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Log-probs and importance weights, expert against rewritten, by rung; or, of some problems, before you rewrite.

    Under another --model than the run's policy, a checkpoint of it, also how far that has drifted.
    """
    if preview is not None:
        if tables:
            raise RecipeError("--tables has no effect with --preview, which prints its own: leave one out")
        _preview(folder, preview, _changes(policy=policy, data=data, rewrite=rewrite, gap=gap), as_json)
        return
    useless = [name for part in (data, rewrite) if part for name in sorted(part.model_fields_set)]
    if useless:
        flag = "data" if useless[0] == "path" else useless[0].replace("_", "-")
        raise RecipeError(f"--{flag} has no effect on what is rewritten already: it is for --preview")
    if folder is None:
        raise RecipeError("which run? Give its folder, or --preview N to look at N problems before there is one")
    with _existing(folder) as place:
        from retell import measuring

        stored = _stored(place)
        if tables:
            _show(as_json, measuring.run_gap_tables(stored, place), present.tables)
            return
        recipe, other = _of_another(stored, _changes(policy=policy, gap=gap), policy)
        if not other or measuring.is_own_policy(recipe.policy, place):
            summary = measuring.run_gap(recipe, place)
            place.store_recipe(recipe)
            _show(as_json, summary, partial(present.gap, file="gap.json"), place)
            return
        name = measuring.checkpoint_name(recipe.policy)
        _refuse_outdated(place, name, recipe.policy, "give a copy of it elsewhere")
        base = overlay(stored, _changes(gap=recipe.gap))
        summary = measuring.run_tuned_gap(base, place, recipe.policy)
        place.store_recipe(base)
        _show(as_json, summary, partial(present.gap, file=f"gap/{name}.json"), place)


def _preview(folder: Path | None, count: int, given: Recipe, as_json: bool) -> None:
    with RunFolder(folder) if folder else contextlib.nullcontext() as place:
        from retell.previewing import run_preview

        recipe = overlay((place and place.recipe()) or Recipe(), given)
        _show(as_json, run_preview(recipe, count, place), present.preview, *([place] if place else []))


@app.command
def train(
    folder: Folder,
    *,
    loss: Annotated[str, Parameter(help="Loss, perhaps with options: dft, is,clip=3 … or your own module:function.")],
    data: Annotated[str, Parameter(help="Mix: rewritten, expert, self_only, guided_only, online, or a file of rows.")],
    policy: Annotated[Policy | None, _FLAT] = None,
    train: Annotated[Train | None, _FLAT] = None,
    as_json: Json = False,
) -> None:
    """Tunes the policy with one loss on one mix of the run's data."""
    with _existing(folder) as place:
        from retell import pipeline
        from retell.mixes import KEPT, ONLINE, run_of

        if train and "runs" in train.model_fields_set:
            raise RecipeError("--runs is for `retell run`: --loss and --data say what is trained here")
        useless = (policy.model_fields_set & {"system", "template"}) if policy and data in KEPT else set()
        if useless:
            raise RecipeError(f"--{min(useless)} has no effect on --data {data}, whose prompts are made already")
        if train and train.rounds is not None and data != ONLINE:
            raise RecipeError(f"--rounds {train.rounds} has no effect on --data {data}: it is for --data {ONLINE}")
        recipe = overlay(_stored(place), _changes(policy=policy, train=train))
        summary = pipeline.run_train(recipe, place, run_of(loss, data))
        _show(as_json, summary, present.train, place)


@app.command
def evaluate(
    *,
    policy: Annotated[Policy | None, _FLAT] = None,
    evaluate: Annotated[Evaluate | None, _FLAT] = None,
    name: Annotated[
        str | None, Parameter(help="Name of the result; by default `base`, or the checkpoint's name.")
    ] = None,
    out: Folder,
    as_json: Json = False,
) -> None:
    """avg@k of a model on benchmarks: the run's policy, or another --model such as a checkpoint."""
    with RunFolder(out) as folder:
        from retell import pipeline
        from retell.contamination import look_for_benchmarks

        stored = folder.recipe() or Recipe()
        recipe, other = _of_another(stored, _changes(policy=policy, evaluate=evaluate), policy)
        by_itself = Path(recipe.policy.model).name if other and recipe.policy.model else "base"
        called = by_itself if name is None else name
        if not called or Path(called).name != called:
            raise RecipeError(f"--name {called!r} is no plain name: give one without separators")
        if other and called == "base":
            raise RecipeError("base is what the run's own policy is called: give this model another --name")
        _refuse_outdated(folder, called, recipe.policy, "keep its result under another --name")
        look_for_benchmarks(recipe, folder)
        summary = pipeline.run_evaluate(recipe, folder, called, recipe.policy)
        # The run's policy stays the one that was rewritten for; a checkpoint that is evaluated does not replace it.
        folder.store_recipe(overlay(stored, _changes(evaluate=recipe.evaluate)) if stored.policy.model else recipe)
        _show(as_json, summary, present.evaluation, folder)


@app.command
def grade(
    what: Annotated[Path, Parameter(help="JSON lines of {id, response, gold}, or a run folder.")],
    *,
    grading: Annotated[Grading | None, _FLAT] = None,
    out: Annotated[Path | None, Parameter(help="Where the verdicts on a file go, as JSON lines.")] = None,
    as_json: Json = False,
) -> None:
    """A verdict for each row of a file, or again for each stored sample of a run, by default with the run's grader."""
    chosen = grading or Grading()
    if os.path.isdir(what):
        if out:
            raise RecipeError(f"--out {out}: the verdicts on a run folder are stored in it: leave out --out")
        with _existing(what) as place:
            from retell import showing

            _show(as_json, showing.run_grade(_stored(place), place, chosen), present.regraded, place)
        return
    if not os.path.exists(what):
        raise DataError(f"there is no file or run folder {what}: check the path")
    if not out:
        raise RecipeError(f"where do the verdicts on {what} go? Give --out FILE.jsonl")
    from retell.grade import grade_file
    from retell.graders.named import grader_named
    from retell.graders.pool import GraderPool

    with GraderPool(grader_named(chosen.grader), chosen.grader_workers) as graders:
        _show(as_json, grade_file(what, out, graders), present.graded)


@app.command
def doctor(
    *,
    policy: Annotated[Policy | None, _FLAT] = None,
    rewrite: Annotated[Rewrite | None, _FLAT] = None,
    as_json: Json = False,
) -> None:
    """What is installed, reachable and wrong; with a model, one rendered prompt and the policy's reply."""
    from retell.checks.base import Patient
    from retell.doctor import examine, summary

    patient = Patient(policy or Policy(), rewrite or Rewrite())
    findings = []
    for finding in examine(patient):
        findings.append(finding)
        if not as_json:
            present.finding(finding)
    found = summary(patient, findings)
    _show(as_json, found, present.doctor)
    if found["wrong"]:
        raise RetellError(f"{found['wrong']} of {len(findings)} findings are wrong: they say what to do")


@app.command
def export(
    folder: Folder,
    *,
    format: Annotated[str, Parameter(help="What it is for: trl, llamafactory, axolotl, verl or hf.")],
    data: Annotated[str, Parameter(help="Mix: rewritten, expert, self_only or guided_only.")] = "rewritten",
    licence: Annotated[
        str | None, Parameter(name="--license", help="Of hf: the licence, such as cc-by-4.0; else its source's.")
    ] = None,
    push: Annotated[
        str | None, Parameter(help="Of hf: send it to the Hugging Face data set OWNER/NAME, after asking.")
    ] = None,
    public: Annotated[bool, Parameter(negative="", help="Of --push: everyone may see it.")] = False,
    yes: Annotated[bool, Parameter(negative="", help="Of --push: do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """The run's data as another tool loads it; other tools tokenise it again (docs/export.md)."""
    _refuse_useless(format, {"--license": licence, "--push": push}, "is for --format hf")
    _refuse_useless("" if push is None else "hf", {"--public": public, "--yes": yes}, "has no effect without --push")
    with _existing(folder) as place:
        from retell import showing

        if push is not None:
            from retell.hub import check_push, prepare, send

            check_push(push)
        summary = showing.run_export(_stored(place), place, format, data, licence, push)
        if push is not None:
            ship = prepare(Path(summary["path"]), push, public=public)
            present.shipment(ship)
            summary["pushed"] = send(ship) if yes or _agreed() else None
        _show(as_json, summary, present.exported)


@app.command
def report(
    folder: Folder,
    *,
    report: Annotated[Report | None, _FLAT] = None,
    tables: Annotated[
        bool, Parameter(negative="", help="Print Tables 1 to 4 as Markdown, the paper's figures beside them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The page of a run, report.html and report.md: the paper's tables and figures for it."""
    with _existing(folder) as place:
        from retell import showing

        recipe = overlay(_stored(place), _changes(report=report))
        if tables:
            _show(as_json, showing.run_tables(recipe, place), present.tables)
            return
        summary = showing.run_report(recipe, place)
        place.store_recipe(recipe)
        _show(as_json, summary, present.report, place)


@app.command
def compare(
    *folders: Annotated[Path, Parameter(help="Run folders; the others are compared with the first.")],
    out: Annotated[Path, Parameter(help="Where compare.html and compare.md go.")] = Path("."),
    as_json: Json = False,
) -> None:
    """Several runs in one table and page: recipes, rungs, log-probs, accuracies on the same problems, cost."""
    from retell import showing

    _show(as_json, showing.run_compare(folders, out), present.compared)


@app.command
def view(
    folder: Folder,
    *,
    port: Annotated[int, Parameter(help="Port on 127.0.0.1; by default one that is free.")] = 0,
    open_browser: Annotated[bool, Parameter(name="--open", negative="", help="Open the page in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """All rows of a run on a page of this machine alone: responses side by side, search, filters. Ctrl-C ends it."""
    if not 0 <= port < 1 << 16:
        raise RecipeError(f"--port {port}: it is a number from 1 to 65535")
    place = _existing(folder)

    def announce(summary: Summary) -> None:
        _show(as_json, summary, present.view)
        sys.stdout.flush()
        if open_browser:
            webbrowser.open(summary["url"])

    from retell import showing

    showing.run_view(_stored(place), place, port, announce)


def _existing(path: Path) -> RunFolder:
    folder = RunFolder(path)
    _stored(folder)
    return folder


def _stored(folder: RunFolder) -> Recipe:
    recipe = folder.recipe()
    if recipe is None and folder.path.exists():
        raise RunFolderError(f"{folder.path} is no run folder: name one, or make one with `retell rewrite --out DIR`")
    if recipe is None:
        raise RunFolderError(
            f"there is no run folder {folder.path}: make one with `retell rewrite --out {folder.path}`"
        )
    return recipe


def _of_another(stored: Recipe, changes: Recipe, policy: Policy | None) -> tuple[Recipe, bool]:
    """The stored recipe with its changes, and whether they name another model than the run's policy."""
    recipe = overlay(stored, changes)
    other = stored.policy.model is not None and recipe.policy.model != stored.policy.model
    if other and policy and "revision" not in policy.model_fields_set:
        recipe = overlay(recipe, Recipe(policy=Policy(revision=None)))
    return recipe, other


def _refuse_outdated(folder: RunFolder, name: str, policy: Policy, otherwise: str) -> None:
    """Keeps a checkpoint whose training data has been replaced since from standing for the run's method of its name."""
    own = (folder.path / "checkpoints" / name).resolve()
    if policy.model and Path(policy.model).resolve() == own and f"train/{name}" not in folder.stages():
        raise RunFolderError(
            f"checkpoints/{name} was trained on data that has been replaced since: train it again, or {otherwise}"
        )


def _refuse_useless(format: str, options: Mapping[str, object], why: str) -> None:
    """Refuses options that only the format `hf` has a use for."""
    given = [flag for flag, value in options.items() if value not in (None, False)]
    if given and format != "hf":
        raise RecipeError(f"{given[0]} {why}: leave it out")


def _agreed() -> bool:
    """Whether the person at the terminal says yes."""
    if not sys.stdin.isatty():
        raise RecipeError("nothing was sent, since there is no terminal to ask whether to: say --yes")
    print("Send it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _changes(**sections: Section | None) -> Recipe:
    return Recipe.model_validate({name: section for name, section in sections.items() if section is not None})


def _show(as_json: bool, summary: Summary, tell: Callable[..., None], *place: RunFolder) -> None:
    if rank() > 0:
        return
    if as_json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        tell(summary, *place)
