"""The method from top to bottom: the stages in order, and what each hands to the next.

    problems → rewrite → rewritten.parquet → gap
                                           → train → checkpoints/NAME → evaluate → eval/NAME → report

Stages meet in the run folder. A stage whose inputs are unchanged is not run again.
"""

import contextlib
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from retell.benchmarks import load_benchmarks
from retell.browse import sampled_rows
from retell.comparison import compare, differing, named
from retell.contamination import (
    benchmarks_against,
    contaminated,
    overlaps_to_drop,
    whole_benchmarks,
    without_overlaps,
    write_contamination,
)
from retell.engines.base import Engine, Reloadable
from retell.engines.named import PRECISION, check_engine, open_engine, served_model
from retell.errors import MissingExtraError, PolicyError, RecipeError, RequestError, RunFolderError
from retell.evaluate import evaluate
from retell.export import export
from retell.exports.datacard import Origin
from retell.exports.licence import given_licence, inherited_licence
from retell.exports.named import check_export
from retell.finder import Finder
from retell.firsts import Group, of_evaluation, of_rewriting
from retell.graders.base import Grader
from retell.graders.custom import CustomGrader
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.graders.qwen import QwenGrader
from retell.hashing import digest, file_digest
from retell.journal import Journal
from retell.ladder import Ladder
from retell.leaks import RULES as LEAK_RULES
from retell.markdown import markdown
from retell.meter import Budget, Meter
from retell.mixes import KEPT, MIXES, ONLINE, Run, file_ids, mix_ids, run_named
from retell.online import OnlineRewriter
from retell.parts import Parts, Scorer
from retell.policy import default_device, fingerprint, load_model, require_same_model, resolve_policy
from retell.problems import SUFFIXES, Loaded, load_problems, read_rows
from retell.processes import launch, launches, world
from retell.prompts import Prompter, load_template
from retell.ratios import lacks_tails
from retell.recipe import Evaluate, Grading, Policy, Recipe, Rewrite, Section, dump, located, overlay
from retell.records import Problem, Rung, Sample, Sampling, TrainRow
from retell.regrade import Gold, golds_of_evaluation, golds_of_rewriting, regrade
from retell.report import gap_tables, tables, write_report
from retell.results import Results, results_of
from retell.rewrite import reject_untrainable, rewrite
from retell.rollout import Stream
from retell.rows import Opened, Rows, SampleSource
from retell.runfolder import RunFolder
from retell.scores import RULES as SCORE_RULES
from retell.tokens import ChatTokenizer
from retell.webpage import webpage

Summary = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LocalPolicy:
    """A policy at hand: its folder, what identifies it, and its tokenizer."""

    folder: Path
    fingerprint: str
    tokenizer: ChatTokenizer


def run(recipe: Recipe, folder: RunFolder) -> Summary:
    """Every stage in order; what can be checked is checked before the first."""
    runs = check(recipe)
    own = whole_benchmarks(recipe.evaluate) if recipe.evaluate.benchmark else {}
    summary: Summary = {"rewrite": run_rewrite(recipe, folder, own), "gap": run_gap(recipe, folder), "train": {}}
    for training in runs:
        summary["train"][training.name] = run_train(recipe, folder, training)
    if recipe.evaluate.benchmark:
        summary["evaluate"] = {"base": run_evaluate(recipe, folder, "base", recipe.policy)}
        for training in runs:
            path = str(folder.path.resolve() / "checkpoints" / training.name)
            tuned = recipe.policy.model_copy(update={"model": path, "revision": None})
            summary["evaluate"][training.name] = run_evaluate(recipe, folder, training.name, tuned)
    summary["report"] = run_report(recipe, folder)
    return summary


