"""The head by itself: time and memory of a DFT forward and backward pass, beside what others do."""

import argparse
import contextlib
import gc
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from paired import MIB, Json, alternating, judged, machine, told
from torch import Tensor
from torch.nn.functional import cross_entropy

from retell.head import Head, loss_through_head
from retell.methods import open_loss
from retell.trainer import slope_of

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
        command = [
            sys.executable,
            str(Path(__file__).with_name("training.py")),
            "memory",
            *sizes,
            f"--variant={name}",
            f"--measure={measure}",
        ]
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
