"""Whole updates: tokens per second of retell's trainer beside TRL's in its best setting."""

import argparse
import copy
import gc
import json
import logging
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from paired import Json, alternating, judged, machine, told
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from retell.methods import open_loss
from retell.recipe import Data, Policy, Train, located
from retell.records import TrainRow
from retell.schedule import Schedule
from retell.tokens import ChatTokenizer


@dataclass(frozen=True, slots=True)
class Setting:
    """A model, the rows it is trained on, and how they are split."""

    name: str
    make: Callable[[], PreTrainedModel]
    rows: Sequence[TrainRow]
    batch_size: int
    max_length: int
    sizes: tuple[int, ...]
    """Rows in one pass, of which TRL's best is chosen."""
    times: int = 1
    """Updates for each that was asked for: where they are short."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A way of using TRL's trainer.

    ``order`` is a sampling strategy of the Trainer: `sequential` makes the updates of the same rows as ours. ``layout``
    is `padded`, `padding_free`, or a strategy of packing, where ``size`` counts packed sequences.
    """

    size: int
    layout: str = "padded"
    order: str = "sequential"
    attention: str = "sdpa"

    @property
    def name(self) -> str:
        """How it is called in tables."""
        attention = "" if self.attention == "sdpa" else f" {self.attention}"
        return f"{self.layout} {self.size}{' by length' if self.order == 'group_by_length' else ''}{attention}"

    @property
    def same_rows(self) -> bool:
        """Whether its updates are made of the same rows as ours."""
        return self.order == "sequential" and self.layout in ("padded", "padding_free")


@dataclass(frozen=True, slots=True)
class Pace:
    """One training: its real tokens (prompts and responses, never padding) and what the first update logged."""

    tokens: int
    updates: int
    seconds: float
    first_loss: float | None = None
    first_norm: float | None = None

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Clock(TrainerCallback):
    """Seconds from the begin of a training to the end of its last update."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0
        self.updates = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Model and data are there."""
        self.begin = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimiser has stepped."""
        self.end = time.perf_counter()
        self.updates += 1


def steps(options: argparse.Namespace) -> Json:
    """Tokens per second of whole updates: data, forward, backward, clipping, AdamW, metrics."""
    quiet()
    wanted = 1 + max(options.updates, options.screen)
    return {name: _steps(SETTINGS[name](wanted), options) for name in options.models}


def _steps(setting: Setting, options: argparse.Namespace) -> Json:
    parameters = sum(p.numel() for p in setting.make().parameters())
    lengths = [len(row.prompt) + len(row.response) for row in setting.rows]
    print(
        f"\n{setting.name}: {parameters / 1e6:.1f}M parameters, {setting.batch_size} rows an update of "
        f"{min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.0f} on average, "
        f"responses {sum(len(row.response) for row in setting.rows) / sum(lengths):.0%} of them",
        flush=True,
    )
    model = setting.make()
    first = _first(setting, options.screen)
    seen: dict[str, Pace] = {"retell": paced_retell(model, first, logging=True)}
    print("screening, with the first update not warm, of the ways in which TRL can be used:")
    _print_pace("retell", seen["retell"], None)
    refused: dict[str, str] = {}
    peers = {peer.name: peer for peer in _peers(setting)}
    for name, peer in peers.items():
        try:
            seen[name] = paced_trl(model, first, peer, logging=True)
            _print_pace(name, seen[name], seen["retell"] if peer.same_rows else None)
        except (ImportError, ValueError, RuntimeError, TypeError) as error:
            refused[name] = str(error).splitlines()[0]
            print(f"  {name:34} cannot be had here: {refused[name][:90]}", flush=True)
    found = {name: pace for name, pace in seen.items() if name != "retell"}
    like = [name for name in found if peers[name].same_rows]
    ranked = sorted(found, key=lambda name: -found[name].speed)
    best = [*[name for name in ranked if name in like][:2], *[name for name in ranked if name not in like][:1]]
    print(f"rounds of {options.updates * setting.times} updates with the two best of the same rows, and the best other")
    raw = _rounds(setting, model, {name: peers[name] for name in best}, options)
    facts = machine()
    print(told(facts))
    ratios = _steps_table(raw)
    same = min((name for name in ratios if name in like), key=lambda name: ratios[name])
    fastest = min(ratios, key=lambda name: ratios[name])
    criteria = [judged(f"tokens/s / TRL's best with the same rows, {same}", ratios[same], 1.2, least=True)]
    if fastest != same:
        criteria.append(judged(f"tokens/s / TRL's best of all, {fastest}", ratios[fastest], 1.2, least=True))
    ours, theirs = seen["retell"], found[same]
    criteria.append(
        judged("distance of the first losses", _distance(ours.first_loss or 0, theirs.first_loss or 0), 1e-4)
    )
    return {
        "machine": facts,
        "parameters": parameters,
        "screening": {name: asdict(pace) for name, pace in seen.items()},
        "refused": refused,
        "rounds": {name: [asdict(pace) for pace in paces] for name, paces in raw.items()},
        "criteria": criteria,
    }


def _rounds(
    setting: Setting, model: PreTrainedModel, peers: dict[str, Peer], options: argparse.Namespace
) -> dict[str, list[Pace]]:
    """Whole trainings in turn; of the first round one update each, thrown away."""
    names = ["retell", *peers]
    raw: dict[str, list[Pace]] = {name: [] for name in names}
    parts = {True: _first(setting, options.updates), False: _first(setting, 1)}
    for round in range(-1, options.rounds):
        part = parts[round >= 0]
        for name in alternating(names, round):
            pace = paced_retell(model, part) if name == "retell" else paced_trl(model, part, peers[name])
            raw[name] += [pace] if round >= 0 else []
    return raw


def _steps_table(raw: dict[str, list[Pace]]) -> dict[str, float]:
    """Prints tokens per second; returns ours over each of TRL's, the median of the rounds' ratios."""
    ratios = {}
    print(f"  {'':34}{'tokens/s':>10}{'updates':>9}{'retell /':>10}   raw tokens/s")
    for name, paces in raw.items():
        ratio = median(a.speed / b.speed for a, b in zip(raw["retell"], paces, strict=True))
        if name != "retell":
            ratios[name] = ratio
        each = " ".join(f"{pace.speed:,.0f}" for pace in paces)
        print(
            f"  {name:34}{median(p.speed for p in paces):10,.0f}{paces[0].updates:9}{ratio:10.3f}   {each}", flush=True
        )
    return ratios


def _print_pace(name: str, pace: Pace, ours: Pace | None) -> None:
    first = f"first update: loss {pace.first_loss:.8g}, gradient {pace.first_norm:.6g}"
    if ours:
        loss = _distance(ours.first_loss or 0, pace.first_loss or 0)
        first += f"  (from ours: {loss:.1e}, {_distance(ours.first_norm or 0, pace.first_norm or 0):.1e})"
    print(f"  {name:34}{pace.speed:10,.0f} tokens/s, {pace.updates} updates, {first}", flush=True)


def _distance(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-30)


def _first(setting: Setting, updates: int) -> Setting:
    """The same with the rows of the first updates only, in the schedule's order."""
    schedule = Schedule([row.id for row in setting.rows], setting.batch_size, 1, 0)
    by_id = {row.id: row for row in setting.rows}
    chosen = range(min(updates * setting.times, schedule.updates))
    rows = [by_id[id] for update in chosen for id in schedule.ids(update)]
    return replace(setting, rows=rows)


