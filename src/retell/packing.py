"""Rows of different lengths as one batch: packed one after the other without padding, or padded to a rectangle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

Pair = tuple[Sequence[int], Sequence[int]]
"""Prompt ids and response ids of one row."""
Length = int | tuple[int, ...]
"""Of a packed row; of a prompt with several responses that of the prompt and of each response."""
ROWS_ATTENTION = "retell_rows"


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids (1, T) of packed rows or (B, L) of padded ones, and what is asked about them.

    N counts the response tokens of all rows, row after row; token n is ``targets_N[n]``, stands in row ``row_N[n]`` at
    place ``column_N[n]`` of its response, and is predicted by the hidden state at ``at_N[n]`` of the ids laid flat.
    ``lengths`` are those of packed rows; of several responses to one prompt, those of the prompt and of each response.
    None where rows are padded.
    """

    ids: Tensor
    positions: Tensor
    at_N: Tensor
    targets_N: Tensor
    row_N: Tensor
    column_N: Tensor
    lengths: tuple[Length, ...] | None

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device."""
        names = ("ids", "positions", "at_N", "targets_N", "row_N", "column_N")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    def inputs(self) -> dict[str, Any]:
        """Arguments of the model's forward pass. Padding is on the right, where no causal layer looks: no mask."""
        inputs = {"input_ids": self.ids, "use_cache": False}
        return (
            inputs if self.lengths is None else {**inputs, "position_ids": self.positions, "row_lengths": self.lengths}
        )

    def rectangle(self, values_N: Tensor, fill: float = 0.0) -> Tensor:
        """Values of the response tokens as (rows, longest response), ``fill`` where a row has ended."""
        shape = (self._rows, self._longest)
        return values_N.new_full(shape, fill).index_put((self.row_N, self.column_N), values_N)

    def mask_BT(self) -> Tensor:
        """Where that rectangle holds a token."""
        return self.rectangle(torch.ones_like(self.targets_N)).bool()

    @property
    def _rows(self) -> int:
        return int(self.row_N[-1]) + 1 if len(self.row_N) else 0

    @property
    def _longest(self) -> int:
        return int(self.column_N.max()) + 1 if len(self.column_N) else 0


def collate(rows: Sequence[Pair], *, packed: bool, shared: bool = False) -> Batch:
    """Rows as a batch; no row gives one token about which nothing is asked, so that a forward pass is possible.

    With ``shared`` packed rows that follow one another and have the same prompt have it once.
    """
    prompts = _by_prompt(rows, shared)
    lengths = [len(prompt) + sum(map(len, responses)) for prompt, responses in prompts] or [1]
    longest = max(lengths)
    starts = [0, *accumulate(lengths)][:-1] if packed else [row * longest for row in range(len(lengths))]
    ids = torch.zeros(sum(lengths) if packed else longest * len(lengths), dtype=torch.long)
    positions = torch.zeros_like(ids) if packed else torch.arange(longest).repeat(len(lengths))
    at: list[Tensor] = []
    targets: list[Tensor] = []
    row_of: list[Tensor] = []
    columns: list[Tensor] = []
    for (prompt, responses), start in zip(prompts, starts, strict=False):
        first = begin = start + len(prompt)
        ids[start:first] = torch.tensor(prompt, dtype=torch.long)
        if packed:
            positions[start:first] = torch.arange(len(prompt))
        for response in responses:
            end = begin + len(response)
            ids[begin:end] = torch.tensor(response, dtype=torch.long)
            if packed:
                positions[begin:end] = torch.arange(len(prompt), len(prompt) + len(response))
            at.append(torch.arange(begin - 1, end - 1))
            at[-1][:1] = first - 1  # the prompt's last token predicts the first of each response
            targets.append(ids[begin:end])
            row_of.append(torch.full((len(response),), len(row_of)))
            columns.append(torch.arange(len(response)))
            begin = end
    nothing = torch.zeros(0, dtype=torch.long)
    asked = {"at_N": at, "targets_N": targets, "row_N": row_of, "column_N": columns}
    shape = (1, -1) if packed else (len(lengths), longest)
    return Batch(
        ids=ids.view(shape),
        positions=positions.view(shape),
        lengths=tuple(map(_length, prompts)) or (1,) if packed else None,
        **{name: torch.cat(part) if part else nothing for name, part in asked.items()},
    )


