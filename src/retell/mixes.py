"""Data mixes: which response each problem is trained on, as token ids."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from retell.errors import DataError, RecipeError, TrainingError
from retell.problems import read_rows
from retell.prompts import Prompter
from retell.recipe import Data, located
from retell.records import Message, Reject, TrainRow
from retell.tokens import ChatTokenizer
from retell.trainrows import TrainRows

LOSS_NAMES = ("sft", "dft", "is", "iw_sft", "psft", "asft", "eaft", "power", "luffy", "chord")
KEPT: Mapping[str, frozenset[str]] = {
    "rewritten": frozenset({"self", "guided", "expert"}),
    "expert": frozenset(),
    "self_only": frozenset({"self"}),
    "guided_only": frozenset({"guided"}),
}
"""By mix, the rungs whose kept response is trained on; every other row has the expert's text (paper, Table 4)."""
ONLINE = "online"
"""The mix whose data is rewritten by the policy as training goes on, in rounds."""
MIXES = (*KEPT, ONLINE)

_PAIRS = (("prompt", "response"), ("prompt", "completion"))
_PROBLEMS = (("problem", "solution"), ("instruction", "output"))


RUNS: Mapping[str, tuple[str, str]] = {
    "sft": ("sft", "expert"),
    "dft": ("dft", "expert"),
    "dr-sft": ("sft", "rewritten"),
    "dr-dft": ("dft", "rewritten"),
    "self-dft": ("dft", "self_only"),
    "guided-dft": ("dft", "guided_only"),
}
"""The paper's runs: a loss and a mix each (Tables 2 and 4)."""


@dataclass(frozen=True, slots=True)
class Run:
    """A training run: its checkpoint's name, its loss (with options, such as ``is,clip=3``) and its data."""

    name: str
    loss: str
    mix: str


def run_named(text: str) -> Run:
    """One of the paper's runs by name, or ``LOSS:MIX``, where LOSS may be somebody's own ``module:function``.

    Raises:
        RecipeError: it is neither.
    """
    if text in RUNS:
        return Run(text, *RUNS[text])
    loss, colon, mix = text.partition(":")
    if not colon:
        raise RecipeError(f"unknown run {text!r}: use one of {', '.join(RUNS)}, or LOSS:MIX")
    function, colon, rest = mix.partition(":")
    if colon and _is_path(loss) and _is_path(function.partition(",")[0]):
        return run_of(f"{loss}:{function}", rest)
    return run_of(loss, mix)


def run_of(loss: str, mix: str) -> Run:
    """The run of a loss on a mix (or a file); the paper's are called as the paper's tables call them.

    Raises:
        RecipeError: there is no such loss.
    """
    if not mix:
        raise RecipeError(f"{loss}: names no data: use LOSS:MIX with one of {', '.join(MIXES)}, or a file")
    if mix not in MIXES and (near := get_close_matches(mix, MIXES, n=1)) and not Path(located(mix)).exists():
        raise RecipeError(f"unknown data {mix!r}, and there is no such file: did you mean {near[0]}?")
    known = loss.partition(",")[0]
    if known not in LOSS_NAMES and ":" not in known:
        near = get_close_matches(known, LOSS_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(LOSS_NAMES)}, or module:function"
        raise RecipeError(f"unknown loss {known!r}: {hint}")
    name = next((name for name, run in RUNS.items() if run == (loss, mix)), None)
    if name is None:
        called = re.sub(r"[^A-Za-z0-9.]+", "-", f"{Path(mix).stem}-{loss}".replace("=-", "=minus-"))
        name = f"file-{called}" if called in RUNS else called
    return Run(name, loss, mix)


def _is_path(text: str) -> bool:
    """Whether it can be a dotted Python name other than a loss of retell's own."""
    return text not in LOSS_NAMES and all(part.isidentifier() for part in text.split("."))


def expert_ids(row: Mapping[str, Any], tokenizer: ChatTokenizer) -> TrainRow:
    """A rewritten row's problem with the expert's solution.

    Raises:
        DataError: the chat template does not keep prompt and response apart.
    """
    conversation = [*row["messages"][:-1], {"role": "assistant", "content": row["solution"]}]
    return TrainRow(row["id"], "expert", *tokenizer.training_ids(conversation))


