"""Responses sampled elsewhere: each row's own ``candidates``."""

from collections import Counter
from collections.abc import Iterable

from retell.engines.base import Batches, Take
from retell.records import Completion, Problem

_AT_ONCE = 64


class RecordedEngine:
    """Hands out recorded candidates by index. Their prompt, ids, log-probs and reason to stop are unknown."""

    draws = False
    context: int | None = None

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.faults: Counter[str] = Counter()
        self._candidates = {problem.id: problem.candidates or () for problem in problems}

    def sample(self, take: Take) -> Batches:
        """Yields the candidate ``request.index`` of each request's problem."""
        while requests := take(_AT_ONCE, True):
            yield [
                (request, Completion(self._candidates[request.problem][request.index], None, None, "stop"))
                for request in requests
            ]

    def close(self) -> None:
        """Holds nothing."""
