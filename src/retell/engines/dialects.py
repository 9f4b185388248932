"""The ways of asking a server for a sample, and what the log-probs that it gives are of."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from retell.records import Request, Sampling

PROBED = 5
"""Likeliest tokens whose log-probs are compared."""
PLAIN = Sampling(1.0, 1.0, 1)
COOLED = Sampling(0.5, 1.0, 1)
CUT = Sampling(1.0, 0.5, 1)
_EXCLUDED = -9000.0
"""vLLM writes −9999 for the log-prob of what cannot be sampled."""
_LEAST_SPREAD = 1.0
"""Log-probs closer than this tell nothing: half-precision logits are off by as much as an eighth between batches."""
_LEAST_GAIN = 0.3
"""Cutting to half the mass gives what is kept a factor of at least 1.6 (a log of 0.47), unless some is excluded."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of asking: by token ids or by chat, with vLLM's own fields or without, and how the limit is called."""

    path: str
    own_fields: bool
    limit: str = "max_tokens"

    @property
    def ids(self) -> bool:
        """Whether prompt and response are token ids."""
        return self.path == "/completions"


IDS = Dialect("/completions", own_fields=True)
CHATS = (
    Dialect("/chat/completions", own_fields=True),
    Dialect("/chat/completions", own_fields=False),
    Dialect("/chat/completions", own_fields=False, limit="max_completion_tokens"),
)

_OWN_FIELDS = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "ignore_eos": False,
    "watermarking": False,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": False,
}
"""What a server's or a model's own defaults could otherwise change."""


def body(dialect: Dialect, request: Request, model: str, end_ids: Iterable[int], most: int) -> dict[str, Any]:
    """What is posted for a request of ``most`` tokens; every sampling parameter is explicit: no default applies."""
    sampling = request.sampling
    fields: dict[str, Any] = {
        "model": model,
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        dialect.limit: most,
        "seed": request.seed,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    if dialect.own_fields:
        fields |= _OWN_FIELDS
    if not dialect.ids:
        return fields | {"messages": [dict(message) for message in request.prompt.messages]}
    return fields | {
        "prompt": list(request.prompt.ids or ()),
        "add_special_tokens": False,
        "stop_token_ids": sorted(end_ids),
        "logprobs": 0,  # of the sampled tokens alone
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,  # two tokens can have one text
    }


def processed(plain: Mapping[str, float], cooled: Mapping[str, float], cut: Mapping[str, float]) -> bool:
    """Whether a server's log-probs are of the distribution it samples, temperature and top_p applied.

    The log-probs are those of the likeliest first tokens of one prompt with the settings `PLAIN`, `COOLED` and `CUT`.
    Half the temperature doubles their distances, and half the mass excludes some or makes the others likelier. Where
    that cannot be told, or where they are no log-probs, the answer is no.
    """
    common = sorted(plain.keys() & cooled.keys(), key=plain.__getitem__)
    if len(common) < 2:
        return False
    least, best = common[0], common[-1]
    spread = plain[best] - plain[least]
    # Logits scale with the temperature too, but are no parts of a whole, nor gains one what the others lose.
    parts = all(sum(math.exp(min(one, 1.0)) for one in top.values()) < 1.01 for top in (plain, cooled))
    cools = cooled[best] - cooled[least] > 1.5 * spread and cooled[best] > plain[best] - 0.01
    excludes = min(cut.values(), default=0.0) < _EXCLUDED <= min(plain.values())
    gains = best in cut and cut[best] - plain[best] > _LEAST_GAIN
    return parts and spread >= _LEAST_SPREAD and cools and (excludes or gains)