def check(recipe: Recipe) -> list[Run]:
    """The training runs of a recipe whose later stages can be expected to start.

    Raises:
        RequestError: something that a later stage needs is missing or wrong.
    """
    runs = [run_named(text) for text in recipe.train.runs]
    twice = [name for name, n in Counter(training.name for training in runs).items() if n > 1]
    if twice:
        raise RecipeError(f"two of train.runs are called {twice[0]}: rename one of the files")
    for training in runs:
        _check_mix(training, recipe)
        if training.mix not in MIXES:
            next(read_rows(recipe.data.model_copy(update={"path": training.mix})), None)
    if runs:
        from retell.methods import open_loss
        from retell.train import check_training

        for training in runs:
            check_training(recipe.train, open_loss(training.loss), online=training.mix == ONLINE)
    online = [training for training in runs if training.mix == ONLINE]
    if online:
        _how_rewritten(recipe, Prompter(recipe.policy, None, recipe.rewrite.guided_template))
    elif recipe.train.rounds is not None:
        raise RecipeError(
            "train.rounds has no effect without a run on the mix `online`, such as dft:online: leave it out"
        )
    if recipe.evaluate.benchmark:
        load_benchmarks(recipe.evaluate)
        Prompter(_asked(recipe.policy, recipe.evaluate), None)
        check_engine(recipe.evaluate)
        if runs and recipe.evaluate.engine == "server":
            raise RecipeError(
                "evaluate.engine = 'server' cannot evaluate what this run trains, since the server goes on serving "
                "another model: use vllm or transformers, or leave out benchmark and evaluate each while it is served"
            )
        grader_named(recipe.evaluate.grader)
    if find_spec("plotly") is None:
        raise MissingExtraError("plotly", "report")
    return runs


def _check_mix(training: Run, recipe: Recipe) -> None:
    """Raises:
    RecipeError: the mix is a file, which nothing is dropped from, and something is to be dropped.
    """
    if training.mix not in MIXES and recipe.data.overlap == "drop":
        raise RecipeError(
            f"data.overlap = 'drop' does not reach the rows of {training.mix}: rewrite that file as the data, or set "
            "overlap to 'report'"
        )


def run_rewrite(recipe: Recipe, folder: RunFolder, benchmarks: Mapping[str, Loaded] | None = None) -> Summary:
    """Builds the rewritten dataset: rewritten.parquet, rejected.jsonl, rewrite.json.

    ``benchmarks`` are looked for among the problems, beside those that the recipe names for that.
    """
    settings = recipe.rewrite
    grader = choosing(settings)
    against = benchmarks_against(recipe, benchmarks)
    read = load_problems(recipe.data)
    policy, drawn_by = _drawing(recipe.policy, settings)
    tokenizer = policy.tokenizer if policy else None
    prompter = Prompter(recipe.policy, tokenizer, settings.guided_template)
    check_engine(settings, read.problems)
    assert prompter.guided_template
    identity = {
        "policy": drawn_by,
        "data": read.digest,
        "system message": prompter.system,
        "prompt template": prompter.solve_template.user,
        "guided template": prompter.guided_template.text,
        **{name: settings.engine_args.get(name, "auto") for name in PRECISION},
        "served model": settings.engine_args.get("served_model"),
        **{name: getattr(settings, name) for name in ("temperature", "top_p", "max_tokens", "seed")},
    }
    for needed in (policy.folder if policy else None, Path(located(recipe.data.path or ""))):
        if needed is not None:
            folder.spare(needed)
    folder.check("rewrite", identity)
    overlaps, dropped = contaminated(read.problems, against), recipe.data.overlap == "drop"
    read = without_overlaps(read, overlaps, recipe)
    chosen = {name: getattr(settings, name) for name in ("k", "exhaustive", "max_copied")}
    chosen["max_length"] = recipe.data.max_length
    rejects = [asdict(reject) for reject in read.rejected]
    inputs = [identity, chosen, rejects, grader.name, LEAK_RULES, policy.fingerprint if policy else None]

    def work(loaded: Loaded, engine: Engine) -> Summary:
        meter = Meter(Budget(settings.max_tokens_total, settings.max_hours))
        stream = Stream("rewrite", drawn_by, settings.seed)
        with _store(folder) as journal, GraderPool(grader, settings.grader_workers) as graders:
            ladder = Ladder(settings, prompter, engine, drawn_by, recipe.data.max_length)
            summary = rewrite(loaded, ladder, engine, graders, journal, stream, meter, folder)
        summary["grader"] = grader.name
        summary["recipe_sha"] = digest({name: dump(recipe)[name] for name in ("policy", "data", "rewrite")})
        folder.write_json("rewrite.json", summary)
        write_contamination(folder, overlaps, against, dropped=dropped, anew=True)
        return summary

    outputs = ["rewrite.json", "rewritten.parquet", "rejected.jsonl"]
    if folder.is_fresh("rewrite", inputs):
        folder.store_recipe(recipe)
        write_contamination(folder, overlaps, against, dropped=dropped, anew=False)
        return _stage(folder, "rewrite", inputs, outputs, dict)
    loaded = reject_untrainable(read, prompter, tokenizer, recipe.data.max_length)
    # Opened first: what cannot be opened must not cost what a --restart discards, nor leave its recipe behind.
    with closing(_open_engine(settings, policy, loaded.problems, recipe.policy)) as engine:
        folder.claim("rewrite", identity)
        folder.store_recipe(recipe)
        return _stage(folder, "rewrite", inputs, outputs, lambda: work(loaded, engine))


