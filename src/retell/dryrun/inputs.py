"""What a run of a recipe needs, looked at before one is started: without a network, a GPU, weights or a run folder.

A check is a generator of what it has found; it notes on the inputs what later ones and the forecast need. One that
fails is wrong itself and keeps no other from being made. What the hub would have to be asked for is unknown.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from retell import pipeline
from retell.benchmarks import BENCHMARKS, load_benchmarks
from retell.contamination import benchmarks_against, find_overlaps, without_overlaps
from retell.dryrun.footprint import Weights, weights_in
from retell.dryrun.lengths import Lengths, by_characters, by_tokens, extrapolated, some_of
from retell.dryrun.offline import offline, wants_network
from retell.dryrun.spans import Range
from retell.engines.named import check_engine
from retell.errors import DataError, MissingExtraError, PolicyError, RequestError, RetellError, first_line
from retell.graders.named import grader_named
from retell.mixes import MIXES, ONLINE, RUNS, Run, run_named
from retell.policy import fingerprint, resolve_policy
from retell.problems import Loaded, load_problems, read_rows
from retell.prompts import Prompter, load_template
from retell.recipe import Evaluate, Recipe, Rewrite
from retell.records import Reject
from retell.rewrite import reject_untrainable
from retell.steps import choosing
from retell.tokens import ChatTokenizer

State = Literal["ok", "wrong", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what there is to say of it."""

    what: str
    state: State
    says: str


@dataclass(slots=True)
class Inputs:
    """What the checks have found; None is what could not be read."""

    recipe: Recipe
    checks: list[Check] = field(default_factory=list)
    folder: Path | None = None
    fingerprint: str | None = None
    weights: Weights | None = None
    tokenizer: ChatTokenizer | None = None
    prompter: Prompter | None = None
    loaded: Loaded | None = None
    problems: Range | None = None
    counted: str = ""
    """What the number of problems rests on."""
    lengths: Lengths | None = None
    runs: list[Run] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    """Of the files that are trained on."""
    benchmarks: dict[str, Loaded] = field(default_factory=dict)
    """Those that could be read, whole, also such as are only looked for among the problems; as the recipe has them."""
    asked: dict[str, Range | None] = field(default_factory=dict)
    """How many problems each benchmark that is evaluated on has, as the recipe has it."""
    sound: set[str] = field(default_factory=set)
    """The training runs that passed, as the recipe has them."""


Looking = Iterator[Check]


def look(recipe: Recipe) -> Inputs:
    """Makes every check, in order."""
    inputs = Inputs(recipe)
    with offline():
        for what, check in CHECKS:
            inputs.checks += _guarded(what, check(inputs))
    return inputs


def _guarded(what: str, checks: Looking, fetched: str = "") -> Looking:
    """What the checks find, the last of which says why there is no more, if that is an error.

    ``fetched`` is what a run would get from the hub, where that is what is missing.
    """
    try:
        yield from checks
    except Exception as error:
        if fetched and wants_network(error):
            yield Check(what, "unknown", f"{fetched} is not on disk: a run would fetch it from the Hugging Face hub")
        elif isinstance(error, RetellError):
            yield Check(what, "wrong", str(error))
        else:
            yield Check(what, "wrong", f"{type(error).__name__}: {first_line(error)}")


def _model(inputs: Inputs) -> Looking:
    policy = inputs.recipe.policy
    at = f" at {policy.revision}" if policy.revision else ""
    yield from _guarded("model", _folder(inputs), f"{policy.model}{at}, as safetensors and with its tokenizer,")


def _folder(inputs: Inputs) -> Looking:
    """The policy's folder and its weights, of which nothing but the names and shapes is read."""
    folder = inputs.folder = resolve_policy(inputs.recipe.policy)
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    missing = sorted(wanted - {file.name for file in files})
    if missing:
        raise PolicyError(f"{folder} lacks {', '.join(missing)}, which {index.name} names: get the model again")
    if not files:
        raise PolicyError(f"{folder} holds no weights as *.safetensors, and no others are read")
    inputs.fingerprint = fingerprint(folder)
    inputs.weights = weights_in(files)
    size = f"{inputs.weights.bytes / 1e6:,.1f} MB in {len(files)} file(s)"
    yield Check("model", "ok", f"{folder}: {size}, {inputs.weights.parameters:,} parameters")


