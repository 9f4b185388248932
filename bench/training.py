"""Measures training side by side with what one would use without retell: the head by itself, and whole updates.

    python bench/training.py head [--rounds 7] [--vocabulary 151936] [--hidden 512] [--tokens 1024] [--chunk 256]
    python bench/training.py steps [--models tiny small large] [--rounds 3] [--updates 6] [--screen 2]

All in float32 on the processor, with DFT as the loss; needs the `dev` extra (TRL). The variants take turns in one
process, in alternating order, after a round that is thrown away; a ratio is the median of the rounds' ratios. Every
number goes to --out as JSON. Run it on an otherwise idle machine. See docs/log.md for what came out.
"""

import argparse
import contextlib
import copy
import gc
import json
import logging
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback

from retell.head import Head, loss_through_head
from retell.methods import open_loss
from retell.recipe import Data, Policy, Train, located
from retell.records import TrainRow
from retell.schedule import Schedule
from retell.tokens import ChatTokenizer
from retell.trainer import slope_of

MIB = 1 << 20
Json = dict[str, Any]


def machine() -> Json:
    """What the figures depend on."""
    versions = {name: sys.modules[name].__version__ for name in ("torch", "transformers", "trl") if name in sys.modules}
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "command": " ".join(["python", *sys.argv]),
        **versions,
    }


def told(facts: Json) -> str:
    """The same in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if name != "command")


def alternating(names: Sequence[str], round: int) -> list[str]:
    """Whose turn it is: forwards and backwards by turns."""
    return list(names) if round % 2 == 0 else list(reversed(names))


def judged(what: str, value: float, limit: float, *, least: bool = False) -> Json:
    """Prints whether a criterion is met."""
    met = value >= limit if least else value <= limit
    sign = "≥" if least else "≤"
    print(f"  {'met   ' if met else 'MISSED'}  {what}: {value:.3g} (wanted {sign} {limit:.3g})")
    return {"what": what, "value": value, "limit": limit, "least": least, "met": met}


# ------------------------------------------------------------------------------------------------------------ head

Variant = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden_ND, weight_VD, targets_N) → the mean DFT loss, with gradient."""


