"""Log-probs of given tokens under the policy, and losses on them, without the logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from retell.errors import PolicyError
from retell.head import Anchor, Head, Slope, loss_through_head, precise, token_logprobs
from retell.packing import ROWS_ATTENTION, Batch, Pair, by_length, collate

_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""Names under which configurations keep a factor of the logits; some multiply by it, some divide."""
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Names under which they keep a soft cap."""
_PASS = {"cpu": 2048, "cuda": 16384}
"""Tokens in one pass: on a processor so few that its cache holds what a layer makes of them."""
_PROBE: tuple[Pair, ...] = (((3, 1, 4, 1), (5, 9, 2)), ((6, 5), (3, 5, 8)), ((6, 5), (9, 7)))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a taught model returns instead of logits, for the response tokens of a batch.

    Without ``slope`` their log-probs; with it what `retell.head.loss_through_head` returns; ``hidden`` asks for the
    hidden states that predict them and for nothing else.
    """

    batch: Batch
    slope: Slope | None = None
    entropy: bool = False
    anchor: Anchor | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Taught:
    """What a model was found to allow: its head, if logits are made by it alone, and whether rows can be packed."""

    head: Head | None
    packs: bool


def teach(model: PreTrainedModel) -> Taught:
    """Lets the model's forward pass take ``asked`` and return log-probs or a loss; finds out what the model allows.

    It stays inside the model's own forward pass, where sharded weights are gathered. Both findings are checked on the
    model itself, with three short rows: whether its logits are head · hidden (scaled, soft-capped) and nothing more,
    and whether packed rows, two of them with one prompt, give the hidden states that each gives alone. Where they do
    not, its own logits are used, or padding.

    Raises:
        PolicyError: the head is adapted or sharded by itself, so that its weight is not what makes the logits.
    """
    embeddings: Any = model.get_output_embeddings()
    if type(embeddings) is not torch.nn.Linear:
        raise PolicyError(
            f"the output head is a {type(embeddings).__name__}: an adapter on the head (lm_head) cannot be trained; "
            "leave the head out of its targets"
        )
    training = model.training
    model.eval()
    with torch.inference_mode():
        packs = _packs(model)
        head = _find_head(model)
    model.train(training)
    scale, cap = (head.scale, head.cap) if head else (1.0, None)

    # Each calls what its own class defines, so that a copy of the model answers from its own weights.
    def forward_head(self: Any, hidden: Tensor, asked: Asked | None = None) -> Any:
        if asked is None:
            return torch.nn.Linear.forward(self, hidden)
        return _answer(Head(self.weight, scale, cap), hidden, asked)

    def forward(self: Any, *args: Any, asked: Asked | None = None, **kwargs: Any) -> Any:
        if asked is None:
            return type(self).forward(self, *args, **kwargs)
        if head is None and not asked.hidden:
            return _from_logits(type(self).forward(self, *args, **kwargs).logits, asked)
        hidden = self.base_model(*args, **kwargs).last_hidden_state.flatten(0, 1)[asked.batch.at_N]
        return hidden if asked.hidden else self.get_output_embeddings()(hidden, asked)

    embeddings.forward = MethodType(forward_head, embeddings)  # type: ignore[method-assign]
    cast(Any, model).forward = MethodType(forward, model)
    return Taught(head, packs)


def score(model: torch.nn.Module, batch: Batch) -> Tensor:
    """log π(y_t | …) of the response tokens of a batch under a taught model: logp_N, with gradient."""
    logp_N: Tensor = model(**batch.inputs(), asked=Asked(batch))
    return logp_N


@torch.inference_mode()
def row_logprobs(
    model: PreTrainedModel, rows: Sequence[Pair], batch_tokens: int | None = None
) -> Iterator[tuple[int, list[float]]]:
    """Teaches the model and yields (row number, the log-prob of each response token) in batches of similar length, at
    most ``batch_tokens`` tokens with padding in one pass (a longer row goes alone).

    Where rows can be packed, those that have the same prompt go together, and their prompt is read once.
    """
    taught = teach(model)
    device = next(model.parameters()).device
    most = batch_tokens or _PASS.get(device.type, _PASS["cuda"])
    groups = _same_prompt(rows) if taught.packs else [[number] for number in range(len(rows))]
    lengths = [len(rows[group[0]][0]) + sum(len(rows[number][1]) for number in group) for group in groups]
    for chosen in by_length(lengths, most):
        numbers = [number for place in chosen for number in groups[place]]
        batch = collate([rows[i] for i in numbers], packed=taught.packs, shared=taught.packs).to(device)
        scored = score(model, batch).tolist()
        begin = 0
        for number in numbers:
            end = begin + len(rows[number][1])
            yield number, scored[begin:end]
            begin = end


