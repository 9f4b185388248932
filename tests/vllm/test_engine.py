import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import retell
from retell.engines.vllm import VllmEngine, known_arguments
from retell.errors import EngineError, PolicyError, RecipeError
from retell.logprobs import row_logprobs
from retell.policy import load_model
from retell.problems import load_problems
from retell.prompts import Prompter
from retell.recipe import Data, Policy
from retell.records import Completion, Prompt, Request, Sampling
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
PLAIN = Sampling(1.0, 1.0, 100)
SMALL = {"kv_cache_memory_bytes": 1 << 26, "enforce_eager": True}
ENDLESS = """
import sys
from itertools import count
from pathlib import Path
from retell.engines.vllm import VllmEngine
from retell.records import Prompt, Request, Sampling
from retell.tokens import ChatTokenizer

def main():
    folder = Path(sys.argv[1])
    tokenizer = ChatTokenizer(folder)
    prompt = Prompt((), tokenizer.prompt_ids([{"role": "user", "content": "What is 1 + 1?"}]))
    numbers = count()
    engine = VllmEngine(folder, tokenizer, kv_cache_memory_bytes=1 << 26, enforce_eager=True)
    take = lambda room, idle: [
        Request(str(next(numbers)), "p", "self", 0, 0, prompt, Sampling(1.0, 1.0, 100), 0) for _ in range(room)
    ]
    try:
        for number, batch in enumerate(engine.sample(take)):
            if number == 5:
                print("drawing", flush=True)
    except KeyboardInterrupt:
        engine.close()
        print("closed", flush=True)

if __name__ == "__main__":
    main()
"""


def requests(tokenizer: ChatTokenizer, n: int, samples: int = 4, sampling: Sampling = PLAIN) -> list[Request]:
    prompter = Prompter(Policy(), tokenizer)
    problems = load_problems(Data(path=str(TINY / "data/bench-2.jsonl"), limit=n)).problems
    return [
        Request(
            f"{p.id}/{i}", p.id, "self", 0, i, prompter.solve(p.problem), sampling, seed=(1 << 62) + 1000 * i + number
        )
        for number, p in enumerate(problems)
        for i in range(samples)
    ]


def prompt_of(tokenizer: ChatTokenizer, tokens: int) -> Prompt:
    """A prompt of so many tokens that asks the same again and again."""
    ids = tokenizer.prompt_ids([{"role": "user", "content": "What is 12 + 7? " * tokens}])
    end = tokenizer.prompt_ids([{"role": "user", "content": ""}])[-2:]
    return Prompt((), (*ids[: tokens - len(end)], *end))


def sample(engine: VllmEngine, todo: Iterable[Request]) -> dict[str, Completion]:
    queue = list(todo)

    def take(room: int, idle: bool) -> list[Request]:
        taken, queue[:] = queue[:room], queue[room:]
        return taken

    answers = [(request.key, completion) for batch in engine.sample(take) for request, completion in batch]
    assert len(answers) == len(dict(answers))
    return dict(answers)