def run_gap(recipe: Recipe, folder: RunFolder) -> Summary:
    """Log-probs and weights of expert and rewritten responses under the policy: gap.parquet, gap.json."""
    policy = _own_policy(recipe, folder)
    return _gap(recipe, folder, policy, policy, "gap", lambda score, parts: {})


def run_tuned_gap(recipe: Recipe, folder: RunFolder, tuned: Policy) -> Summary:
    """The same under a checkpoint of the policy, and its drift from there: gap/NAME.parquet, gap/NAME.json."""
    from retell.drift import measure_drift

    base, model = _own_policy(recipe, folder), resolve_policy(tuned)
    require_same_model(model, base.folder, recipe.policy.trust_remote_code)
    # Its own tokenizer may not have been saved with it, and what is scored are the base's tokens.
    checkpoint = LocalPolicy(model, fingerprint(model), base.tokenizer)

    def drift(score: Scorer, parts: Parts) -> Summary:
        with _store(folder) as journal:
            return {"drift": measure_drift(_first_samples(recipe, folder, base), journal, score, parts)}

    return _gap(recipe, folder, base, checkpoint, f"gap/{checkpoint_name(tuned)}", drift)


def run_gap_tables(recipe: Recipe, folder: RunFolder) -> Summary:
    """The log-probs that were measured, as Markdown; nothing is written."""
    if not any(stage.split("/")[0] == "gap" for stage in folder.stages()):
        raise RunFolderError(
            f"{folder.path} has no log-probs that are up to date: run `retell gap {folder.path}` first"
        )
    return {"tables": gap_tables(recipe, folder)}


def checkpoint_name(tuned: Policy) -> str:
    """What a checkpoint's results are called: its folder's name."""
    return Path(tuned.model or "").name


def is_own_policy(policy: Policy, folder: RunFolder) -> bool:
    """Whether a model is the one that the folder's data was rewritten for, wherever it lies now."""
    return (folder.read_json("rewrite.json") or {}).get("policy") == fingerprint(resolve_policy(policy))


def _gap(
    recipe: Recipe,
    folder: RunFolder,
    base: LocalPolicy,
    scored: LocalPolicy,
    stage: str,
    more: Callable[[Scorer, Parts], Summary],
) -> Summary:
    """Scores the rewritten rows under ``scored`` with the base's tokens; ``more`` adds to the summary."""
    from retell.gap import RULES, measure_gap, measured_before
    from retell.logprobs import row_logprobs

    rewritten, table = _rewritten_path(folder), f"{stage}.parquet"
    inputs = [RULES, base.fingerprint, scored.fingerprint, file_digest(rewritten)]
    inputs += [] if scored is base else [_digest_of(folder.path / "eval/base.json")]

    def work() -> Summary:
        model = load_model(scored.folder, "auto", default_device(), recipe.policy.trust_remote_code).eval()
        score = partial(row_logprobs, model, batch_tokens=recipe.gap.batch_tokens)
        parts = Parts(folder, f".gap/{scored.fingerprint[:12]}", digest(inputs))
        summary = measure_gap(rewritten, base.tokenizer, score, parts, folder, table) | more(score, parts)
        folder.write_json(f"{stage}.json", summary)
        parts.discard()
        return summary

    known = folder.read_json(f"{stage}.json") if folder.is_fresh(stage, inputs) else None
    if known and lacks_tails(known):
        folder.write_json(f"{stage}.json", known | measured_before(folder.path / table, known["all"]["rejected"]))
    return _stage(folder, stage, inputs, [f"{stage}.json", table], work)


