"""Measures forward and backward passes of large models on a GPU, against what one would use without retell.

    python bench/gpu.py [--models 1.5b 7b] [--rows 8] [--tokens 2048] [--prompt 256] [--steps 5] [--rounds 2]
    python bench/gpu.py --device cpu --small          # the same code with tiny shapes, to see that it runs

Models of random weights in the shapes of Qwen2.5-Math; all rows are equally long, so that nobody pads. DFT as the loss,
gradient checkpointing, attention by torch's scaled_dot_product_attention for everybody:

- retell: packed rows, the head on response tokens only, loss and gradient from the same logits;
- naive: the model's own logits of all tokens, cross-entropy in float32, weight exp(−nll);
- trl: TRL's fused head with the outputs that its SFTTrainer asks for (if TRL is installed).

1.5b has float32 weights under bfloat16 autocast, as `retell train` sets it up; 7b has bfloat16 weights and optimiser
states, so that one GPU holds it: no `retell train`, the same passes. Works with torch 2.11 and newer. Where there is no
GPU it says so and ends.
"""

import argparse
import contextlib
import gc
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from retell.logprobs import Asked, teach
from retell.methods import open_loss
from retell.packing import collate
from retell.trainer import slope_of

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    tied: bool
    weights: torch.dtype
    """bfloat16, or float32 under autocast to bfloat16."""

    def make(self, device: str) -> PreTrainedModel:
        """A model of random weights in training mode, with gradient checkpointing."""
        config = Qwen2Config(
            vocab_size=self.vocabulary, hidden_size=self.hidden, intermediate_size=self.inner,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.kv_heads,
            max_position_embeddings=4096, rope_theta=10000.0, tie_word_embeddings=self.tied,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=self.weights, attn_implementation="sdpa")
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return model  # type: ignore[no-any-return]

    def matrices(self) -> tuple[int, int]:
        """Weights of the layers' matrix products, and of the head's."""
        size = self.hidden // self.heads
        attention = self.hidden * size * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner), self.hidden * self.vocabulary