def _tokenizer(inputs: Inputs) -> Looking:
    if inputs.folder is not None:
        inputs.tokenizer = ChatTokenizer(inputs.folder, inputs.recipe.policy.trust_remote_code)
        tokenizer = inputs.tokenizer.tokenizer
        yield Check("tokenizer", "ok", f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens, with a chat template")


def _prompts(inputs: Inputs) -> Looking:
    policy, rewrite, evaluate = inputs.recipe.policy, inputs.recipe.rewrite, inputs.recipe.evaluate
    inputs.prompter = Prompter(policy, inputs.tokenizer, rewrite.guided_template)
    names = [policy.template, rewrite.guided_template]
    if evaluate.benchmark and evaluate.prompt is not None:
        load_template(evaluate.prompt, needs=("problem",))
        names.append(evaluate.prompt)
    yield Check("prompts", "ok", f"templates {', '.join(dict.fromkeys(names))}")


def _against(inputs: Inputs) -> Looking:
    data = inputs.recipe.data
    for name in data.against:
        yield from _benchmark(inputs, "against", name, data.data_dir)
    if not data.against and not inputs.recipe.evaluate.benchmark:
        benchmarks_against(inputs.recipe)  # there may have to be some


def _benchmarks(inputs: Inputs) -> Looking:
    settings = inputs.recipe.evaluate
    for name in settings.benchmark:
        known = BENCHMARKS.get(name)
        sizes = known.rows if known else (0, settings.limit) if settings.limit else ()
        capped = [min(size, settings.limit or size) for size in sizes]
        inputs.asked[name] = (min(capped), max(capped)) if capped else None
        yield from _benchmark(inputs, "benchmark", name, settings.data_dir)
        if name in inputs.benchmarks:
            size = len(inputs.benchmarks[name].problems)
            inputs.asked[name] = (min(size, settings.limit or size),) * 2


def _benchmark(inputs: Inputs, kind: str, name: str, data_dir: str | None) -> Looking:
    what = f"{kind} {name if name in BENCHMARKS else Path(name).stem}"

    def read() -> Looking:
        (found,) = load_benchmarks(Evaluate(benchmark=(name,), data_dir=data_dir)).values()
        inputs.benchmarks[name] = found
        yield Check(what, "ok", f"{len(found.problems):,} problems{_rejected(found.rejected)}")

    hub = BENCHMARKS[name].hub if name in BENCHMARKS else name
    yield from _guarded(what, read(), hub)


def _data(inputs: Inputs) -> Looking:
    data = inputs.recipe.data
    asked = [(value, name) for value, name in ((data.sample, "data.sample"), (data.limit, "data.limit")) if value]
    if asked:
        most, name = min(asked)
        inputs.problems = most, most
        inputs.counted = f"at most {most:,} problems, by {name}: the data cannot be read here"
    else:
        inputs.counted = "the number of problems is unknown: the data cannot be read here"
    yield from _guarded("data", _problems(inputs), f"{data.path}, split {data.split},")


def _problems(inputs: Inputs) -> Looking:
    data = inputs.recipe.data
    read = load_problems(data)
    if data.overlap == "drop":
        texts = {name: benchmark.problems for name, benchmark in inputs.benchmarks.items()}
        read = without_overlaps(read, find_overlaps(read.problems, texts), inputs.recipe)
    inputs.loaded = read
    inputs.problems = len(read.problems), len(read.problems)
    inputs.counted = f"{len(read.problems):,} problems were counted in {data.path}"
    unread = {*data.against, *inputs.recipe.evaluate.benchmark} - inputs.benchmarks.keys()
    if data.overlap == "drop" and unread:
        inputs.counted += f", also those that are dropped if they are in {', '.join(sorted(unread))}"
    yield Check("data", "ok", f"{len(read.problems):,} problems in {data.path}{_rejected(read.rejected)}")


def _rejected(rejects: Sequence[Reject]) -> str:
    return f"; {len(rejects):,} rows rejected: {_reasons(rejects)}" if rejects else ""


def _reasons(rejects: Sequence[Reject]) -> str:
    return ", ".join(sorted({reject.reason for reject in rejects}))


def _rows(inputs: Inputs) -> Looking:
    """Some of the problems as training rows: how many can be trained on, and how long they are."""
    if inputs.loaded is None:
        return
    everything = inputs.loaded.problems
    some = some_of(everything)
    if inputs.tokenizer is None or inputs.prompter is None:
        inputs.lengths = by_characters(some)
        return
    read, limit = replace(inputs.loaded, problems=some, rejected=()), inputs.recipe.data.max_length
    kept = reject_untrainable(read, inputs.prompter, inputs.tokenizer, limit)
    inputs.problems = extrapolated(len(kept.problems), len(some), len(everything))
    lengths = inputs.lengths = by_tokens(kept.problems, inputs.prompter, inputs.tokenizer)
    lost = len(some) - len(kept.problems)
    said = f"{lost:,} of those are rejected: {_reasons(kept.rejected)}" if lost else "each can be trained on"
    said = f"{'all' if len(some) == len(everything) else f'{len(some):,} of them'} were tokenised, and {said}"
    inputs.counted += f"; {said}"
    says = f"{said}; prompt {lengths.prompt[0]:,.0f}, solution {lengths.response[0]:,.0f} tokens on average"
    yield Check("rows", "ok", says)


def _drawing(inputs: Inputs) -> Looking:
    """The engine and the grader of rewriting."""
    settings = inputs.recipe.rewrite
    yield from _guarded("rewrite engine", _engine(inputs, "rewrite", settings))
    yield from _guarded("rewrite grader", _named("rewrite grader", lambda: choosing(settings).name))


def _scoring(inputs: Inputs) -> Looking:
    """The engine and the grader of evaluation."""
    settings = inputs.recipe.evaluate
    if settings.benchmark:
        yield from _guarded("evaluate engine", _engine(inputs, "evaluate", settings))
        yield from _guarded("evaluate grader", _named("evaluate grader", lambda: grader_named(settings.grader).name))


def _engine(inputs: Inputs, stage: str, settings: Rewrite | Evaluate) -> Looking:
    what = f"{stage} engine"
    if settings.engine == "recorded" and inputs.loaded is None:
        yield Check(what, "unknown", "recorded: whether the rows have candidates is not known")
        return
    check_engine(settings, inputs.loaded.problems if inputs.loaded else ())
    if settings.engine == "transformers" and inputs.folder is not None:
        _require_layers(inputs.folder, inputs.recipe.policy.trust_remote_code)
    given = ", ".join(f"{name} = {value}" for name, value in settings.engine_args.items())
    yield Check(what, "ok", f"{settings.engine} is installed" + (f" and takes {given}" if given else ""))
    if settings.engine == "server":
        from retell.engines.endpoint import address

        urls = ", ".join(map(address, settings.base_url))
        yield Check(f"{stage} server", "unknown", f"{urls}: not asked whether it answers; `retell doctor` asks")


def _require_layers(folder: Path, trust_remote_code: bool) -> None:
    from transformers import AutoConfig

    from retell.engines.transformers import require_full_attention

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    require_full_attention(config.get_text_config(decoder=True))


def _named(what: str, name: Callable[[], str]) -> Looking:
    yield Check(what, "ok", name())


def _runs(inputs: Inputs) -> Looking:
    for text in inputs.recipe.train.runs:
        mix = RUNS[text][1] if text in RUNS else text.rpartition(":")[2]
        yield from _guarded(f"run {text}", _run(inputs, text), "" if mix in MIXES else mix)


def _run(inputs: Inputs, text: str) -> Looking:
    training = run_named(text)
    inputs.runs.append(training)
    if training.mix not in MIXES:
        rows = (row for _, row in read_rows(inputs.recipe.data.model_copy(update={"path": training.mix})))
        inputs.rows[training.mix] = sum(isinstance(row, dict) for row in rows)
        if not inputs.rows[training.mix]:
            raise DataError(f"{training.mix} holds no rows to train on")
    rounds = inputs.recipe.train.rounds if training.mix == ONLINE else None
    alone = inputs.recipe.train.model_copy(update={"runs": (text,), "rounds": rounds})
    _pass(inputs.recipe.model_copy(update={"train": alone, "evaluate": Evaluate()}))
    inputs.sound.add(text)
    from retell.methods import open_loss

    method = open_loss(training.loss)
    says = f"the loss {method.spec} on {training.mix}"
    if training.mix in inputs.rows:
        says += f", {inputs.rows[training.mix]:,} rows"
    if method.reference == "behaviour" and not method.others:
        lacking = (
            f"{training.loss} needs the log-probs with which each row was sampled, and the expert's rows have none"
        )
        remedy = f"say what those follow, {method.spec},others=dft or {method.spec},others=sft"
        if training.mix == "expert" or training.mix not in MIXES:
            raise RequestError(f"{lacking}: {remedy}")
        yield Check(f"run {text}", "unknown", f"{lacking}: if the rewriting keeps any, {remedy}")
        return
    yield Check(f"run {text}", "ok", says)


def _pass(recipe: Recipe) -> None:
    """What a run checks first, but for the library that draws charts, which is looked at by itself."""
    try:
        pipeline.check(recipe)
    except MissingExtraError as error:
        if str(error) != str(_NO_CHARTS):
            raise


_NO_CHARTS = MissingExtraError("plotly", "report")


def _charts(inputs: Inputs) -> Looking:
    if find_spec("plotly") is None:
        raise _NO_CHARTS
    yield Check("charts", "ok", "plotly is installed")


def _together(inputs: Inputs) -> Looking:
    """Whether the parts that are sound go together, by what a run checks first."""
    train, evaluate = inputs.recipe.train, inputs.recipe.evaluate
    runs = tuple(text for text in train.runs if text in inputs.sound)
    rounds = train.rounds if len(runs) == len(train.runs) else None
    read = tuple(name for name in evaluate.benchmark if name in inputs.benchmarks)
    parts: dict[str, Any] = {
        "train": train.model_copy(update={"runs": runs, "rounds": rounds}),
        "evaluate": evaluate.model_copy(update={"benchmark": read}),
    }
    try:
        _pass(inputs.recipe.model_copy(update=parts))
    except RetellError as error:
        if str(error) not in {check.says for check in inputs.checks}:
            raise
    else:
        yield Check("recipe", "ok", "its parts go together")


CHECKS: tuple[tuple[str, Callable[[Inputs], Looking]], ...] = (
    ("model", _model),
    ("tokenizer", _tokenizer),
    ("prompts", _prompts),
    ("against", _against),
    ("benchmark", _benchmarks),
    ("data", _data),
    ("rows", _rows),
    ("rewrite", _drawing),
    ("run", _runs),
    ("evaluate", _scoring),
    ("charts", _charts),
    ("recipe", _together),
)