def _first_samples(recipe: Recipe, folder: RunFolder, base: LocalPolicy) -> dict[str, Group | str]:
    """Where the base's own samples are: on the new prompts, which it was tuned on, and on the old of its evaluation."""
    rewritten, drew = _rewritten_path(folder), (folder.read_json("rewrite.json") or {}).get("policy")
    asked = Prompter(_asked(recipe.policy, recipe.evaluate), base.tokenizer)
    new = of_rewriting(rewritten, recipe.rewrite, base.fingerprint, drew, base.tokenizer)
    return {"new": new} | of_evaluation(folder, asked, base.fingerprint)


def run_train(recipe: Recipe, folder: RunFolder, training: Run) -> Summary:
    """Tunes the policy with one loss on one mix: checkpoints/NAME."""
    from retell.methods import open_loss
    from retell.train import Source, check_rows, check_training, source_of, train

    named, online = training.mix in KEPT, training.mix == ONLINE
    _check_mix(training, recipe)
    method = open_loss(training.loss)
    check_training(recipe.train, method, online=online)
    source = _rewritten_path(folder) if named or online else Path(located(training.mix))
    policy = _own_policy(recipe, folder) if named or online else open_policy(recipe.policy)
    prompter = Prompter(recipe.policy, policy.tokenizer, recipe.rewrite.guided_template)
    # What decides how a training runs and not what it comes to may change between a kill and the next start.
    passing = {"runs", "micro_batch_tokens", "gradient_checkpointing", "save_every", "report_to", "launch"}
    settings = recipe.train.model_dump(exclude=passing)
    settings |= {"save_every": recipe.train.save_every if recipe.train.keep == "best" else None}
    settings |= {"rounds": recipe.train.rounds if online else None}
    prompt = None if named else [prompter.system, prompter.solve_template.user]
    data, rewriting = None, None
    if online:
        data = load_problems(recipe.data)
        folder.check("rewrite", {"data": data.digest})
        overlaps = overlaps_to_drop(recipe, data)
        data = without_overlaps(data, overlaps, recipe)
        rewriting = [data.digest, sorted({overlap.id for overlap in overlaps}), _how_rewritten(recipe, prompter)]
    chosen = [
        method.spec,
        method.version,
        training.mix if named else "",
        settings,
        recipe.data.max_length,
        prompt,
        rewriting,
    ]
    inputs = [policy.fingerprint, chosen, _digest_of(source)]
    checkpoint = f"checkpoints/{training.name}"

    def work() -> Summary:
        with contextlib.ExitStack() as open_while_training:
            rejected: Mapping[str, int] = {}
            if data:
                rounds = _rewriting(recipe, folder, training, policy, prompter, data)
                rewriter = open_while_training.enter_context(rounds)
                rows_from = Source(rewriter.ids, rewriter.rows, recipe.train.rounds or 1)
            else:
                rows, rejected = _rows(recipe, folder, training, policy.tokenizer, prompter)
                rows_from = source_of(rows)
                check_rows(method, {row.id: row for row in rows})
            model = load_model(policy.folder, "auto", default_device(), recipe.policy.trust_remote_code)
            facts = {"base model": recipe.policy.model or "", "data": f"{training.mix} of {recipe.data.path}"}
            facts |= {name: str(value) for name, value in _changed(recipe.train) if name not in passing}
            summary = train(
                training.name,
                method,
                rows_from,
                model,
                policy.tokenizer,
                recipe.train,
                folder,
                digest(inputs),
                facts,
            )
            summary |= {"mix": training.mix, "rows": len(rows_from.ids), "rejected": dict(rejected)}
            if data:
                failed = sum((Counter(told["rejected"]) for told in rewriter.told), Counter[str]())
                summary |= {"rounds": rewriter.told, "rejected": dict(failed)}
        summary["path"] = str(folder.path / checkpoint)
        folder.write_json(f"{checkpoint}.json", summary)
        return summary

    makes = (lambda: _launched(recipe, folder, training)) if launches(recipe.train.launch) else work
    return _stage(folder, f"train/{training.name}", inputs, [f"{checkpoint}.json", checkpoint], makes)


