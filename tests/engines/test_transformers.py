import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import retell
from retell.engines.slots import Layers
from retell.engines.transformers import TransformersEngine
from retell.errors import PolicyError
from retell.problems import load_problems
from retell.prompts import Prompter
from retell.recipe import Data, Policy
from retell.records import Completion, Request, Sampling
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
TOKENIZER = ChatTokenizer(TINY / "policy")


PLAIN = Sampling(1.0, 1.0, 100)


def requests(n: int, samples: int = 4, sampling: Sampling = PLAIN) -> list[Request]:
    prompter = Prompter(Policy(), TOKENIZER)
    problems = load_problems(Data(path=str(TINY / "data/bench-2.jsonl"), limit=n)).problems
    return [
        Request(f"{p.id}/{i}", p.id, "self", 0, i, prompter.solve(p.problem), sampling, seed=1000 * i + number)
        for number, p in enumerate(problems)
        for i in range(samples)
    ]


def sample(todo: Sequence[Request], batch_size: int) -> dict[str, Completion]:
    return drawn_by(TransformersEngine(TINY / "policy", TOKENIZER, batch_size=batch_size, device="cpu"), todo)


def drawn_by(engine: TransformersEngine, todo: Sequence[Request]) -> dict[str, Completion]:
    queue = list(todo)

    def take(room: int, idle: bool) -> list[Request]:
        taken, queue[:] = queue[:room], queue[room:]
        return taken

    return {request.key: completion for batch in engine.sample(take) for request, completion in batch}


def test_every_request_is_answered_once_and_alike_in_any_batch_and_order() -> None:
    todo = requests(12)
    together = sample(todo, 64)
    assert together.keys() == {request.key for request in todo}
    one_by_one = sample(todo[::-1], 3)
    assert {key: c.ids for key, c in one_by_one.items()} == {key: c.ids for key, c in together.items()}


def test_a_prompt_is_prefilled_once_for_all_its_samples_and_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    todo = requests(6, 4)
    together = sample(todo, 64)
    prefilled: list[tuple[int, ...]] = []
    prefill = TransformersEngine._prefill

    def noting(engine: TransformersEngine, prompts: Sequence[tuple[int, ...]]) -> Layers:
        prefilled.extend(prompts)
        return prefill(engine, prompts)

    monkeypatch.setattr(TransformersEngine, "_prefill", noting)
    waves = sorted(todo, key=lambda request: request.index)
    apart = sample(waves, 6)
    assert sorted(prefilled) == sorted({request.prompt.ids for request in todo if request.prompt.ids})
    assert {key: c.ids for key, c in apart.items()} == {key: c.ids for key, c in together.items()}


def test_logprobs_are_those_of_the_sampling_distribution_under_a_plain_forward_pass() -> None:
    todo = requests(6, sampling=Sampling(0.7, 1.0, 100))
    model = AutoModelForCausalLM.from_pretrained(TINY / "policy").eval()
    drawn = sample(todo, 16)
    for request in todo:
        completion = drawn[request.key]
        prompt = request.prompt.ids
        assert prompt is not None and completion.ids is not None and completion.logprobs is not None
        ids = torch.tensor([[*prompt, *completion.ids]])
        with torch.inference_mode():
            logp = (model(ids).logits[0, :-1] / 0.7).log_softmax(-1)
        wanted = logp.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), wanted, atol=1e-4, rtol=0)


def test_ids_end_with_the_end_token_and_text_does_not_show_it() -> None:
    for completion in sample(requests(8), 32).values():
        assert completion.ids is not None
        ended = completion.ids[-1] in TOKENIZER.end_ids
        assert completion.stop == ("stop" if ended else "length")
        assert "<|end|>" not in completion.text
        assert sum(token in TOKENIZER.end_ids for token in completion.ids) == ended


def test_a_response_that_reaches_its_limit_stopped_for_length() -> None:
    for completion in sample(requests(4, sampling=Sampling(1.0, 1.0, 3)), 8).values():
        assert completion.ids is not None
        assert (completion.stop, len(completion.ids)) == ("length", 3)


def test_grouped_and_repeated_keys_agree_for_several_key_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER.tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        eos_token_id=TOKENIZER.tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    engine = TransformersEngine(tmp_path, TOKENIZER, batch_size=5, device="cpu")
    queue = requests(4, 2, Sampling(1.0, 1.0, 12))
    todo = list(queue)

    def take(room: int, idle: bool) -> list[Request]:
        taken, queue[:] = queue[:room], queue[room:]
        return taken

    drawn = {request.key: completion for batch in engine.sample(take) for request, completion in batch}
    for request in todo:
        completion = drawn[request.key]
        assert request.prompt.ids and completion.ids and completion.logprobs
        ids = torch.tensor([[*request.prompt.ids, *completion.ids]])
        with torch.inference_mode():
            logp = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(completion.logprobs), logp[len(request.prompt.ids) - 1 :], atol=1e-4, rtol=0
        )


