from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import retell
from retell.packing import ROWS_ATTENTION, Batch, Pair, by_length, collate, deal

TINY = Path(retell.__file__).parent / "tiny" / "policy"
A: Pair = ((11, 12, 13, 14, 15), (21, 22, 23))
B: Pair = ((31, 32), (41, 42, 43, 44, 45, 46, 47))
C: Pair = ((51,), (61, 62))
SILENT: Pair = ((71, 72, 73), ())
ROWS = (A, B, SILENT, C)

TOKENS = st.lists(st.integers(0, 9), max_size=5)
ANY_ROWS = st.lists(st.tuples(TOKENS.filter(len), TOKENS), max_size=6)
LENGTHS = st.lists(st.integers(1, 40), max_size=25)


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "padded"])
def packed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def model(packed: bool) -> PreTrainedModel:
    """In double precision, so that nothing but rounding is left to tolerate."""
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float64).eval()
    if packed:
        loaded.set_attn_implementation(ROWS_ATTENTION)
    return loaded


def logprobs(model: PreTrainedModel, batch: Batch, **instead: Tensor) -> Tensor:
    inputs = batch.inputs() | instead
    if "inputs_embeds" in instead:
        del inputs["input_ids"]
    logp_NV = model(**inputs).logits.flatten(0, 1)[batch.at_N].log_softmax(-1)
    return logp_NV.gather(-1, batch.targets_N[:, None])[:, 0]


def changed(rows: Sequence[Pair], row: int, place: int) -> list[Pair]:
    prompt, response = rows[row]
    tokens = [*prompt, *response]
    tokens[place] += 1
    return [*rows[:row], (tokens[: len(prompt)], tokens[len(prompt) :]), *rows[row + 1 :]]


def test_packed_rows_follow_one_another_and_positions_restart() -> None:
    batch = collate([((5, 6), (7, 8)), ((9,), ()), ((3,), (4,))], packed=True)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 3, 4]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 0, 1]]
    assert batch.at_N.tolist() == [1, 2, 5]


def test_padded_rows_are_a_rectangle_with_padding_on_the_right() -> None:
    batch = collate([((5, 6), (7, 8)), ((9,), ()), ((3,), (4,))], packed=False)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 0, 0, 0], [3, 4, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 3]] * 3
    assert batch.at_N.tolist() == [1, 2, 8]


@given(ANY_ROWS, st.booleans())
def test_the_tokens_asked_about_are_the_responses_and_stand_behind_the_places_that_predict_them(
    rows: list[Pair], packed: bool
) -> None:
    batch = collate(rows, packed=packed)
    asked = [(row, column, token) for row, (_, ids) in enumerate(rows) for column, token in enumerate(ids)]
    assert list(zip(*(t.tolist() for t in (batch.row_N, batch.column_N, batch.targets_N)), strict=True)) == asked
    assert batch.ids.flatten()[batch.at_N + 1].tolist() == batch.targets_N.tolist()
    prompts = [len(rows[row][0]) for row in batch.row_N.tolist()]
    predicted_from = [length + column - 1 for length, column in zip(prompts, batch.column_N.tolist(), strict=True)]
    assert batch.positions.flatten()[batch.at_N].tolist() == predicted_from


def test_values_of_response_tokens_are_laid_out_as_rows() -> None:
    batch = collate(ROWS[:2] + ROWS[3:], packed=True)
    values_N = torch.arange(1.0, 13.0, requires_grad=True)
    inf = float("inf")
    laid = batch.rectangle(values_N, fill=inf)
    assert laid.tolist() == [[1, 2, 3, inf, inf, inf, inf], [4, 5, 6, 7, 8, 9, 10], [11, 12, inf, inf, inf, inf, inf]]
    assert batch.mask_BT().tolist() == [[x < inf for x in row] for row in laid.tolist()]
    laid[batch.mask_BT()].square().sum().backward()
    assert values_N.grad is not None and torch.equal(values_N.grad, 2 * values_N.detach())
    assert batch.rectangle(values_N)[0, 3:].tolist() == [0, 0, 0, 0]


def test_hidden_states_are_those_of_each_row_alone(model: PreTrainedModel, packed: bool) -> None:
    alone = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float64).eval()
    batch = collate(ROWS, packed=packed)
    with torch.no_grad():
        hidden_TD = model.base_model(**batch.inputs()).last_hidden_state.flatten(0, 1)
        lengths = [len(prompt) + len(response) for prompt, response in ROWS]
        width = max(lengths)
        starts = [sum(lengths[:row]) if packed else row * width for row in range(len(ROWS))]
        for (prompt, response), start, length in zip(ROWS, starts, lengths, strict=True):
            wanted = alone.base_model(input_ids=torch.tensor([[*prompt, *response]])).last_hidden_state[0]
            torch.testing.assert_close(hidden_TD[start : start + length], wanted, atol=1e-12, rtol=0)