def _launched(recipe: Recipe, folder: RunFolder, training: Run) -> Summary:
    """The same training by several processes of its own, which find everything in the folder."""
    folder.store_recipe(recipe)
    command = ["train", str(folder.path), "--loss", training.loss, "--data", training.mix]
    with folder.lent():
        launch(located(recipe.train.launch or ""), command)
    return folder.read_json(f"checkpoints/{training.name}.json") or {}


def run_evaluate(recipe: Recipe, folder: RunFolder, name: str, model: Policy) -> Summary:
    """avg@k of one model on the recipe's benchmarks: eval/NAME.json, eval/NAME.parquet."""
    settings = recipe.evaluate
    grader = grader_named(settings.grader)
    benchmarks = load_benchmarks(settings)
    check_engine(settings)
    policy, drawn_by = _drawing(model, settings)
    prompter = Prompter(_asked(model, settings), policy.tokenizer if policy else None)
    what = settings.model_dump(include={"k", "temperature", "top_p", "max_tokens", "seed"})
    what |= {name: settings.engine_args.get(name, "auto") for name in (*PRECISION, "served_model")}
    digests = {benchmark: loaded.digest for benchmark, loaded in benchmarks.items()}
    inputs = [drawn_by, digests, what, prompter.system, prompter.solve_template.user, grader.name, SCORE_RULES]

    def work() -> Summary:
        meter = Meter(Budget(settings.max_tokens_total, settings.max_hours))
        stream = Stream("evaluate", drawn_by, settings.seed)
        with (
            closing(_open_engine(settings, policy, (), model)) as engine,
            _store(folder) as journal,
            GraderPool(grader, settings.grader_workers) as graders,
        ):
            return evaluate(name, benchmarks, prompter, settings, engine, graders, journal, stream, meter, folder)

    outputs = [f"eval/{name}.json", f"eval/{name}.parquet"]
    return _stage(folder, f"evaluate/{name}", inputs, outputs, work)


def _asked(model: Policy, settings: Evaluate) -> Policy:
    """The model as it is addressed in evaluation: as in training, or with a template for it alone."""
    if settings.prompt is None:
        return model
    own = load_template(settings.prompt, needs=("problem",)).system is not None
    return model.model_copy(update={"template": settings.prompt, "system": None if own else model.system})


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
    source = _rewritten_path(folder)
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

    _rewritten_path(folder)
    summary = folder.read_json("rewrite.json") or {}
    undecided, grader = summary.get("undecided"), summary.get("grader")

    def count_undecided() -> Mapping[str, int]:
        with Journal(folder.path / "journal.sqlite", readonly=True) as journal:
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


def run_grade(recipe: Recipe, folder: RunFolder, given: Grading) -> Summary:
    """Grades the stored samples again, with the given grader or else that of their stage, and stores the verdicts.

    Nothing is drawn and no table changes: a stage that is run with that grader afterwards finds its verdicts there.
    """
    started = time.monotonic()
    sections = {"rewrite": overlay(recipe.rewrite, given), "evaluate": overlay(recipe.evaluate, given)}
    chosen = {stage: grader_named(section.grader) for stage, section in sections.items()}
    summary: Summary = {"path": str(folder.path), "graders": {}, "rungs": {}}
    with _store(folder) as journal:
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


