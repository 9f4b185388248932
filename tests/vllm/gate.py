"""Middleware for vLLM's server: while there is a file RETELL_TEST_GATE, each sample costs one of its bytes."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Gate:
    """Holds requests for samples where the file is empty; where there is none, nothing is held."""

    def __init__(self, app: Callable[[dict[str, Any], Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._file = Path(os.environ["RETELL_TEST_GATE"])

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/completions":
            while self._file.exists() and not self._passes():
                await asyncio.sleep(0.02)
        await self._app(scope, receive, send)

    def _passes(self) -> bool:
        left = self._file.stat().st_size
        if left:
            os.truncate(self._file, left - 1)
        return left > 0
