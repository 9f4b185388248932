"""Measures the scoring of rewritten rows beside the plain way: one response at a time, through full logits.

    python bench/gap.py speed [--problems 400] [--rounds 5]
    python bench/gap.py memory [--vocabulary 151936] [--hidden 512] [--layers 2] [--rows 16] [--tokens 1024]

`speed` rewrites packaged problems with the packaged policy and scores them, text and tokens included; `memory` takes a
policy of random weights. The ways take turns in one process, in alternating order, after a round that is thrown away; a
ratio is the median of the rounds' ratios. Run it on an otherwise idle machine. See docs/log.md for what came out.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from heads import Resident
from paired import MIB, Json, alternating, judged, machine, told
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from retell.drawing import open_policy
from retell.gap import measure_gap
from retell.logprobs import row_logprobs
from retell.mixes import expert_ids, kept_ids
from retell.packing import Pair
from retell.parts import Parts
from retell.pipeline import run_rewrite
from retell.policy import load_model
from retell.recipe import Policy, Recipe, located
from retell.runfolder import RunFolder
from retell.tables import read_rows
from retell.tokens import ChatTokenizer

TINY = "retell:tiny/policy"
COLUMNS = ("id", "rung", "solution", "messages", "response_token_ids", "behaviour_logprobs")


@torch.no_grad()
def plain(model: PreTrainedModel, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[float]]]:
    """One response after the other, through all logits of the whole row."""
    for number, (prompt, response) in enumerate(pairs):
        ids = torch.tensor([[*prompt, *response]])
        logp = model(ids).logits[0, :-1].float().log_softmax(-1)
        yield number, logp.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0].tolist()


def plainly(rewritten: Path, tokenizer: ChatTokenizer, model: PreTrainedModel) -> list[tuple[list[float], list[float]]]:
    """Both responses of every row, row by row."""
    found = []
    for row in read_rows(rewritten, COLUMNS):
        pairs = [(one.prompt, one.response) for one in (expert_ids(row, tokenizer), kept_ids(row, tokenizer))]
        scored = dict(plain(model, pairs[:1] if pairs[0] == pairs[1] else pairs))
        found.append((scored[0], scored.get(1, scored[0])))
    return found


def retells(rewritten: Path, tokenizer: ChatTokenizer, model: PreTrainedModel) -> list[tuple[list[float], list[float]]]:
    """The stage itself: blocks, parts, gap.parquet and the statistics."""
    with tempfile.TemporaryDirectory() as place, RunFolder(Path(place)) as folder:
        measure_gap(
            rewritten, tokenizer, partial(row_logprobs, model), Parts(folder, ".gap/x", "x"), folder, "gap.parquet"
        )
        rows = read_rows(Path(place) / "gap.parquet")
        return [(row["expert_logprobs"], row["rewritten_logprobs"]) for row in rows]


def products(model: PreTrainedModel, tokens: int, asked: int) -> None:
    """Nothing but the matrix products that so many tokens cost, the head's for those that are asked for: what is left
    of a pass if all else were free.
    """
    layers = [one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and "lm_head" not in name]
    with torch.inference_mode():
        for linear, n in [*((layer, tokens) for layer in layers), (model.get_output_embeddings(), asked)]:
            for begin in range(0, n, 2048):
                torch.nn.functional.linear(torch.ones(min(2048, n - begin), linear.in_features), linear.weight)


def _tokens(rewritten: Path, tokenizer: ChatTokenizer) -> tuple[int, int]:
    """Tokens of prompts and responses, each prompt once, and of responses alone."""
    prompts = responses = 0
    for row in read_rows(rewritten, COLUMNS):
        expert, kept = expert_ids(row, tokenizer), kept_ids(row, tokenizer)
        prompts += len(expert.prompt)
        responses += len(expert.response) + (len(kept.response) if kept.response != expert.response else 0)
    return prompts + responses, responses


def speed(options: argparse.Namespace) -> Json:
    """Rows a second of the packaged policy."""
    policy = open_policy(Policy(model=TINY))
    ways: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        rewritten = _rewritten(Path(place), options.problems)
        for name, way, dtype in (
            ("retell", retells, "float32"),
            ("plain", plainly, "float32"),
            ("plain, float16", plainly, "float16"),
        ):
            model = load_model(policy.folder, dtype, "cpu", trust_remote_code=False).eval()
            ways[name] = partial(way, rewritten, policy.tokenizer, model)
        model = load_model(policy.folder, "float32", "cpu", trust_remote_code=False)
        ways["products alone"] = partial(products, model, *_tokens(rewritten, policy.tokenizer))
        error = _largest_difference(ways["retell"](), ways["plain"]())
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round in range(-1, options.rounds):
            for name in alternating(list(ways), round):
                taken = _seconds(ways[name])
                if round >= 0:
                    seconds[name].append(taken)
        facts, split = machine(), _where(ways["retell"])
        rows = sum(1 for _ in read_rows(rewritten, ["id"]))
        responses = sum(1 if row["rung"] == "expert" else 2 for row in read_rows(rewritten, ["rung"]))
    print(told(facts))
    print(f"  {rows} rows, {responses} responses; log-probs differ by at most {error:.1e} from the plain way's")
    for name, taken in seconds.items():
        ratio = median(a / b for a, b in zip(taken, seconds["retell"], strict=True))
        raw = " ".join(f"{one:.2f}" for one in taken)
        print(f"  {name:16}{rows / median(taken):9.1f} rows/s {ratio:7.2f} × retell's time   {raw}")
    print("  retell's operations: " + ", ".join(f"{name} {share:.0%}" for name, share in split.items()))
    ratios = {
        name: median(a / b for a, b in zip(seconds[name], seconds["retell"], strict=True))
        for name in ("plain", "plain, float16")
    }
    criteria = [judged(f"rows a second / {name}", ratio, 8, least=True) for name, ratio in ratios.items()]
    return {"machine": facts, "seconds": seconds, "rows": rows, "error": error, "split": split, "criteria": criteria}


def _rewritten(place: Path, problems: int) -> Path:
    tiny = "retell:tiny"
    document = {
        "policy": {"model": located(TINY)},
        "data": {"path": located(f"{tiny}/data/train.jsonl"), "limit": problems, "max_length": 320},
        "rewrite": {
            "max_tokens": 128,
            "guided_template": located(f"{tiny}/guided.txt"),
            "engine_args": {"batch_size": 512},
        },
    }
    with RunFolder(place) as folder:
        run_rewrite(Recipe.model_validate(document), folder)
    return place / "rewritten.parquet"


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _largest_difference(mine: Sequence[Any], theirs: Sequence[Any]) -> float:
    return max(
        abs(a - b)
        for ours, others in zip(mine, theirs, strict=True)
        for side, other in zip(ours, others, strict=True)
        for a, b in zip(side, other, strict=True)
    )


def _where(work: Callable[[], object]) -> dict[str, float]:
    """What share of the time torch's operations have, by kind; the rest is Python, text and files."""
    from torch.profiler import ProfilerActivity, profile

    kinds = {"products": ("aten::mm", "aten::addmm", "aten::bmm"), "attention": ("attention",)}
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    whole = time.perf_counter() - started
    split = dict.fromkeys([*kinds, "other operations"], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, names in kinds.items() if any(name in event.key for name in names)), None)
        if kind or event.key.startswith("aten::"):
            split[kind or "other operations"] += event.self_cpu_time_total / 1e6 / whole
    return split