def open_rows(recipe: Recipe, folder: RunFolder) -> Opened:
    """What finds the samples behind the run's rows, as far as the policy is at hand; the folder is only read."""
    settings = recipe.rewrite
    drawn_by = (folder.read_json("rewrite.json") or {}).get("policy")
    try:
        named = recipe.policy.model or settings.engine not in ("recorded", "server")
        tokenizer = _own_policy(recipe, folder).tokenizer if named else None
        built_by = [None] if (drawn_by or "").startswith("served:") else [tokenizer]
        if drawn_by is None and tokenizer:
            built_by.append(None)  # a model may have been named after recorded responses were rewritten
        prompters = tuple(Prompter(recipe.policy, one, settings.guided_template) for one in built_by)
        graders = tuple(_graders_of("rewrite", recipe, folder))
    except RequestError as error:
        return Opened(None, f"Attempts and the log-probs of tokens are not shown: {error}.")
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens)
    stream = Stream("rewrite", drawn_by, settings.seed)
    store = Journal(folder.path / "journal.sqlite", readonly=True)
    return Opened(SampleSource(store, stream, prompters, tokenizer, sampling, settings.k, graders))


def _changed(section: Section) -> list[tuple[str, object]]:
    """The keys of a section that are not at their defaults, and their values."""
    return [(name, value) for name, value in section if value != type(section).model_fields[name].default]


def _rows(
    recipe: Recipe, folder: RunFolder, training: Run, tokenizer: ChatTokenizer, prompter: Prompter
) -> tuple[list[TrainRow], dict[str, int]]:
    """Rows to train on, and how many were rejected by reason."""
    if training.mix in KEPT:
        return mix_ids(training.mix, _rewritten(folder), tokenizer, recipe.data.max_length)
    return file_ids(training.mix, recipe.data, prompter, tokenizer)


@contextlib.contextmanager
def _rewriting(
    recipe: Recipe, folder: RunFolder, training: Run, policy: LocalPolicy, prompter: Prompter, data: Loaded
) -> Iterator[OnlineRewriter]:
    """What rewrites in the rounds of an online training, with an engine of its own."""
    settings, limit = recipe.rewrite, recipe.data.max_length
    loaded = reject_untrainable(data, prompter, policy.tokenizer, limit)
    with (
        closing(_open_engine(settings, policy, loaded.problems, recipe.policy)) as engine,
        _store(folder) as journal,
        GraderPool(choosing(settings), settings.grader_workers) as graders,
    ):
        assert isinstance(engine, Reloadable)
        yield OnlineRewriter(
            loaded.problems,
            policy.fingerprint,
            settings,
            limit,
            prompter,
            policy.tokenizer,
            engine,
            graders,
            journal,
            folder.path / "training" / training.name / "rounds.json",
        )


def _how_rewritten(recipe: Recipe, prompter: Prompter) -> object:
    """What the rows of an online training rest on, beside the policy and the data."""
    settings = recipe.rewrite
    if settings.engine in ("server", "recorded"):
        raise RecipeError(
            f"rewrite.engine = {settings.engine!r} goes on giving what it was started with, and an online run needs "
            "samples of the policy that it trains: use transformers or vllm"
        )
    if world() > 1:
        raise RecipeError(
            "an online run trains in one process: leave out torchrun, or train offline (the mix rewritten)"
        )
    names = ("k", "exhaustive", "temperature", "top_p", "max_tokens", "seed", "max_copied")
    chosen = {name: getattr(settings, name) for name in names}
    precision = {name: settings.engine_args.get(name, "auto") for name in PRECISION}
    assert prompter.guided_template
    return [chosen, precision, prompter.guided_template.text, choosing(settings).name, LEAK_RULES]


def open_policy(policy: Policy) -> LocalPolicy:
    """Finds the policy's folder, identifies it and loads its tokenizer."""
    folder = resolve_policy(policy)
    return LocalPolicy(folder, fingerprint(folder), ChatTokenizer(folder, policy.trust_remote_code))


def _drawing(model: Policy, settings: Rewrite | Evaluate) -> tuple[LocalPolicy | None, str | None]:
    """The policy at hand, if there is one, and what names the one that draws, if any does.

    Recorded responses need no model, and a server has its own; where one is named all the same, its tokenizer makes
    exact prompts and tells what is too long to train on.
    """
    policy = open_policy(model) if model.model or settings.engine not in ("recorded", "server") else None
    if settings.engine == "recorded":
        return policy, None
    return policy, policy.fingerprint if policy else served_model(settings)


