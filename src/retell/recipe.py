"""One typed model per stage: the only definition of its recipe keys, its command-line flags and its documentation."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from cyclopts import Parameter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from retell.errors import RecipeError

PACKAGED = "retell:"


def _anchor(value: str, info: ValidationInfo) -> str:
    """Resolves ``./x`` and ``../x`` against the recipe's folder, and other relative paths of what exists against the
    working directory, so that a stored recipe means the same anywhere; names and hub ids stay.
    """
    if value.startswith(("./", "../")):
        folder = (info.context or {}).get("folder", Path.cwd())
        return str((folder / value).resolve())
    if ("/" in value or "." in value) and os.path.exists(value):
        return os.path.abspath(value)
    return value


def located(value: str) -> str:
    """The value of a `Source` with ``retell:x`` turned into the path of the packaged file ``x``, and ``~`` resolved."""
    if value.startswith(PACKAGED):
        return str(Path(__file__).parent / value.removeprefix(PACKAGED))
    return os.path.expanduser(value)


def is_text(value: str) -> bool:
    """Whether UTF-8 can hold it: bytes of the command line that are none have become lone surrogates."""
    return value.encode(errors="replace").decode() == value


Source = Annotated[str, AfterValidator(_anchor)]
"""A file, a folder or a name. In a recipe ``./x`` is beside the recipe file; ``retell:x`` is a file of the package."""


Seed = Annotated[int, Field(ge=0, lt=1 << 32)]


class Section(BaseModel):
    """A recipe section: unknown keys are refused, attribute docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """Refuses what no file can hold."""
        parts = value if isinstance(value, tuple) else (value,)
        if not all(is_text(part) for part in parts if isinstance(part, str)):
            raise ValueError("it is no valid UTF-8")
        return value


class Policy(Section):
    """The model being tuned, and how it is addressed."""

    model: Source | None = None
    """Hugging Face folder or hub id of the policy."""
    revision: str | None = None
    """Revision of a hub id."""
    system: str | None = None
    """System message of every prompt; none by default (the chat template may add its own)."""
    template: Source = "plain"
    """Prompt template with {problem}: `plain` (the raw question), `boxed`, `qwen-boxed`, or a file."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you trust its author."""


class Data(Section):
    """Where the problems come from, and which columns hold what."""

    path: Annotated[Source | None, Parameter(name=("data", "path"))] = None
    """.jsonl or .parquet file, a folder of them, or a Hugging Face dataset id."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    config: str | None = None
    """Configuration (subset) of a Hugging Face dataset that has several."""
    data_dir: Source | None = None
    """Folder with copies of hub datasets, DATA_DIR/owner/name: what is there is not asked of the hub."""
    problem_field: str = "problem"
    """Column of the problem."""
    solution_field: str = "solution"
    """Column of the expert's solution."""
    answer_field: str | None = None
    """Column of the gold answer; by default `answer_raw`, else `answer`, else the solution's last box or ####."""
    messages_field: str = "messages"
    """Column of chat rows, read where a row has no problem of its own."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use the first so many rows only."""
    sample: Annotated[int, Field(ge=1)] | None = None
    """Use so many rows only, chosen at random; those that cannot be used are among them."""
    sample_seed: Seed = 0
    """Seed of that choice."""
    against: tuple[Source, ...] = ()
    """Benchmarks to look for among the problems, by name or file; a whole run looks for its own ones too."""
    overlap: Literal["report", "drop"] = "report"
    """What becomes of a problem that equals one of theirs or holds half of it: `report` it, or `drop` it."""
    max_length: Annotated[int, Field(ge=2)] = 2048
    """Longest training row in tokens, prompt and response; longer ones are rejected, never cut."""


class Grading(Section):
    """What judges responses."""

    grader: str = "math"
    """What judges: `math`, `qwen` (the paper's scores), or your own `module:function`."""
    grader_workers: Annotated[int, Field(ge=1)] = 2
    """Processes that grade."""