# ------------------------------------------------------------------------------------------------------------- memory


def memory(options: argparse.Namespace) -> Json:
    """Peak memory above the weights, each way in a process of its own."""
    peaks = {}
    for name in ("retell", "plain"):
        sizes = [
            f"--{key}={getattr(options, key)}"
            for key in ("vocabulary", "hidden", "layers", "rows", "tokens", "threads")
        ]
        command = [sys.executable, __file__, "one", f"--way={name}", *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        peaks[name] = json.loads(done.stdout.splitlines()[-1])["peak"]
    facts = machine()
    print(told(facts))
    print(f"  {options.rows} rows of {options.tokens} tokens, vocabulary {options.vocabulary}, hidden {options.hidden}")
    for name, peak in peaks.items():
        print(f"  {name:8}{peak / MIB:9.0f} MiB above the weights")
    criteria = [judged("memory / plain", peaks["retell"] / peaks["plain"], 0.5)]
    return {"machine": facts, "peaks": peaks, "criteria": criteria}


def one(options: argparse.Namespace) -> Json:
    """One way, in this process."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=2 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
    )
    model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(1)

    def ids(number: int) -> list[int]:
        return torch.randint(options.vocabulary, (number,), generator=generator).tolist()

    pairs = [(ids(options.tokens // 4), ids(options.tokens - options.tokens // 4)) for _ in range(options.rows)]
    score = {"retell": row_logprobs, "plain": plain}[options.way]
    list(score(model, [(ids(4), ids(4))]))  # loads the libraries, which is not what is measured
    gc.collect()
    with Resident() as watch:
        for _ in score(model, pairs):
            pass
    return {"peak": watch.peak - watch.begin}


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "one"])
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "2")))
    parser.add_argument("--out", type=Path, help="JSON with all raw numbers; by default build/bench/gap-WHAT.json")
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--way", choices=["retell", "plain"], help="of `one`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "one":
        print(json.dumps(one(options)))
        return
    print(f"{options.threads} threads, load {os.getloadavg()[0]:.2f}")
    result = {"speed": speed, "memory": memory}[options.what](options)
    out = options.out or Path("build/bench") / f"gap-{options.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"raw numbers: {out}")


if __name__ == "__main__":
    main()
