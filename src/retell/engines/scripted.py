"""A policy played by a function, for tests of everything around an engine."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from retell.engines.base import Batches, Take
from retell.records import Completion, Request

Script = Callable[[Request, random.Random], Completion | str]
"""What to answer: a text, or a whole completion. The random source is seeded by the request."""


class ScriptedEngine:
    """Answers each request by calling ``script``, with up to ``batch`` requests in flight.

    A request takes ``steps`` of its completion, one by default: with their length, short ones finish first as in a real
    engine. What is due next is answered together, after ``delay`` seconds. ``loaded`` holds the folders whose
    weights it was to take over.
    """

    draws = True
    context: int | None = None

    def __init__(
        self,
        script: Script,
        *,
        batch: int = 8,
        delay: float = 0.0,
        steps: Callable[[Completion], int] = lambda _: 1,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self.loaded: list[Path] = []
        self._script = script
        self._batch = batch
        self._delay = delay
        self._steps = steps

    def sample(self, take: Take) -> Batches:
        """Yields what finishes at the same step."""
        flying: list[tuple[int, Request, Completion]] = []
        now = 0
        while True:
            for request in take(self._batch - len(flying), not flying):
                completion = self._answer(request)
                flying.append((now + self._steps(completion), request, completion))
            if not flying:
                return
            time.sleep(self._delay)
            now = min(due for due, _, _ in flying)
            yield [(request, completion) for due, request, completion in flying if due == now]
            flying = [one for one in flying if one[0] != now]

    def load(self, folder: Path) -> None:
        """Remembers the folder; what is answered is up to the script."""
        self.loaded.append(folder)

    def close(self) -> None:
        """Holds nothing."""

    def _answer(self, request: Request) -> Completion:
        said = self._script(request, random.Random(request.seed))
        return said if isinstance(said, Completion) else Completion(said, None, None, "stop")