def processed_logprobs(model: PreTrainedModel, request: Request, completion: Completion) -> Tensor:
    """Log-probs of a completion under its sampling distribution, by a plain forward pass."""
    assert request.prompt.ids and completion.ids
    ids = torch.tensor([[*request.prompt.ids, *completion.ids]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(request.prompt.ids) - 1 : -1]
    probs = (logits / request.sampling.temperature).softmax(-1)
    ordered, order = probs.sort(descending=True)
    kept = (ordered.cumsum(-1) - ordered < request.sampling.top_p).gather(-1, order.argsort())
    probs = probs * kept / (probs * kept).sum(-1, keepdim=True)
    return probs.gather(-1, ids[0, len(request.prompt.ids) :, None])[:, 0].log()


def test_every_request_is_answered_with_the_ids_of_its_text(engine: VllmEngine, tokenizer: ChatTokenizer) -> None:
    todo = requests(tokenizer, 30)
    drawn = sample(engine, todo)
    assert drawn.keys() == {request.key for request in todo}
    for completion in drawn.values():
        assert completion.ids is not None and completion.logprobs is not None
        ended = completion.ids[-1] in tokenizer.end_ids
        assert completion.stop == ("stop" if ended else "length")
        assert sum(token in tokenizer.end_ids for token in completion.ids) == ended
        assert completion.text == tokenizer.decode(completion.ids)
        assert len(completion.logprobs) == len(completion.ids) <= 100
    assert Counter(completion.stop for completion in drawn.values())["stop"] > 60
    assert len({completion.ids for completion in drawn.values()}) > 60


def test_logprobs_at_temperature_1_are_those_of_a_forward_pass(
    engine: VllmEngine, tokenizer: ChatTokenizer, model: PreTrainedModel
) -> None:
    todo = requests(tokenizer, 12)
    drawn = sample(engine, todo)
    pairs = [(request.prompt.ids or (), drawn[request.key].ids or ()) for request in todo]
    for number, own in row_logprobs(model, pairs, 1 << 14):
        torch.testing.assert_close(drawn[todo[number].key].logprobs, tuple(own), atol=1e-4, rtol=0)


def test_logprobs_are_those_of_the_distribution_that_sampled(
    engine: VllmEngine, tokenizer: ChatTokenizer, model: PreTrainedModel
) -> None:
    todo = requests(tokenizer, 8, sampling=Sampling(0.7, 0.9, 60))
    for key, completion in sample(engine, todo).items():
        wanted = processed_logprobs(model, next(request for request in todo if request.key == key), completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), wanted, atol=1e-4, rtol=0)


def test_temperature_0_takes_the_likeliest_token_with_certainty(
    engine: VllmEngine, tokenizer: ChatTokenizer, model: PreTrainedModel
) -> None:
    todo = requests(tokenizer, 6, samples=2, sampling=Sampling(0.0, 1.0, 60))
    drawn = sample(engine, [*todo, *requests(tokenizer, 9)[24:]])  # among others that are drawn by chance
    for request in todo:
        completion = drawn[request.key]
        assert request.prompt.ids and completion.ids
        assert completion.logprobs == (0.0,) * len(completion.ids)
        ids = torch.tensor([[*request.prompt.ids, *completion.ids]])
        with torch.inference_mode():
            best = model(ids).logits[0, :-1].argmax(-1)[len(request.prompt.ids) - 1 :]
        assert tuple(best.tolist()) == completion.ids


def test_a_sample_depends_on_its_request_alone(engine: VllmEngine, tokenizer: ChatTokenizer) -> None:
    todo = requests(tokenizer, 20)
    together = sample(engine, todo)
    alone = sample(engine, todo[::-7])
    assert {key: completion.ids for key, completion in alone.items()} == {key: together[key].ids for key in alone}


def test_a_response_that_reaches_its_limit_stopped_for_length(engine: VllmEngine, tokenizer: ChatTokenizer) -> None:
    for completion in sample(engine, requests(tokenizer, 4, sampling=Sampling(1.0, 1.0, 3))).values():
        assert completion.ids is not None
        assert (completion.stop, len(completion.ids)) == ("length", 3)


def test_first_tokens_are_as_frequent_as_they_are_probable(
    engine: VllmEngine, tokenizer: ChatTokenizer, model: PreTrainedModel
) -> None:
    prompt = requests(tokenizer, 1)[0].prompt
    draws = 3000
    todo = [Request(str(i), "p", "self", 0, i, prompt, Sampling(2.0, 1.0, 1), seed=i) for i in range(draws)]
    drawn = sample(engine, todo)
    counted = Counter(completion.ids for completion in drawn.values())
    chance = {
        ids: float(processed_logprobs(model, todo[0], Completion("", ids, None, "length")).exp()) for ids in counted
    }
    often = [ids for ids in counted if chance[ids] * draws >= 5]
    expected = torch.tensor([chance[ids] * draws for ids in often] + [(1 - sum(chance[ids] for ids in often)) * draws])
    observed = torch.tensor([counted[ids] for ids in often] + [draws - sum(counted[ids] for ids in often)])
    chi2 = float(((observed - expected) ** 2 / expected.clamp_min(1)).sum())
    freedom = len(often)
    assert freedom > 15
    assert float(torch.special.gammaincc(torch.tensor(freedom / 2), torch.tensor(chi2 / 2))) > 1e-3


