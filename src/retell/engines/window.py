"""A window of requests in flight over an asynchronous source: filled as it empties, answered in any order."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from retell.engines.base import Batches, Take
from retell.records import Completion, Request

_PAUSE_SECONDS = 0.02
"""How long to wait for an answer before the caller may look for verdicts, which can make more requests due."""


def drive(
    take: Take,
    complete: Callable[[Request], Awaitable[Completion]],
    width: Callable[[], int],
    loop: asyncio.AbstractEventLoop,
) -> Batches:
    """Keeps up to ``width()`` calls of ``complete`` in flight on ``loop``, yielding what has finished.

    Where a call raises, what has finished beside it is yielded first. Calls that are left then, or when the iterator is
    closed, are cancelled.
    """
    flying: dict[asyncio.Future[Completion], Request] = {}
    landed: list[asyncio.Future[Completion]] = []
    news = asyncio.Event()

    def land(one: asyncio.Future[Completion]) -> None:
        landed.append(one)
        news.set()

    def fill() -> None:
        for request in take(max(width() - len(flying), 0), not flying):
            one = asyncio.ensure_future(complete(request), loop=loop)
            one.add_done_callback(land)
            flying[one] = request

    async def pause() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), _PAUSE_SECONDS)
        news.clear()

    async def end() -> None:
        await asyncio.gather(*flying, return_exceptions=True)

    try:
        fill()
        while flying:
            loop.run_until_complete(pause())
            done = [(flying.pop(one), one) for one in landed]
            landed.clear()
            yield [(request, one.result()) for request, one in done if one.exception() is None]
            for _, one in done:
                one.result()
            fill()
    finally:
        for one in flying:
            one.cancel()
        loop.run_until_complete(end())
