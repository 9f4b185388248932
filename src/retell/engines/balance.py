"""Which of several servers is asked next: by load, with a window for each, and a pause for those that do not answer."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from retell.errors import EngineError

FIRST_WINDOW = 32
"""Requests in flight at a server of which nothing is known yet."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
"""Seconds until a server that was set aside is tried again; the pause doubles from the first to the longest."""


class Lane:
    """One server: whether it is up, and how many requests it is given at once, ``most`` at most."""

    def __init__(self, url: str, most: int) -> None:
        self.url = url
        self.up = True
        self.flying = 0
        self.window = float(min(FIRST_WINDOW, most))
        self.pause = FIRST_PAUSE
        self.cause = ""
        self.generation = 0
        self._most = most
        self._steep = True

    @property
    def room(self) -> int:
        """How many more requests it can be given now."""
        return int(self.window) - self.flying if self.up else 0

    def grow(self) -> None:
        """Widens the window after a success: doubling per round trip at first, by one once it was found too wide."""
        self.window = min(self.window + (1.0 if self._steep else 1.0 / self.window), float(self._most))

    def shrink(self) -> None:
        """Halves the window."""
        self.window = max(self.window / 2, 1.0)
        self._steep = False


L = TypeVar("L", bound=Lane)


@dataclass(frozen=True, slots=True)
class Ticket(Generic[L]):
    """Leave to make one request. Of those that fail together, only what the first one says of the lane counts."""

    lane: L
    generation: int


class Balance(Generic[L]):
    """Hands out the lanes, the least loaded first; brings those back that were set aside.

    ``trial`` tries a lane that is down and returns why it is still not to be used, or None. Once all lanes together
    have been down for ``patience`` seconds without a success in between, whoever waits gets an EngineError.
    """

    def __init__(self, lanes: Sequence[L], patience: float, trial: Callable[[L], Awaitable[str | None]]) -> None:
        self.lanes = lanes
        self._patience = patience
        self._trial = trial
        self._waiting: deque[asyncio.Future[Ticket[L]]] = deque()
        self._revivals: set[asyncio.Task[None]] = set()
        self._down_since: float | None = None
        self._downtime = 0.0

    @property
    def width(self) -> int:
        """How many requests all servers that are up take at once, at least 1."""
        return max(1, sum(int(lane.window) for lane in self.lanes if lane.up))

    async def acquire(self) -> Ticket[L]:
        """Waits for room on a lane and takes it, first come, first served; give it back with `release`.

        Raises:
            EngineError: all lanes have been down for too long.
        """
        turn: asyncio.Future[Ticket[L]] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._hand_out()
        self._check_patience()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(turn.result())
            raise

    def release(self, ticket: Ticket[L]) -> None:
        """Gives a request's place to the next one."""
        ticket.lane.flying -= 1
        self._hand_out()

    def succeeded(self, ticket: Ticket[L]) -> None:
        """Notes that a lane has answered well."""
        ticket.lane.grow()
        ticket.lane.pause = FIRST_PAUSE
        self._downtime = 0.0
        if self._down_since is not None:
            self._down_since = time.monotonic()

    def failed(self, ticket: Ticket[L], cause: str, *, overload: bool, outage: bool, pause: float) -> None:
        """Notes a fault: ``overload`` halves the window, ``outage`` sets the lane aside for at least ``pause`` s."""
        lane = ticket.lane
        if ticket.generation != lane.generation or not (overload or outage):
            return
        lane.generation += 1
        if overload:
            lane.shrink()
        if outage:
            self.set_aside(lane, cause, pause)

    def set_aside(self, lane: L, cause: str, pause: float = 0.0) -> None:
        """Gives a lane no more requests until a trial goes well; the first one is made after ``pause`` s or more."""
        lane.up = False
        lane.cause = cause
        self._clock()
        print(f"retell: {lane.url} is set aside and tried again later: {cause}", file=sys.stderr)
        revival = asyncio.get_running_loop().create_task(self._revive(lane, pause))
        self._revivals.add(revival)
        revival.add_done_callback(self._revivals.discard)

    async def close(self) -> None:
        """Ends the trials."""
        revivals = list(self._revivals)
        for revival in revivals:
            revival.cancel()
        await asyncio.gather(*revivals, return_exceptions=True)

    async def _revive(self, lane: L, pause: float) -> None:
        while lane.cause:
            await asyncio.sleep(max(lane.pause, pause))
            lane.pause = min(lane.pause * 2, LONGEST_PAUSE)
            lane.cause = await self._trial(lane) or ""
            if lane.cause:
                self._check_patience()
        lane.up = True
        self._clock()
        print(f"retell: {lane.url} is back", file=sys.stderr)
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and (free := [lane for lane in self.lanes if lane.room > 0]):
            turn = self._waiting.popleft()
            if not turn.done():
                lane = min(free, key=lambda lane: lane.flying / lane.window)
                lane.flying += 1
                turn.set_result(Ticket(lane, lane.generation))

    def _clock(self) -> None:
        """Starts or stops the count of the time in which no lane is up."""
        now = time.monotonic()
        if self._down_since is not None:
            self._downtime += now - self._down_since
        self._down_since = None if any(lane.up for lane in self.lanes) else now

    def _check_patience(self) -> None:
        self._clock()
        if self._down_since is None or self._downtime < self._patience:
            return
        causes = "; ".join(f"{lane.url} ({lane.cause})" for lane in self.lanes)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(
                    EngineError(
                        f"no server has answered for {self._patience:g} s: {causes}: start one again, then this "
                        "command: what was drawn is stored"
                    )
                )
