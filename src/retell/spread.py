"""How the log-probs of gap.parquet are spread, by rung: read once, into bins; memory does not grow with the rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from retell.tables import read_batches

WEIGHTS = 20
"""Bins of the weights between 0 and 1."""
_FINE = 1 << 16
_WIDTH = 2.0**-10
_TAIL = 0.002
"""Share of the values, furthest from 0, that may lie outside of a histogram: a few would squeeze all others."""

Values = NDArray[np.float64]


class Bins:
    """Counts of values of at most 0. Their width is a power of two, and doubles when a value lies further out."""

    def __init__(self) -> None:
        self.width = _WIDTH
        self.counts = np.zeros(_FINE, dtype=np.int64)
        self.infinite = 0

    def add(self, values: Values) -> None:
        """Counts values; those of minus infinity apart."""
        known = -values[np.isfinite(values)]
        self.infinite += values.size - known.size
        if known.size:
            self._widen(float(known.max()))
            self.counts += np.bincount((known / self.width).astype(np.int64), minlength=_FINE)

    def _widen(self, furthest: float) -> None:
        while furthest >= self.width * _FINE:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_FINE // 2, np.int64)])
            self.width *= 2

    @property
    def reach(self) -> float:
        """How far from 0 all but `_TAIL` of the values go."""
        total = self.counts.sum()
        return float(self.width * (np.searchsorted(np.cumsum(self.counts), (1 - _TAIL) * total) + 1)) if total else 0.0

    def merged(self, width: float, least: int) -> NDArray[np.int64]:
        """Counts in at least so many bins, of a width that is this one's times a power of two."""
        counts = np.add.reduceat(self.counts, np.arange(0, _FINE, round(width / self.width)))
        return np.pad(counts, (0, max(0, least - counts.size)))


@dataclass(frozen=True, slots=True)
class Histograms:
    """Several `Bins` on the same edges, upwards to 0; ``below`` says how many values of each lie under the first."""

    edges: list[float]
    counts: list[list[int]]
    below: list[int]


def together(several: Sequence[Bins], most: int = 40) -> Histograms:
    """At most so many bins for all of them, as fine as that allows."""
    width = max((one.width for one in several), default=_WIDTH)
    reach = max((one.reach for one in several), default=0.0)
    while reach > width * most:
        width *= 2
    size = max(1, min(most, int(np.ceil(reach / width))))
    merged = [one.merged(width, size) for one in several]
    edges = [-width * (size - i) or 0.0 for i in range(size + 1)]
    counts = [list(map(int, one[:size][::-1])) for one in merged]
    below = [int(one[size:].sum()) + bins.infinite for one, bins in zip(merged, several, strict=True)]
    return Histograms(edges, counts, below)


@dataclass(slots=True)
class Spread:
    """Of one rung's responses: log-probs summed over each response, their mean over its tokens, and the weights.

    ``weights`` counts tokens by their probability, the weight of DFT, in `WEIGHTS` equal bins.
    """

    summed: Bins = field(default_factory=Bins)
    per_token: Bins = field(default_factory=Bins)
    weights: NDArray[np.int64] = field(default_factory=lambda: np.zeros(WEIGHTS, dtype=np.int64))


def spreads(path: Path) -> dict[str, tuple[Spread, Spread]]:
    """Of each rung in gap.parquet, the spread of the expert's responses and of the rewritten ones."""
    found: dict[str, tuple[Spread, Spread]] = {}
    for batch in read_batches(path, ["rung", "expert_logprobs", "rewritten_logprobs"]):
        rungs = np.array(batch.column("rung").to_pylist())
        for side, column in enumerate(("expert_logprobs", "rewritten_logprobs")):
            lists = batch.column(column)
            of_token = np.asarray(pc.list_parent_indices(lists))
            tokens = np.asarray(lists.flatten(), dtype=np.float64)
            for rung in dict.fromkeys(rungs.tolist()):
                spread = found.setdefault(rung, (Spread(), Spread()))[side]
                _take_in(spread, lists, rungs == rung, of_token, tokens)
    return found


def _take_in(spread: Spread, lists: pa.Array, chosen: NDArray[np.bool_], of_token: Values, tokens: Values) -> None:
    sums = np.bincount(of_token, tokens, len(lists))[chosen].astype(np.float64)
    lengths = np.bincount(of_token, minlength=len(lists))[chosen]
    spread.summed.add(sums)
    spread.per_token.add(sums / np.maximum(lengths, 1))
    weights = np.exp(tokens[chosen[of_token]])
    spread.weights += np.histogram(np.minimum(weights, 1.0), WEIGHTS, (0, 1))[0]
