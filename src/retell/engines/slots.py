"""A key-value cache of slots: rows of different lengths decode together, finish, and make room for others."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from retell.engines.draw import draw, uniform
from retell.records import Request

Layers = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (rows, key heads, columns, size)."""
GROUPED_ATTENTION = "retell_grouped"
_GROWTH = 64
"""Least number of columns a cache grows by; it grows by half, so that freed blocks can be used again."""


class SlotCache(Cache):
    """Keys, values and decoding state of the active rows; row i of everything belongs to slot i.

    Rows are aligned left: a row's token at position p is in column p, so a finished row can be replaced by any other.
    """

    def __init__(self, slots: int, device: str) -> None:
        super().__init__(layers=[])
        self.active = 0
        self._slots = slots
        self._device = device
        self._length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._state = {
            "position": torch.zeros(slots, dtype=torch.long, device=device),
            "token": torch.zeros(slots, dtype=torch.long, device=device),
            "temperature": torch.zeros(slots, device=device),
            "top_p": torch.zeros(slots, device=device),
        }
        self._seeds = np.zeros(slots, dtype=np.uint64)
        self._steps = np.zeros(slots, dtype=np.uint64)

    def admit(self, requests: Sequence[Request], prefilled: Layers, copies: Sequence[int]) -> None:
        """Appends rows; the cache of row j is a copy of the prefilled row ``copies[j]``, and its next input the last
        token of its prompt, which was not prefilled.
        """
        new = slice(self.active, self.active + len(requests))
        rows = torch.tensor(copies, device=self._device)
        for index, (keys, values) in enumerate(prefilled):
            self._reserve(index, keys, values, keys.shape[2])
            self._keys[index][new, :, : keys.shape[2]] = keys[rows]
            self._values[index][new, :, : values.shape[2]] = values[rows]
        prompts = [request.prompt.ids or () for request in requests]
        for name, values_of in (
            ("position", [len(prompt) - 1 for prompt in prompts]),
            ("token", [prompt[-1] for prompt in prompts]),
            ("temperature", [request.sampling.temperature for request in requests]),
            ("top_p", [request.sampling.top_p for request in requests]),
        ):
            state = self._state[name]
            state[new] = torch.tensor(values_of, dtype=state.dtype, device=self._device)
        self._seeds[new] = np.array([request.seed for request in requests], dtype=np.uint64)
        self._steps[new] = 0
        self.active += len(requests)

    def inputs(self) -> dict[str, Any]:
        """Arguments of the model's next forward pass over the active rows."""
        positions = self._state["position"][: self.active]
        self._length = int(positions.max()) + 1
        attended = torch.arange(self._length, device=self._device)[None] <= positions[:, None]
        return {
            "input_ids": self._state["token"][: self.active, None],
            "position_ids": positions[:, None],
            "attention_mask": attended[:, None, None, :],
            "past_key_values": self,
            "use_cache": True,
        }

    def draw(self, logits_BV: Tensor) -> tuple[list[int], list[float]]:
        """Draws the next token of every active row, which becomes its next input; returns tokens and log-probs."""
        active = slice(0, self.active)
        numbers = torch.from_numpy(uniform(self._seeds[active], self._steps[active]))
        drawn, logprobs = draw(logits_BV, numbers, self._state["temperature"][active], self._state["top_p"][active])
        self._state["token"][active] = drawn
        self._state["position"][active] += 1
        self._steps[active] += np.uint64(1)
        return drawn.tolist(), logprobs.tolist()

    def release(self, done: Sequence[int]) -> list[tuple[int, int]]:
        """Frees rows; the last rows move into their places. Returns the moves as (to, from)."""
        left = self.active - len(done)
        gone = set(done)
        holes = [row for row in done if row < left]
        movers = [row for row in range(left, self.active) if row not in gone]
        if holes:
            to, source = torch.tensor(holes, device=self._device), torch.tensor(movers, device=self._device)
            for tensor in (*self._keys, *self._values):
                tensor[to, :, : self._length] = tensor[source, :, : self._length]
            for state in self._state.values():
                state[to] = state[source]
            for numbers in (self._seeds, self._steps):
                numbers[holes] = numbers[movers]
        self.active = left
        return list(zip(holes, movers, strict=True))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's attention: puts each row's new token into its column and returns all columns in use."""
        self._reserve(layer_idx, key_states, value_states, self._length)
        rows, columns = torch.arange(self.active, device=self._device), self._state["position"][: self.active]
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        keys[rows, :, columns] = key_states[:, :, 0]
        values[rows, :, columns] = value_states[:, :, 0]
        return keys[: self.active, :, : self._length], values[: self.active, :, : self._length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use."""
        return self._length

    def _reserve(self, layer: int, keys: Tensor, values: Tensor, length: int) -> None:
        while len(self._keys) <= layer:
            self._keys.append(keys.new_zeros((self._slots, keys.shape[1], 0, keys.shape[3])))
            self._values.append(values.new_zeros((self._slots, values.shape[1], 0, values.shape[3])))
        held = self._keys[layer].shape[2]
        if length > held:
            more = max(length + _GROWTH, int(held * 1.5)) - held
            for tensors in (self._keys, self._values):
                tensors[layer] = pad(tensors[layer], (0, 0, 0, more))


class PromptCache:
    """Prefilled prompts, the last used ones, so that a later wave of samples of a problem need not prefill it again.

    Args:
        most: bytes that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._layers: OrderedDict[tuple[int, ...], Layers] = OrderedDict()

    def __contains__(self, prompt: tuple[int, ...]) -> bool:
        return prompt in self._layers

    def keep(self, prompts: Sequence[tuple[int, ...]], prefilled: Layers) -> None:
        """Keeps the rows of ``prefilled``, which are the prompts without their last token, aligned left."""
        for row, prompt in enumerate(prompts):
            length = len(prompt) - 1
            self._layers[prompt] = [(k[row, :, :length].clone(), v[row, :, :length].clone()) for k, v in prefilled]
            self._held += _bytes(self._layers[prompt])
        while self._held > self._most:
            self._held -= _bytes(self._layers.popitem(last=False)[1])

    def rows(self, prompts: Sequence[tuple[int, ...]]) -> Layers:
        """The kept rows of some prompts in one batch."""
        for prompt in prompts:
            self._layers.move_to_end(prompt)
        layers = zip(*(self._layers[prompt] for prompt in prompts), strict=True)
        return [tuple(_stack(tensors) for tensors in zip(*layer, strict=True)) for layer in layers]  # type: ignore[misc]


def _bytes(layers: Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)


def _stack(rows: Sequence[Tensor]) -> Tensor:
    """Rows (heads, columns, size) of different lengths as one batch, aligned left."""
    columns = max(row.shape[1] for row in rows)
    return torch.stack([pad(row, (0, 0, 0, columns - row.shape[1])) for row in rows])


def grouped_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention that, for one query position, folds a key head's query heads into the query axis.

    It is the same computation as repeating the keys for every query head, without copying the cache.
    """
    batch, heads, length, size = query.shape
    groups = heads // key.shape[1]
    if length != 1 or groups == 1 or options.get("position_bias") is not None:
        mixed, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return mixed, None
    folded = query.view(batch, key.shape[1], groups, size)
    mixed = scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=options.get("scaling"))
    return mixed.view(batch, heads, 1, value.shape[-1]).transpose(1, 2), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