SHAPES = {
    "1.5b": Shape(1536, 28, 12, 2, 8960, 151_936, True, torch.float32),
    "1.5b-bf16": Shape(1536, 28, 12, 2, 8960, 151_936, True, torch.bfloat16),
    "7b": Shape(3584, 28, 28, 4, 18_944, 152_064, False, torch.bfloat16),
}
SMALL = {
    "1.5b": Shape(64, 2, 4, 2, 128, 1024, True, torch.float32),
    "1.5b-bf16": Shape(64, 2, 4, 2, 128, 1024, True, torch.bfloat16),
    "7b": Shape(64, 2, 4, 2, 128, 1024, False, torch.bfloat16),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of equal length, and how much of each is prompt."""

    rows: int
    tokens: int
    prompt: int
    vocabulary: int

    def ids(self) -> Tensor:
        """ids_BL, always the same."""
        draw = torch.Generator().manual_seed(1)
        return torch.randint(self.vocabulary, (self.rows, self.tokens), generator=draw)

    @property
    def responses(self) -> int:
        """Response tokens of all rows."""
        return self.rows * (self.tokens - self.prompt)


Loss = Callable[[], Tensor]
"""A forward pass: the mean DFT loss of a response token."""


def retell(model: PreTrainedModel, rows: Rows, device: str) -> Loss:
    """As `WeightedTrainer._summed`."""
    taught = teach(model)
    if not taught.packs or taught.head is None:
        raise RuntimeError(f"the model was found not to allow what is to be measured: {taught}")
    method = open_loss("dft")
    pairs = [(row[: rows.prompt], row[rows.prompt :]) for row in rows.ids().tolist()]

    def loss() -> Tensor:
        batch = collate(pairs, packed=True).to(device)
        total: Tensor = model(**batch.inputs(), asked=Asked(batch, slope_of(method), method.entropy))[0]
        return total / rows.responses

    return loss


def naive(model: PreTrainedModel, rows: Rows, device: str) -> Loss:
    """Full logits in float32, as transformers' own loss has them."""
    ids_BL, labels_BL = _labelled(rows, device)

    def loss() -> Tensor:
        logits = model(input_ids=ids_BL, use_cache=False).logits[:, :-1].float()
        nll = cross_entropy(logits.flatten(0, 1), labels_BL[:, 1:].flatten(), reduction="none", ignore_index=-100)
        return (nll * (-nll).exp().detach()).sum() / rows.responses

    return loss


def trl(model: PreTrainedModel, rows: Rows, device: str) -> Loss:
    """As `SFTTrainer.compute_loss`."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    ids_BL, labels_BL = _labelled(rows, device)

    def loss() -> Tensor:
        out = model(input_ids=ids_BL, labels=labels_BL, use_cache=False, fused_lm_head=True)
        return (-out.log_probs * out.log_probs.exp().detach()).sum() / rows.responses

    return loss


VARIANTS = {"retell": retell, "naive": naive, "trl": trl}


def _labelled(rows: Rows, device: str) -> tuple[Tensor, Tensor]:
    ids_BL = rows.ids().to(device)
    labels_BL = ids_BL.clone()
    labels_BL[:, : rows.prompt] = -100
    return ids_BL, labels_BL


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of each step after the warm-up, of forward and backward passes alone and with the optimiser; its peaks of
    memory; or why there are none.
    """

    passes: list[float]
    whole: list[float]
    memory: int | None = None
    begin: int | None = None
    loss: float | None = None
    failed: str = ""

    @property
    def above(self) -> int | None:
        """The peak above weights and optimiser states."""
        return None if self.memory is None or self.begin is None else self.memory - self.begin


class Device:
    """The clock and the memory of a device."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cuda = name == "cuda"

    def now(self) -> float:
        """Seconds, once all that was asked for is done."""
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def clear(self) -> None:
        """Gives back what nobody holds, and forgets the peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """The most bytes that tensors held since `clear`; on a processor nobody knows."""
        return torch.cuda.max_memory_allocated() if self.cuda else None

    def held(self) -> int | None:
        """The bytes that tensors hold now."""
        return torch.cuda.memory_allocated() if self.cuda else None


def peak_rate(device: Device, small: bool) -> float:
    """FLOP per second of a bfloat16 matrix product of random numbers, the median of many."""
    size, times = (256, 3) if small else (8192, 30)
    a, b = (torch.randn(size, size, device=device.name).bfloat16() for _ in range(2))
    seconds = []
    for _ in range(times + 5):
        started = device.now()
        a @ b
        seconds.append(device.now() - started)
    return 2 * size**3 / median(seconds[5:])


def measured(shape: Shape, variant: str, rows: Rows, device: Device, options: argparse.Namespace) -> Run:
    """One model from its making on; memory that does not suffice is a result."""
    device.clear()
    try:
        return _measured(shape, variant, rows, device, options)
    except torch.OutOfMemoryError as error:
        return Run([], [], failed=f"out of memory: {str(error).splitlines()[0][:150]}")
    except ImportError as error:
        return Run([], [], failed=f"not installed: {error}")


def _measured(shape: Shape, variant: str, rows: Rows, device: Device, options: argparse.Namespace) -> Run:
    model = shape.make(device.name)
    loss_of = VARIANTS[variant](model, rows, device.name)
    optimiser = None
    if options.optimiser:
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.01, fused=device.cuda
        )
    autocast = torch.autocast(device.name, torch.bfloat16, enabled=shape.weights == torch.float32)
    passes, whole = [], []
    first = math.nan
    begin = None
    for step in range(options.warm + options.steps):
        if step == options.warm:
            device.clear()  # optimiser states are there, and everything that is compiled or tuned at first use
            begin = device.held()
        started = device.now()
        with autocast:
            loss = loss_of()
        loss.backward()
        passed = device.now()
        if optimiser is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        model.zero_grad(set_to_none=True)
        ended = device.now()
        first = loss.item() if step == 0 else first
        del loss
        passes.append(passed - started)
        whole.append(ended - started)
    return Run(passes[options.warm :], whole[options.warm :], device.peak(), begin, first)


def flops(shape: Shape, rows: Rows) -> dict[str, float]:
    """Floating-point operations of a step: what the model needs (6 for each weight and token that meet, the head on
    response tokens only; attention's two products, causal), and the layers' second forward pass of checkpointing.
    """
    layers, head = shape.matrices()
    attention = 2 * rows.rows * rows.tokens**2 * shape.hidden * shape.layers  # half of what a full square would take
    forward = 2 * layers * rows.rows * rows.tokens + attention
    return {"model": 3 * forward + 6 * head * rows.responses, "recomputed": forward}