class Sampler(Grading):
    """What rewriting and evaluation have in common: an engine with its arguments, a sampling distribution, budgets."""

    base_url: tuple[str, ...] = ()
    """Base URLs of OpenAI-compatible servers, for the engine `server`: http://127.0.0.1:8000/v1 …"""
    engine_args: dict[str, int | float | bool | str] = Field(default_factory=dict)
    """Arguments of the engine itself (as flags: --engine-args.batch-size 64); see docs/engines.md."""
    ray: str | None = None
    """Draw on a Ray cluster: its address, or `auto` (a bare --ray) for the one that is there, else this machine."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Engines on the cluster; by default one for each GPU (or tensor_parallel_size of them), else one a machine."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass."""
    max_tokens_total: Annotated[int, Field(ge=1)] | None = None
    """Stop cleanly once one start has generated so many tokens; the same command goes on."""
    max_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Stop cleanly so many hours after the first request; the same command goes on."""

    @field_validator("engine_args", mode="before")
    @classmethod
    def _read_values(cls, arguments: Any, info: ValidationInfo) -> Any:
        """Flags give texts; one that is a TOML value means that value. A recipe's own values have their types."""
        if not isinstance(arguments, dict):
            return arguments
        from_flags = not info.context
        return {
            name.replace("-", "_"): _toml_value(value) if from_flags and isinstance(value, str) else value
            for name, value in arguments.items()
        }


def _toml_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


class Rewrite(Sampler):
    """The ladder: own solution, guided retelling, expert's text."""

    engine: Literal["transformers", "vllm", "server", "recorded"] = "transformers"
    """What draws the samples: `transformers`, `vllm`, `server`, or `recorded` (each row's own `candidates`)."""
    k: Annotated[int, Field(ge=1)] = 8
    """Most samples per rung. The paper does not give its own."""
    exhaustive: bool = False
    """Draw all k samples of a rung, also after one is accepted; what is kept is the same."""
    max_tokens: Annotated[int, Field(ge=1)] = 2048
    """Longest response in tokens; a truncated response is never correct."""
    seed: Seed = 0
    """Seed of every random choice in the stage."""
    guided_template: Source = "guided"
    """Template of the guided prompt with {problem} and {solution}: `guided`, or a file."""
    max_copied: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of a guided response's 13-grams (or words, where it is shorter) copied from the reference."""
    force_grader: bool = False
    """Rewrite with a grader made for comparable scores only."""


class Gap(Section):
    """Log-probs and weights of expert and rewritten responses."""

    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens in one forward pass, padding included; by default 16384, and 2048 without an accelerator."""


class Train(Section):
    """Tuning the policy. Defaults are the optimiser settings of the paper's released scripts."""

    runs: tuple[str, ...] = ("sft", "dft", "dr-sft", "dr-dft")
    """Which runs `retell run` trains: sft dft dr-sft dr-dft self-dft guided-dft, or LOSS:MIX (psft:rewritten)."""
    launch: Source | None = None
    """An accelerate configuration, such as recipes/fsdp2.yaml: each training is started in the processes it names."""
    rounds: Annotated[int, Field(ge=1)] | None = None
    """Of runs on the mix `online`: parts of the data, each rewritten by the policy of then before it is trained on."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-5
    """Peak learning rate; cosine decay after the warm-up."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Rows in one update, over all devices."""
    micro_batch_tokens: Annotated[int, Field(ge=1)] = 16384
    """Most tokens in one forward pass of one device, unless a single row is longer; it does not change the update."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over the data."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the updates that warm up."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """AdamW's weight decay."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's first beta."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """AdamW's second beta."""
    max_grad_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Gradient clip."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the forward and backward pass; what is trained and its optimiser stay in float32."""
    gradient_checkpointing: bool = True
    """Recompute activations to save memory."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of LoRA adapters; 0 trains all weights. The checkpoint has them merged, and beside it as they are."""
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32.0
    """Scale of the adapters: alpha / rank."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the adapters' inputs."""
    lora_targets: tuple[str, ...] = ()
    """Layers that are adapted, such as q_proj v_proj; by default every linear layer but the head."""
    save_every: Annotated[int, Field(ge=1)] = 50
    """Updates between checkpoints from which a killed training goes on."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the rows that is not trained on; its negative log-likelihood is measured at every checkpoint."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint is the result: the last, or the one with the lowest negative log-likelihood of the holdout."""
    report_to: tuple[str, ...] = ()
    """Trackers that get the metrics: wandb, tensorboard, mlflow … whatever transformers' Trainer knows."""
    seed: Seed = 0
    """Seed of the order of the rows."""

    @field_validator("runs")
    @classmethod
    def _anchor_files(cls, runs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """The file of a LOSS:FILE is found as any other path of the recipe."""
        # What comes after the last colon, for a loss may have one: module:function:FILE; retell:FILE is one name.
        parts = [run.rpartition(":") for run in runs]
        return tuple(
            loss + colon + (_anchor(mix, info) if colon and not loss.endswith(PACKAGED[:-1]) else mix)
            for loss, colon, mix in parts
        )


class Evaluate(Sampler):
    """avg@k on benchmarks."""

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    """What draws the samples: `transformers`, `vllm` or `server`."""
    benchmark: tuple[Source, ...] = ()
    """By name (math500 minerva_math olympiadbench aime24 amc23 aime25 gsm8k), or a file, folder or hub dataset."""
    data_dir: Source | None = None
    """Folder with copies of named benchmarks, DATA_DIR/NAME.jsonl, or of hub datasets, DATA_DIR/owner/name."""
    prompt: Source | None = None
    """Prompt template of evaluation: `qwen-boxed` (the paper's), `boxed`, `plain` or a file; else the policy's own."""
    k: Annotated[int, Field(ge=1)] = 16
    """Samples per problem."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use the first so many problems of each benchmark only."""
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    """Longest response in tokens."""
    seed: Seed = 0
    """Seed of every sample."""


class Report(Section):
    """The page of a run."""

    title: str = "retell"
    """Title of the page."""
    rows: Annotated[int, Field(ge=0)] = 300
    """So many rows, chosen at random, can be read in report.html; `retell view` shows all."""


class Recipe(Section):
    """A whole run: one section per stage."""

    policy: Policy = Field(default_factory=Policy)
    data: Data = Field(default_factory=Data)
    rewrite: Rewrite = Field(default_factory=Rewrite)
    gap: Gap = Field(default_factory=Gap)
    train: Train = Field(default_factory=Train)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    report: Report = Field(default_factory=Report)


_AnySection = TypeVar("_AnySection", bound=Section)


def overlay(base: _AnySection, changes: _AnySection) -> _AnySection:
    """``base`` with every field that was set explicitly in ``changes``, section by section; tables are merged.

    Another engine leaves behind what was meant for the one before it.
    """
    if "engine" in changes.model_fields_set and changes.model_dump()["engine"] != base.model_dump()["engine"]:
        base = base.model_copy(update={"engine_args": {}, "base_url": ()})
    update: dict[str, Any] = {}
    for name in changes.model_fields_set:
        new = getattr(changes, name)
        old = getattr(base, name)
        if isinstance(new, Section):
            update[name] = overlay(old, new)
        else:
            update[name] = old | new if isinstance(new, dict) else new
    return base.model_copy(update=update)


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        RecipeError: it is missing, not TOML, or has an unknown key or a bad value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    try:
        return Recipe.model_validate(document, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error)}") from error


