"""From hidden states to the log-probs of given tokens, and to the gradient of a loss on them, without the logits.

The head is applied tile by tile: some rows of hidden states times some columns of the vocabulary. What is kept of a
tile is its part of the normaliser and of the gradients.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOP = 20
"""How many of the most likely tokens count for `Slope.entropy` (as in EAFT)."""
_ROW_BYTES = {"cpu": 160 << 20, "cuda": 512 << 20}
"""Memory for the logits of the rows that are handled at once."""
_COLUMNS = {"cpu": 1024, "cuda": 32768}
"""Columns in a tile: on a processor one that its cache holds, on a GPU one that fills it."""


@dataclass(frozen=True, slots=True)
class Head:
    """logits = cap · tanh(scale · hidden · Wᵀ / cap), or without ``cap`` scale · hidden · Wᵀ."""

    weight_VD: Tensor
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden_ND: Tensor, columns: slice, into: Tensor | None = None) -> Tensor:
        """A tile of logits in float32 (float64 of a float64 model) whatever the inputs are; in given memory, if any."""
        # Columns times rows, seen as rows times columns: the processor's product is a quarter faster this way round.
        z = _product(self.weight_VD[columns].to(hidden_ND.dtype), hidden_ND.T, into).T
        if self.scale != 1.0:
            z.mul_(self.scale)
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def picked(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """The logit of one token per row."""
        dtype = precise(hidden_ND.dtype)
        z = (hidden_ND.to(dtype) * self.rows(hidden_ND, targets_N).to(dtype)).sum(-1) * self.scale
        return z if self.cap is None else self.cap * torch.tanh(z / self.cap)

    def rows(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Rows of W, rounded as the tiles' products round them: a token and its normaliser must be of one head."""
        return self.weight_VD[targets_N].to(hidden_ND.dtype)

    def steepness(self, logits: Tensor) -> Tensor | float:
        """∂logit / ∂(hidden · Wᵀ)."""
        return self.scale if self.cap is None else (1 - (logits / self.cap) ** 2) * self.scale


@dataclass(frozen=True, slots=True)
class Anchor:
    """The base's hidden states at the same places and its head, for coefficient · KL(base ‖ policy) at each token."""

    hidden_ND: Tensor
    head: Head
    coefficient: float


Slope = Callable[[slice, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]
"""(rows, their logp_N, their entropy_N or None) → loss_N, its derivative by logp_N, and where it was clipped."""


def token_logprobs(hidden_ND: Tensor, head: Head, targets_N: Tensor) -> Tensor:
    """log π(target) of each row, float32 (float64 of a float64 model), with gradient to hidden states and head.

    Memory is that of a tile. The backward pass computes the logits again.
    """
    logp_N: Tensor = _Logprobs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, targets_N, head
    )
    return logp_N


def loss_through_head(
    hidden_ND: Tensor, head: Head, targets_N: Tensor, slope: Slope, entropy: bool, anchor: Anchor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A loss that each token makes by itself: its sum with gradient; and without: loss_N, logp_N, slope_N, clipped_N.

    Since the loss is known as soon as a token's log-prob is, its gradient is made from the same logits: three matrix
    products, where computing them again would take a fourth. With ``entropy``, ``slope`` is given that of the `TOP`
    most likely tokens, renormalised.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = _Loss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, head.weight_VD, targets_N, head, slope, entropy, anchor
    )
    return result


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, head: Head) -> Tensor:
        ctx.dtype = hidden_ND.dtype
        hidden_ND = _operand(hidden_ND, weight_VD)
        with _exactly(hidden_ND):
            norm_N = torch.cat([_norm(hidden_ND[rows], head) for rows in _rows(hidden_ND, head)])
            ctx.save_for_backward(hidden_ND, weight_VD, targets_N, norm_N)
            ctx.head = head
            return _below_one(head.picked(hidden_ND, targets_N) - norm_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_N,) = grads
        hidden_ND, weight_VD, targets_N, norm_N = ctx.saved_tensors
        with _exactly(hidden_ND):
            gradients = _Gradients(hidden_ND, ctx.head, ctx.needs_input_grad[1])
            for rows in _rows(hidden_ND, ctx.head):
                tiles = (_Tile(columns, ctx.head.logits(hidden_ND[rows], columns)) for columns in _columns(ctx.head))
                gradients.add(rows, tiles, norm_N[rows], grad_N[rows], targets_N[rows])
            return *gradients.of(ctx.dtype, weight_VD.dtype), None, None


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        head: Head,
        slope: Slope,
        entropy: bool,
        anchor: Anchor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        dtype = hidden_ND.dtype
        hidden_ND = _operand(hidden_ND, weight_VD)
        with _exactly(hidden_ND):
            gradients = _Gradients(hidden_ND, head, ctx.needs_input_grad[1])
            memory = _Memory(hidden_ND, head)
            parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
            for rows in _rows(hidden_ND, head):
                chunk_ND, places_N = hidden_ND[rows], targets_N[rows]
                tiles = [
                    _Tile(columns, head.logits(chunk_ND, columns, memory.of(chunk_ND, columns)))
                    for columns in _columns(head)
                ]
                entropy_N = _top_entropy([tile.values for tile in tiles]) if entropy else None
                if anchor is None and head.cap is None:
                    norm_N = _exponentiate(tiles)
                else:
                    norm_N = _fold(tile.values for tile in tiles)
                logp_N = _below_one(head.picked(chunk_ND, places_N) - norm_N)
                loss_N, slope_N, clipped_N = slope(rows, logp_N, entropy_N)
                base_N = None
                if anchor is not None:
                    base_N = _norm(anchor.hidden_ND[rows], anchor.head)
                    loss_N = loss_N + anchor.coefficient * _divergence(anchor, rows, tiles, norm_N, base_N)
                gradients.add(rows, tiles, norm_N, slope_N, places_N, anchor, base_N)
                parts.append((loss_N, logp_N, slope_N, clipped_N))
        ctx.gradients = gradients.of(dtype, weight_VD.dtype)
        loss_N, logp_N, slope_N, clipped_N = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(loss_N, logp_N, slope_N, clipped_N)
        return loss_N.sum(), loss_N, logp_N, slope_N, clipped_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (hidden_ND, weight_VD), ctx.gradients = ctx.gradients, None
        for gradient in (hidden_ND, weight_VD):
            if gradient is not None:
                gradient.mul_(grads[0])
        return hidden_ND, weight_VD, None, None, None, None, None