def test_without_places_attention_is_plain_and_causal() -> None:
    plain, rows = (AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float64).eval() for _ in range(2))
    rows.set_attn_implementation(ROWS_ATTENTION)
    ids = torch.tensor([[*B[0], *B[1]], [*B[1], *B[0]]])
    with torch.no_grad():
        assert torch.equal(rows(ids).logits, plain(ids).logits)


def test_no_token_changes_the_logprobs_of_another_row_by_a_bit(model: PreTrainedModel, packed: bool) -> None:
    batch = collate(ROWS, packed=packed)
    with torch.no_grad():
        before_N = logprobs(model, batch)
        for row, (prompt, response) in enumerate(ROWS):
            own = batch.row_N == row
            for place in range(len(prompt) + len(response)):
                after_N = logprobs(model, collate(changed(ROWS, row, place), packed=packed))
                assert torch.equal(after_N[~own], before_N[~own])
                assert not own.any() or not torch.equal(after_N[own], before_N[own])


def test_no_gradient_reaches_another_row(model: PreTrainedModel, packed: bool) -> None:
    batch = collate(ROWS, packed=packed)
    embedded = model.get_input_embeddings()(batch.ids).detach().requires_grad_()
    logp_N = logprobs(model, batch, inputs_embeds=embedded)
    number = torch.full_like(batch.ids, -1)  # of the row at each place
    for row, (prompt, response) in enumerate(ROWS):
        length = len(prompt) + len(response)
        begin = sum(len(p) + len(r) for p, r in ROWS[:row])
        if packed:
            number[0, begin : begin + length] = row
        else:
            number[row, :length] = row
    for row in (0, 1, 3):
        (grad,) = torch.autograd.grad(logp_N[batch.row_N == row].sum(), embedded, retain_graph=True)
        reached = grad.abs().sum(-1) > 0
        predictors = (number == row).flatten().nonzero()[:-1, 0]  # the last token predicts nothing
        assert reached.flatten().nonzero()[:, 0].tolist() == predictors.tolist()


@pytest.mark.parametrize("rows", [(), (SILENT,), (SILENT, SILENT)])
def test_a_batch_about_which_nothing_is_asked_can_be_passed_through(
    model: PreTrainedModel, packed: bool, rows: tuple[Pair, ...]
) -> None:
    batch = collate(rows, packed=packed)
    logp_N = logprobs(model, batch)
    assert logp_N.shape == (0,)
    assert batch.rectangle(logp_N).numel() == batch.mask_BT().numel() == 0
    weight = model.get_input_embeddings().weight
    (grad,) = torch.autograd.grad(logp_N.sum(), weight)
    assert not grad.any()


def test_gradient_checkpointing_changes_no_gradient(model: PreTrainedModel, packed: bool) -> None:
    batch = collate(ROWS, packed=packed)
    weights = list(model.parameters())
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    handle = model.base_model.layers[0].mlp.register_forward_pre_hook(count)
    plain = torch.autograd.grad(logprobs(model, batch).sum(), weights)
    assert passes == 1
    model.train()
    model.gradient_checkpointing_enable()
    checkpointed = torch.autograd.grad(logprobs(model, batch).sum(), weights)
    model.gradient_checkpointing_disable()
    model.eval()
    handle.remove()
    assert passes == 3
    torch.testing.assert_close(checkpointed, plain, atol=1e-12, rtol=1e-12)


def test_a_batch_on_a_device_is_the_same_batch() -> None:
    for packed in (True, False):
        batch = collate(ROWS, packed=packed)
        moved = batch.to("meta")
        assert moved.lengths == (tuple(len(prompt) + len(response) for prompt, response in ROWS) if packed else None)
        for name in set(Batch.__slots__) - {"lengths"}:
            kept, there = getattr(batch, name), getattr(moved, name)
            assert there.device.type == "meta" and there.shape == kept.shape


def size(lengths: Sequence[int], group: Sequence[int], packed: bool) -> int:
    """Tokens of a micro-batch, padding included."""
    own = [lengths[row] for row in group] or [0]
    return sum(own) if packed else max(own) * len(own)


