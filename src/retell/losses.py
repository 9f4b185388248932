"""The losses: one pure function each, from a response's token log-probs to a loss per token.

Nearly all are −sg(w_t) · log π_θ(y_t | x, y_<t), in short −sg(w)·log p, and differ in the weight w_t alone; sg is the
stop-gradient: no gradient flows through a weight. `psft` and `power` are objectives of their own. All can be
compared by the gradient weight of a token, −∂loss_t / ∂log p_t.

Positions outside the mask may hold anything, also −inf and NaN: they change neither a value nor a gradient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Terms:
    """A loss per token, with gradient and 0 outside the mask, and where a weight or a ratio was clipped."""

    loss_BT: Tensor
    clipped_BT: Tensor


@dataclass(frozen=True, slots=True)
class Limit:
    """What an option may be, in words and as a test."""

    words: str
    holds: Callable[[float], bool]


_Positive = Annotated[float, Limit("above 0", lambda value: value > 0)]


def sft(logp_BT: Tensor, mask_BT: Tensor) -> Terms:
    """w = 1: plain supervised fine-tuning, the negative log-likelihood."""
    return _weighted(logp_BT, mask_BT, torch.ones_like(logp_BT))


def dft(
    logp_BT: Tensor,
    mask_BT: Tensor,
    *,
    floor: Annotated[float, Limit("from 0 to 1", lambda value: 0 <= value <= 1)] = 0.0,
    power: _Positive = 1.0,
) -> Terms:
    """w = max(p^power, floor): dynamic fine-tuning, w = p, as arXiv 2508.05629, eq. 9 has it.

    It is the importance weight π_θ / π_β with the behaviour probability π_β taken as 1 (arXiv 2509.15157, section 3).
    ``floor`` and ``power`` are this project's; a weight is clipped where the floor is above it.
    """
    weight_BT = (power * _inside(logp_BT, mask_BT)).exp()
    return _weighted(logp_BT, mask_BT, weight_BT.clamp(min=floor), weight_BT < floor)


def importance(
    logp_BT: Tensor,
    mask_BT: Tensor,
    reference_BT: Tensor,
    *,
    clip: _Positive = 2.0,
    others: Literal["", "dft", "sft"] = "",
) -> Terms:
    """w = min(π_θ / π_β, clip): importance sampling with the behaviour log-probs recorded at sampling.

    It corrects less than its name says:

    - a kept response was drawn from π_β(y | x) · 1[accepted] / P(accepted | x): a factor per problem is missing;
    - a token's ratio stands for that of the response, the product over its tokens: an approximation;
    - a guided response was drawn under the guided prompt, and is trained on without it: π_β is of another prompt.

    Where ``reference_BT`` is NaN the response has no recorded log-probs, and the token follows the loss ``others``,
    plain `dft` or `sft`. Where that is empty the loss is NaN, so that such a row cannot go unnoticed.
    """
    logp, behaviour_BT = _inside(logp_BT, mask_BT), _inside(reference_BT, mask_BT)
    ratio_BT = (logp - behaviour_BT).exp()
    weight_BT = ratio_BT.clamp(max=clip)
    if others:
        instead_BT = logp.exp() if others == "dft" else torch.ones_like(logp)
        weight_BT = torch.where(behaviour_BT.isnan(), instead_BT, weight_BT)
    return _weighted(logp_BT, mask_BT, weight_BT, ratio_BT > clip)


def iw_sft(
    logp_BT: Tensor,
    mask_BT: Tensor,
    reference_BT: Tensor,
    *,
    level: Literal["sequence", "token"] = "sequence",
    high: Annotated[float | None, Limit("of 1 or more", lambda value: value >= 1)] = None,
) -> Terms:
    """Importance-weighted SFT (arXiv 2507.12856) against the frozen policy π_ref that training began with.

    - ``sequence``: w = min(exp(2 · mean_t(log π_θ − log π_ref)), 16), one weight a response. The temperature 2 is the
      default of the authors' loss; their released trainer passes 1.
    - ``token``: w = clamp(π_θ / π_ref, 0.2, 1.8).

    ``high`` replaces the level's upper bound.
    """
    log_ratio_BT = _inside(logp_BT, mask_BT) - _inside(reference_BT, mask_BT)
    if level == "sequence":
        tokens_B1 = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        ratio_BT = (2 * log_ratio_BT.sum(dim=1, keepdim=True) / tokens_B1).exp().expand_as(log_ratio_BT)
        lowest, highest = 0.0, high or 16.0
    else:
        ratio_BT = log_ratio_BT.exp()
        lowest, highest = 0.2, high or 1.8
    clipped_BT = (ratio_BT < lowest) | (ratio_BT > highest)
    return _weighted(logp_BT, mask_BT, ratio_BT.clamp(lowest, highest), clipped_BT)


def psft(
    logp_BT: Tensor,
    mask_BT: Tensor,
    reference_BT: Tensor,
    *,
    high: _Positive = 0.28,
    updates: Annotated[int, Limit("of 2 or more, or the ratio is always 1", lambda value: value >= 2)] = 4,
) -> Terms:
    """loss = −min(r, 1 + high), r = π_θ / π_old: proximal SFT (arXiv 2508.17784), PPO's clip with the advantage 1.

    PPO maximises min(r·A, clip(r, 1 − low, 1 + high)·A). With A = 1 the lower clip never binds: it would replace an r
    below 1 − low by something larger, and the minimum takes r. The gradient flows through r, and its weight is r until
    the clip and 0 beyond; at r = 1 it is that of `sft`.

    π_old is a snapshot of the policy, taken every ``updates`` optimiser steps by the trainer; it changes nothing here.
    """
    log_ratio_BT = kept(logp_BT, mask_BT) - _inside(reference_BT, mask_BT)
    bound = math.log1p(high)
    # Clipped before the exponential: beyond it, an overflow would make the gradient 0 · inf.
    loss_BT = -log_ratio_BT.clamp(max=bound).exp()
    return Terms(kept(loss_BT, mask_BT), mask_BT & (log_ratio_BT.detach() > bound))


def asft(logp_BT: Tensor, mask_BT: Tensor, *, kl: _Positive = 0.05) -> Terms:
    """DFT + kl · KL(π_base ‖ π_θ) per token: anchored SFT (arXiv 2509.23753).

    This is the `dft` part. The divergence is of whole distributions, and is added where these are at hand, with
    `methods.Method.anchor` as its coefficient ``kl``.
    """
    return dft(logp_BT, mask_BT)


def eaft(logp_BT: Tensor, mask_BT: Tensor, entropy_BT: Tensor, *, alpha: _Positive = 1.0) -> Terms:
    """w = (H / 3)^alpha: entropy-adaptive fine-tuning (arXiv 2601.02151).

    H, ``entropy_BT``, is the entropy in nats of the policy's 20 most likely tokens at the position, their probabilities
    made to sum to 1; 3 stands for its largest value, ln 20.
    """
    # Rounding can make the entropy of a certain token negative, and a root of it NaN.
    weight_BT = (_inside(entropy_BT, mask_BT).clamp(min=0) / 3) ** alpha
    return _weighted(logp_BT, mask_BT, weight_BT)


def power(
    logp_BT: Tensor,
    mask_BT: Tensor,
    *,
    alpha: _Positive = 1.0,
    above: Annotated[float, Limit("of at least 0 and below 1", lambda value: 0 <= value < 1)] = 0.0,
) -> Terms:
    """loss = (1 − p^alpha) / alpha where p ≥ above, else 0: the family of powers of p (arXiv 2510.00526).

    The gradient flows through the objective, and its weight is p^alpha: that of `dft` at alpha = 1, that of `sft` as
    alpha goes to 0. A token below ``above`` counts as clipped; the paper's thresholds are for alpha = 1.
    """
    logp = kept(logp_BT, mask_BT)
    clipped_BT = mask_BT & (logp.detach().exp() < above)
    # Not by `expm1`: it is more exact near p = 1, but its gradient, result + 1, is rounded away where p is small.
    return Terms(kept((1 - (alpha * logp).exp()) / alpha, mask_BT & ~clipped_BT), clipped_BT)


def luffy(logp_BT: Tensor, mask_BT: Tensor, *, gamma: _Positive = 0.1) -> Terms:
    """w = p / (p + gamma): the shape that LUFFY (arXiv 2504.14945) gives to off-policy tokens, taken as a weight.

    LUFFY maximises f(p) = p / (p + gamma) itself, whose gradient weight is gamma · p / (p + gamma)² and falls again
    towards p = 1; to take the shape as the weight is this project's choice.
    """
    p_BT = _inside(logp_BT, mask_BT).exp()
    return _weighted(logp_BT, mask_BT, p_BT / (p_BT + gamma))


def chord(logp_BT: Tensor, mask_BT: Tensor) -> Terms:
    """w = p(1 − p): the token weight φ of CHORD (arXiv 2508.11408), without its mixing with reinforcement learning."""
    logp = _inside(logp_BT, mask_BT)
    return _weighted(logp_BT, mask_BT, logp.exp() * -logp.expm1())


def _weighted(logp_BT: Tensor, mask_BT: Tensor, weight_BT: Tensor, clipped_BT: Tensor | None = None) -> Terms:
    """−sg(w)·log p inside the mask; the weight is made of `_inside` values, so no gradient flows through it."""
    loss_BT = -weight_BT * kept(logp_BT, mask_BT)
    return Terms(kept(loss_BT, mask_BT), torch.zeros_like(mask_BT) if clipped_BT is None else mask_BT & clipped_BT)


def kept(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The values inside the mask, 0 outside; by `where`, as 0 · inf and 0 · NaN are NaN, in gradients too."""
    return torch.where(mask_BT, values_BT, 0.0)


def _inside(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The same without gradient, for what a weight is made of."""
    return kept(values_BT.detach(), mask_BT)