def quiet() -> None:
    """Nothing but our own lines."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    logging.disable(logging.WARNING)


# ----------------------------------------------------------------------------------------------------- the trainers


def _settings(setting: Setting) -> Train:
    return Train(batch_size=setting.batch_size, dtype="float32", gradient_checkpointing=False, learning_rate=1e-4)


def paced_retell(model: PreTrainedModel, setting: Setting, *, logging: bool = False) -> Pace:
    """One training with retell's trainer, set up as `retell.train` does; ``logging``: tells the first update."""
    from retell.logprobs import teach
    from retell.train import _arguments
    from retell.trainer import Milestones, Updates, WeightedTrainer

    by_id = {row.id: row for row in setting.rows}
    settings = _settings(setting)
    schedule = InOrder([row.id for row in setting.rows], setting.batch_size)
    clock, trained = Clock(), copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        trainer = WeightedTrainer(
            model=trained,
            args=_arguments(settings, Path(folder), "cpu", schedule.updates),
            callbacks=[clock, Milestones(schedule.updates + 1, 1, [], schedule.updates, False)],
            updates=Updates(schedule, lambda *_: by_id, 0, 1, 1),
            method=open_loss("dft"),
            taught=teach(trained),
            base=None,
            micro_batch_tokens=settings.micro_batch_tokens,
            metrics=metrics,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        line = json.loads(metrics.read_text(encoding="utf-8").splitlines()[0])
    return _pace(clock, _tokens(setting.rows), (line["loss"], line["grad_norm"]) if logging else None)


class InOrder(Schedule):
    """A schedule that keeps the order of the rows, which `_first` has made."""

    def _shuffled(self, epoch: int) -> list[str]:
        return list(self._ids)

    def __init__(self, ids: Sequence[str], batch_size: int) -> None:
        super().__init__(ids, batch_size, 1, 0)


def paced_trl(model: PreTrainedModel, setting: Setting, peer: Peer, *, logging: bool = False) -> Pace:
    """The same with TRL's SFTTrainer and its DFT loss, on the same ids."""
    from datasets import Dataset
    from trl import SFTTrainer

    rows = [
        {
            "input_ids": [*row.prompt, *row.response],
            "completion_mask": [0] * len(row.prompt) + [1] * len(row.response),
        }
        for row in setting.rows
    ]
    clock, trained = Clock(), copy.deepcopy(model)
    trained.set_attn_implementation(peer.attention)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=trained,
            args=_trl_arguments(setting, peer, Path(folder), 1 if logging else 10),
            train_dataset=Dataset.from_list(rows),
            processing_class=ChatTokenizer(Path(located("retell:tiny/policy"))).tokenizer,  # it pads, and nothing more
            callbacks=[clock],
        )
        if peer.layout in ("bfd", "wrapped"):  # about as many tokens an update as ours, in other rows
            updates = -(-len(setting.rows) // setting.batch_size)
            passes = round(len(trainer.train_dataset) / (updates * peer.size))
            trainer.args.gradient_accumulation_steps = max(1, passes)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        tokens = sum(map(len, trainer.train_dataset["input_ids"]))
        line = trainer.state.log_history[0] if logging else None
    return _pace(clock, tokens, (line["loss"], line["grad_norm"]) if line else None)


def _trl_arguments(setting: Setting, peer: Peer, folder: Path, logging_steps: int) -> Any:
    from trl import SFTConfig

    from retell.train import _arguments

    settings = _settings(setting)
    updates = -(-len(setting.rows) // setting.batch_size)
    ours = _arguments(settings, folder, "cpu", updates)
    shared = (
        "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2",
        "adam_epsilon", "max_grad_norm", "optim", "seed",
    )  # fmt: skip
    packed = peer.layout in ("bfd", "wrapped")
    return SFTConfig(
        output_dir=str(folder),
        **{name: getattr(ours, name) for name in shared},
        num_train_epochs=1,
        per_device_train_batch_size=peer.size,
        gradient_accumulation_steps=1 if packed else -(-setting.batch_size // peer.size),
        train_sampling_strategy=peer.order,
        loss_type="dft",
        completion_only_loss=True,
        padding_free=peer.layout == "padding_free",
        packing=packed,
        packing_strategy=peer.layout if packed else "bfd",
        max_length=setting.max_length if packed else None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        logging_steps=logging_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _pace(clock: Clock, tokens: int, first: tuple[float, float] | None) -> Pace:
    gc.collect()  # a Trainer leaves the model in a reference cycle
    loss, norm = first or (None, None)
    return Pace(tokens, clock.updates, clock.end - clock.begin, loss, norm)


def _tokens(rows: Sequence[TrainRow]) -> int:
    return sum(len(row.prompt) + len(row.response) for row in rows)


def _peers(setting: Setting) -> Iterator[Peer]:
    """The ways in which TRL's trainer is tried."""
    for size in setting.sizes:
        yield Peer(size)
    for size in setting.sizes[1:]:
        yield Peer(size, order="group_by_length")
        yield Peer(size, "padding_free")
    for size in (1, 2, 4):
        yield Peer(size, "bfd")
        yield Peer(size, "wrapped")
    yield Peer(setting.sizes[-1], attention="eager")
    for attention in ("flash_attention_2", "kernels-community/flash-attn2"):
        yield Peer(setting.sizes[-1], "padding_free", attention=attention)


# ----------------------------------------------------------------------------------------------------- the settings


def tiny(updates: int) -> Setting:
    """The packaged policy on its own problems with the experts' solutions, as `retell run` trains on them."""
    from retell.mixes import file_ids
    from retell.policy import load_model
    from retell.prompts import Prompter

    folder = Path(located("retell:tiny/policy"))
    tokenizer = ChatTokenizer(folder)
    data = Data(path=located("retell:tiny/data/train.jsonl"), max_length=512)
    rows, _ = file_ids(str(data.path), data, Prompter(Policy(), tokenizer), tokenizer)

    def make() -> PreTrainedModel:
        return load_model(folder, "float32", "cpu", False)

    return Setting("tiny", make, list(rows.values())[: 320 * updates], 32, 512, (4, 8, 16, 32), times=10)


def small(updates: int) -> Setting:
    """A Llama of random weights with a vocabulary of 32,000."""
    return _random("small", 32_000, updates)


def large(updates: int) -> Setting:
    """The same with Qwen's vocabulary."""
    return _random("large", 151_936, updates)


def _random(name: str, vocabulary: int, updates: int) -> Setting:
    def make() -> PreTrainedModel:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=3, pad_token_id=4,
        )  # fmt: skip
        return LlamaForCausalLM(config)

    draw = random.Random(0)
    rows = []
    for number in range(16 * updates):
        # Lengths as those of solutions are: many short, few long.
        prompt = min(400, max(20, round(draw.lognormvariate(math.log(90), 0.45))))
        response = min(1024 - prompt, max(20, round(draw.lognormvariate(math.log(265), 0.5))))
        ids = [draw.randrange(5, vocabulary) for _ in range(prompt + response)]
        rows.append(TrainRow(f"{name}-{number}", "expert", tuple(ids[:prompt]), tuple(ids[prompt:])))
    return Setting(f"{name} (vocabulary {vocabulary:,})", make, rows, 16, 1024, (1, 2, 4, 8, 16))


SETTINGS: dict[str, Callable[[int], Setting]] = {"tiny": tiny, "small": small, "large": large}
