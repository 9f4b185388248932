"""Tuning the policy with an importance-weighted loss: the files of a training, and how it is resumed."""

import contextlib
import copy
import json
import math
import os
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import get_last_checkpoint

from retell.card import model_card
from retell.errors import MissingExtraError, PolicyError, RecipeError, RequestError, TrainingError
from retell.logprobs import teach
from retell.methods import Method
from retell.processes import agreed, rank, wait, world
from retell.progress import Tick, progress
from retell.recipe import Train, located
from retell.records import TrainRow
from retell.runfolder import RunFolder
from retell.schedule import Schedule, held_out
from retell.tokens import ChatTokenizer
from retell.trainer import Milestones, Updates, WeightedTrainer

_FEW = 10
"""Fewer updates than this are hardly a training."""
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows come from: the ids of all there may be, and those of a round when it begins.

    ``rows`` is called with the round, the ids of its updates, and a folder with the policy as it is then (None in the
    first round, when it is the base); an id that has no row is left out of its update.
    """

    ids: Sequence[str]
    rows: Callable[[int, Sequence[str], Path | None], Mapping[str, TrainRow]]
    rounds: int = 1


def source_of(rows: Mapping[str, TrainRow]) -> Source:
    """Rows that are there from the beginning."""
    return Source(tuple(rows), lambda *_: rows)


class _Progress(TrainerCallback):
    def __init__(self, tick: Tick) -> None:
        self._tick = tick

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tick(state.global_step)


def check_training(settings: Train, method: Method, *, online: bool) -> None:
    """What can be known to be wrong before anything is loaded.

    Raises:
        RequestError: settings do not go together, or something is not installed.
    """
    if settings.keep == "best" and not settings.holdout:
        raise RecipeError("train.keep = 'best' needs rows to tell which is: set train.holdout, such as 0.02")
    if online and settings.holdout:
        raise RecipeError("train.holdout needs rows that are there from the beginning: leave it out of an online run")
    if online and settings.epochs > 1:
        raise RecipeError(f"train.epochs = {settings.epochs}, but an online run trains once on each part: set it to 1")
    if online and (settings.rounds or 1) < 2:
        raise RecipeError("an online run needs train.rounds of at least 2; one round is the mix `rewritten`")
    if settings.launch is not None:
        if online:
            raise RecipeError("train.launch starts several processes, and an online run trains in one: leave it out")
        if not os.path.isfile(located(settings.launch)):
            raise RecipeError(f"train.launch = {settings.launch!r}: there is no such file; recipes/ has some")
    if _deepspeed_stage() == "3":
        raise RequestError(
            "DeepSpeed ZeRO-3 is not supported, since it takes the head's weight away before the backward pass needs "
            "it: use recipes/fsdp2.yaml, or ZeRO-2"
        )
    if settings.lora_rank:
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise RequestError(
                "LoRA does not need its weights divided, and FSDP cannot merge them: use recipes/ddp.yaml"
            )
        if find_spec("peft") is None:
            raise MissingExtraError("peft", "peft")
        heads = [name for name in settings.lora_targets if name.endswith(("lm_head", "embed_out", "output_layer"))]
        if heads:
            raise RecipeError(f"train.lora_targets names {heads[0]!r}: an adapter on the head is not supported")
    else:
        for name in ("lora_alpha", "lora_dropout", "lora_targets"):
            if name in settings.model_fields_set and getattr(settings, name) != Train.model_fields[name].default:
                raise RecipeError(f"train.{name} has no effect without train.lora_rank: set it, or leave {name} out")
    for tracker in settings.report_to:
        if tracker not in INTEGRATION_TO_CALLBACK:
            near = get_close_matches(tracker, INTEGRATION_TO_CALLBACK, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            raise RecipeError(f"unknown tracker {tracker!r} in train.report_to: {hint}")
        try:
            INTEGRATION_TO_CALLBACK[tracker]()
        except RuntimeError as error:
            raise RequestError(f"train.report_to = {tracker!r}: {error}") from error


def _deepspeed_stage() -> str | None:
    """What `accelerate launch` was told of DeepSpeed."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file != "none":
        return str(json.loads(Path(file).read_text(encoding="utf-8")).get("zero_optimization", {}).get("stage", 0))
    return os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")


