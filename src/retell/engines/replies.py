"""What a server said, read into a completion or a named fault."""

import json
import math
from collections.abc import Mapping
from typing import Any

from retell.records import Completion, Request
from retell.tokens import ChatTokenizer

Reply = dict[str, Any]

_GONE = {404, 502, 503, 504}
"""The model or the server behind the URL is not there at present."""
_BUSY = {429, 503}
_PASSING = {408, 409, 425}
"""Refusals that concern the moment and not the request."""
_NO_TOKEN = 1 << 31
_ROUNDING = 1e-3
"""How far above 0 a log-prob may be by rounding; a logit in its place is soon further."""


class Fault(Exception):
    """Why a try brought no completion.

    ``name`` is one of few: faults are counted by it. A ``lasting`` one would be met again by the same request; an
    ``outage`` concerns the server, whoever asks; ``overload`` means that it has been given too much at once;
    ``retry_after`` is the number of seconds it asks to be left alone.
    """

    def __init__(
        self,
        name: str,
        detail: str = "",
        *,
        lasting: bool = False,
        outage: bool = False,
        overload: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{name}: {detail}" if detail else name)
        self.name = name
        self.lasting = lasting
        self.outage = outage
        self.overload = overload
        self.retry_after = retry_after


def status_fault(status: int, body: bytes, headers: Mapping[str, str]) -> Fault:
    """The fault that an HTTP status other than success stands for."""
    return Fault(
        str(status),
        _message(body),
        lasting=status == 501 or (status < 500 and status not in _GONE | _BUSY | _PASSING),
        outage=status in _GONE,
        overload=status in _BUSY,
        retry_after=_seconds(headers.get("retry-after")),
    )


def plain(text: str, secret: str | None, most: int = 200) -> str:
    """Somebody else's words made fit to be shown: one line of printable characters, at most ``most``, no secret."""
    if secret:
        text = text.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def parse(body: bytes) -> Reply:
    """The JSON object in a body.

    Raises:
        Fault: it holds none.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise Fault("not JSON", body.decode("utf-8", "replace")) from None
    if not isinstance(said, dict):
        raise Fault("not JSON", "no object")
    return said


def read_models(reply: Reply) -> dict[str, int | None]:
    """The models that a server lists, each with the most tokens of prompt and response together, where it says so."""
    listed = reply.get("data")
    if not isinstance(listed, list):
        raise Fault("no models", _said(reply))
    models = [one for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]
    return {one["id"]: length if _is_count(length := one.get("max_model_len")) else None for one in models}


def only_choice(reply: Reply) -> Reply:
    """The one choice that was asked for."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise Fault("no choices", _said(reply))
    if len(choices) > 1:
        raise Fault("several choices", f"{len(choices)} where one was asked for")
    choice: Reply = choices[0]
    return choice


def token_ids(choice: Reply) -> tuple[int, ...] | None:
    """The sampled token ids, or None where the server gives none that can be used."""
    ids = choice.get("token_ids")
    if not isinstance(ids, list) or not ids or not all(_is_count(one) and one < _NO_TOKEN for one in ids):
        return None
    return tuple(ids)


def top_logprobs(choice: Reply) -> dict[str, float]:
    """Log-probs of the likeliest first tokens, by the server's name for each; empty where it gives none."""
    logprobs = choice.get("logprobs")
    positions = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    first = positions[0] if isinstance(positions, list) and positions else None
    return {name: float(one) for name, one in first.items() if _is_logprob(one)} if isinstance(first, dict) else {}


def read_ids(reply: Reply, request: Request, tokenizer: ChatTokenizer) -> Completion:
    """The completion in a reply that gives token ids, the end token included.

    ``logprobs`` is None where there are none, not one for each id, or where they are no log-probs.

    Raises:
        Fault: no completion of this prompt, ended by the policy's own end token or by its length, is in it.
    """
    choice = only_choice(reply)
    ids = token_ids(choice)
    if ids is None:
        raise Fault("missing token ids")
    shown = choice.get("prompt_token_ids")
    if shown is not None and shown != list(request.prompt.ids or ()):
        raise Fault("another prompt", "the server has changed the prompt's token ids", lasting=True)
    limited = _stop(choice) == "length"
    if not tokenizer.end_ids.isdisjoint(ids[:-1]):
        raise Fault("end token ignored", "the server went on past the policy's end token", lasting=True)
    ended = ids[-1] in tokenizer.end_ids
    if not ended and not limited:
        raise Fault("no end token", f"the server stopped at token {ids[-1]}, with which no response ends", lasting=True)
    return Completion(tokenizer.decode(ids), ids, _logprobs(choice, len(ids)), "stop" if ended else "length")


def read_chat(reply: Reply) -> Completion:
    """The completion in a chat reply: text without ids.

    A response that was cut for its length before it had any content, as by a server that takes the thinking out, is a
    sample with an empty text.

    Raises:
        Fault: it holds no text, or ended neither by itself nor by its length.
    """
    choice = only_choice(reply)
    stop = _stop(choice)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if text is None and isinstance(message, dict) and stop == "length":
        text = ""
    if not isinstance(text, str):
        raise Fault("no text", _said(reply))
    usage = reply.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return Completion(text, None, None, stop, usage=tokens if _is_count(tokens) else None)


def _stop(choice: Reply) -> Any:
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise Fault("unfinished", f"finish_reason is {reason!r}")
    return reason


def _logprobs(choice: Reply, count: int) -> tuple[float, ...] | None:
    logprobs = choice.get("logprobs")
    given = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(given, list) or len(given) != count or not all(map(_is_logprob, given)):
        return None
    return tuple(map(float, given))


def _is_logprob(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value <= _ROUNDING  # type: ignore[arg-type,operator]


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _message(body: bytes) -> str:
    try:
        return _said(json.loads(body))
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def _said(reply: object) -> str:
    """What a reply says is wrong, in the ways servers put it."""
    for key in ("error", "message", "detail"):
        if isinstance(reply, dict) and reply.get(key):
            return _said(reply[key])
    return reply if isinstance(reply, str) else json.dumps(reply)