def test_long_prompts_are_read_among_short_ones(
    engine: VllmEngine, tokenizer: ChatTokenizer, model: PreTrainedModel
) -> None:
    todo = requests(tokenizer, 30)
    long = [
        Request(f"long/{i}", "p", "self", 0, i, prompt_of(tokenizer, 4500 + 300 * i), Sampling(1.0, 1.0, 20), seed=i)
        for i in range(4)
    ]
    mixed = [request for group in zip(*[iter(todo)] * 30, strict=True) for request in (*group, long.pop())]
    drawn = sample(engine, mixed)
    assert Counter(completion.stop for completion in drawn.values())["error"] == 0
    for request in mixed:
        if request.key.startswith("long"):
            completion = drawn[request.key]
            wanted = processed_logprobs(model, request, completion)
            torch.testing.assert_close(torch.tensor(completion.logprobs), wanted, atol=1e-4, rtol=0)


def test_small_budgets_and_sequences_that_are_set_aside_change_nothing(
    engine: VllmEngine, tokenizer: ChatTokenizer
) -> None:
    todo = requests(tokenizer, 20)
    # The cache has room for sixteen samples that begin, and they grow: some are set aside and read again later.
    small = {"max_model_len": 512, "max_num_batched_tokens": 512, "num_gpu_blocks_override": 17, "block_size": 32}
    with closing(VllmEngine(TINY / "policy", tokenizer, **small, **SMALL)) as crowded:  # type: ignore[arg-type]
        drawn = sample(crowded, todo)
    roomy = sample(engine, todo)
    assert {key: completion.ids for key, completion in drawn.items()} == {
        key: completion.ids for key, completion in roomy.items()
    }


def test_a_prompt_that_is_too_long_costs_its_own_sample_only(engine: VllmEngine, tokenizer: ChatTokenizer) -> None:
    before = engine.faults.total()
    too_long = Request("too long", "p", "self", 0, 0, prompt_of(tokenizer, 6000), PLAIN, seed=0)
    drawn = sample(engine, [too_long, *requests(tokenizer, 3)])
    refused = drawn.pop("too long")
    assert (refused.stop, refused.ids) == ("error", None)
    assert refused.error and "6000" in refused.error
    assert {completion.stop for completion in drawn.values()} <= {"stop", "length"}
    assert engine.faults.total() == before + 1


