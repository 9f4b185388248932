import torch

from retell.engines.slots import PromptCache


def layers(*lengths: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two layers whose keys at column c of row r are r + c / 100, padded with -1; values are the negative of it."""
    columns = max(lengths)
    keys = torch.full((len(lengths), 2, columns, 3), -1.0)
    for row, length in enumerate(lengths):
        keys[row, :, :length] = row + torch.arange(length)[None, :, None] / 100
    return [(keys, -keys), (keys + 10, -keys - 10)]


A, B, C = (1, 2, 3, 4), (5, 6), (7, 8, 9)
TOKEN = 2 * 2 * (2 * 3) * 4
"""Bytes of one column: two layers, keys and values, two heads of size three, four bytes each."""


def test_kept_prompts_come_back_in_any_order_and_number_without_their_padding() -> None:
    cache = PromptCache(1 << 20)
    cache.keep([A, B, C], layers(3, 1, 2))
    assert A in cache and B in cache and C in cache and (1, 2, 3) not in cache
    (first, values), (second, _) = cache.rows([C, B])
    assert first.shape == (2, 2, 2, 3)
    assert first[:, 0, :, 0].tolist() == [[2.0, torch.tensor(2.01).item()], [1.0, 0.0]]
    assert torch.equal(values[0], -first[0])
    assert torch.equal(second[0], first[0] + 10)


def test_the_longest_unused_prompts_go_first() -> None:
    cache = PromptCache((3 + 2) * TOKEN)
    cache.keep([A], layers(3))
    cache.keep([C], layers(2))
    cache.rows([A])
    cache.keep([B], layers(1))
    assert A in cache and B in cache and C not in cache


def test_a_prompt_that_does_not_fit_is_not_kept_and_leaves_room() -> None:
    cache = PromptCache(2 * TOKEN)
    cache.keep([A], layers(3))
    assert A not in cache
    cache.keep([C], layers(2))
    assert C in cache
