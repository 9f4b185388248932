"""The seam between retell and whatever draws samples."""

from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Protocol, runtime_checkable

from retell.records import Completion, Prompt, Request

Take = Callable[[int, bool], list[Request]]
"""``take(room, idle)``: up to ``room`` requests that are due now.

It returns at once, possibly with nothing, while the engine still has work; when the engine says it is ``idle`` it waits
until something is due, and an empty list then means that nothing is left to do for now.
"""


def room(request: Request, context: int | None) -> int:
    """Most tokens of an answer: what the request allows, as far as the context has room for it.

    An engine cuts its answers by itself: another context must not make another request, which would be drawn anew.
    """
    return max(room_for(request.prompt, request.sampling.max_tokens, context), 1)


def room_for(prompt: Prompt, most: int, context: int | None) -> int:
    """Tokens of an answer that a context has room for, up to ``most``; 0 or fewer where the prompt fills it."""
    return most if context is None else min(most, context - len(prompt.ids or ()))


Batches = Generator[list[tuple[Request, Completion]], None, None]
"""Completions with their requests as they come; closed, it calls off what is in flight."""


class Source(Protocol):
    """What plans need to know of whatever draws.

    ``draws`` says whether completions are independent draws from the policy for any prompt; an engine that merely hands
    out what was recorded elsewhere does not. ``context`` is the most tokens of prompt and response together, if known.
    ``faults`` counts by name what went wrong on the way, whether or not it was mended by trying again.
    """

    draws: bool
    context: int | None
    faults: Counter[str]


class Engine(Source, Protocol):
    """Draws one completion for each request it takes."""

    def sample(self, take: Take) -> Batches:
        """Takes requests as it has room and yields completions as they finish, in any order.

        It ends when ``take`` has nothing left for an idle engine. A completion depends on its request alone: on prompt,
        sampling parameters and seed, not on what is drawn beside it. A request that failed for good is answered with
        ``stop="error"``, which is no sample; an empty batch is a pause in which the caller can do its own work.

        Raises:
            EngineError: the engine cannot go on.
        """
        ...

    def close(self) -> None:
        """Gives back what the engine holds: processes, connections, memory."""
        ...


@runtime_checkable
class Reloadable(Engine, Protocol):
    """An engine whose policy may be trained meanwhile; a server goes on serving what it was started with."""

    def load(self, folder: Path) -> None:
        """Takes over the weights of another checkpoint of the same model, and forgets all that the old ones computed.

        Nothing is being sampled meanwhile.

        Raises:
            PolicyError: the folder holds another model, or cannot be read; the engine goes on as it was.
            EngineError: the engine failed at it and cannot go on.
        """
        ...