def _open_engine(
    settings: Rewrite | Evaluate, policy: LocalPolicy | None, problems: Sequence[Problem], model: Policy
) -> Engine:
    folder, tokenizer = (policy.folder, policy.tokenizer) if policy else (None, None)
    return open_engine(settings, folder, tokenizer, problems, model.trust_remote_code)


def _stage(folder: RunFolder, name: str, inputs: object, outputs: list[str], work: Callable[[], Summary]) -> Summary:
    """Does the work, unless it was done with the same inputs before; returns the summary, which is the first output.

    Where the engine failed on some of it, another start does it again; what was made from it stays if that changes
    nothing.
    """
    if folder.is_fresh(name, inputs):
        print(f"{name}: nothing to do, its inputs are unchanged", file=sys.stderr)
        return folder.read_json(outputs[0]) or {}
    again = folder.is_fresh(name, _but_for_failures(inputs))
    before = [_digest_of(folder.path / output) for output in outputs[1:]] if again else None
    if not again:
        folder.begin(name)
    try:
        summary = work()
    finally:
        _free_memory()
    if again and [_digest_of(folder.path / output) for output in outputs[1:]] != before:
        folder.begin(name)
    failed = summary.get("failed")
    if failed:
        print(
            f"{name}: the engine failed on {failed} of what it was asked; the same command tries again", file=sys.stderr
        )
    folder.finished(name, _but_for_failures(inputs) if failed else inputs, outputs)
    return summary


def _free_memory() -> None:
    """Gives back what a stage's model held, for the next stage or another process may need it."""
    gc.collect()  # the Trainer leaves its model in a reference cycle
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _but_for_failures(inputs: object) -> object:
    return ["but for what the engine failed on", inputs]


def _store(folder: RunFolder) -> Journal:
    return Journal(folder.path / "journal.sqlite")


def choosing(settings: Rewrite) -> Grader:
    """The grader of rewriting, which chooses what is trained on.

    Raises:
        RecipeError: it was made for another purpose, and is not forced.
    """
    if settings.grader == QwenGrader.spec and not settings.force_grader:
        raise RecipeError(
            f"rewrite.grader = {settings.grader!r} is for scores that compare with the paper's: it calls wrong answers "
            "correct, and would choose what is trained on. Rewrite with 'math' and evaluate with 'qwen', or insist: "
            "--force-grader"
        )
    return grader_named(settings.grader)


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


def _own_policy(recipe: Recipe, folder: RunFolder) -> LocalPolicy:
    """The policy that the folder's data was rewritten for.

    Raises:
        PolicyError: the model has changed since.
    """
    policy = open_policy(recipe.policy)
    drew = (folder.read_json("rewrite.json") or {}).get("policy")
    # What a server calls its model cannot be compared with a folder.
    if drew not in (None, policy.fingerprint) and not drew.startswith("served:"):
        raise PolicyError(
            f"{policy.folder} is not the model that the data in {folder.path} was rewritten for (its fingerprint is "
            f"{policy.fingerprint}, not {drew}): restore it, or rewrite into another folder"
        )
    return policy


def _rewritten_path(folder: RunFolder) -> Path:
    path = folder.path / "rewritten.parquet"
    if not path.is_file():
        raise RunFolderError(
            f"{folder.path} holds no rewritten.parquet: `retell rewrite --out {folder.path}` writes it when it is done"
        )
    return path


def _rewritten(folder: RunFolder) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    columns = ["id", "rung", "solution", "messages", "response_token_ids", "behaviour_logprobs"]
    rows: list[dict[str, Any]] = pq.read_table(_rewritten_path(folder), columns=columns).to_pylist()
    return rows


def _digest_of(path: Path) -> str:
    if path.is_dir():
        return digest([(file.name, file_digest(file)) for file in sorted(path.iterdir()) if file.suffix in SUFFIXES])
    return file_digest(path) if path.is_file() else str(path)
