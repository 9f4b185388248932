import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retell import losses
from retell.losses import Terms
from retell.methods import open_loss

NAN, INF = float("nan"), float("inf")
SPECS = (
    *("sft", "dft", "dft,floor=0.3,power=2", "is", "is,clip=0.9,others=dft", "is,others=sft", "iw_sft"),
    *("iw_sft,level=token", "iw_sft,high=1.2", "psft", "psft,high=0.1", "asft", "eaft", "eaft,alpha=0.5"),
    *("power", "power,alpha=0.3", "power,above=0.4,alpha=3", "luffy", "luffy,gamma=1", "chord"),
)
"""Every loss, and every option that changes what it computes."""

logps = st.lists(st.floats(-30, 0), min_size=1, max_size=8)


def example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probs with gradient, a mask, reference log-probs near them, and entropies."""
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(3, 5, generator=generator, dtype=torch.float64) * 3
    reference = logp + torch.randn(3, 5, generator=generator, dtype=torch.float64) * 0.6
    entropy = torch.rand(3, 5, generator=generator, dtype=torch.float64) * 2.9
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    return logp.requires_grad_(), mask, reference, entropy


def row(*logp: float) -> tuple[Tensor, Tensor]:
    """One response, all of it inside the mask."""
    values = torch.tensor([logp], dtype=torch.float64, requires_grad=True)
    return values, torch.ones(1, len(logp), dtype=torch.bool)


def weights(terms: Terms, logp: Tensor) -> Tensor:
    """The gradient weights, −∂loss_t / ∂log p_t."""
    (gradient,) = torch.autograd.grad(terms.loss_BT.sum(), logp)
    return -gradient


def compute(spec: str, logp: Tensor, mask: Tensor, reference: Tensor, entropy: Tensor) -> Terms:
    return open_loss(spec).compute(logp, mask, reference_BT=reference, entropy_BT=entropy)


def close(actual: Tensor, expected: Tensor | list[float]) -> None:
    if isinstance(expected, list):
        expected = torch.tensor([expected], dtype=actual.dtype)
    torch.testing.assert_close(actual, expected)


# What each computes


def test_sft_is_the_negative_log_likelihood() -> None:
    logp, mask, *_ = example()
    terms = losses.sft(logp, mask)
    assert torch.equal(terms.loss_BT, -(logp * mask))
    assert torch.equal(weights(terms, logp), mask.double())
    assert not terms.clipped_BT.any()


def test_dft_weighs_a_token_by_its_probability() -> None:
    logp, mask, *_ = example()
    terms = losses.dft(logp, mask)
    # With w = sg(p), the gradient of −w·logp is −p; one through the weight would add −p·logp.
    close(weights(terms, logp), logp.detach().exp() * mask)
    close(terms.loss_BT, -logp * logp.exp() * mask)
    assert not terms.clipped_BT.any()


def test_dft_raises_the_probability_to_a_power_and_lifts_it_to_a_floor() -> None:
    logp, mask = row(math.log(0.9), math.log(0.5), math.log(0.2))
    terms = losses.dft(logp, mask, power=2, floor=0.3)
    close(weights(terms, logp), [0.81, 0.3, 0.3])
    assert terms.clipped_BT.tolist() == [[False, True, True]]


def test_importance_of_the_policys_own_samples_is_that_of_sft() -> None:
    logp, mask, *_ = example()
    terms = losses.importance(logp, mask, logp.detach())
    assert torch.equal(weights(terms, logp), mask.double())
    assert torch.equal(terms.loss_BT, losses.sft(logp, mask).loss_BT)
    assert not terms.clipped_BT.any()


def test_importance_is_the_ratio_up_to_the_clip() -> None:
    logp, mask = row(math.log(0.3), math.log(0.6), math.log(0.9))
    behaviour = torch.tensor([[0.6, 0.4, 0.1]], dtype=torch.float64).log()
    terms = losses.importance(logp, mask, behaviour)
    close(weights(terms, logp), [0.5, 1.5, 2.0])
    assert terms.clipped_BT.tolist() == [[False, False, True]]
    close(weights(losses.importance(logp, mask, behaviour, clip=1.2), logp), [0.5, 1.2, 1.2])


def test_importance_survives_a_behaviour_probability_of_zero() -> None:
    logp, mask = row(-1.0)
    close(weights(losses.importance(logp, mask, torch.tensor([[-INF]], dtype=torch.float64)), logp), [2.0])


def test_tokens_without_recorded_log_probs_follow_the_other_loss() -> None:
    logp, mask = row(math.log(0.3), math.log(0.25))
    behaviour = torch.tensor([[math.log(0.6), NAN]], dtype=torch.float64)
    close(weights(losses.importance(logp, mask, behaviour, others="dft"), logp), [0.5, 0.25])
    as_sft = losses.importance(logp, mask, behaviour, others="sft")
    close(weights(as_sft, logp), [0.5, 1.0])
    assert not as_sft.clipped_BT.any()


def test_tokens_without_recorded_log_probs_do_not_pass_where_no_other_loss_is_named() -> None:
    logp, mask = row(-1.0, -1.0)
    behaviour = torch.tensor([[-1.0, NAN]], dtype=torch.float64)
    assert losses.importance(logp, mask, behaviour).loss_BT.isnan().tolist() == [[False, True]]
    # The policy's own NaN is no missing record.
    spoiled = torch.tensor([[-1.0, NAN]], dtype=torch.float64)
    reference = torch.full((1, 2), -1.0, dtype=torch.float64)
    assert losses.importance(spoiled, mask, reference, others="sft").loss_BT.isnan().tolist() == [[False, True]]


def test_iw_sft_weighs_a_sequence_by_one_number() -> None:
    logp, mask, reference, _ = example()
    found = weights(losses.iw_sft(logp, mask, reference), logp)
    for b in range(3):
        differences = [float(logp.detach()[b, t] - reference[b, t]) for t in range(5) if mask[b, t]]
        expected = math.exp(2 * sum(differences) / len(differences))
        assert found[b][mask[b]].tolist() == pytest.approx([expected] * len(differences))
    assert not found[~mask].any()


def test_iw_sft_clamps_a_sequence_at_16() -> None:
    logp, mask = row(-1.0, -2.0)
    # The mean log-ratio is 2, exp(2 · 2) is 54.6.
    terms = losses.iw_sft(logp, mask, logp.detach() - torch.tensor([[1.0, 3.0]]))
    close(weights(terms, logp), [16.0, 16.0])
    assert terms.clipped_BT.all()
    below = losses.iw_sft(logp, mask, logp.detach() - torch.tensor([[1.0, 1.0]]))
    close(weights(below, logp), [math.exp(2)] * 2)
    assert not below.clipped_BT.any()
    assert losses.iw_sft(logp, mask, logp.detach() - 1, high=3).clipped_BT.all()


def test_iw_sft_clamps_tokens_on_both_sides() -> None:
    logp, mask = row(math.log(0.1), math.log(0.5), math.log(0.9))
    reference = torch.tensor([[0.8, 0.4, 0.3]], dtype=torch.float64).log()
    terms = losses.iw_sft(logp, mask, reference, level="token")
    close(weights(terms, logp), [0.2, 1.25, 1.8])
    assert terms.clipped_BT.tolist() == [[True, False, True]]
    close(weights(losses.iw_sft(logp, mask, reference, level="token", high=2.5), logp), [0.2, 1.25, 2.5])


def test_psft_at_the_snapshot_has_the_gradient_of_sft() -> None:
    logp, mask, *_ = example()
    terms = losses.psft(logp, mask, logp.detach())
    assert torch.equal(weights(terms, logp), mask.double())
    assert torch.equal(terms.loss_BT, -mask.double())
    assert not terms.clipped_BT.any()


@given(ratio=st.floats(1e-6, 1e6), high=st.floats(1e-3, 10))
def test_psft_is_ppo_with_advantage_1_whatever_the_lower_clip(ratio: float, high: float) -> None:
    logp, mask = row(-1.0)
    terms = losses.psft(logp, mask, logp.detach() - math.log(ratio), high=high)
    for low in (0.0, 0.2, 1.0):
        ppo = min(ratio, min(max(ratio, 1 - low), 1 + high))
        assert terms.loss_BT.item() == pytest.approx(-ppo)
    if abs(ratio / (1 + high) - 1) > 1e-9:  # at the kink both are right
        clipped = ratio > 1 + high
        assert weights(terms, logp).item() == pytest.approx(0 if clipped else ratio)
        assert terms.clipped_BT.item() is clipped


def test_psft_has_no_gradient_where_the_ratio_overflows() -> None:
    logp, mask = row(-1.0)
    terms = losses.psft(logp, mask, logp.detach() - 1000)
    close(terms.loss_BT, [-1.28])
    assert weights(terms, logp).item() == 0


def test_asft_is_dft_but_for_its_anchor() -> None:
    logp, mask, *_ = example()
    assert torch.equal(losses.asft(logp, mask).loss_BT, losses.dft(logp, mask).loss_BT)
    assert weights(losses.asft(logp, mask), logp).equal(weights(losses.dft(logp, mask), logp))


def test_eaft_weighs_a_token_by_the_entropy() -> None:
    logp, mask = row(-1.0, -2.0, -3.0)
    entropy = torch.tensor([[0.0, 0.75, 3.0]], dtype=torch.float64)
    close(weights(losses.eaft(logp, mask, entropy), logp), [0.0, 0.25, 1.0])
    close(weights(losses.eaft(logp, mask, entropy, alpha=0.5), logp), [0.0, 0.5, 1.0])


def test_an_entropy_that_was_rounded_below_zero_is_zero() -> None:
    logp, mask = row(-1.0)
    entropy = torch.tensor([[-1e-9]], dtype=torch.float64)
    close(weights(losses.eaft(logp, mask, entropy, alpha=0.5), logp), [0.0])


def test_no_gradient_flows_into_an_entropy_or_a_reference() -> None:
    for name in ("is", "iw_sft", "psft", "eaft"):
        logp, mask, reference, entropy = example()
        reference.requires_grad_()
        entropy.requires_grad_()
        compute(name, logp, mask, reference, entropy).loss_BT.sum().backward()
        assert reference.grad is None
        assert entropy.grad is None


@given(values=logps, alpha=st.floats(1e-3, 20))
def test_power_has_the_gradient_weight_p_to_the_alpha(values: list[float], alpha: float) -> None:
    logp, mask = row(*values)
    terms = losses.power(logp, mask, alpha=alpha)
    close(weights(terms, logp), [math.exp(value) ** alpha for value in values])
    close(terms.loss_BT, [-math.expm1(alpha * value) / alpha for value in values])
    assert torch.autograd.gradcheck(lambda x: losses.power(x, mask, alpha=alpha).loss_BT, logp)


def test_power_1_has_the_gradient_of_dft_and_power_0_that_of_sft() -> None:
    logp, mask, *_ = example()
    assert torch.equal(weights(losses.power(logp, mask), logp), weights(losses.dft(logp, mask), logp))
    close(losses.power(logp, mask).loss_BT, (1 - logp.exp()) * mask)
    close(weights(losses.power(logp, mask, alpha=1e-9), logp), mask.double())
    close(losses.power(logp, mask, alpha=1e-9).loss_BT, losses.sft(logp, mask).loss_BT)


def test_power_keeps_the_gradient_of_an_unlikely_token_in_single_precision() -> None:
    logp = torch.tensor([[-30.0]], requires_grad=True)
    weight = weights(losses.power(logp, torch.ones(1, 1, dtype=torch.bool)), logp)
    assert weight.item() == pytest.approx(math.exp(-30), rel=1e-5)


def test_power_leaves_out_what_is_below_the_threshold() -> None:
    logp, mask = row(0.0, math.log(0.5), math.log(0.25), math.log(0.1))
    terms = losses.power(logp, mask, alpha=2, above=0.25)
    close(terms.loss_BT, [0.0, (1 - 0.25) / 2, (1 - 0.0625) / 2, 0.0])
    close(weights(terms, logp), [1.0, 0.25, 0.0625, 0.0])
    assert terms.clipped_BT.tolist() == [[False, False, False, True]]


def test_luffy_weighs_by_its_shape() -> None:
    logp, mask = row(math.log(0.9), math.log(0.1))
    close(weights(losses.luffy(logp, mask), logp), [0.9, 0.5])
    close(weights(losses.luffy(logp, mask, gamma=0.3), logp), [0.75, 0.25])


def test_chord_weighs_uncertain_tokens_most() -> None:
    logp, mask = row(0.0, math.log(0.9), math.log(0.5), math.log(0.1), -800.0)
    close(weights(losses.chord(logp, mask), logp), [0.0, 0.09, 0.25, 0.09, 0.0])


# What holds for every loss


@pytest.mark.parametrize("spec", SPECS)
def test_nothing_outside_the_mask_matters(spec: str) -> None:
    inputs = example()
    logp, mask, reference, entropy = inputs
    terms = compute(spec, *inputs)
    assert not terms.loss_BT[~mask].any()
    assert not terms.clipped_BT[~mask].any()
    for one in (NAN, INF, -INF, 1e30, -1e30):
        for other in (NAN, INF, -INF, 0.0):
            spoiled = torch.where(mask, logp.detach(), one).requires_grad_()
            elsewhere = torch.where(mask, reference, other)
            again = compute(spec, spoiled, mask, elsewhere, torch.where(mask, entropy, other))
            assert torch.equal(again.loss_BT, terms.loss_BT)
            assert torch.equal(again.clipped_BT, terms.clipped_BT)
            assert torch.equal(weights(again, spoiled), weights(compute(spec, *inputs), logp))


@pytest.mark.parametrize("spec", SPECS)
def test_no_response_token_gives_a_differentiable_zero(spec: str) -> None:
    logp, mask, reference, entropy = example()
    loss = compute(spec, logp, torch.zeros_like(mask), reference, entropy).loss_BT.sum()
    loss.backward()
    assert loss == 0
    assert logp.grad is not None and not logp.grad.any()


@pytest.mark.parametrize("spec", SPECS)
def test_rows_do_not_depend_on_their_neighbours(spec: str) -> None:
    inputs = example()
    rows = [compute(spec, *(values[b : b + 1] for values in inputs)).loss_BT for b in range(3)]
    close(torch.cat(rows), compute(spec, *inputs).loss_BT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS)
def test_the_dtype_of_the_log_probs_is_kept(spec: str, dtype: torch.dtype) -> None:
    logp, mask, reference, entropy = example()
    terms = compute(spec, logp.to(dtype), mask, reference.to(dtype), entropy.to(dtype))
    assert (terms.loss_BT.dtype, terms.clipped_BT.dtype) == (dtype, torch.bool)