def train(
    name: str,
    method: Method,
    source: Source,
    model: PreTrainedModel,
    tokenizer: ChatTokenizer,
    settings: Train,
    folder: RunFolder,
    identity: str,
    facts: Mapping[str, str],
) -> dict[str, Any]:
    """Tunes ``model``; writes checkpoints/NAME, a Hugging Face folder with metrics.jsonl, whole or not at all.

    Checkpoints to go on from are in training/NAME while it lasts; one that was made with another ``identity`` is
    discarded. ``facts`` are told in the model card.

    Raises:
        RequestError: there is nothing to train on, or the method cannot be had with these rows or this model.
        TrainingError: the loss is not finite.
    """
    kept_out = [id for id in source.ids if held_out(id, settings.holdout, settings.seed)]
    schedule = _schedule(name, source, set(kept_out), settings)
    work = folder.path / "training" / name
    metrics = work / "metrics.jsonl"
    resumed, first = agreed(lambda: _prepare(work, identity, metrics))
    dtype = model.dtype
    # Sampling defaults of the base, which need not even be valid together, are none of a checkpoint's business.
    model.generation_config = _generation(model, tokenizer)
    compared = method.anchor or method.reference == "base"
    base = _frozen(model) if compared and not settings.lora_rank else None
    taught = teach(model)
    if method.anchor and taught.head is None:
        raise PolicyError(f"{method.name} needs logits that are head · hidden, and this model's are more than that")
    trained: Any = _adapted(model, settings) if settings.lora_rank else model.float()
    trainer: WeightedTrainer

    def rows_of(round: int, wanted: Sequence[str]) -> Mapping[str, TrainRow]:
        now = _hand_over(trainer, tokenizer, dtype, work / "policy") if round else None
        rows = source.rows(round, wanted, now)
        check_rows(method, rows)
        return rows

    held = [source.rows(0, kept_out, None)[id] for id in kept_out]
    starts = [schedule.span(round).start for round in range(1, source.rounds)]
    with progress(f"training {name}", schedule.updates) as tick:
        trainer = WeightedTrainer(
            model=trained,
            args=_arguments(settings, work, model.device.type, schedule.updates),
            callbacks=[
                _Progress(tick),
                Milestones(settings.save_every, method.updates, starts, schedule.updates, bool(held)),
            ],
            eval_dataset=held or None,
            updates=Updates(schedule, rows_of, first, method.updates, source.rounds),
            method=method,
            taught=taught,
            base=base,
            micro_batch_tokens=settings.micro_batch_tokens,
            metrics=metrics,
            held_out=held,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=resumed)
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    wait()  # others may still be at work in the folder that is about to go
    if rank() != 0:
        return {}
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    summary = _summary(name, method, settings, lines, trainer.state.best_global_step if held else None)
    with folder.replacing(f"checkpoints/{name}") as target:
        target.mkdir(parents=True)
        _save(trained, state, dtype, target, settings)
        tokenizer.tokenizer.save_pretrained(target)
        shutil.copy(metrics, target / "metrics.jsonl")
        (target / "README.md").write_text(model_card(name, summary, facts), encoding="utf-8")
    shutil.rmtree(work)
    with contextlib.suppress(OSError):  # another training may be under way
        work.parent.rmdir()
    return summary


def _schedule(name: str, source: Source, kept_out: set[str], settings: Train) -> Schedule:
    """Raises:
    RequestError: there is nothing to train on or to hold out, or less than the rounds need.
    """
    ids = [id for id in source.ids if id not in kept_out]
    if not ids or (settings.holdout and not kept_out):
        raise RequestError(
            f"nothing to train {name} on or to hold out: {len(source.ids)} rows, holdout {settings.holdout}"
        )
    schedule = Schedule(ids, settings.batch_size, settings.epochs, settings.seed, source.rounds)
    if source.rounds > schedule.updates:
        raise RequestError(
            f"train.rounds = {source.rounds}, but there are only {schedule.updates} updates: lower rounds or batch_size"
        )
    if schedule.updates < _FEW:
        print(
            f"training {name}: only {schedule.updates} update(s) of {settings.batch_size} rows: lower batch_size",
            file=sys.stderr,
        )
    return schedule


def _prepare(work: Path, identity: str, metrics: Path) -> tuple[str | None, int]:
    """Makes the folder that a training goes on from, or empties it if it was made from something else; returns the
    last whole checkpoint in it, if there is one, and its update.
    """
    mark = work / "identity"
    if not (mark.is_file() and mark.read_text(encoding="utf-8") == identity):
        if any(work.glob("checkpoint-*")):
            print(f"{work} was made with other settings or data: beginning again", file=sys.stderr)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        mark.write_text(identity, encoding="utf-8")
    for checkpoint in work.glob("checkpoint-*"):
        if _step(checkpoint) is None:
            shutil.rmtree(checkpoint)
    last = get_last_checkpoint(str(work))
    first = (_step(Path(last)) if last else None) or 0
    _forget_after(metrics, first)
    return last, first