def variant(folder: Path, tokenizer: ChatTokenizer, *, tied: bool, noise: float, shard: str = "1GB") -> Path:
    """The tiny policy with other weights, its head tied to its embeddings or not."""
    config = LlamaConfig.from_pretrained(TINY / "policy", tie_word_embeddings=tied)
    model = LlamaForCausalLM(config)
    model.load_state_dict(load_model(TINY / "policy", "float32", "cpu", trust_remote_code=False).state_dict())
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += noise * weight.std(correction=0) * torch.randn(weight.shape, generator=source)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [False, True], ids=["in-place", "started-anew"])
def test_other_weights_are_taken_over_and_nothing_of_the_old_ones_is_left(
    tokenizer: ChatTokenizer, tmp_path: Path, tied: bool
) -> None:
    first = variant(tmp_path / "first", tokenizer, tied=tied, noise=0.0)
    second = variant(tmp_path / "second", tokenizer, tied=tied, noise=0.05, shard="300KB")
    assert (second / "model.safetensors.index.json").is_file()
    todo = requests(tokenizer, 8)
    for number in range(4):  # long enough for vLLM to keep their beginnings
        prompt = prompt_of(tokenizer, 300 + number)
        todo += [Request(f"long/{number}/{i}", "p", "self", 0, i, prompt, Sampling(1.0, 1.0, 50), i) for i in range(2)]
    with closing(VllmEngine(second, tokenizer, **SMALL)) as fresh:  # type: ignore[arg-type]
        wanted = sample(fresh, todo)
    with closing(VllmEngine(first, tokenizer, **SMALL)) as engine:  # type: ignore[arg-type]
        before, processes = sample(engine, todo), processes_of_vllm(os.getpid())
        small = LlamaConfig.from_pretrained(first, intermediate_size=128)
        LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
        with pytest.raises(PolicyError, match="its intermediate_size is 128, not 256"):
            engine.load(tmp_path / "small")
        for folder, expected in ((second, wanted), (first, before)):
            engine.load(folder)
            assert (processes_of_vllm(os.getpid()) == processes) == (not tied)
            drawn = sample(engine, todo)
            for key, completion in drawn.items():
                assert completion.ids == expected[key].ids
                assert completion.logprobs == pytest.approx(expected[key].logprobs, abs=1e-4)
    assert all(wanted[key].logprobs != pytest.approx(before[key].logprobs, abs=1e-3) for key in before)


def test_weights_that_are_torn_stop_the_engine_with_their_cause(
    tokenizer: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first, second = (variant(tmp_path / name, tokenizer, tied=False, noise=0.05) for name in ("first", "second"))
    weights = (second / "model.safetensors").read_bytes()
    (second / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with closing(VllmEngine(first, tokenizer, **SMALL)) as engine:  # type: ignore[arg-type]
        with pytest.raises(EngineError, match=r"vllm has not taken over the weights in .*second: ") as raised:
            engine.load(second)
        with pytest.raises(EngineError, match="vllm has stopped"):
            sample(engine, requests(tokenizer, 1))
    assert "\n" not in str(raised.value)


def test_the_window_is_full_while_there_is_work(engine: VllmEngine, tokenizer: ChatTokenizer) -> None:
    queue = requests(tokenizer, 60)
    flying, least = 0, 100

    def take(room: int, idle: bool) -> list[Request]:
        nonlocal flying, least
        assert room == 100 - flying and idle == (flying == 0)
        taken, queue[:] = queue[:room], queue[room:]
        flying += len(taken)
        least = min(least, flying) if queue else least
        return taken

    for batch in engine.sample(take):
        flying -= len(batch)
    assert (flying, least, queue) == (0, 100, [])


def test_the_context_is_that_of_the_engine(engine: VllmEngine) -> None:
    assert engine.context == 6000


def test_the_environment_stays_as_it_was(engine: VllmEngine) -> None:
    assert not {"VLLM_NO_USAGE_STATS", "VLLM_WORKER_MULTIPROC_METHOD", "LOCAL_WORLD_SIZE"} & os.environ.keys()


def test_arguments_of_the_engine_are_known_but_for_those_that_retell_sets() -> None:
    known = known_arguments()
    assert {"window", "tensor_parallel_size", "data_parallel_size", "max_num_seqs", "dtype"} <= known
    assert not {"model", "tokenizer", "logprobs_mode", "generation_config", "seed", "self"} & known


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tensor_parallel_size": 0}, "engine_args.tensor_parallel_size = 0"),
        ({"max_num_seqs": "many"}, "engine_args.max_num_seqs = 'many'"),
        ({"enforce_eager": "perhaps"}, "engine_args.enforce_eager = 'perhaps': it is true or false"),
        ({"gpu_memory_utilization": "most"}, "engine_args.gpu_memory_utilization = 'most': it is a number"),
        ({"gpu_memory_utilization": 2}, "engine_args.gpu_memory_utilization = 2: Input should be less than"),
        ({"dtype": "float23"}, "engine_args.dtype = 'float23'"),
        ({"window": 0}, "engine_args.window = 0"),
        ({"enable_chunked_prefill": True}, "engine_args.enable_chunked_prefill = True: on a CPU"),
        ({"long_prefill_token_threshold": 64}, "engine_args.long_prefill_token_threshold = 64: on a CPU"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], words: str, tokenizer: ChatTokenizer) -> None:
    with pytest.raises(RecipeError, match=words):
        VllmEngine(TINY / "policy", tokenizer, **(SMALL | arguments))  # type: ignore[arg-type]


def test_what_vllm_cannot_run_is_said_in_a_line(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"max_num_batched_tokens \(100\) is smaller than max_model_len \(512\)"):
        VllmEngine(TINY / "policy", tokenizer, max_num_batched_tokens=100)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["Nonesuch"]}', encoding="utf-8")
    with pytest.raises(PolicyError, match=r"vllm cannot run .*Nonesuch") as raised:
        VllmEngine(tmp_path, tokenizer)
    assert "\n" not in str(raised.value)