def _same_prompt(rows: Sequence[Pair]) -> list[list[int]]:
    """The numbers of the rows of each prompt."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, _) in enumerate(rows):
        groups.setdefault(tuple(prompt), []).append(number)
    return list(groups.values())


def _answer(head: Head, hidden_ND: Tensor, asked: Asked) -> Any:
    if asked.slope is None:
        return token_logprobs(hidden_ND, head, asked.batch.targets_N)
    return loss_through_head(hidden_ND, head, asked.batch.targets_N, asked.slope, asked.entropy, asked.anchor)


def _from_logits(logits_BTV: Tensor, asked: Asked) -> Any:
    """The same from the logits of a model whose head does more than a `Head`; the first of a loss's results is not its
    sum but has the gradient of it.
    """
    if asked.entropy or asked.anchor:
        raise PolicyError("this model's logits are not head · hidden, scaled and capped: eaft and asft need that")
    logits_NV = logits_BTV.flatten(0, 1)[asked.batch.at_N]
    logp_N = -cross_entropy(logits_NV.to(precise(logits_NV.dtype)), asked.batch.targets_N, reduction="none")
    if asked.slope is None:
        return logp_N
    loss_N, slope_N, clipped_N = asked.slope(slice(None), logp_N.detach(), None)
    return (slope_N * logp_N).sum(), loss_N, logp_N.detach(), slope_N, clipped_N


def _find_head(model: PreTrainedModel) -> Head | None:
    """The head whose logits are the model's own on a short input, if there is one."""
    module: Any = model.get_output_embeddings()
    if module.bias is not None:
        return None
    config = model.config.get_text_config(decoder=True)
    cap = next((float(value) for name in _CAPS if (value := getattr(config, name, None))), None)
    factors = [float(value) for name in _SCALES if (value := getattr(config, name, None))]
    batch = _probe(model, packed=False)
    hidden_ND = model.base_model(**batch.inputs()).last_hidden_state.flatten(0, 1)
    own = model(**batch.inputs()).logits.flatten(0, 1)
    for scale in (1.0, *factors, *(1 / factor for factor in factors)):
        head = Head(module.weight, scale, cap)
        made = head.logits(hidden_ND.to(precise(hidden_ND.dtype)), slice(None))
        if _close(made, own, half=5e-3):
            return head
    return None


def _packs(model: PreTrainedModel) -> bool:
    """Whether packed rows give the hidden states that they give padded; if so, the model is set to keep rows apart."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    # Other implementations may do what scaled_dot_product_attention does not, such as cap the scores.
    if kinds != {"full_attention"} or window or config._attn_implementation not in ("sdpa", ROWS_ATTENTION):
        return False
    padded, packed = _probe(model, packed=False), _probe(model, packed=True)
    alone = model.base_model(**padded.inputs()).last_hidden_state.flatten(0, 1)[padded.at_N]
    model.set_attn_implementation(ROWS_ATTENTION)
    try:
        together = model.base_model(**packed.inputs()).last_hidden_state.flatten(0, 1)[packed.at_N]
        if _close(together, alone):
            return True
    except (TypeError, ValueError, RuntimeError):  # a model that does not hand arguments on to its attention
        pass
    model.set_attn_implementation("sdpa")
    return False


def _probe(model: PreTrainedModel, *, packed: bool) -> Batch:
    return collate(_PROBE, packed=packed, shared=packed).to(next(model.parameters()).device)


def _close(made: Tensor, own: Tensor, half: float = 0.02) -> bool:
    """Equal but for rounding; ``half`` is what half precision may round."""
    tolerance = half if own.dtype in (torch.bfloat16, torch.float16) else 1e-3
    difference = (made.double() - own.double()).norm()
    return bool(difference <= tolerance * own.double().norm())
