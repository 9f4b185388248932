import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spawned
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import retell
from retell.errors import PolicyError
from retell.head import Anchor, Head
from retell.logprobs import Asked, Taught, row_logprobs, score, teach
from retell.packing import ROWS_ATTENTION, Batch, Pair, collate
from retell.prompts import Prompter
from retell.recipe import Policy
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny" / "policy"
TOKENIZER = ChatTokenizer(TINY)
ROWS: tuple[Pair, ...] = (((11, 12, 13, 14, 15), (21, 22, 23)), ((31, 32), (41, 42, 43, 44, 45, 46)), ((51, 52), ()))
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,  # so that logits differ as much as those of a trained model
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Shifted(LlamaForCausalLM):
    """Adds a constant to each logit: no `Head` does that."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + torch.linspace(-1, 1, 97, dtype=output.logits.dtype)
        return output


Kind = Callable[[], PreTrainedModel]
KINDS: dict[str, tuple[Kind, bool, bool]] = {
    # with a head that is understood, with rows that can be packed
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)), True, True),
    "grouped queries": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)), True, True),
    "qwen2": (lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2)), True, True),
    "qwen2 tied": (
        lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=4, tie_word_embeddings=True)),
        True,
        True,
    ),
    "gemma2": (
        lambda: Gemma2ForCausalLM(
            Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, sliding_window=64)
        ),
        True,
        False,
    ),
    "mistral": (
        lambda: MistralForCausalLM(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=64)),
        True,
        False,
    ),
    "cohere": (lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25)), True, True),
    "granite": (lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)), True, True),
    "phi": (lambda: PhiForCausalLM(PhiConfig(**SIZES)), False, True),
    "shifted": (lambda: Shifted(LlamaConfig(**SIZES)), False, True),
    "eager": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")), True, False),
}


def made(kind: str) -> PreTrainedModel:
    """In double precision, with whatever begins as nothing (biases, norms) at random too."""
    torch.manual_seed(0)
    model = KINDS[kind][0]().double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.3)
    return model


def tiny(dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY, dtype=dtype).eval()
    return loaded


def own_logprobs(model: torch.nn.Module, rows: tuple[Pair, ...] = ROWS) -> Tensor:
    """From the logits of each row alone."""
    parts = []
    for prompt, response in rows:
        ids = torch.tensor([[*prompt, *response]])
        logp = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        parts.append(logp.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :, 0])
    return torch.cat(parts)


def batch_of(taught: Taught, rows: tuple[Pair, ...] = ROWS) -> Batch:
    return collate(rows, packed=taught.packs)


def weighted(part: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The weight of a token is its probability, and it counts as clipped below a hundredth."""
    return -logp_N.exp() * logp_N, -logp_N.exp(), logp_N.exp() < 0.01


