"""The policy's tokenizer as this project uses it: chat prompts and responses as exact token ids."""

import json
from collections.abc import Callable, Sequence
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from retell.errors import DataError, MissingExtraError, PolicyError, first_line
from retell.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTokenizer:
    """Renders conversations with the model's own chat template and keeps the prompt boundary exact.

    The response is tokenised by itself, after the prompt: that is how the policy samples it, and no merge of the
    tokenizer can cross the boundary. ``end_ids`` are the tokens that end a response; ``turn_end`` is the one with which
    the chat template closes the assistant's turn, if it does; ``training_end`` is the one that training rows end with.
    """

    def __init__(self, folder: Path, trust_remote_code: bool = False) -> None:
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("transformers", "local") from error
        if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise PolicyError(f"{folder} has no tokenizer (tokenizer.json): save the model's tokenizer there")
        try:
            self.tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            )
        except Exception as error:
            raise PolicyError(f"cannot load the tokenizer in {folder}: {first_line(error)}") from error
        if not self.tokenizer.chat_template:
            raise PolicyError(
                f"{folder} has no chat template: add chat_template.jinja, or tokenize as the model expects"
            )
        self.turn_end = self._turn_end()
        self.end_ids = _end_ids(self.tokenizer, folder) | ({self.turn_end} if self.turn_end is not None else set())
        named = [self.turn_end, self.tokenizer.eos_token_id, *(self.end_ids if len(self.end_ids) == 1 else ())]
        ends = [end for end in named if end is not None]
        if not ends:
            few = "no" if not self.end_ids else "more than one"
            raise PolicyError(f"{folder} names {few} end-of-sequence token: set eos_token in tokenizer_config.json")
        self.training_end: int = ends[0]

    def render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        """The conversation as the model sees it; with ``prompt`` the assistant's turn is opened.

        Raises:
            PolicyError: the chat template refuses the messages.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=prompt, strftime_now=_no_date
            )
        except Exception as error:
            roles = ", ".join(m["role"] for m in messages)
            raise PolicyError(
                f"the chat template refuses a conversation of {roles}: {first_line(error)}; see policy.system"
            ) from error
        return str(text)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of the prompt, the assistant's turn opened."""
        return tuple(self.tokenizer.encode(self.render(messages, prompt=True), add_special_tokens=False))

    def training_ids(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt ids and response ids (end token included) of a conversation that ends with the assistant.

        Special tokens that stand in the response's text are spelled out, never turned into control tokens.

        Raises:
            DataError: under this chat template the prompt is not a prefix of the conversation, or the response is
                changed by it; the place is shown.
        """
        prompt = self.render(messages[:-1], prompt=True)
        whole = self.render(messages, prompt=False)
        response = messages[-1]["content"]
        if not whole.startswith(prompt):
            raise DataError(f"the chat template does not keep the prompt a prefix: {_difference(prompt, whole)}")
        tail = whole[len(prompt) :]
        response = response if response in tail else response.strip()
        # Some templates open the response with words of their own, such as an empty think block; they are trained on.
        opening, found, _ = tail.partition(response) if response else ("", True, "")
        if not found:
            raise DataError(f"the chat template changes the response: {_difference(response, tail)}")
        prompt_ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        opening_ids = self.tokenizer.encode(opening, add_special_tokens=False) if opening else []
        body = self.tokenizer.encode(response, add_special_tokens=False, split_special_tokens=True)
        return tuple(prompt_ids), (*opening_ids, *body, self.training_end)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids without the end token; a control token sampled before it is shown by its name."""
        return self._decode(list(ids[:-1] if ids and ids[-1] in self.end_ids else ids))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id adds to the text, which is that of `decode` wherever all bytes are text.

        A character that takes several tokens is the piece of its last one, the others are empty; so is an end token.
        Two or three tokens are decoded at a time, since some tokenizers treat the first one of a text otherwise.
        """
        body = list(ids[:-1] if ids and ids[-1] in self.end_ids else ids)
        pieces: list[str] = []
        start = whole = 0
        before = ""
        for end in range(1, len(body) + 1):
            now = self._decode_few(body[start:end])
            if now.endswith("\N{REPLACEMENT CHARACTER}") and end < len(body):
                pieces.append("")
                continue
            pieces.append(now[len(before) :])
            start, whole = whole, end
            before = self._decode_few(body[start:whole])
        return [*pieces, *("" for _ in ids[len(body) :])]

    def control_token(self, text: str) -> str | None:
        """A control token that stands spelled out in a text, which would become a real one in a prompt, or None."""
        return next((token for token in self._control_tokens if token in text), None)

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @cached_property
    def _decode_few(self) -> Callable[[list[int]], str]:
        """The same without the checks of transformers, which take ten times as long as a few ids do."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return partial(backend.decode, skip_special_tokens=False) if backend else self._decode

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({*self.tokenizer.all_special_tokens, *(token.content for token in added if token.special)})

    def _turn_end(self) -> int | None:
        """The control token with which the chat template closes the assistant's turn, if it does."""
        question, answer = {"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}
        try:
            whole = self.render([question, answer], prompt=False)
        except PolicyError:
            return None
        closing = self.tokenizer.encode(whole.rpartition("Answer")[2], add_special_tokens=False)
        return next((token for token in closing if token in self.tokenizer.all_special_ids), None)


def _end_ids(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> frozenset[int]:
    ends: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            try:
                listed = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise PolicyError(f"cannot read {folder / name}: {first_line(error)}") from error
            ends.update(listed if isinstance(listed, list) else [listed] if listed is not None else [])
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    return frozenset(ends)


def _no_date(layout: str) -> str:
    """A fixed day for templates that print today's: a prompt must be the same tomorrow."""
    return date(2024, 7, 26).strftime(layout)


def _difference(expected: str, found: str, width: int = 30) -> str:
    place = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), len(found))
    start = max(0, place - width)
    return f"at character {place} {expected[start : place + width]!r} became {found[start : place + width]!r}"