def test_a_model_without_weights_is_an_error_with_its_cause(
    policy: Path, tokenizer: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((policy / name).read_bytes())
    with pytest.raises(EngineError, match=r"vllm does not start: .*weights") as raised:
        VllmEngine(tmp_path, tokenizer, **SMALL)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [(Sampling(3.0, 1.0, 9), r"temperature must be in \[0, 2\]"), (Sampling(0.001, 1.0, 9), "0.01")],
)
def test_sampling_that_vllm_would_change_is_refused(
    sampling: Sampling, words: str, engine: VllmEngine, tokenizer: ChatTokenizer
) -> None:
    with pytest.raises(RecipeError, match=words):
        sample(engine, requests(tokenizer, 1, sampling=sampling))


def test_an_engine_that_is_killed_is_an_error_and_leaves_nothing(
    tokenizer: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = processes_of_vllm(os.getpid())
    with closing(VllmEngine(TINY / "policy", tokenizer, **SMALL)) as engine:  # type: ignore[arg-type]
        started = processes_of_vllm(os.getpid()) - before
        core = next(process for process in started if "Core" in process.name())
        prompt = requests(tokenizer, 1)[0].prompt

        def take(room: int, idle: bool) -> list[Request]:
            return [Request("endless", "p", "self", 0, 0, prompt, PLAIN, seed=0)] * room

        answers = engine.sample(take)
        for _ in range(5):
            next(answers)
        core.kill()
        with pytest.raises(EngineError, match=r"vllm has stopped: .*what was drawn is stored: start again") as raised:
            list(answers)
    assert "\n" not in str(raised.value)
    assert left(started) == []
    (log,) = tmp_path.glob("retell-vllm-*.log")
    assert str(log) in str(raised.value)


def test_however_retell_ends_no_process_of_vllm_is_left(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS, encoding="utf-8")
    command = [sys.executable, "endless.py", str(TINY / "policy")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    killed, interrupted = (subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes) for _ in range(2))
    started = {}
    for run in (killed, interrupted):
        assert run.stdout
        assert run.stdout.readline() == "drawing\n"
        started[run] = processes_of_vllm(run.pid)
        assert len(started[run]) == 2
    killed.kill()
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does
    assert interrupted.communicate(timeout=60) == ("closed\n", "")
    assert left(started[interrupted]) == []
    assert killed.communicate() == ("", "")
    deadline = time.monotonic() + 60
    while left(started[killed]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left(started[killed]) == []


def processes_of_vllm(parent: int) -> set[psutil.Process]:
    return {child for child in psutil.Process(parent).children(recursive=True) if child.name().startswith("VLLM::")}


def left(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that live; one that has ended may wait long for a new parent to take note."""
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
