"""The method from top to bottom: the stages in order, and what each hands to the next.

    problems → rewrite → rewritten.parquet → gap
                                           → train → checkpoints/NAME → evaluate → eval/NAME → report

Stages meet in the run folder. A stage whose inputs are unchanged is not run again.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retell.benchmarks import load_benchmarks
from retell.cluster import Crew
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
from retell.errors import MissingExtraError, RecipeError
from retell.evaluate import evaluate
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.hashing import digest
from retell.ladder import Ladder
from retell.leaks import RULES as LEAK_RULES
from retell.leases import EVALUATE_BLOCK, REWRITE_BLOCK, Blocks
from retell.measuring import run_gap
from retell.mixes import KEPT, MIXES, ONLINE, Run, file_ids, mix_ids, run_named
from retell.online import OnlineRewriter
from retell.policy import default_device, load_model
from retell.problems import Loaded, load_problems, read_rows
from retell.problemtable import placed
from retell.processes import launch, launches, world
from retell.prompts import Prompter
from retell.recipe import Policy, Recipe, Section, dump, located
from retell.rewrite import reject_untrainable, rewrite
from retell.runfolder import RunFolder
from retell.scores import RULES as SCORE_RULES
from retell.showing import run_report
from retell.steps import (
    choosing,
    digest_of,
    do_stage,
    drawer_of,
    executor_of,
    own_policy,
    rewriting_identity,
    rewritten_path,
    rewritten_rows,
)
from retell.store import open_store
from retell.tokens import ChatTokenizer
from retell.trainrows import TrainRows

if TYPE_CHECKING:
    from retell.methods import Method

Summary = dict[str, Any]
_PASSING = {"runs", "micro_batch_tokens", "gradient_checkpointing", "save_every", "report_to", "launch"}
"""Settings that decide how a training runs and not what it comes to: they may change between a kill and the next start.
"""


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
    policy, drawn_by = drawing_policy(recipe.policy, settings)
    tokenizer = policy.tokenizer if policy else None
    prompter = Prompter(recipe.policy, tokenizer, settings.guided_template)
    with folder.spool("problems.parquet") as spool:
        read = load_problems(recipe.data, spool=spool)
        check_engine(settings, read.problems)
        identity = rewriting_identity(recipe, prompter, drawn_by, read.digest)
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
            return do_stage(folder, "rewrite", inputs, outputs, dict)
        loaded = reject_untrainable(read, prompter, tokenizer, recipe.data.max_length)
        task, plan = Task("rewrite", recipe, recipe.policy, drawn_by), digest(inputs)

        def work(drawer: Engine | Crew | None) -> Summary:
            problems = placed(loaded.problems, folder.path.resolve() / "problems.parquet")
            blocks = Blocks(problems, REWRITE_BLOCK)
            with executor_of(drawer, task, blocks, plan, grader, folder) as (executor, _):
                ladder = Ladder(settings, prompter, executor, drawn_by, recipe.data.max_length)
                summary = rewrite(replace(loaded, problems=problems), ladder, executor, task.stream, folder)
            summary["grader"] = grader.name
            summary["recipe_sha"] = digest({name: dump(recipe)[name] for name in ("policy", "data", "rewrite")})
            folder.write_json("rewrite.json", summary)
            write_contamination(folder, overlaps, against, dropped=dropped, anew=True)
            return summary

        # Opened first: what cannot be opened must not cost what a --restart discards, nor leave its recipe behind.
        with drawer_of(task, policy, loaded.problems, REWRITE_BLOCK, plan, folder) as drawer:
            folder.claim("rewrite", identity)
            folder.place(spool, "problems.parquet")
            folder.store_recipe(recipe)
            return do_stage(folder, "rewrite", inputs, outputs, lambda: work(drawer))


@dataclass(frozen=True, slots=True)
class _Training:
    """What a training is made with, and what it rests on; ``problems`` are those of online rounds."""

    method: "Method"
    policy: LocalPolicy
    prompter: Prompter
    problems: Loaded | None
    inputs: list[object]


def run_train(recipe: Recipe, folder: RunFolder, training: Run) -> Summary:
    """Tunes the policy with one loss on one mix: checkpoints/NAME."""
    chosen, checkpoint = _choose_training(recipe, folder, training), f"checkpoints/{training.name}"

    def work() -> Summary:
        summary = _trained(recipe, folder, training, chosen) | {"path": str(folder.path / checkpoint)}
        folder.write_json(f"{checkpoint}.json", summary)
        return summary

    makes = (lambda: _launched(recipe, folder, training)) if launches(recipe.train.launch) else work
    return do_stage(folder, f"train/{training.name}", chosen.inputs, [f"{checkpoint}.json", checkpoint], makes)


def _choose_training(recipe: Recipe, folder: RunFolder, training: Run) -> _Training:
    """Raises:
    RequestError: it cannot be had so, or not in this folder.
    """
    from retell.methods import open_loss
    from retell.train import check_training

    named, online = training.mix in KEPT, training.mix == ONLINE
    _check_mix(training, recipe)
    method = open_loss(training.loss)
    check_training(recipe.train, method, online=online)
    source = rewritten_path(folder) if named or online else Path(located(training.mix))
    policy = own_policy(recipe, folder) if named or online else open_policy(recipe.policy)
    prompter = Prompter(recipe.policy, policy.tokenizer, recipe.rewrite.guided_template)
    settings = recipe.train.model_dump(exclude=_PASSING)
    settings |= {"save_every": recipe.train.save_every if recipe.train.keep == "best" else None}
    settings |= {"rounds": recipe.train.rounds if online else None}
    prompt = None if named else [prompter.system, prompter.solve_template.user]
    problems, rewriting = None, None
    if online:
        problems = load_problems(recipe.data)
        folder.check("rewrite", {"data": problems.digest})
        overlaps = overlaps_to_drop(recipe, problems)
        problems = without_overlaps(problems, overlaps, recipe)
        rewriting = [problems.digest, sorted({overlap.id for overlap in overlaps}), _how_rewritten(recipe, prompter)]
    mix = training.mix if named else ""
    how = [method.spec, method.version, mix, settings, recipe.data.max_length, prompt, rewriting]
    return _Training(method, policy, prompter, problems, [policy.fingerprint, how, digest_of(source)])


def _trained(recipe: Recipe, folder: RunFolder, training: Run, chosen: _Training) -> Summary:
    """Trains, and rewrites meanwhile if it is to."""
    from retell.train import Source, check_rows, source_of, train

    method, policy = chosen.method, chosen.policy
    with contextlib.ExitStack() as open_while_training:
        rejected: Mapping[str, int] = {}
        if chosen.problems:
            rounds = _rewriting(recipe, folder, training, policy, chosen.prompter, chosen.problems)
            rewriter = open_while_training.enter_context(rounds)
            rows_from = Source(rewriter.ids, rewriter.rows, recipe.train.rounds or 1)
        else:
            rows, rejected = _rows(recipe, folder, training, policy.tokenizer, chosen.prompter)
            rows_from = source_of(rows)
            check_rows(method, rows)
        model = load_model(policy.folder, "auto", default_device(), recipe.policy.trust_remote_code)
        facts = {"base model": recipe.policy.model or "", "data": f"{training.mix} of {recipe.data.path}"}
        facts |= {name: str(value) for name, value in _changed(recipe.train) if name not in _PASSING}
        identity = digest(chosen.inputs)
        summary = train(
            training.name, method, rows_from, model, policy.tokenizer, recipe.train, folder, identity, facts
        )
        summary |= {"mix": training.mix, "rows": len(rows_from.ids), "rejected": dict(rejected)}
        if chosen.problems:
            failed = sum((Counter(told["rejected"]) for told in rewriter.told), Counter[str]())
            summary |= {"rounds": rewriter.told, "rejected": dict(failed)}
    return summary


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
            drawer_of(task, policy, blocks.problems, EVALUATE_BLOCK, plan, folder) as drawer,
            executor_of(drawer, task, blocks, plan, grader, folder) as (executor, graders),
        ):
            return evaluate(name, benchmarks, prompter, settings, executor, graders, folder)

    outputs = [f"eval/{name}.json", f"eval/{name}.parquet"]
    return do_stage(folder, f"evaluate/{name}", inputs, outputs, work)


def _changed(section: Section) -> list[tuple[str, object]]:
    """The keys of a section that are not at their defaults, and their values."""
    return [(name, value) for name, value in section if value != type(section).model_fields[name].default]


def _rows(
    recipe: Recipe, folder: RunFolder, training: Run, tokenizer: ChatTokenizer, prompter: Prompter
) -> tuple[TrainRows, dict[str, int]]:
    """Rows to train on, and how many were rejected by reason."""
    if training.mix in KEPT:
        return mix_ids(training.mix, rewritten_rows(folder), tokenizer, recipe.data.max_length)
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