def report(name: str, shape: Shape, rows: Rows, runs: dict[str, list[Run]], rate: float) -> dict[str, Any]:
    """Prints one model's table."""
    work = flops(shape, rows)
    layers, head = shape.matrices()
    weights = str(shape.weights).removeprefix("torch.")
    weights += " under bfloat16 autocast" if shape.weights == torch.float32 else ""
    print(f"\n{name}: {(layers + head) / 1e9:.2f}G weights in matrix products, {weights}")
    print(f"  {rows.rows} rows of {rows.tokens} tokens, {rows.prompt} of them prompt: a step needs")
    print(f"  {work['model'] / 1e12:.1f} TFLOP, and {work['recomputed'] / 1e12:.1f} more for checkpointing")
    print(
        f"  {'':8}{'passes s':>10}{'step s':>9}{'tokens/s':>10}{'of peak':>9}{'+ recomp.':>11}{'/ naive':>9}"
        f"{'/ trl':>7}{'peak GiB':>10}{'above GiB':>11}{'loss':>13}   raw seconds of passes"
    )
    for variant, all_runs in runs.items():
        done = [run for run in all_runs if not run.failed]
        if not done:
            print(f"  {variant:8}{all_runs[0].failed}")
            continue
        passes, whole = (median(s for run in done for s in getattr(run, what)) for what in ("passes", "whole"))
        shares = [part / passes / rate for part in (work["model"], sum(work.values()))]
        ratios = [_ratio(runs, variant, other) for other in ("naive", "trl")]
        peaks = [_largest(run.memory for run in done), _largest(run.above for run in done)]
        raw = " | ".join(" ".join(f"{s:.3f}" for s in run.passes) for run in done)
        print(
            f"  {variant:8}{passes:10.3f}{whole:9.3f}{rows.rows * rows.tokens / whole:10,.0f}{shares[0]:9.1%}"
            f"{shares[1]:11.1%}{ratios[0]:9.3f}{ratios[1]:7.3f}{peaks[0]:>10}{peaks[1]:>11}{done[0].loss:13.6g}   {raw}"
        )
    print("  passes: forward and backward; step: also clipping and AdamW; tokens/s: of steps; of peak: what the model")
    print(
        "  needs, over what a matrix product does in that time, + recomp.: with the recomputation; above: weights and"
    )
    print("  optimiser states; loss: of the first step")
    return {
        "shape": {key: str(value) for key, value in asdict(shape).items()},
        "rows": asdict(rows),
        "flop": work,
        "runs": {variant: [asdict(run) for run in all_runs] for variant, all_runs in runs.items()},
    }


def _largest(sizes: Iterable[int | None]) -> str:
    """In GiB; nobody knows it of a processor."""
    known = [size for size in sizes if size is not None]
    return f"{max(known) / GIB:.2f}" if known else "-"


def _ratio(runs: dict[str, list[Run]], variant: str, other: str) -> float:
    """The median over the rounds of the passes' time over the other's."""
    pairs = [(a.passes, b.passes) for a, b in zip(runs[variant], runs.get(other, []), strict=False)]
    found = [median(a) / median(b) for a, b in pairs if a and b]
    return median(found) if found else math.nan


def facts(device: Device) -> dict[str, Any]:
    """What the figures depend on."""
    import transformers

    known: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"), "torch": torch.__version__}
    known |= {"transformers": transformers.__version__, "device": "processor"}
    with contextlib.suppress(ImportError):
        import trl

        known["trl"] = trl.__version__
    if device.cuda:
        known |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return known


def turns(variants: list[str], rounds: int) -> Iterator[str]:
    """Forwards and backwards by turns."""
    for round in range(rounds):
        yield from variants if round % 2 == 0 else reversed(variants)


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["1.5b", "7b"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048, help="of a row")
    parser.add_argument("--prompt", type=int, default=256, help="of them, those that are not trained on")
    parser.add_argument("--warm", type=int, default=2, help="steps that do not count")
    parser.add_argument("--steps", type=int, default=5, help="steps of a round that count")
    parser.add_argument("--rounds", type=int, default=2, help="how often each model is made and measured")
    parser.add_argument("--no-optimiser", dest="optimiser", action="store_false", help="leave AdamW's step out")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes")
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu.json"))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing is measured (--device cpu --small runs the same code)")
        return
    if options.small:
        options.rows, options.tokens, options.prompt = 2, 64, 16
    device = Device(options.device)
    rate = peak_rate(device, options.small)
    known = facts(device) | {"peak_flops": rate}
    print(", ".join(f"{name} {value}" for name, value in known.items() if name != "peak_flops"))
    print(f"a bfloat16 matrix product runs at {rate / 1e12:.3g} TFLOP/s")
    result: dict[str, Any] = {"machine": known, "models": {}}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        shape = (SMALL if options.small else SHAPES)[name]
        rows = Rows(options.rows, options.tokens, options.prompt, shape.vocabulary)
        runs: dict[str, list[Run]] = {variant: [] for variant in options.variants}
        for variant in turns(options.variants, options.rounds):
            if not (runs[variant] and runs[variant][0].failed):
                runs[variant].append(measured(shape, variant, rows, device, options))
        result["models"][name] = report(name, shape, rows, runs, rate)
        options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"raw numbers: {options.out}")


if __name__ == "__main__":
    main()