@dataclass(slots=True)
class _Tile:
    """Some columns of the logits of some rows; with ``shift_N1`` it holds exp(logit − shift) instead."""

    columns: slice
    values: Tensor
    shift_N1: Tensor | None = None


class _Memory:
    """The memory of all tiles of some rows, used again for the next: on a processor new pages are dear."""

    def __init__(self, hidden_ND: Tensor, head: Head) -> None:
        most = max(rows.stop - rows.start for rows in _rows(hidden_ND, head))
        dtype = precise(hidden_ND.dtype)
        self._all = None if hidden_ND.is_cuda else hidden_ND.new_empty(most * len(head.weight_VD), dtype=dtype)

    def of(self, hidden_ND: Tensor, columns: slice) -> Tensor | None:
        """A tile's own part, columns times rows; None where the device keeps freed memory at hand by itself."""
        rows = len(hidden_ND)
        return (
            None
            if self._all is None
            else self._all[rows * columns.start : rows * columns.stop].view(columns.stop - columns.start, rows)
        )


class _Gradients:
    """Accumulates ∂loss/∂hidden and, where the head is trained, ∂loss/∂W in full precision."""

    def __init__(self, hidden_ND: Tensor, head: Head, trained: bool) -> None:
        dtype = precise(hidden_ND.dtype)
        self._hidden_ND = hidden_ND
        self._head = head
        self.hidden_ND = torch.zeros(hidden_ND.shape, dtype=dtype, device=hidden_ND.device)
        shape, device = head.weight_VD.shape, hidden_ND.device
        self.weight_VD = torch.empty(shape, dtype=dtype, device=device) if trained else None
        self._begun = False

    def of(self, hidden: torch.dtype, weight: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Both, in the precision of what they are gradients of."""
        return self.hidden_ND.to(hidden), self.weight_VD.to(weight) if self.weight_VD is not None else None

    def add(
        self,
        rows: slice,
        tiles: Iterable[_Tile],
        norm_N: Tensor,
        slope_N: Tensor,
        targets_N: Tensor,
        anchor: Anchor | None = None,
        base_norm_N: Tensor | None = None,
    ) -> None:
        """Adds what rows of logits give, and uses up their tiles.

        ∂loss/∂logit_v = slope · (1[v = target] − p_v) + coefficient · (p_v − base_v): the target's part is added by
        itself. A row's factor of the rest multiplies its hidden state, not its logits, which are so many more.
        """
        chunk_ND, to_ND = self._hidden_ND[rows], self.hidden_ND[rows]
        factor_N1 = (-slope_N if anchor is None else anchor.coefficient - slope_N)[:, None]
        for tile in tiles:
            columns = tile.columns
            steepness = self._head.steepness(tile.values)
            if tile.shift_N1 is None:
                d, by_N1 = tile.values.sub_(norm_N[:, None]).exp_(), factor_N1
            else:
                d, by_N1 = tile.values, factor_N1 * (tile.shift_N1 - norm_N[:, None]).exp_()
            if anchor is not None and base_norm_N is not None:
                base = anchor.head.logits(anchor.hidden_ND[rows], columns).sub_(base_norm_N[:, None]).exp_()
                d.mul_(by_N1).sub_(base.mul_(anchor.coefficient))
                by_N1 = torch.ones_like(by_N1)
            if self._head.cap is not None or self._head.scale != 1.0:
                d.mul_(steepness)
            d = d.to(chunk_ND.dtype)
            to_ND.addcmul_(_product(d, self._head.weight_VD[columns]), by_N1)
            if self.weight_VD is not None:
                scaled_ND = (chunk_ND * by_N1).to(chunk_ND.dtype)
                _add_product(self.weight_VD[columns], d.T, scaled_ND, fresh=not self._begun)
        self._begun = True
        at_N = slope_N * self._head.steepness(self._head.picked(chunk_ND, targets_N))
        to_ND.addcmul_(self._head.rows(chunk_ND, targets_N).to(to_ND.dtype), at_N[:, None])
        if self.weight_VD is not None:
            self.weight_VD.index_add_(0, targets_N, (at_N[:, None] * chunk_ND).to(self.weight_VD.dtype))


def precise(dtype: torch.dtype) -> torch.dtype:
    """What log-probs of a model of this type are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _below_one(logp_N: Tensor) -> Tensor:
    """Log-probs of probabilities of at most 1, which rounding of large logits can exceed; NaN stays."""
    return logp_N.clamp_(max=0)


def _exactly(tensor: Tensor) -> torch.autocast:
    """Autocast would round the products to half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def _operand(hidden_ND: Tensor, weight_VD: Tensor) -> Tensor:
    """Hidden states in the precision in which the products take their inputs; on a GPU half precision, or that of
    autocast, is much faster and, with results in float32, exact enough.
    """
    if hidden_ND.is_cuda and torch.is_autocast_enabled("cuda"):
        return hidden_ND.to(torch.get_autocast_dtype("cuda"))
    if hidden_ND.is_cuda and hidden_ND.dtype in (torch.bfloat16, torch.float16):
        return hidden_ND
    return hidden_ND.to(precise(weight_VD.dtype))


def _product(a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
    """a · b in full precision of the result, in the inputs' precision ``a`` has."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(a, b.to(a.dtype), out_dtype=torch.float32)
    return torch.mm(a, b.to(a.dtype), out=into)


def _add_product(to: Tensor, a: Tensor, b: Tensor, *, fresh: bool) -> None:
    """to += a · b, or, where nothing is there yet, to = a · b."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(to, a, b, beta=0 if fresh else 1, out_dtype=torch.float32, out=to)
    else:
        to.addmm_(a, b, beta=0 if fresh else 1)


def _rows(hidden_ND: Tensor, head: Head) -> Iterator[slice]:
    """Rows to handle at once, of about equal number; at least one slice, empty where there is no row."""
    number, vocabulary = len(hidden_ND), len(head.weight_VD)
    size = precise(head.weight_VD.dtype).itemsize
    most = max(1, _ROW_BYTES.get(hidden_ND.device.type, _ROW_BYTES["cuda"]) // (vocabulary * size))
    parts = max(1, -(-number // most))
    for part in range(parts):
        yield slice(part * number // parts, (part + 1) * number // parts)


def _columns(head: Head) -> Iterator[slice]:
    vocabulary = len(head.weight_VD)
    width = _COLUMNS.get(head.weight_VD.device.type, _COLUMNS["cuda"])
    for begin in range(0, vocabulary, width):
        yield slice(begin, min(begin + width, vocabulary))


def _norm(hidden_ND: Tensor, head: Head) -> Tensor:
    """log Σ_v exp(logit_v) of each row."""
    return _fold(head.logits(hidden_ND, columns) for columns in _columns(head))


def _fold(tiles: Iterable[Tensor]) -> Tensor:
    return torch.stack([z.logsumexp(-1) for z in tiles]).logsumexp(0)


def _exponentiate(tiles: Sequence[_Tile]) -> Tensor:
    """Turns logits into exp(logit − the tile's largest), in place, since an exponential is dear; returns the norm."""
    parts: list[Tensor] = []
    for tile in tiles:
        tile.shift_N1 = tile.values.amax(-1, keepdim=True)
        parts.append(tile.values.sub_(tile.shift_N1).exp_().sum(-1).log_() + tile.shift_N1[:, 0])
    return torch.stack(parts).logsumexp(0)


def _top_entropy(tiles: list[Tensor]) -> Tensor:
    tops = torch.cat([z.topk(min(TOP, z.shape[-1])).values for z in tiles], -1)
    logp = tops.topk(min(TOP, tops.shape[-1])).values.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def _divergence(anchor: Anchor, rows: slice, tiles: Sequence[_Tile], norm_N: Tensor, base_norm_N: Tensor) -> Tensor:
    """KL(base ‖ policy) of each row."""
    total_N = torch.zeros_like(norm_N)
    for tile in tiles:
        logp = anchor.head.logits(anchor.hidden_ND[rows], tile.columns) - base_norm_N[:, None]
        total_N += (logp.exp() * (logp - (tile.values - norm_N[:, None]))).sum(-1)
    return total_N
