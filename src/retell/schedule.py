"""Which rows an update is made of: fixed by the seed and the rows' ids, however they are split over processes."""

from collections.abc import Sequence
from functools import lru_cache

from retell.hashing import digest


class Schedule:
    """Ids in updates of ``batch_size``, shuffled anew each epoch; the last update of an epoch may be smaller.

    The updates are divided into ``rounds`` of about equal length.
    """

    def __init__(self, ids: Sequence[str], batch_size: int, epochs: int, seed: int, rounds: int = 1) -> None:
        self._ids = tuple(ids)
        self._batch_size = batch_size
        self._seed = seed
        self._an_epoch = -(-len(self._ids) // batch_size)
        self.updates = self._an_epoch * epochs
        self._starts = [round * self.updates // rounds for round in range(rounds + 1)]
        self._order = lru_cache(maxsize=1)(self._shuffled)

    def ids(self, update: int) -> list[str]:
        """The ids of one update, counted from 0."""
        epoch, place = divmod(update, self._an_epoch)
        return self._order(epoch)[place * self._batch_size : (place + 1) * self._batch_size]

    def round(self, update: int) -> int:
        """The round that an update belongs to."""
        return sum(start <= update for start in self._starts[1:-1])

    def span(self, round: int) -> range:
        """The updates of a round."""
        return range(self._starts[round], self._starts[round + 1])

    def _shuffled(self, epoch: int) -> list[str]:
        return sorted(self._ids, key=lambda id: digest("order", self._seed, epoch, id))


def held_out(id: str, share: float, seed: int) -> bool:
    """Whether a row belongs to the share that is not trained on; it does not depend on the other rows."""
    return int(digest("holdout", seed, id)[:8], 16) < share * 16**8
