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
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from retell.benchmarks import load_benchmarks
from retell.cluster import Cluster, Crew, drawn_before
from retell.contamination import (
    benchmarks_against,
    contaminated,
    overlaps_to_drop,
    whole_benchmarks,
    without_overlaps,
    write_contamination,
)
from retell.drawing import LocalPolicy, Task, asked, drawing_policy, open_engine_of, open_policy
from retell.engines.base import Engine, Reloadable
from retell.engines.named import PRECISION, check_engine
from retell.errors import DataError, MissingExtraError, PolicyError, RecipeError, RunFolderError
from retell.evaluate import evaluate
from retell.executor import Executor, Here
from retell.graders.base import Grader
from retell.graders.custom import CustomGrader
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.graders.qwen import QwenGrader
from retell.hashing import digest, file_digest
from retell.journal import Journal, Marks
from retell.ladder import Ladder
from retell.leaks import RULES as LEAK_RULES
from retell.leases import EVALUATE_BLOCK, REWRITE_BLOCK, Blocks
from retell.meter import Budget, Meter
from retell.mixes import KEPT, MIXES, ONLINE, Run, expert_ids, file_ids, kept_ids, mix_ids, run_named
from retell.online import OnlineRewriter
from retell.policy import default_device, load_model
from retell.problems import SUFFIXES, Loaded, load_problems, read_rows
from retell.problemtable import placed
from retell.processes import launch, launches, world
from retell.prompts import Prompter
from retell.recipe import Grading, Policy, Recipe, Rewrite, Section, dump, located, overlay
from retell.records import Problem, Rung, Sample
from retell.regrade import Gold, golds_of_evaluation, golds_of_rewriting, regrade
from retell.report import tables, write_report
from retell.rewrite import reject_untrainable, rewrite
from retell.runfolder import RunFolder
from retell.scores import RULES as SCORE_RULES
from retell.store import open_store
from retell.tables import read_rows as table_rows
from retell.tokens import ChatTokenizer
from retell.trainrows import TrainRows

Summary = dict[str, Any]


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
        Prompter(asked(recipe.policy, recipe.evaluate), None)
        check_engine(recipe.evaluate)
        if runs and recipe.evaluate.engine == "server":
            raise RecipeError(
                "evaluate.engine = 'server' cannot evaluate what this run trains, since the server goes on serving "
                "another model: use vllm or transformers, or leave out benchmark and evaluate each while it is served"
            )
        grader_named(recipe.evaluate.grader)
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report")
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
    policy, drawn_by = drawing_policy(recipe.policy, settings)
    tokenizer = policy.tokenizer if policy else None
    prompter = Prompter(recipe.policy, tokenizer, settings.guided_template)
    with folder.spool("problems.parquet") as spool:
        read = load_problems(recipe.data, spool=spool)
        check_engine(settings, read.problems)
        identity = _identity(recipe, prompter, drawn_by, read)
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
        outputs = ["rewrite.json", "rewritten.parquet", "rejected.jsonl"]
        if folder.is_fresh("rewrite", inputs):
            folder.store_recipe(recipe)
            write_contamination(folder, overlaps, against, dropped=dropped, anew=False)
            return _stage(folder, "rewrite", inputs, outputs, dict)
        loaded = reject_untrainable(read, prompter, tokenizer, recipe.data.max_length)
        task, plan = Task("rewrite", recipe, recipe.policy, drawn_by), digest(inputs)

        def work(drawer: Engine | Crew | None) -> Summary:
            problems = placed(loaded.problems, folder.path.resolve() / "problems.parquet")
            blocks = Blocks(problems, REWRITE_BLOCK)
            with _executor(drawer, task, blocks, plan, grader, folder) as (executor, _):
                ladder = Ladder(settings, prompter, executor, drawn_by, recipe.data.max_length)
                summary = rewrite(replace(loaded, problems=problems), ladder, executor, task.stream, folder)
            summary["grader"] = grader.name
            summary["recipe_sha"] = digest({name: dump(recipe)[name] for name in ("policy", "data", "rewrite")})
            folder.write_json("rewrite.json", summary)
            write_contamination(folder, overlaps, against, dropped=dropped, anew=True)
            return summary

        # Opened first: what cannot be opened must not cost what a --restart discards, nor leave its recipe behind.
        with _drawer(task, policy, loaded.problems, REWRITE_BLOCK, plan, folder) as drawer:
            folder.claim("rewrite", identity)
            folder.place(spool, "problems.parquet")
            folder.store_recipe(recipe)
            return _stage(folder, "rewrite", inputs, outputs, lambda: work(drawer))


def _identity(recipe: Recipe, prompter: Prompter, drawn_by: str | None, read: Loaded) -> dict[str, object]:
    """What the samples of a rewriting rest on, by name: a folder holds those of one."""
    settings = recipe.rewrite
    assert prompter.guided_template
    return {
        "policy": drawn_by,
        "data": read.digest,
        "system message": prompter.system,
        "prompt template": prompter.solve_template.user,
        "guided template": prompter.guided_template.text,
        **{name: settings.engine_args.get(name, "auto") for name in PRECISION},
        "served model": settings.engine_args.get("served_model"),
        **{name: getattr(settings, name) for name in ("temperature", "top_p", "max_tokens", "seed")},
    }


