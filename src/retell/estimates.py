"""Estimates from a sample of the problems, with 95 % intervals: shares, totals over all problems, token statistics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from retell.hashing import seed_of

Z = 1.96
"""Of a 95 % interval."""
REPLICATES = 1_000
_CHUNK = 1 << 22
"""Most numbers of bootstrap weights that are held at once."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> "Estimate":
        """The same in another unit; the factor is positive."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high)


def share(values: Sequence[float], everything: int) -> Estimate:
    """The mean of values in [0, 1], each of one problem drawn without replacement from ``everything``, such as whether
    it took a rung: Wilson's interval, which is never empty at 0 or 1.

    Where a value is a mean itself, of a problem's samples, it counts for as many draws as its variance is worth. Of
    everything, the mean is exact.
    """
    n = len(values)
    mean = float(np.mean(values))
    if n >= everything:
        return Estimate(mean, mean, mean)
    variance = float(np.var(values))
    worth = n * mean * (1 - mean) / variance if variance > 0 else n
    worth *= (everything - 1) / (everything - n)  # the finite population
    centre = (mean + Z * Z / (2 * worth)) / (1 + Z * Z / worth)
    half = Z / (1 + Z * Z / worth) * sqrt(mean * (1 - mean) / worth + Z * Z / (4 * worth * worth))
    return Estimate(mean, max(centre - half, 0.0), min(centre + half, 1.0))


def everywhere(values: Sequence[float], everything: int) -> Estimate:
    """The sum over ``everything`` of what each problem needs, from ``values`` of some drawn without replacement.

    The interval is normal, with the finite population's correction: the sum over the drawn ones is known, and the
    spread of the others about their estimate is s² R (R - n) / n for R problems of which n were drawn. None of it can
    be below the sum that is known. A single value says nothing about the spread, and the interval is open upwards.
    """
    n, known = len(values), float(np.sum(values))
    value = everything * known / n
    if n >= everything:
        return Estimate(known, known, known)
    if n == 1:
        return Estimate(value, known, float("inf"))
    half = Z * float(np.std(values, ddof=1)) * sqrt(everything * (everything - n) / n)
    return Estimate(value, max(value - half, known), value + half)


def bootstrap(rows: Array, statistic: Callable[[Array], Array], name: str) -> list[Estimate]:
    """Statistics of sums over problems, with intervals from a bootstrap that draws problems anew.

    Args:
        rows: [problems, sums]; what each problem adds to every sum.
        statistic: [..., sums] → [..., statistics].
        name: what it is of; with the number of rows, the seed of the draws.
    """
    n = len(rows)
    rng = np.random.default_rng(seed_of("bootstrap", name, n))
    drawn: list[Array] = []
    size = max(1, _CHUNK // n)
    for start in range(0, REPLICATES, size):
        times = rng.multinomial(n, np.full(n, 1 / n), min(size, REPLICATES - start))
        drawn.append(statistic(times @ rows))
    ends = np.quantile(np.concatenate(drawn), (0.025, 0.975), axis=0)
    values = statistic(rows.sum(axis=0))
    return [Estimate(*map(float, one)) for one in zip(values, *ends, strict=True)]