def test_a_model_with_sliding_windows_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(text.replace("{", '{"sliding_window": 16,', 1), encoding="utf-8")
    with pytest.raises(PolicyError, match="full attention"):
        TransformersEngine(tmp_path, TOKENIZER, device="cpu")


def perturbed(folder: Path, known: Path = TINY / "policy", shard: str = "1GB") -> Path:
    """Another checkpoint of a model."""
    model = AutoModelForCausalLM.from_pretrained(known)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * weight.std(correction=0) * torch.randn(weight.shape, generator=noise)
    model.save_pretrained(folder, max_shard_size=shard)
    TOKENIZER.tokenizer.save_pretrained(folder)
    return folder


def opened(folder: Path) -> TransformersEngine:
    return TransformersEngine(folder, TOKENIZER, batch_size=16, device="cpu")


@pytest.mark.parametrize("shard", ["1GB", "300KB"])
def test_other_weights_are_taken_over_and_nothing_of_the_old_ones_is_left(tmp_path: Path, shard: str) -> None:
    other = perturbed(tmp_path, shard=shard)
    assert (other / "model.safetensors").is_file() == (shard == "1GB")
    todo = requests(8)
    engine = opened(TINY / "policy")
    before = drawn_by(engine, todo)
    engine.load(other)
    after = drawn_by(engine, todo)
    assert after == drawn_by(opened(other), todo)
    assert all(after[key].logprobs != before[key].logprobs for key in before)
    engine.load(TINY / "policy")
    assert drawn_by(engine, todo) == before


def test_weights_are_taken_over_in_the_precision_of_the_engine(tmp_path: Path) -> None:
    other, todo = perturbed(tmp_path), requests(4)
    first, fresh = (
        TransformersEngine(folder, TOKENIZER, dtype="bfloat16", device="cpu") for folder in (TINY / "policy", other)
    )
    first.load(other)
    assert drawn_by(first, todo) == drawn_by(fresh, todo)


def test_a_head_that_is_tied_may_be_stored_or_left_out(tmp_path: Path) -> None:
    other, todo = perturbed(tmp_path), requests(4)
    weights = load_file(other / "model.safetensors")
    assert "lm_head.weight" not in weights
    engine = opened(TINY / "policy")
    engine.load(other)
    after = drawn_by(engine, todo)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    engine.load(TINY / "policy")
    engine.load(other)
    assert drawn_by(engine, todo) == after


def test_the_weights_of_another_model_are_refused_and_the_engine_goes_on(tmp_path: Path) -> None:
    engine, todo = opened(TINY / "policy"), requests(4)
    before = drawn_by(engine, todo)

    def refused(folder: Path, words: str) -> None:
        with pytest.raises(PolicyError, match=words) as raised:
            engine.load(folder)
        assert "\n" not in str(raised.value)
        assert drawn_by(engine, todo) == before

    def changed(name: str, **keys: object) -> Path:
        folder = Path(shutil.copytree(TINY / "policy", tmp_path / name))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | keys), encoding="utf-8")
        return folder

    small = LlamaConfig.from_pretrained(TINY / "policy", intermediate_size=128)
    LlamaForCausalLM(small).save_pretrained(tmp_path / "small")
    refused(tmp_path / "small", "its intermediate_size is 128, not 256; give a checkpoint of the same model")
    refused(changed("turned", rope_parameters={"rope_theta": 5e5, "rope_type": "default"}), "its rope_parameters is")
    refused(changed("kind", model_type="mistral", architectures=["MistralForCausalLM"]), "its architectures is")
    for name, shape in (("model.norm.weight", None), ("model.norm.bias", [96]), ("model.norm.weight", [95])):
        folder = changed(f"{name} {shape}")
        weights = load_file(folder / "model.safetensors")
        weights.pop(name, None)
        if shape:
            weights[name] = torch.zeros(shape)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        refused(folder, rf"its {name} is {re.escape(str(shape)) if shape else 'missing'}, not ")
    (folder / "model.safetensors").write_bytes(b"\x07")
    refused(folder, "no safetensors file")
    (folder / "model.safetensors").unlink()
    refused(folder, "cannot read the model in .*No such file")
    refused(tmp_path / "nowhere", "cannot read the model in .*nowhere")


def test_what_training_or_another_version_may_write_does_not_make_another_model(tmp_path: Path) -> None:
    other, todo = perturbed(tmp_path), requests(4)
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config |= {"use_cache": False, "pad_token_id": 3, "transformers_version": "4.40.0", "rope_theta": 10000.0}
    del config["rope_parameters"]
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    engine = opened(TINY / "policy")
    engine.load(other)
    assert drawn_by(engine, todo) == drawn_by(opened(other), todo)