def kept_ids(row: Mapping[str, Any], tokenizer: ChatTokenizer) -> TrainRow:
    """A rewritten row's problem with its kept response: the sampled ids where they are known.

    Raises:
        DataError: they are not, and the chat template does not keep prompt and response apart.
        TrainingError: there are not as many behaviour log-probs as ids.
    """
    ids, logprobs = row["response_token_ids"], row["behaviour_logprobs"]
    if ids is None:
        return TrainRow(row["id"], row["rung"], *tokenizer.training_ids(row["messages"]))
    if logprobs is not None and len(logprobs) != len(ids):
        raise TrainingError(
            f"row {row['id']} has {len(ids)} response ids and {len(logprobs)} behaviour log-probs: rewrite it again"
        )
    behaviour = tuple(logprobs) if logprobs is not None else None
    return TrainRow(row["id"], row["rung"], tokenizer.prompt_ids(row["messages"][:-1]), tuple(ids), behaviour)


Trainable = tuple[TrainRows, dict[str, int]]
"""Rows to train on, and how many were rejected by reason."""


def mix_ids(mix: str, rows: Iterable[Mapping[str, Any]], tokenizer: ChatTokenizer, max_length: int) -> Trainable:
    """The rows of a rewritten dataset under one of the named mixes.

    Raises:
        DataError: no row can be used.
    """
    makers = (partial(kept_ids if row["rung"] in KEPT[mix] else expert_ids, row, tokenizer) for row in rows)
    return _sort_out((_row(maker, max_length) for maker in makers), f"the mix {mix}")


def file_ids(path: str, data: Data, prompter: Prompter, tokenizer: ChatTokenizer) -> Trainable:
    """Ready-made rows of a file.

    A row has ``messages``; or prompt and response (or completion), each a text or a list of messages; or a problem and
    its solution, which get the policy's own prompt.

    Raises:
        DataError: the file cannot be read, or no row of it can be used.
    """
    rows = (
        _ready_made(where, row, prompter, tokenizer, data.max_length)
        for where, row in read_rows(data.model_copy(update={"path": path}))
    )
    return _sort_out(rows, path)


def _sort_out(rows: Iterable[TrainRow | str], source: str) -> Trainable:
    rejected: Counter[str] = Counter()

    def usable() -> Iterator[TrainRow]:
        for row in rows:
            if isinstance(row, TrainRow):
                yield row
            else:
                rejected[row] += 1

    used = TrainRows(usable())
    if not used:
        reasons = ", ".join(f"{n} {reason}" for reason, n in rejected.items()) or "it is empty"
        raise DataError(f"no row of {source} can be trained on: {reasons}")
    return used, dict(rejected)


def _row(maker: Callable[[], TrainRow], max_length: int) -> TrainRow | str:
    """The row, or why it is rejected."""
    try:
        row = maker()
    except DataError:
        return "chat_template"
    if not row.prompt or not row.response:
        return "no_response" if row.prompt else "no_prompt"
    return row if len(row.prompt) + len(row.response) <= max_length else "overlong"


def _ready_made(
    where: str, row: dict[str, Any] | Reject, prompter: Prompter, tokenizer: ChatTokenizer, max_length: int
) -> TrainRow | str:
    if isinstance(row, Reject):
        return row.reason
    conversation = _conversation(row, prompter)
    if conversation is None:
        return "no_conversation"
    if not conversation[-1]["content"].strip():
        return "no_response"  # the end token alone would teach to say nothing
    if any(tokenizer.control_token(message["content"]) for message in conversation[:-1]):
        return "control_token"
    return _row(lambda: TrainRow(where, "expert", *tokenizer.training_ids(conversation)), max_length)


def _conversation(row: Mapping[str, Any], prompter: Prompter) -> list[Message] | None:
    messages = row.get("messages")
    for question, answer in _PROBLEMS:
        if messages is None and isinstance(row.get(question), str) and isinstance(row.get(answer), str):
            messages = list(prompter.conversation(row[question], row[answer]))
    for question, answer in _PAIRS:
        if messages is None and row.get(question) and row.get(answer):
            messages = [*_turns("user", row[question]), *_turns("assistant", row[answer])]
    if not isinstance(messages, list) or len(messages) < 2 or not all(map(_is_message, messages)):
        return None
    return list(messages) if messages[-1]["role"] == "assistant" else None


def _turns(role: str, value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