def run_gap(recipe: Recipe, folder: RunFolder) -> Summary:
    """Log-probs and weights of expert and rewritten responses: gap.parquet, gap.json."""
    from retell.gap import GapRow, measure_gap

    rewritten = _rewritten_path(folder)
    policy = _own_policy(recipe, folder)

    def work() -> Summary:
        rows, rejected = [], 0
        for row in _rewritten(folder):
            try:
                expert, kept = expert_ids(row, policy.tokenizer), kept_ids(row, policy.tokenizer)
            except DataError:
                rejected += 1
                continue
            pair = (expert.prompt, expert.response), (kept.prompt, kept.response)
            rows.append(GapRow(row["id"], row["rung"], *pair))
        if not rows:
            raise DataError(f"no row of {rewritten} fits the chat template of {policy.folder}: see policy.system")
        model = load_model(policy.folder, "auto", default_device(), recipe.policy.trust_remote_code).eval()
        return measure_gap(rows, rejected, model, recipe.gap, folder)

    inputs = [policy.fingerprint, file_digest(rewritten)]
    return _stage(folder, "gap", inputs, ["gap.json", "gap.parquet"], work)


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
                check_rows(method, rows)
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
    policy, drawn_by = drawing_policy(model, settings)
    prompter = Prompter(asked(model, settings), policy.tokenizer if policy else None)
    what = settings.model_dump(include={"k", "temperature", "top_p", "max_tokens", "seed"})
    what |= {name: settings.engine_args.get(name, "auto") for name in (*PRECISION, "served_model")}
    digests = {benchmark: loaded.digest for benchmark, loaded in benchmarks.items()}
    inputs = [drawn_by, digests, what, prompter.system, prompter.solve_template.user, grader.name, SCORE_RULES]

    def work() -> Summary:
        task, plan = Task("evaluate", recipe, model, drawn_by), digest(inputs)
        todo = [(benchmark, problem) for benchmark, loaded in benchmarks.items() for problem in loaded.problems]
        blocks = Blocks([problem for _, problem in todo], EVALUATE_BLOCK, [benchmark for benchmark, _ in todo])
        with (
            _drawer(task, policy, blocks.problems, EVALUATE_BLOCK, plan, folder) as drawer,
            _executor(drawer, task, blocks, plan, grader, folder) as (executor, graders),
        ):
            return evaluate(name, benchmarks, prompter, settings, executor, graders, folder)

    outputs = [f"eval/{name}.json", f"eval/{name}.parquet"]
    return _stage(folder, f"evaluate/{name}", inputs, outputs, work)


def run_report(recipe: Recipe, folder: RunFolder) -> Summary:
    """The page of whatever the folder holds: report.md and figures."""
    _check_reportable(folder)
    write_report(recipe, folder)
    return {"path": str(folder.path / "report.md")}


def run_tables(recipe: Recipe, folder: RunFolder) -> Summary:
    """Tables 1 to 4 of whatever the folder holds, as Markdown; nothing is written."""
    _check_reportable(folder)
    return {"tables": tables(recipe, folder)}


def _check_reportable(folder: RunFolder) -> None:
    if not any((folder.path / name).exists() for name in ("rewrite.json", "gap.json", "eval")):
        raise RunFolderError(f"{folder.path} holds nothing to report: run `retell rewrite` or `retell evaluate` first")


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


def _changed(section: Section) -> list[tuple[str, object]]:
    """The keys of a section that are not at their defaults, and their values."""
    return [(name, value) for name, value in section if value != type(section).model_fields[name].default]


def _rows(
    recipe: Recipe, folder: RunFolder, training: Run, tokenizer: ChatTokenizer, prompter: Prompter
) -> tuple[TrainRows, dict[str, int]]:
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
        closing(open_engine_of(settings, policy, loaded.problems, recipe.policy)) as engine,
        open_store(folder.path) as journal,
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


@contextlib.contextmanager
def _drawer(
    task: Task, policy: LocalPolicy | None, problems: Sequence[Problem], size: int, plan: str, folder: RunFolder
) -> Iterator[Engine | Crew | None]:
    """What draws for a stage, opened: an engine here, or workers on a cluster; None if those have drawn all before."""
    settings = task.settings
    if settings.ray is None:
        with closing(open_engine_of(settings, policy, problems, task.model)) as engine:
            yield engine
    elif not folder.restarting and drawn_before(folder, Blocks(problems, size), plan):
        yield None
    else:
        with Crew(task, folder.path, lambda line: print(line, file=sys.stderr)) as crew:
            yield crew


@contextlib.contextmanager
def _executor(
    drawer: Engine | Crew | None, task: Task, blocks: Blocks, plan: str, grader: Grader, folder: RunFolder
) -> Iterator[tuple[Executor, GraderPool]]:
    """How a stage gets its samples from what draws; ``plan`` stands for all that decides what is drawn."""
    settings = task.settings
    with GraderPool(grader, settings.grader_workers) as graders:
        if drawer is None or isinstance(drawer, Crew):
            yield Cluster(drawer, task, blocks, plan, graders, folder), graders
            return
        meter = Meter(Budget(settings.max_tokens_total, settings.max_hours))
        with _journal(folder) as journal, open_store(folder.path) as store:
            yield Here(drawer, graders, store, Marks(journal), task.stream, meter, plan), graders


def _journal(folder: RunFolder) -> Journal:
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
            f"{folder.path} holds no rewritten.parquet: run `retell rewrite --out {folder.path}` first"
        )
    return path


def _rewritten(folder: RunFolder) -> Iterator[dict[str, Any]]:
    columns = ["id", "rung", "solution", "messages", "response_token_ids", "behaviour_logprobs"]
    return table_rows(_rewritten_path(folder), columns)


def _digest_of(path: Path) -> str:
    if path.is_dir():
        return digest([(file.name, file_digest(file)) for file in sorted(path.iterdir()) if file.suffix in SUFFIXES])
    return file_digest(path) if path.is_file() else str(path)