def dump(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe without keys that have no value, and without those that belong to one start: its budgets, and
    where it draws.
    """
    passing = {"max_tokens_total", "max_hours", "ray", "workers"}
    return recipe.model_dump(mode="json", exclude_none=True, exclude={"rewrite": passing, "evaluate": passing})


def dump_recipe(recipe: Recipe) -> str:
    """The same as TOML."""
    return tomli_w.dumps(dump(recipe))


def explain(error: ValidationError, model: type[Section] = Recipe) -> str:
    """The first problem of a validation error in one line, naming the key, the value and the nearest known key."""
    details = error.errors(include_url=False)
    rest = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _explain_one(details[0], model) + rest


def _explain_one(detail: ErrorDetails, model: type[Section]) -> str:
    place = [str(part) for part in detail["loc"]]
    name = ".".join(place)
    if detail["type"] == "dict_type":
        flag = place[-1].replace("_", "-")
        return f"{name} = {detail['input']!r} is no table: give keys and values, `--{flag}.KEY VALUE`"
    if detail["type"] != "extra_forbidden":
        return f"{name} = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
    known = list(_section_at(model, place[:-1]).model_fields)
    near = difflib.get_close_matches(place[-1], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {name}: {hint}"


def _section_at(model: type[Section], place: list[str]) -> type[Section]:
    for name in place:
        inner = model.model_fields[name].annotation if name in model.model_fields else None
        if isinstance(inner, type) and issubclass(inner, Section):
            model = inner
    return model


def reference() -> str:
    """The recipe reference in Markdown: every section, key, default and meaning."""
    lines = ["# Recipe reference", "", "Made by `make docs` from `retell/recipe.py`; do not edit.", ""]
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, Section)
        lines += [f"## [{name}]", "", str(section.__doc__), "", "| key | default | meaning |", "|---|---|---|"]
        lines += [
            f"| `{key}` | `{_plain(option.get_default(call_default_factory=True))}` | {option.description} |"
            for key, option in section.model_fields.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _plain(default: object) -> str:
    if isinstance(default, tuple):
        return "[" + ", ".join(map(_plain, default)) + "]"
    if isinstance(default, Mapping) and not default:
        return "{}"
    return "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