def number_by_length(lengths: Sequence[int], most: int, packed: bool) -> int:
    """Micro-batches that filling one after the other takes, longest rows first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or size(lengths, [*groups[-1], row], packed) > most:
            groups.append([])
        groups[-1].append(row)
    return len(groups)


@given(LENGTHS, st.integers(1, 5), st.integers(1, 100), st.booleans())
def test_micro_batches_hold_every_row_once_and_each_process_has_equally_many(
    lengths: list[int], processes: int, most: int, packed: bool
) -> None:
    dealt = deal(lengths, processes, most, packed=packed)
    assert len(dealt) == processes
    assert len({len(share) for share in dealt}) == 1 and dealt[0]
    assert sorted(chain(*chain(*dealt))) == list(range(len(lengths)))
    assert dealt == deal(lengths, processes, most, packed=packed)


@given(LENGTHS, st.integers(1, 5), st.integers(1, 100), st.booleans())
def test_no_micro_batch_is_too_large_unless_a_single_row_is(
    lengths: list[int], processes: int, most: int, packed: bool
) -> None:
    groups = list(chain(*deal(lengths, processes, most, packed=packed)))
    assert all(len(group) == 1 for group in groups if size(lengths, group, packed) > most)


@given(LENGTHS, st.integers(1, 5), st.integers(1, 100), st.booleans())
def test_micro_batches_are_as_few_as_filling_them_takes_and_evenly_filled(
    lengths: list[int], processes: int, most: int, packed: bool
) -> None:
    groups = list(chain(*deal(lengths, processes, most, packed=packed)))
    needed = max(1, number_by_length(lengths, most, packed))
    assert needed <= len(groups) < needed + processes
    largest = max(groups, key=lambda group: size(lengths, group, packed))
    if len(largest) > 1:  # with a lower limit there would be more
        assert number_by_length(lengths, size(lengths, largest, packed) - 1, packed) > len(groups)


@given(LENGTHS, st.integers(1, 5), st.integers(1, 100), st.booleans())
def test_processes_work_at_the_same_time_on_rows_of_similar_length(
    lengths: list[int], processes: int, most: int, packed: bool
) -> None:
    dealt = deal(lengths, processes, most, packed=packed)
    in_time = [lengths[row] for groups in zip(*dealt, strict=True) for group in groups for row in group]
    assert in_time == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 100))
def test_batches_by_length_hold_every_row_once_longest_first_and_no_more_than_they_may(
    lengths: list[int], most: int
) -> None:
    groups = list(by_length(lengths, most))
    assert sorted(chain(*groups)) == list(range(len(lengths)))
    assert [lengths[row] for group in groups for row in group] == sorted(lengths, reverse=True)
    for group, following in zip(groups, [*groups[1:], None], strict=False):
        assert group and (size(lengths, group, packed=False) <= most or len(group) == 1)
        assert following is None or size(lengths, [*group, following[0]], packed=False) > most


# ------------------------------------------------------------------------------------ several responses to one prompt

TWO: tuple[Pair, ...] = (C, (A[0], (21, 22, 23)), (A[0], (81, 82)), (A[0], ()), (A[0], (83, 84, 85, 86)), B)


def test_responses_to_one_prompt_follow_it_and_each_begins_where_it_ends() -> None:
    batch = collate([((5, 6), (7, 8)), ((5, 6), (9,)), ((3,), (4,))], packed=True, shared=True)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 3, 4]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert batch.at_N.tolist() == [1, 2, 1, 5]
    assert batch.targets_N.tolist() == [7, 8, 9, 4]
    assert batch.row_N.tolist() == [0, 0, 1, 2]
    assert batch.column_N.tolist() == [0, 1, 0, 0]
    assert batch.lengths == ((2, 2, 1), 2)


def packing() -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float64).eval()
    loaded.set_attn_implementation(ROWS_ATTENTION)
    return loaded


def test_responses_that_share_a_prompt_have_the_logprobs_that_they_have_alone() -> None:
    model = packing()
    with torch.no_grad():
        together_N = logprobs(model, collate(TWO, packed=True, shared=True))
        alone_N = torch.cat([logprobs(model, collate([row], packed=True)) for row in TWO])
    torch.testing.assert_close(together_N, alone_N, atol=1e-12, rtol=0)


def test_no_response_changes_those_of_another_to_the_same_prompt() -> None:
    model = packing()
    with torch.no_grad():
        batch = collate(TWO, packed=True, shared=True)
        before_N = logprobs(model, batch)
        for row in (1, 2, 4):
            for place in range(len(TWO[row][1])):
                rows = changed(TWO, row, len(TWO[row][0]) + place)
                after_N = logprobs(model, collate(rows, packed=True, shared=True))
                own = batch.row_N == row
                assert torch.equal(after_N[~own], before_N[~own])
                assert not torch.equal(after_N[own], before_N[own])
