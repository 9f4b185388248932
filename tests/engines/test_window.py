import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import pytest

from retell.engines.window import drive
from retell.errors import EngineError
from retell.prompts import Prompter
from retell.recipe import Policy
from retell.records import Completion, Request, Sampling

PROMPT = Prompter(Policy(), None).solve("What is 3 + 4?")
Complete = Callable[[Request], Awaitable[Completion]]


@contextlib.contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        yield loop


class Queue:
    """A source of n requests, of which ``due`` at most are handed out before more are released."""

    def __init__(self, n: int, due: int | None = None) -> None:
        self.left = [Request(str(i), "p", "self", 0, i, PROMPT, Sampling(1, 1, 8), i) for i in range(n)]
        self.due = n if due is None else due
        self.asked: list[tuple[int, bool]] = []

    def take(self, room: int, idle: bool) -> list[Request]:
        self.asked.append((room, idle))
        n = min(room, self.due)
        self.due -= n
        taken, self.left = self.left[:n], self.left[n:]
        return taken


def text(said: str) -> Completion:
    return Completion(said, None, None, "stop")


def test_every_request_is_answered_once_in_the_order_in_which_answers_come() -> None:
    async def complete(request: Request) -> Completion:
        await asyncio.sleep(0.02 if request.index % 2 else 0)
        return text(request.key)

    queue = Queue(20)
    with event_loop() as loop:
        batches = list(drive(queue.take, complete, lambda: 20, loop))
    answered = [request.index for batch in batches for request, _ in batch]
    assert sorted(answered) == list(range(20))
    assert answered == sorted(answered, key=lambda index: index % 2)
    assert all(completion.text == request.key for batch in batches for request, completion in batch)


def test_the_window_is_kept_full_and_no_wider_while_there_is_work() -> None:
    queue, answered, in_flight = Queue(60), 0, list[int]()

    def take(room: int, idle: bool) -> list[Request]:
        taken = queue.take(room, idle)
        in_flight.append(60 - len(queue.left) - answered)
        return taken

    async def complete(request: Request) -> Completion:
        await asyncio.sleep(0.001 * (request.index % 3))
        return text("")

    with event_loop() as loop:
        for batch in drive(take, complete, lambda: 7, loop):
            answered += len(batch)
    full = [n for n in in_flight if n == 7]
    assert in_flight[: len(full)] == full
    assert len(full) > 8
    assert answered == 60


def test_idle_is_said_only_when_nothing_is_in_flight() -> None:
    queue = Queue(6, due=2)

    async def complete(_: Request) -> Completion:
        return text("")

    with event_loop() as loop:
        for batch in drive(queue.take, complete, lambda: 4, loop):
            if batch:
                queue.due += 2  # what came made more requests due
    assert not queue.left
    assert queue.asked[0] == (4, True)
    assert queue.asked[-1] == (4, True)


def test_a_pause_without_answers_lets_the_caller_work() -> None:
    release = asyncio.Event()

    async def complete(_: Request) -> Completion:
        await release.wait()
        return text("")

    with event_loop() as loop:
        batches = drive(Queue(1).take, complete, lambda: 1, loop)
        assert next(batches) == []
        assert next(batches) == []
        release.set()
        assert [len(batch) for batch in batches if batch] == [1]


def test_what_finished_beside_a_failure_is_yielded_first_and_the_rest_is_cancelled() -> None:
    cancelled: list[int] = []

    async def complete(request: Request) -> Completion:
        if request.index == 2:
            raise EngineError("the key is refused")
        if request.index > 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(request.index)
                raise
        return text("")

    answered: list[int] = []
    with event_loop() as loop:
        batches = drive(Queue(5).take, complete, lambda: 5, loop)
        with pytest.raises(EngineError, match="refused"):
            answered.extend(request.index for batch in batches for request, _ in batch)
    assert answered == [0, 1]
    assert cancelled == [3, 4]


def test_closing_the_iterator_cancels_what_is_in_flight() -> None:
    cancelled: list[int] = []

    async def complete(request: Request) -> Completion:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(request.index)
            raise
        return text("")

    with event_loop() as loop:
        batches = drive(Queue(3).take, complete, lambda: 3, loop)
        next(batches)
        batches.close()
    assert cancelled == [0, 1, 2]
