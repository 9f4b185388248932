from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from retell import head as under_test
from retell.head import Anchor, Head, loss_through_head, token_logprobs

SHAPES = [(1.0, None), (0.3, None), (1.0, 2.0), (1.7, 3.0)]
"""Scale and cap; the caps are so low that most logits feel them."""
TILES = [(1, 1), (5, 7), (4, 100), (100, 9), (100, 100)]
"""Rows and columns at once, of 23 and 37."""


@pytest.fixture(autouse=True)
def nothing_but_nan_in_memory_that_is_not_filled() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def made(n: int, v: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    hidden_ND = torch.randn(n, d, generator=source, dtype=torch.float64)
    weight_VD = torch.randn(v, d, generator=source, dtype=torch.float64)
    targets_N = torch.randint(v, (n,), generator=source)
    targets_N[: min(n, 4)] = torch.tensor([0, v - 1, v // 2, v - 1])[:n]
    return hidden_ND.requires_grad_(), weight_VD.requires_grad_(), targets_N


def tile(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int, v: int, size: int = 8) -> None:
    monkeypatch.setitem(under_test._ROW_BYTES, "cpu", rows * v * size)
    monkeypatch.setitem(under_test._COLUMNS, "cpu", columns)


def full(hidden_ND: Tensor, weight_VD: Tensor, scale: float = 1.0, cap: float | None = None) -> Tensor:
    logits_NV = scale * hidden_ND @ weight_VD.T
    if cap is not None:
        logits_NV = cap * torch.tanh(logits_NV / cap)
    return logits_NV.log_softmax(-1)


def picked(logp_NV: Tensor, targets_N: Tensor) -> Tensor:
    return logp_NV.gather(-1, targets_N[:, None])[:, 0]


def close(got: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)


def dft_like(share_N: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """−w · log p with w = share · p, where each row has a share of its own, so that rows cannot be confused."""

    def slope(rows: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        weight_N = share_N[rows] * logp_N.exp()
        if entropy_N is not None:
            weight_N = weight_N * entropy_N
        return -weight_N * logp_N, -weight_N, share_N[rows] > 0.5

    return slope


def shares(n: int) -> Tensor:
    return torch.linspace(0.1, 2.0, n, dtype=torch.float64)


@pytest.mark.parametrize(("scale", "cap"), SHAPES)
@pytest.mark.parametrize(("rows", "columns"), TILES)
def test_logprobs_and_their_gradients_are_those_of_full_logits(
    monkeypatch: pytest.MonkeyPatch, scale: float, cap: float | None, rows: int, columns: int
) -> None:
    tile(monkeypatch, rows, columns, 37)
    hidden_ND, weight_VD, targets_N = made(23, 37, 6)
    logp_N = token_logprobs(hidden_ND, Head(weight_VD, scale, cap), targets_N)
    wanted_N = picked(full(hidden_ND, weight_VD, scale, cap), targets_N)
    close(logp_N, wanted_N)
    upstream_N = shares(23) - 1  # of either sign
    close(
        torch.autograd.grad(logp_N, (hidden_ND, weight_VD), upstream_N),
        torch.autograd.grad(wanted_N, (hidden_ND, weight_VD), upstream_N),
    )


def test_a_tile_of_logits_is_a_part_of_all() -> None:
    hidden_ND, weight_VD, _ = made(5, 37, 6)
    part = Head(weight_VD, 1.7, 3.0).logits(hidden_ND, slice(30, 37))
    close(part, (3.0 * torch.tanh(1.7 * hidden_ND @ weight_VD.T / 3.0))[:, 30:])


def test_no_row_gives_nothing_and_a_gradient_of_zero() -> None:
    hidden_ND, weight_VD, targets_N = made(0, 37, 6)
    logp_N = token_logprobs(hidden_ND, Head(weight_VD), targets_N)
    assert logp_N.shape == (0,)
    total, *others = loss_through_head(hidden_ND, Head(weight_VD), targets_N, dft_like(shares(0)), True)
    assert total.item() == 0 and all(len(other) == 0 for other in others)
    for result in (logp_N.sum(), total):
        to_hidden_ND, to_weight_VD = torch.autograd.grad(result, (hidden_ND, weight_VD))
        assert to_hidden_ND.shape == (0, 6)
        assert to_weight_VD.shape == (37, 6) and not to_weight_VD.any()


@pytest.mark.parametrize("local", [False, True])
def test_a_weight_that_is_also_the_embedding_gets_both_gradients(local: bool) -> None:
    _, weight_VD, targets_N = made(23, 37, 6)
    hidden_ND = weight_VD[targets_N.flip(0)].sin()
    if local:
        total = loss_through_head(hidden_ND, Head(weight_VD), targets_N, dft_like(shares(23)), False)[0]
    else:
        total = token_logprobs(hidden_ND, Head(weight_VD), targets_N).sum()
    wanted_N = picked(full(hidden_ND, weight_VD), targets_N)
    wanted = (-shares(23) * wanted_N.detach().exp() * wanted_N if local else wanted_N).sum()
    (both_VD,) = torch.autograd.grad(wanted, weight_VD, retain_graph=True)
    close(torch.autograd.grad(total, weight_VD, retain_graph=True)[0], both_VD)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_half_precision_inputs_give_full_precision_results(autocast: bool, weight_dtype: torch.dtype) -> None:
    hidden_ND, weight_VD, targets_N = (t.detach() for t in made(60, 4000, 64))
    hidden_ND, weight_VD = hidden_ND.bfloat16(), (weight_VD * 0.6).to(weight_dtype)
    exact = [hidden_ND.float().requires_grad_(), weight_VD.float().requires_grad_()]
    logits_NV = exact[0] @ exact[1].T
    assert logits_NV.max() > 15  # where half precision would be off by 0.06
    targets_N[::2] = logits_NV.argmax(-1)[::2]
    wanted_N = picked(logits_NV.log_softmax(-1), targets_N)
    inputs = [hidden_ND.requires_grad_(), weight_VD.requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logp_N = token_logprobs(inputs[0], Head(inputs[1]), targets_N)
        _, _, same_N, _, _ = loss_through_head(inputs[0], Head(inputs[1]), targets_N, dft_like(shares(60)), False)
    assert logp_N.dtype == same_N.dtype == torch.float32
    close(logp_N, wanted_N, 1e-3)
    close(same_N, wanted_N, 1e-3)
    grads = torch.autograd.grad(logp_N.sum(), inputs)
    assert [grad.dtype for grad in grads] == [torch.bfloat16, weight_dtype]
    for grad, wanted in zip(grads, torch.autograd.grad(wanted_N.sum(), exact), strict=True):
        assert (grad.float() - wanted).norm() < 0.004 * wanted.norm()  # the rounding of the result


@pytest.mark.parametrize(("scale", "cap"), SHAPES)
@pytest.mark.parametrize(("rows", "columns"), TILES)
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("anchored", [False, True])
def test_a_loss_and_its_gradients_are_those_of_full_logits(
    monkeypatch: pytest.MonkeyPatch,
    scale: float,
    cap: float | None,
    rows: int,
    columns: int,
    entropy: bool,
    anchored: bool,
) -> None:
    tile(monkeypatch, rows, columns, 37)
    hidden_ND, weight_VD, targets_N = made(23, 37, 6)
    base_ND, base_VD, _ = made(23, 37, 4, seed=1)
    anchor = Anchor(base_ND.detach(), Head(base_VD.detach(), 0.5, 4.0), 0.05) if anchored else None
    head = Head(weight_VD, scale, cap)
    total, loss_N, logp_N, slope_N, clipped_N = loss_through_head(
        hidden_ND, head, targets_N, dft_like(shares(23)), entropy, anchor
    )

    full_NV = full(hidden_ND, weight_VD, scale, cap)
    wanted_logp_N = picked(full_NV, targets_N)
    weight_N = shares(23) * wanted_logp_N.detach().exp()
    if entropy:
        top_N20 = full_NV.detach().topk(20).values.softmax(-1)
        weight_N = weight_N * -(top_N20 * top_N20.log()).sum(-1)
    wanted_N = -weight_N * wanted_logp_N
    if anchored:
        base_NV = full(base_ND.detach(), base_VD.detach(), 0.5, 4.0)
        wanted_N = wanted_N + 0.05 * (base_NV.exp() * (base_NV - full_NV)).sum(-1)

    close(total, wanted_N.sum())
    close(loss_N, wanted_N.detach())
    close(logp_N, wanted_logp_N.detach())
    close(slope_N, -weight_N)
    assert clipped_N.tolist() == (shares(23) > 0.5).tolist()
    assert total.requires_grad and not any(t.requires_grad for t in (loss_N, logp_N, slope_N, clipped_N))
    close(
        torch.autograd.grad(-2.5 * total, (hidden_ND, weight_VD)),
        torch.autograd.grad(-2.5 * wanted_N.sum(), (hidden_ND, weight_VD)),
    )


@pytest.mark.parametrize("coefficient", [0.05, 3.0])
def test_an_anchor_counts_also_where_the_token_does_not(coefficient: float) -> None:
    hidden_ND, weight_VD, targets_N = made(5, 37, 6)
    base_ND, base_VD, _ = (t.detach() for t in made(5, 37, 6, seed=1))

    def nothing(rows: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(logp_N), torch.zeros_like(logp_N), logp_N > 0

    anchor = Anchor(base_ND, Head(base_VD), coefficient)
    total = loss_through_head(hidden_ND, Head(weight_VD), targets_N, nothing, False, anchor)[0]
    wanted = coefficient * torch.nn.functional.kl_div(
        full(hidden_ND, weight_VD), full(base_ND, base_VD), log_target=True, reduction="sum"
    )
    close(total, wanted)
    close(torch.autograd.grad(total, (hidden_ND, weight_VD)), torch.autograd.grad(wanted, (hidden_ND, weight_VD)))


@pytest.mark.parametrize("columns", [7, 45, 300])
@pytest.mark.parametrize("vocabulary", [12, 300])
def test_the_entropy_is_that_of_the_twenty_most_likely_tokens(
    monkeypatch: pytest.MonkeyPatch, vocabulary: int, columns: int
) -> None:
    tile(monkeypatch, 4, columns, vocabulary)
    hidden_ND, weight_VD, targets_N = made(9, vocabulary, 6)
    seen: list[Tensor] = []

    def slope(rows: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert entropy_N is not None
        seen.append(entropy_N)
        return -logp_N, -torch.ones_like(logp_N), logp_N > 0

    loss_through_head(hidden_ND, Head(weight_VD, 0.5), targets_N, slope, True)
    likely_N20 = full(hidden_ND, weight_VD, 0.5).exp().sort(descending=True).values[:, :20]
    close(torch.cat(seen), torch.distributions.Categorical(probs=likely_N20.detach()).entropy())


def test_entropy_is_given_only_where_it_is_asked_for() -> None:
    hidden_ND, weight_VD, targets_N = made(3, 37, 6)
    seen: list[Tensor | None] = []

    def slope(rows: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(entropy_N)
        return -logp_N, -torch.ones_like(logp_N), logp_N > 0

    loss_through_head(hidden_ND, Head(weight_VD), targets_N, slope, False)
    assert seen == [None]


def peak(work: Callable[[], object]) -> int:
    """The most bytes that tensors made meanwhile hold at once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # where others compute too, threads mostly wait for one another
    with profile(profile_memory=True) as measured:
        work()
    torch.set_num_threads(threads)
    events = [event for event in measured.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("local", [False, True])
def test_forward_and_backward_stay_far_below_the_size_of_the_logits(
    monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    rows, vocabulary = 512, 50_000
    logits = rows * vocabulary * 4
    tile(monkeypatch, 32, 12_500, vocabulary, 4)
    hidden_ND, weight_VD, targets_N = made(rows, vocabulary, 4)
    hidden_ND, weight_VD = hidden_ND.detach().float().requires_grad_(), weight_VD.detach().float().requires_grad_()
    base_ND, base_VD = hidden_ND.detach() + 1, weight_VD.detach()

    def ours() -> None:
        if local:
            anchor = Anchor(base_ND, Head(base_VD), 0.05)
            slope = dft_like(shares(rows).float())
            loss_through_head(hidden_ND, Head(weight_VD, 1.5, 30.0), targets_N, slope, True, anchor)[0].backward()
        else:
            token_logprobs(hidden_ND, Head(weight_VD, 1.5, 30.0), targets_N).sum().backward()

    assert peak(lambda: picked(full(hidden_ND, weight_VD), targets_N).sum().backward()) > logits
    assert peak(ours) < logits / 5


def test_in_half_precision_a_token_and_its_normaliser_are_of_one_head(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a GPU does under autocast: products of rounded inputs, summed in float32.
    def product(a: Tensor, b: Tensor, into: Tensor | None = None) -> Tensor:
        return a.float() @ b.to(a.dtype).float()

    monkeypatch.setattr("retell.head._product", product)
    monkeypatch.setattr("retell.head._operand", lambda hidden, weight: hidden.bfloat16())
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4000, 256, generator=generator) / 16
    targets = torch.arange(200)
    hidden = 40 * weight[targets] / weight[targets].norm(dim=1, keepdim=True)  # almost certain of its target
    logp = token_logprobs(hidden, Head(weight), targets)
    rounded = hidden.bfloat16().double() @ weight.bfloat16().double().T
    wanted = rounded.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert float(logp.max()) <= 0
    torch.testing.assert_close(logp.double(), wanted, atol=1e-4, rtol=0)


def test_a_head_that_is_not_trained_gets_no_gradient_and_the_rest_gets_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    targets = torch.arange(6)
    found = []
    for trained in (True, False):
        hidden = torch.ones(6, 8, dtype=torch.float64, requires_grad=True)
        head = Head(weight.clone().requires_grad_(trained))
        token_logprobs(hidden, head, targets).sum().backward()
        assert (head.weight_VD.grad is not None) == trained
        found.append(hidden.grad)
    torch.testing.assert_close(*found)
