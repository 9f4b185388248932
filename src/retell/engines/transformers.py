"""Any causal language model that Hugging Face transformers loads, sampled in this process.

A step decodes one token for every active slot; free slots are refilled from the queue while the others go on, and a
prompt that several requests share is prefilled once.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from retell.engines.base import Batches, Take, room
from retell.engines.slots import GROUPED_ATTENTION, Layers, PromptCache, SlotCache
from retell.errors import EngineError, PolicyError
from retell.packing import by_length, collate
from retell.policy import default_device, load_model, require_same_model
from retell.records import Completion, Request
from retell.tokens import ChatTokenizer

_REFILL = 8
"""Refill once an eighth of the slots is free: prefilling a few rows at a time would waste the batch."""
_PREFILL_TOKENS = 32768
"""Tokens prefilled in one forward pass, padding included."""
_KEPT_BYTES = 1 << 30
"""Memory for the prefilled caches of prompts that are kept for later samples."""


@dataclass(slots=True)
class _Slot:
    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class TransformersEngine:
    """Ancestral sampling with a seed per request.

    Args:
        folder: the policy's model folder.
        tokenizer: the policy's tokenizer.
        trust_remote_code: whether code that comes with the model may run.
        batch_size: rows decoded together.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: a torch device; the accelerator, where there is one, by default.

    Raises:
        PolicyError: the model cannot be loaded, or has layers without full attention.
    """

    draws = True

    def __init__(
        self,
        folder: Path,
        tokenizer: ChatTokenizer,
        trust_remote_code: bool = False,
        *,
        batch_size: int = 64,
        dtype: str = "auto",
        device: str | None = None,
    ) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._trust_remote_code = trust_remote_code
        self.faults: Counter[str] = Counter()
        self._prompts = PromptCache(_KEPT_BYTES)
        self._batch_size = batch_size
        self._device = device or default_device()
        self._model = load_model(folder, dtype, self._device, trust_remote_code).eval()
        config = self._model.config.get_text_config(decoder=True)
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        require_full_attention(config)
        self._model.set_attn_implementation(GROUPED_ATTENTION)

    @torch.inference_mode()
    def sample(self, take: Take) -> Batches:
        """Decodes all slots step by step, yielding the rows that finished in each step."""
        slots: list[_Slot] = []
        cache = SlotCache(self._batch_size, self._device)
        while True:
            free = self._batch_size - len(slots)
            if free * _REFILL >= self._batch_size:
                requests = take(free, not slots)
                if not requests and not slots:
                    return
                slots += self._admit(requests, cache)
            finished = self._step(slots, cache)
            if finished:
                yield [self._complete(slot) for slot in finished]

    def load(self, folder: Path) -> None:
        """Copies the weights into the model, in its dtype and on its device; the folder is first read into main memory.

        Raises:
            PolicyError: the folder holds another model, or cannot be loaded; nothing has changed then.
        """
        require_same_model(folder, self._folder, self._trust_remote_code)
        dtype = str(self._model.dtype).removeprefix("torch.")
        self._model.load_state_dict(load_model(folder, dtype, "cpu", self._trust_remote_code).state_dict())
        self._prompts = PromptCache(_KEPT_BYTES)
        self._folder = folder

    def close(self) -> None:
        """Gives the model's memory back."""
        del self._model

    def _admit(self, requests: Sequence[Request], cache: SlotCache) -> list[_Slot]:
        """Prefills each distinct prompt that is not kept, all but its last token, which is decoded with the others."""
        by_prompt: dict[tuple[int, ...], list[Request]] = {}
        for request in requests:
            if not request.prompt.ids:
                raise EngineError(f"the prompt of {request.problem} has no token ids: it was built without a tokenizer")
            by_prompt.setdefault(request.prompt.ids, []).append(request)
        admitted: list[_Slot] = []
        for known in (True, False):
            queue = [prompt for prompt in by_prompt if (prompt in self._prompts) == known]
            for numbers in by_length([len(prompt) for prompt in queue], _PREFILL_TOKENS):
                prompts = [queue[number] for number in numbers]
                rows = [request for prompt in prompts for request in by_prompt[prompt]]
                copies = [row for row, prompt in enumerate(prompts) for _ in by_prompt[prompt]]
                cache.admit(rows, self._prompts.rows(prompts) if known else self._prefill(prompts), copies)
                admitted += [_Slot(request) for request in rows]
        return admitted

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> Layers:
        if max(map(len, prompts)) == 1:
            return ()
        batch = collate([(prompt[:-1], ()) for prompt in prompts], packed=False).to(self._device)
        prefilled = DynamicCache(config=self._model.config)
        self._model.base_model(
            input_ids=batch.ids, position_ids=batch.positions, past_key_values=prefilled, use_cache=True
        )
        layers = [_tensors(layer) for layer in prefilled.layers]
        self._prompts.keep(prompts, layers)
        return layers

    def _step(self, slots: list[_Slot], cache: SlotCache) -> list[_Slot]:
        """Decodes one token for every slot; finished ones are removed and returned."""
        logits_BV = self._model(**cache.inputs()).logits[:, -1]
        done: list[int] = []
        for row, (slot, token, logprob) in enumerate(zip(slots, *cache.draw(logits_BV), strict=True)):
            if not math.isfinite(logprob):
                raise EngineError("the logits are not finite: use engine_args.dtype = 'bfloat16' or 'float32'")
            slot.ids.append(token)
            slot.logprobs.append(logprob)
            if token in self._tokenizer.end_ids or len(slot.ids) >= room(slot.request, self.context):
                done.append(row)
        finished = [slots[row] for row in done]
        for to, source in cache.release(done):
            slots[to] = slots[source]
        del slots[cache.active :]
        return finished

    def _complete(self, slot: _Slot) -> tuple[Request, Completion]:
        ended = slot.ids[-1] in self._tokenizer.end_ids
        completion = Completion(
            text=self._tokenizer.decode(slot.ids),
            ids=tuple(slot.ids),
            logprobs=tuple(slot.logprobs),
            stop="stop" if ended else "length",
        )
        return slot.request, completion


def _tensors(layer: object) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
    return layer.keys, layer.values


def require_full_attention(config: Any) -> None:
    """Raises:
    PolicyError: the model has layers that are no full attention, which `SlotCache` cannot hold.
    """
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds != {"full_attention"} or window:
        raise PolicyError(
            f"the transformers engine samples models with full attention only; {config.model_type} has other layers: "
            "sample it elsewhere and use --engine recorded"
        )