def _step(checkpoint: Path) -> int | None:
    """The update of a checkpoint, or None if it is not whole: this file is written last."""
    try:
        return int(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (FileNotFoundError, ValueError):
        return None


def _forget_after(metrics: Path, step: int) -> None:
    """Drops the lines of updates that will be made again; the last may be torn."""
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    metrics.write_text("".join(line for line in whole if json.loads(line)["step"] <= step), encoding="utf-8")


def _generation(model: PreTrainedModel, tokenizer: ChatTokenizer) -> GenerationConfig:
    """The base's special tokens; what training rows end with ends a response too."""
    special: dict[str, Any] = {name: getattr(model.generation_config, name, None) for name in _SPECIAL}
    listed = special["eos_token_id"]
    ends = listed if isinstance(listed, list) else [] if listed is None else [listed]
    if tokenizer.training_end not in ends:
        special["eos_token_id"] = [*ends, tokenizer.training_end]
    return GenerationConfig(**special)


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    """The policy as it is now, to be compared with."""
    base: Any = copy.deepcopy(model).float()
    teach(base)
    return base.eval().requires_grad_(False)  # type: ignore[no-any-return]


def _adapted(model: PreTrainedModel, settings: Train) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    if settings.dtype == "float32" or model.dtype == torch.float16:
        model.float()  # float16 has no room for small gradients
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets) or "all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(settings.seed)  # the adapters begin at random
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings")  # it is refused below
            adapted: torch.nn.Module = get_peft_model(model, config)
    except ValueError as error:
        raise RecipeError(f"train.lora_targets = {list(settings.lora_targets)}: {error}") from error
    if type(model.get_output_embeddings()) is not torch.nn.Linear:
        raise RecipeError(f"train.lora_targets = {list(settings.lora_targets)} adapts the head: leave it out")
    embeddings: Any = model.get_input_embeddings()
    if type(embeddings) is not torch.nn.Embedding and model.config.get_text_config().tie_word_embeddings:
        raise RecipeError(
            f"train.lora_targets = {list(settings.lora_targets)} adapts the embeddings, which are the head of this "
            "model too: leave them out"
        )
    return adapted


def _hand_over(trainer: WeightedTrainer, tokenizer: ChatTokenizer, dtype: torch.dtype, target: Path) -> Path:
    """Saves the policy as it is now, for an engine to take over."""
    shutil.rmtree(target, ignore_errors=True)
    policy: Any = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(policy, "merge_and_unload"):
        # Merged in a copy: taking the adapters out again would not give back the same weights.
        policy = copy.deepcopy(policy).merge_and_unload()
    policy.save_pretrained(target, state_dict=_cast(policy.state_dict(), dtype))
    tokenizer.tokenizer.save_pretrained(target)
    return target


def _cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights to be saved, in main memory: a second copy may not fit beside the training."""
    return {name: t.to("cpu", dtype if t.is_floating_point() else t.dtype) for name, t in state.items()}


def _save(trained: Any, state: Mapping[str, torch.Tensor], dtype: torch.dtype, target: Path, settings: Train) -> None:
    if settings.lora_rank:
        trained.save_pretrained(target / "adapter", state_dict=state)
        trained = trained.merge_and_unload()
        state = trained.state_dict()
    broken = [name for name, weight in state.items() if not weight.isfinite().all()]
    if broken:
        raise TrainingError(f"weights are not finite after the last update ({broken[0]} …): lower the learning rate")
    trained.to(dtype)
    trained.save_pretrained(target, state_dict=_cast(state, dtype))


def check_rows(method: Method, rows: Mapping[str, TrainRow]) -> None:
    """Raises:
    RequestError: the method compares with log-probs that some rows do not have.
    """
    if method.reference != "behaviour" or method.others:
        return
    without = [row for row in rows.values() if row.behaviour is None]
    if without:
        rungs = ", ".join(f"{n} {rung}" for rung, n in Counter(row.rung for row in without).items())
        raise RequestError(
            f"{len(without)} of {len(rows)} rows have no behaviour log-probs ({rungs}), which the loss {method.name!r} "
            f"needs: say what such rows follow, {method.name},others=dft or {method.name},others=sft"
        )


def _summary(
    name: str, method: Method, settings: Train, lines: Sequence[Mapping[str, Any]], best: int | None
) -> dict[str, Any]:
    updates = [line for line in lines if "loss" in line]
    shown = ("loss", "nll", "mean_weight", "ess")
    summary = {
        "name": name,
        "loss": method.spec,
        "updates": updates[-1]["step"],
        "tokens": sum(line["tokens"] for line in updates),
        "first": {key: updates[0][key] for key in shown},
        "last": {key: updates[-1][key] for key in shown},
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "epochs": settings.epochs,
        "seed": settings.seed,
    }
    if best is not None:
        summary["held_out_nll"] = {line["step"]: line["held_out_nll"] for line in lines if "held_out_nll" in line}
        summary["kept"] = best if settings.keep == "best" else updates[-1]["step"]
    return summary


def _arguments(settings: Train, folder: Path, device: str, updates: int) -> TrainingArguments:
    warmup = math.ceil(settings.warmup_ratio * updates)
    best = settings.keep == "best"
    # What `accelerate launch` was told would hold otherwise.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if settings.dtype == "bfloat16" else "no"
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        max_steps=updates,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        # The first update of a warm-up has rate 0, as in the reference; were it the only one, nothing would be learnt.
        warmup_steps=warmup if warmup < updates else 0,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.dtype == "bfloat16",
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        seed=settings.seed,
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and world() > 1 else None,
        logging_steps=1,
        # `Milestones` says when.
        save_strategy="steps",
        save_steps=updates + 1,
        eval_strategy="steps" if settings.holdout else "no",
        eval_steps=updates + 1,
        save_total_limit=1,
        load_best_model_at_end=best,
        metric_for_best_model="nll" if settings.holdout else None,
        greater_is_better=False if settings.holdout else None,
        ignore_data_skip=True,
        report_to=list(settings.report_to),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device != "cpu",
        include_num_input_tokens_seen="no",
    )
    # Otherwise the Trainer spreads one process over all visible devices with DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