def _retell(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    return loss_through_head(hidden_ND, Head(weight_VD), targets_N, slope_of(open_loss("dft")), False)[0] / len(
        targets_N
    )


def _naive(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """The logits are named by nobody, so that they are freed as soon as can be."""
    nll_N = cross_entropy(hidden_ND @ weight_VD.T, targets_N, reduction="none")
    return (nll_N * (-nll_N).exp().detach()).mean()


def _published(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """As DFT was published: the weight from a softmax of its own."""
    logits = hidden_ND @ weight_VD.T
    nll_N = cross_entropy(logits, targets_N, reduction="none")
    return (nll_N * logits.softmax(-1).gather(1, targets_N[:, None])[:, 0].detach()).mean()


def _trl(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """As `add_fused_lm_head` and `SFTTrainer.compute_loss` have it, with what SFTTrainer asks for besides log-probs."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    logp_N, entropy_N, _, _, top_N = ChunkedLogProbFunction.apply(
        hidden_ND, weight_VD, None, targets_N, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0,
        ("log_probs", "entropy", "is_top1"),
    )  # fmt: skip
    loss_N = -logp_N
    loss_N = loss_N * logp_N.exp().detach()
    entropy_N.detach().sum(), top_N.sum()
    return loss_N.sum() / len(targets_N)


def _fused(chunk: int | None) -> Variant:
    """torch's own, in its default or with so many rows at once."""

    def loss(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk)
        nll_N = torch.nn.functional.linear_cross_entropy(
            hidden_ND, weight_VD, targets_N, reduction="none", options=options
        )
        return (nll_N * (-nll_N).exp().detach()).mean()

    return loss


def variants(chunk: int) -> dict[str, Variant]:
    """What is compared, ours first."""
    torchs = {"torch": _fused(None), f"torch-{chunk}": _fused(chunk)}
    return {"retell": _retell, "naive": _naive, "published": _published, "trl": _trl} | torchs


def inputs(vocabulary: int, hidden: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states whose targets have probabilities all the way from 0 to 1, as a trained model's have."""
    torch.manual_seed(0)
    weight_VD = torch.randn(vocabulary, hidden) * 0.02
    targets_N = torch.randint(vocabulary, (tokens,))
    aimed_ND = torch.nn.functional.normalize(weight_VD[targets_N])
    wanted_N1 = torch.rand(tokens, 1) * 24 / weight_VD[0].norm()
    hidden_ND = aimed_ND * wanted_N1 + 4 * torch.randn(tokens, hidden)
    return hidden_ND.requires_grad_(), weight_VD.requires_grad_(), targets_N


def head(options: argparse.Namespace) -> Json:
    """Time and memory of a DFT forward and backward pass through the head."""
    found = variants(options.chunk)
    for name in options.skip:
        del found[name]
    print(f"vocabulary {options.vocabulary}, hidden {options.hidden}, {options.tokens} tokens, float32", flush=True)
    given = inputs(options.vocabulary, options.hidden, options.tokens)
    error = _errors(found, given)
    warm = {name: _seconds(loss, given) for name, loss in found.items()}
    slow = [name for name in found if warm[name] > 10 * warm["naive"]]
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for round in range(options.rounds):
        for name in alternating(list(found), round):
            once = name in slow and round > 0
            seconds[name].append(math.nan if once else _seconds(found[name], given))
        print(f"  round {round}: " + ", ".join(f"{name} {seconds[name][-1]:.2f}" for name in found), flush=True)
    del given
    memory = {name: _memory(name, options) for name in found}
    facts = machine()
    weight = options.vocabulary * options.hidden * 4
    print(told(facts))
    _head_table(seconds, memory, error, weight)
    print(
        f"  {options.rounds} rounds, and one of what is over ten times slower than naive: {', '.join(slow) or 'none'}"
    )
    criteria = _head_criteria(seconds, memory, weight)
    return {"machine": facts, "seconds": seconds, "memory_bytes": memory, "error": error, "criteria": criteria}


def _errors(found: dict[str, Variant], given: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """How far each one's gradients are from those in float64, relatively, with the first 64 tokens."""
    hidden_ND, weight_VD, targets_N = (tensor.detach()[:64] if tensor is not given[1] else tensor for tensor in given)

    def gradients(loss: Variant, dtype: torch.dtype) -> list[Tensor]:
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (hidden_ND, weight_VD)]
        return [*torch.autograd.grad(loss(*leaves, targets_N), leaves)]

    wanted = gradients(_naive, torch.float64)
    made = {name: gradients(loss, torch.float32) for name, loss in found.items()}
    return {
        name: max(float((a - b).norm() / b.norm()) for a, b in zip(each, wanted, strict=True))
        for name, each in made.items()
    }


def _seconds(loss: Variant, given: tuple[Tensor, Tensor, Tensor]) -> float:
    """One forward and backward pass that begins without gradients, as the first micro-batch of an update does."""
    given[0].grad = given[1].grad = None
    gc.collect()
    started = time.perf_counter()
    loss(*given).backward()
    return time.perf_counter() - started


def _head_table(
    seconds: dict[str, list[float]], memory: dict[str, Json], error: dict[str, float], weight: float
) -> None:
    sizes = f"{'resident':>11}{'without':>9}{'allocated':>12}{'without':>9}"
    print(f"{'':12}{'seconds':>9}{'/ naive':>9}{'/ trl':>7}{sizes}{'error':>10}   raw seconds")
    for name, all_seconds in seconds.items():
        held = memory[name]
        peaks = [held["resident"], held["resident"] - weight, held["allocated"], held["allocated_without"]]
        raw = " ".join(f"{s:.3f}" for s in all_seconds if not math.isnan(s))
        print(
            f"{name:12}{_ratio(seconds, name, None):9.3f}"
            f"{_ratio(seconds, name, 'naive'):9.3f}{_ratio(seconds, name, 'trl'):7.3f}"
            + "".join(f"{peak / MIB:{width}.0f}" for peak, width in zip(peaks, (11, 9, 12, 9), strict=True))
            + f"{error[name]:10.1e}   {raw}"
        )
    print("  error: of the gradients, relative to those in float64, with 64 tokens")
    print("  resident, allocated: peak MiB above inputs, weight and the gradients of an earlier pass")
    print(
        f"  without: not counting the weight's gradient ({weight / MIB:.0f} MiB), which each must make: of `resident`"
    )
    print(
        "  it is simply taken off, which flatters the naive ones: they peak before they make it; of `allocated` it is"
    )
    print("  left out only while it is there")


def _ratio(seconds: dict[str, list[float]], name: str, other: str | None) -> float:
    """The median over the rounds of one's time, over the other's; not a number where the other was left out."""
    others = [1.0] * len(seconds[name]) if other is None else seconds.get(other, [])
    found = [a / b for a, b in zip(seconds[name], others, strict=False) if not math.isnan(a / b)]
    return median(found) if found else math.nan


def _head_criteria(seconds: dict[str, list[float]], memory: dict[str, Json], weight: float) -> list[Json]:
    judgements = [
        judged(f"time / {other}", _ratio(seconds, "retell", other), 0.9)
        for other in ("naive", "trl")
        if other in memory
    ]
    sizes = {name: m | {"resident_without": m["resident"] - weight} for name, m in memory.items()}
    for measure in ("resident", "resident_without", "allocated", "allocated_without"):
        for other, limit in (("naive", 1 / 8), ("trl", 1.0)):
            if other in sizes:
                ratio = sizes["retell"][measure] / sizes[other][measure]
                judgements.append(judged(f"memory / {other}, {measure}", ratio, limit))
    return judgements


# ------------------------------------------------------------------------------------------------- the head's memory


def _memory(name: str, options: argparse.Namespace) -> Json:
    """Bytes of one variant, each measure in a process of its own."""
    sizes = [f"--{key}={getattr(options, key)}" for key in ("vocabulary", "hidden", "tokens", "chunk", "threads")]
    measured: Json = {}
    for measure in ("resident", "allocated"):
        command = [sys.executable, __file__, "memory", *sizes, f"--variant={name}", f"--measure={measure}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        measured |= json.loads(done.stdout.splitlines()[-1])
    return measured


def memory(options: argparse.Namespace) -> Json:
    """One pass of one variant, with its peak of memory; what `head` runs in a process of its own."""
    loss = variants(options.chunk)[options.variant]
    small = inputs(512, 32, 16)  # loads the libraries and starts their threads, which is not what is measured
    loss(*small).backward()
    given = inputs(options.vocabulary, options.hidden, options.tokens)
    for tensor in given[:2]:
        tensor.grad = torch.full_like(tensor, 1e-3)  # zeros would not be resident before somebody writes to them
    del small
    gc.collect()
    if options.measure == "resident":
        with Resident() as watch:
            loss(*given).backward()
        return {"resident": watch.peak - watch.begin, "resident_seen": watch.seen - watch.begin}
    whole, without = allocated(lambda: loss(*given).backward(), given[1].nbytes)
    return {"allocated": whole, "allocated_without": without}


class Resident:
    """Bytes of this process in memory: at the begin, the most that was seen every 2 ms, and at the peak.

    The kernel keeps the peak (VmHWM), and forgets it when told to. Where it cannot be told, the peak is what was seen:
    a thread can miss one that is shorter than the operation that runs.
    """

    def __enter__(self) -> "Resident":
        self._forgotten = False
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._forgotten = True
        self.begin = self.seen = self.peak = self._now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.peak = self.seen
        if self._forgotten:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
            self.peak = max(self.seen, int(kilobytes) << 10)

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.seen = max(self.seen, self._now())

    @staticmethod
    def _now() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def allocated(work: Callable[[], None], gradient: int) -> tuple[int, int]:
    """The most bytes that torch's allocator held at once while it worked, and the same but for one block of the size of
    ``gradient`` while there is one.

    The profiler is told of every block that the allocator gives out and takes back, also inside an operation; a
    `TorchDispatchMode` would see results only. Neither sees the buffers that MKL takes for itself: `Resident` does.
    """
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = list(profiler.profiler.kineto_results.experimental_event_tree())
    blocks: list[tuple[int, int, int]] = []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            blocks.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    held: dict[int, int] = {}
    now = gradients = whole = without = 0
    for _, place, size in sorted(blocks):
        if size < 0 and place not in held:
            continue  # it was there before
        now += size
        gradients += (abs(size) == gradient) * (1 if size > 0 else -1)
        if size > 0:
            held[place] = size
        else:
            del held[place]
        whole = max(whole, now)
        without = max(without, now - (gradient if gradients else 0))
    return whole, without


# ----------------------------------------------------------------------------------------------------------- steps


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

    return Setting("tiny", make, rows[: 320 * updates], 32, 512, (4, 8, 16, 32), times=10)


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


# ------------------------------------------------------------------------------------------------------------ main


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--threads", type=int, default=threads, help="of torch; by default OMP_NUM_THREADS, else 2")
    shared.add_argument("--out", type=Path, help="JSON with all raw numbers; by default build/bench/training-WHAT.json")
    sizes = argparse.ArgumentParser(add_help=False)
    sizes.add_argument("--vocabulary", type=int, default=151_936)
    sizes.add_argument("--hidden", type=int, default=512)
    sizes.add_argument("--tokens", type=int, default=1024)
    sizes.add_argument("--chunk", type=int, default=256, help="rows at once of torch's second variant")
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("head", parents=[shared, sizes], help=head.__doc__)
    one.add_argument("--rounds", type=int, default=7)
    one.add_argument(
        "--skip", nargs="+", default=[], choices=["published", "trl", "torch"], help="variants to leave out"
    )
    two = commands.add_parser("steps", parents=[shared], help=steps.__doc__)
    two.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    two.add_argument("--rounds", type=int, default=3)
    two.add_argument("--updates", type=int, default=6, help="updates of a round (ten times as many of the tiny policy)")
    two.add_argument("--screen", type=int, default=2, help="updates with which TRL's best setting is looked for")
    three = commands.add_parser("memory", parents=[shared, sizes], help="one variant of `head`, in this process")
    three.add_argument("--variant", required=True)
    three.add_argument("--measure", choices=["resident", "allocated"], required=True)
    options = parser.parse_args()
    if options.what != "steps" and options.tokens == options.hidden:
        parser.error("with as many tokens as hidden the logits have the size of the weight's gradient")
    torch.set_num_threads(options.threads)
    if options.what == "memory":
        print(json.dumps(memory(options)))
        return
    print(f"{options.threads} threads, load {os.getloadavg()[0]:.2f}")
    result = {"head": head, "steps": steps}[options.what](options)
    out = options.out or Path("build/bench") / f"training-{options.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"raw numbers: {out}")


if __name__ == "__main__":
    main()
