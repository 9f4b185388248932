"""A gate in the way of what a test disturbs: that is in the middle then, however long the machine pauses.

It is a file: while it is there, whoever passes takes one of its bytes, and where none is left, waits.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

_TURN_SECONDS = 0.01

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def shut(gate: Path, after: int) -> None:
    """Lets so many through."""
    gate.write_bytes(b"." * after)


def passes(gate: Path) -> bool:
    """Whether one more is let through; that one is counted."""
    try:
        with gate.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            left = file.seek(0, os.SEEK_END)
            if left:
                file.truncate(left - 1)
            return left > 0
    except FileNotFoundError:
        return True


def wait_at(gate: Path) -> None:
    while not passes(gate):
        time.sleep(_TURN_SECONDS)


class Middleware:
    """A gate for a server of vLLM, RETELL_TEST_GATE, that holds requests for samples."""

    def __init__(self, app: Callable[[dict[str, Any], Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._gate = Path(os.environ["RETELL_TEST_GATE"])

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/completions":
            while not passes(self._gate):
                await asyncio.sleep(_TURN_SECONDS)
        await self._app(scope, receive, send)