def gradients(total: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    grads = torch.autograd.grad(total, list(named.values()), retain_graph=True)
    return dict(zip(named, grads, strict=True))


def close(got: Any, wanted: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taught_model_gives_the_logprobs_of_its_own_logits_and_their_gradients(kind: str) -> None:
    model = made(kind)
    wanted_N = own_logprobs(model)
    upstream_N = torch.linspace(-1, 2, len(wanted_N), dtype=torch.float64)
    wanted = gradients((upstream_N * wanted_N).sum(), model)
    taught = teach(model)
    _, understood, packs = KINDS[kind]
    assert (taught.head is not None, taught.packs) == (understood, packs)
    attention = ROWS_ATTENTION if packs else "eager" if kind == "eager" else "sdpa"
    assert model.config._attn_implementation == attention
    logp_N = score(model, batch_of(taught))
    close(logp_N, wanted_N, 1e-6)  # norms and positions are in single precision
    close(gradients((upstream_N * logp_N).sum(), model), wanted, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taught_model_gives_a_loss_and_its_gradients(kind: str) -> None:
    model = made(kind)
    wanted_N = own_logprobs(model)
    weight_N = wanted_N.detach().exp()
    wanted = gradients((-weight_N * wanted_N).sum(), model)
    batch = batch_of(teach(model))
    total, loss_N, logp_N, slope_N, clipped_N = model(**batch.inputs(), asked=Asked(batch, weighted))
    close(logp_N, wanted_N.detach(), 1e-6)
    close(loss_N, (-weight_N * wanted_N).detach(), 1e-6)
    close(slope_N, -weight_N, 1e-6)
    assert clipped_N.tolist() == (weight_N < 0.01).tolist()
    close(gradients(total, model), wanted, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taught_model_still_gives_logits(kind: str) -> None:
    model = made(kind)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        before = model(ids, use_cache=False).logits
        teach(model)
        assert torch.equal(model(ids, use_cache=False).logits, before)


@pytest.mark.parametrize("kind", ["cohere", "granite", "gemma2"])
def test_the_head_has_the_scale_and_the_cap_that_the_model_applies(kind: str) -> None:
    head = teach(made(kind)).head
    assert head is not None
    assert (head.scale, head.cap) == {"cohere": (0.25, None), "granite": (0.25, None), "gemma2": (1.0, 2.0)}[kind]


def test_a_bias_of_the_head_that_is_still_zero_gets_its_gradient() -> None:
    model = made("phi")
    torch.nn.init.zeros_(model.lm_head.bias)
    taught = teach(model)
    assert taught.head is None
    assert gradients(score(model, batch_of(taught)).sum(), model)["lm_head.bias"].any()


def test_hidden_states_can_be_had_alone() -> None:
    model = made("grouped queries")
    batch = batch_of(teach(model))
    hidden_ND = model(**batch.inputs(), asked=Asked(batch, hidden=True))
    logp_NV = model.lm_head(hidden_ND).log_softmax(-1)
    close(logp_NV.gather(-1, batch.targets_N[:, None])[:, 0], own_logprobs(model))


@pytest.mark.parametrize(
    "given", [{"entropy": True}, {"anchor": Anchor(torch.zeros(9, 32), Head(torch.zeros(97, 32)), 1)}]
)
def test_what_needs_a_head_is_refused_where_there_is_none(given: dict[str, Any]) -> None:
    model = made("shifted")
    batch = batch_of(teach(model))
    with pytest.raises(PolicyError, match="head"):
        model(**batch.inputs(), asked=Asked(batch, weighted, **given))


@pytest.mark.parametrize("training", [True, False])
def test_teaching_leaves_a_model_in_the_mode_that_it_was_in(training: bool) -> None:
    model = made("llama").train(training)
    teach(model)
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize("kind", ["llama", "shifted"])
def test_a_model_may_be_taught_again_and_again(kind: str) -> None:
    model = made(kind)
    taught = teach(model)
    once_N = score(model, batch_of(taught))
    for _ in range(3):
        again = teach(model)
        assert (again.packs, again.head is None) == (taught.packs, taught.head is None)
    assert torch.equal(score(model, batch_of(again)), once_N)


@pytest.mark.parametrize("kind", ["llama", "phi", "shifted"])
@pytest.mark.parametrize("again", [True, False])
def test_a_copy_of_a_taught_model_goes_its_own_way(kind: str, again: bool) -> None:
    model = made(kind)
    batch = batch_of(teach(model))
    frozen: Any = copy.deepcopy(model)
    if again:
        teach(frozen)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        before_N, before_TV = score(frozen, batch), frozen(ids).logits
        for weight in model.parameters():
            weight.mul_(1.5)
        assert torch.equal(score(frozen, batch), before_N)
        assert torch.equal(frozen(ids).logits, before_TV)
        assert not torch.equal(score(model, batch), before_N)


def with_adapters(model: PreTrainedModel, targets: str | list[str]) -> Any:
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:  # which begin at zero
                weight.add_(0.1)
    return adapted.double().eval()


def test_adapters_around_a_taught_model_count_and_get_the_gradient() -> None:
    model = made("qwen2 tied")
    batch = batch_of(teach(model))
    without_N = score(model, batch).detach()
    adapted = with_adapters(model, "all-linear")
    logp_N = score(adapted, batch)
    wanted_N = own_logprobs(adapted)
    assert (wanted_N - without_N).abs().max() > 0.1
    close(logp_N, wanted_N, 1e-6)
    grads = gradients(logp_N.sum(), adapted)
    assert all("lora_" in name and grad.any() for name, grad in grads.items())
    assert not any("lm_head" in name for name in grads)
    close(grads, gradients(wanted_N.sum(), adapted), 1e-5)
    with adapted.disable_adapter():
        assert torch.equal(score(adapted, batch), without_N)


def test_an_adapter_on_the_head_is_refused() -> None:
    adapted = with_adapters(made("llama"), ["lm_head"])
    with pytest.raises(PolicyError, match="lm_head"):
        teach(adapted.base_model.model)


def test_no_row_gives_nothing_and_a_gradient_of_zero() -> None:
    model = made("llama")
    batch = batch_of(teach(model), ())
    logp_N = score(model, batch)
    total, *_ = model(**batch.inputs(), asked=Asked(batch, weighted))
    assert logp_N.shape == (0,)
    for result in (logp_N.sum(), total):
        assert not any(grad.any() for grad in gradients(result, model).values())


SHARES: tuple[tuple[tuple[Pair, ...], ...], ...] = ((ROWS[:1], ROWS[1:]), ((ROWS[1][::-1], ROWS[0]), ()))
"""Micro-batches of two processes, equally many for each, the last one empty."""


def losses(model: torch.nn.Module, parts: tuple[tuple[Pair, ...], ...], packs: bool, local: bool) -> list[Tensor]:
    totals = []
    for rows in parts:
        batch = collate(rows, packed=packs)
        if local:
            totals.append(model(**batch.inputs(), asked=Asked(batch, weighted))[0])
        else:
            totals.append(-score(model, batch).sum())
    return totals


def one_of_two(process: int, folder: str) -> None:
    """Computes as one of two processes that share the weights; the first saves losses and gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=process, world_size=2)
    results = {}
    for dtype in (torch.float64, torch.float32):
        model = tiny(dtype)
        packs = teach(model).packs
        for layer in model.base_model.layers:
            fully_shard(layer)
        fully_shard(model)
        weights = dict(model.named_parameters())
        assert all(isinstance(weight, DTensor) and weight.device_mesh.size() == 2 for weight in weights.values())
        assert sum(w.to_local().numel() for w in weights.values()) < 0.6 * sum(w.numel() for w in weights.values())
        for local in (False, True):
            model.zero_grad()
            loss = torch.zeros((), dtype=dtype)
            for total in losses(model, SHARES[process], packs, local):
                (2 * total).backward()  # gradients are averaged over the two
                loss += total.detach()
            dist.all_reduce(loss)
            results[dtype, local] = loss, {name: weight.grad.full_tensor() for name, weight in weights.items()}
    if process == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.barrier()  # gloo aborts a process whose peer is gone while it still hears from it
    dist.destroy_process_group()


def test_two_processes_that_share_the_weights_compute_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(spawned.one_of_two, (str(tmp_path),), nprocs=2)
    results = torch.load(tmp_path / "results.pt")
    assert len(results) == 4
    for (dtype, local), (loss, grads) in results.items():
        tolerance = 1e-10 if dtype == torch.float64 else 1e-5
        model = tiny(dtype)
        packs = teach(model).packs
        wanted = torch.stack(losses(model, SHARES[0] + SHARES[1], packs, local)).sum()
        close(loss, wanted.detach(), tolerance)
        close(grads, gradients(wanted, model), tolerance)


def pairs(n: int) -> list[Pair]:
    prompter = Prompter(Policy(), TOKENIZER)
    texts = [("Work modulo 100. " * (1 + i % 3), f"So the answer is \\boxed{{{i}}}. " * (1 + i % 5)) for i in range(n)]
    return [TOKENIZER.training_ids(prompter.conversation(problem, response)) for problem, response in texts]


@pytest.mark.parametrize("batch_tokens", [1, 200, 100_000])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_are_scored_as_by_a_plain_forward_pass_in_any_batch(batch_tokens: int, attention: str) -> None:
    rows, model = pairs(20), tiny()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        wanted = own_logprobs(model, tuple(rows)).split([len(response) for _, response in rows])
    scored = dict(row_logprobs(model, rows, batch_tokens))
    assert scored.keys() == set(range(20))
    for number in range(20):
        close(torch.tensor(scored[number], dtype=torch.float64), wanted[number], 1e-8)


@pytest.mark.parametrize("kind", ["llama", "shifted"])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_models_give_full_precision_results(kind: str, autocast: bool) -> None:
    model = made(kind).to(torch.float32 if autocast else torch.bfloat16)
    taught = teach(model)
    assert taught.packs and (taught.head is None) == (kind == "shifted")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert score(model, batch_of(taught)).dtype == torch.float32
