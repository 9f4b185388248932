"""Measures how samples are drawn: what laziness saves, and what retell adds to a bare engine.

    python bench/sampling.py laziness [--engine transformers|vllm] [--k 4 8 16] [--problems 400] [--rounds 3]
    python bench/sampling.py overhead [--problems 48] [--window 64] [--rounds 3]

The tiny policy and its problems for `laziness`, a policy of random weights for `overhead` (which needs vLLM). Run it on
an otherwise idle machine. See docs/log.md for what came out.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common import new_pool

from retell.drawing import LocalPolicy, open_policy
from retell.engines.base import Batches, Engine, Take
from retell.engines.named import open_engine
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.ladder import Climb, Ladder, Rollout, waves
from retell.meter import Meter
from retell.problems import load_problems
from retell.prompts import Prompter
from retell.recipe import Data, Policy, Rewrite, located
from retell.records import Problem, Request
from retell.rollout import Stream, run_plans

MAX_LENGTH = 320


@dataclass(frozen=True, slots=True)
class Run:
    """One rewriting: its climbs, what was generated and how long it took, without starting the engine."""

    climbs: dict[str, Climb]
    tokens: int
    seconds: float


def rewritten(settings: Rewrite, engine: Engine, policy: LocalPolicy, problems: list[Problem]) -> Run:
    """Climbs the ladder with all problems, in a journal of its own."""
    prompter = Prompter(Policy(), policy.tokenizer, settings.guided_template)
    ladder = Ladder(settings, prompter, engine, policy.fingerprint, MAX_LENGTH)
    stream, meter = Stream("rewrite", policy.fingerprint, settings.seed), Meter()
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder) / "journal.sqlite") as journal,
        GraderPool(grader_named("math"), 1) as graders,
    ):
        started = time.perf_counter()
        plans = ((problem.id, ladder.climb(problem)) for problem in problems)
        named = (_named(name, plan) for name, plan in plans)
        climbs = dict(run_plans(named, engine, graders, journal, stream, meter))
        return Run(climbs, meter.tokens, time.perf_counter() - started)


def _named(name, plan):  # type: ignore[no-untyped-def]
    return name, (yield from plan)


def replayed(climb: Climb) -> int:
    """The tokens that the wave rule would have drawn of an exhaustive climb."""
    return sum(_replayed(rollout) for rollout in (climb.own, climb.guided) if rollout)


def _replayed(rollout: Rollout) -> int:
    last = rollout.kept.sample.index if rollout.kept else rollout.wanted - 1
    drawn = next(wave.stop for wave in waves(rollout.wanted, False) if last in wave)
    return sum(attempt.sample.completion.tokens or 0 for attempt in rollout.attempts[:drawn])


def laziness(options: argparse.Namespace) -> None:
    """Tokens and time of lazy runs against exhaustive ones, paired, in alternating order."""
    policy = open_policy(Policy(model=located("retell:tiny/policy")))
    loaded = load_problems(Data(path=located("retell:tiny/data/train.jsonl"), limit=options.problems))
    problems = list(loaded.problems)
    arguments = {"transformers": {"batch_size": options.window}, "vllm": {"window": options.window}}[options.engine]
    base = Rewrite(
        engine=options.engine, engine_args=arguments, max_tokens=128, guided_template="retell:tiny/guided.txt"
    )
    with closing(open_engine(base, policy.folder, policy.tokenizer, (), False)) as engine:
        rewritten(base.model_copy(update={"seed": 1 << 20}), engine, policy, problems[:64])  # warms up
        print(
            f"{options.engine}, {len(problems)} problems, {options.window} requests in flight, {options.rounds} rounds"
        )
        print(f"{'K':>3}{'drawn/replay':>14}{'tokens saved':>14}{'time saved':>12}{'ratio':>8}{'rows alike':>12}")
        for k in options.k:
            _compare(k, base, engine, policy, problems, options.rounds)


def _compare(k: int, base: Rewrite, engine: Engine, policy: LocalPolicy, problems: list[Problem], rounds: int) -> None:
    drawn, tokens, times, alike = [], [], [], 0
    for seed in range(rounds):
        settings = base.model_copy(update={"k": k, "seed": seed})
        modes = [False, True] if seed % 2 else [True, False]
        runs = {
            mode: rewritten(settings.model_copy(update={"exhaustive": mode}), engine, policy, problems)
            for mode in modes
        }
        lazy, whole = runs[False], runs[True]
        predicted = sum(map(replayed, whole.climbs.values()))
        drawn.append(lazy.tokens / predicted)
        tokens.append(1 - lazy.tokens / whole.tokens)
        times.append(1 - lazy.seconds / whole.seconds)
        alike += sum(_kept(lazy.climbs[name]) == _kept(whole.climbs[name]) for name in whole.climbs)
    saved, faster = median(tokens), median(times)
    share = alike / (rounds * len(problems))
    print(f"{k:3}{median(drawn):14.4f}{saved:14.1%}{faster:12.1%}{faster / saved:8.2f}{share:12.1%}", flush=True)


def _kept(climb: Climb) -> object:
    rollout = climb.guided or climb.own
    return rollout.kept and (rollout.kept.sample.rung, rollout.kept.sample.completion.ids)


# -------------------------------------------------------------------------------------------------------- overhead


class Timed:
    """Seconds that this thread spends in some methods of an object."""

    def __init__(self, *places: tuple[object, str]) -> None:
        self.seconds = 0.0
        for owner, name in places:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def random_policy(folder: Path, hidden: int, layers: int) -> None:
    """A policy of random weights with the tiny policy's tokenizer: every token is about equally likely."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(
        located("retell:tiny/policy"), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    given = json.loads((Path(located("retell:tiny/policy")) / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    names = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        **{name: given.get(name) for name in names},
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def overhead(options: argparse.Namespace) -> None:
    """Generated tokens per second of an exhaustive rewriting against a bare vLLM loop over the same requests."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "policy"
        random_policy(place, options.hidden, options.layers)
        policy = open_policy(Policy(model=str(place)))
        loaded = load_problems(Data(path=located("retell:tiny/data/train.jsonl"), limit=options.problems))
        settings = Rewrite(
            engine="vllm",
            k=4,
            exhaustive=True,
            max_tokens=options.max_tokens,
            guided_template="retell:tiny/guided.txt",
            engine_args={"max_num_seqs": options.window // 2, "window": options.window},
        )
        bare = Bare(place, policy, options.window // 2)
        with closing(open_engine(settings, policy.folder, policy.tokenizer, (), False)) as engine:
            print(
                f"{'round':>5}{'bare tok/s':>12}{'retell tok/s':>14}{'ratio':>8}{'journal':>9}{'pool':>7}{'graders':>9}"
            )
            ratios = []
            for seed in range(-1, options.rounds):  # the first round warms up
                chosen = settings.model_copy(update={"seed": seed + 1})
                ratio = _overhead(chosen, engine, bare, policy, list(loaded.problems), seed)
                ratios += [ratio] if seed >= 0 else []
        print(f"median ratio {median(ratios):.3f} of {len(ratios)} rounds")


class Bare:
    """vLLM as one uses it without retell: all requests in one list."""

    def __init__(self, folder: Path, policy: LocalPolicy, at_once: int) -> None:
        from vllm import LLM

        self._policy = policy
        self._llm = LLM(
            str(folder), max_num_seqs=at_once, logprobs_mode="processed_logprobs", generation_config="vllm",
            enable_chunked_prefill=False, disable_log_stats=True,
        )  # fmt: skip

    def tokens(self, requests: list[Request]) -> int:
        """Draws all requests; returns how many tokens it generated."""
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                temperature=request.sampling.temperature, top_p=request.sampling.top_p, seed=request.seed, logprobs=0,
                max_tokens=request.sampling.max_tokens, stop_token_ids=sorted(self._policy.tokenizer.end_ids),
                ignore_eos=True, detokenize=False,
            )
            for request in requests
        ]  # fmt: skip
        prompts = [{"prompt_token_ids": list(request.prompt.ids or ())} for request in requests]
        outputs = self._llm.generate(prompts, parameters, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)


class Noting:
    """An engine that remembers what it was asked."""

    def __init__(self, engine: Engine) -> None:
        self.draws, self.context, self.faults, self.close = engine.draws, engine.context, engine.faults, engine.close
        self.asked: list[Request] = []
        self._engine = engine

    def sample(self, take: Take) -> Batches:
        """As the engine does."""

        def noting(room: int, idle: bool) -> list[Request]:
            requests = take(room, idle)
            self.asked += requests
            return requests

        return self._engine.sample(noting)


def grading_seconds() -> float:
    """Processor seconds of the grading processes so far, those of their children that have ended included."""
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"retell.graders" in (process / "cmdline").read_bytes():
                ticks += sum(map(int, (process / "stat").read_text().rsplit(")", 1)[1].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _overhead(
    settings: Rewrite, engine: Engine, bare: Bare, policy: LocalPolicy, problems: list[Problem], number: int
) -> float:
    prompter = Prompter(Policy(), policy.tokenizer, settings.guided_template)
    ladder = Ladder(settings, prompter, engine, policy.fingerprint, MAX_LENGTH)
    stream, meter, noting = Stream("rewrite", policy.fingerprint, settings.seed), Meter(), Noting(engine)
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(Path(folder) / "journal.sqlite") as journal,
        new_pool(1) as graders,
    ):
        storing = Timed(*((journal, name) for name in ("samples", "verdicts", "add_samples", "add_verdicts")))
        handing = Timed(*((graders, name) for name in ("submit", "collect")))
        busy = grading_seconds()
        started = time.perf_counter()
        for _ in run_plans(map(ladder.climb, problems), noting, graders, journal, stream, meter):
            pass
        seconds = time.perf_counter() - started
        busy = grading_seconds() - busy
    started = time.perf_counter()
    tokens = bare.tokens(noting.asked)
    alone = time.perf_counter() - started
    ratio = (meter.tokens / seconds) / (tokens / alone)
    shares = [storing.seconds / seconds, handing.seconds / seconds, busy / seconds]
    print(
        f"{number:5}{tokens / alone:12,.0f}{meter.tokens / seconds:14,.0f}{ratio:8.3f}"
        f"{shares[0]:9.2%}{shares[1]:7.2%}{shares[2]:9.2%}   ({seconds:.0f} s, {meter.tokens} against {tokens} tokens)",
        flush=True,
    )
    return ratio


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["laziness", "overhead"])
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=512, help="width of the random policy")
    parser.add_argument("--layers", type=int, default=8, help="its layers")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest response of the random policy")
    options = parser.parse_args()
    {"laziness": laziness, "overhead": overhead}[options.what](options)


if __name__ == "__main__":
    main()