_Prompt = tuple[Sequence[int], list[Sequence[int]]]
"""A prompt and its responses."""


def _by_prompt(rows: Sequence[Pair], shared: bool) -> list[_Prompt]:
    prompts: list[_Prompt] = []
    for prompt, response in rows:
        if shared and prompts and tuple(prompts[-1][0]) == tuple(prompt):
            prompts[-1][1].append(response)
        else:
            prompts.append((prompt, [response]))
    return prompts


def _length(one: _Prompt) -> Length:
    prompt, responses = one
    return len(prompt) + len(responses[0]) if len(responses) == 1 else (len(prompt), *map(len, responses))


def rows_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    row_lengths: tuple[Length, ...] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each of the packed rows, one after the other: no work is done between rows.

    A further response to a prompt looks at the prompt and at itself. Without ``row_lengths`` it is plain causal
    attention.
    """
    options["is_causal"] = True
    lengths = [query.shape[2]] if row_lengths is None else list(row_lengths)
    rows = zip(*(t.split([_tokens(n) for n in lengths], dim=2) for t in (query, key, value)), strict=True)
    mixed: list[Tensor] = []
    for length, (q, k, v) in zip(lengths, rows, strict=True):
        prompt, *responses = (0, length) if isinstance(length, int) else length
        begin = prompt
        for number, response in enumerate(responses):
            end = begin + response
            own = [t[:, :, :end] if not number else _without(t, prompt, begin, end) for t in (q, k, v)]
            row = sdpa_attention_forward(module, own[0], own[1], own[2], None, **options)[0]
            mixed.append(row[:, prompt:] if number else row)
            begin = end
    return torch.cat(mixed, dim=1), None


def _without(t: Tensor, prompt: int, begin: int, end: int) -> Tensor:
    """A prompt and one of its responses without those between. The prompt attends again: a mask would cost more."""
    return torch.cat([t[:, :, :prompt], t[:, :, begin:end]], dim=2)


def _tokens(length: Length) -> int:
    return length if isinstance(length, int) else sum(length)


AttentionInterface.register(ROWS_ATTENTION, rows_attention)
AttentionMaskInterface.register(ROWS_ATTENTION, lambda *_, **__: None)


def by_length(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length, longest first, of at most ``most`` tokens with padding (a longer row
    goes alone).
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, most // max(lengths[order[0]], 1))
        yield order[:size]
        order = order[size:]


def deal(lengths: Sequence[int], processes: int, most: int, *, packed: bool) -> list[list[list[int]]]:
    """Row numbers of one update as micro-batches, by process: each gets equally many, at least one, perhaps empty.

    A micro-batch holds rows of similar length and at most ``most`` tokens, padding included (a longer row goes alone);
    their number is the least that filling in order of length gives, and they are filled evenly.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    least, wanted = most, max(1, len(_fill(lengths, order, most, packed)))
    wanted += -wanted % processes
    low = 0
    while low < least:  # the smallest size that still takes no more micro-batches
        middle = (low + least) // 2
        if len(_fill(lengths, order, middle, packed)) <= wanted:
            least = middle
        else:
            low = middle + 1
    groups = _fill(lengths, order, least, packed)
    groups += [[] for _ in range(wanted - len(groups))]
    return [groups[process::processes] for process in range(processes)]


def _fill(lengths: Sequence[int], order: Sequence[int], most: int, packed: bool) -> list[list[int]]:
    groups: list[list[int]] = []
    tokens = 0
    for row in order:
        if groups:
            # Longest first: the first row of a group says how wide its rectangle is.
            grown = tokens + lengths[row] if packed else lengths[groups[-1][0]] * (len(groups[-1]) + 1)
        if not groups or grown > most:
            groups.append([])
            grown = lengths[row]
        groups[-1].append(row)
        tokens = grown
    return groups
