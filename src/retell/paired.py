"""Two models on the same problems: the difference of their accuracies, a bootstrap interval and a sign-flip p-value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retell.errors import DataError
from retell.hashing import seed_of

REPLICATES = 10_000
"""So many move an end of the interval by about 1.5 % of half its width, and a p-value of 0.05 by 0.002 (one standard
deviation): less than what is shown of them.
"""
_CHUNK = 1_000
_ROUNDING = 1e-9

Counts = Mapping[str, Mapping[str, tuple[int, int]]]
"""Of one model: benchmark → problem id → (correct samples, drawn samples), at least one drawn."""


@dataclass(frozen=True, slots=True)
class Paired:
    """What two models differ by, first minus second.

    ``difference`` is in points of percent, as are ``low`` and ``high``, the ends of its 95 % interval; None where a
    benchmark has one problem, whose spread nobody knows. ``p`` is two-sided; ``problems`` says how many both have.
    """

    difference: float
    low: float | None
    high: float | None
    p: float
    problems: int


@dataclass(frozen=True, slots=True)
class _Benchmark:
    """The problems that both models have; those with the same counts are one cell, since they are exchangeable."""

    counts: NDArray[np.int64]
    """[cells, 4]: correct and drawn of the first model, correct and drawn of the second."""
    times: NDArray[np.int64]
    """[cells]: how many problems a cell has."""

    @property
    def problems(self) -> int:
        return int(self.times.sum())

    @property
    def differences(self) -> NDArray[np.float64]:
        """[cells]: first minus second, in points of percent."""
        correct, drawn, their_correct, their_drawn = self.counts.T
        return np.asarray(100 * (correct / drawn - their_correct / their_drawn))


_Draw = Callable[[_Benchmark, int, np.random.Generator], NDArray[np.float64]]


def paired(mine: Counts, theirs: Counts) -> Paired:
    """Compares two models on the problems that both have; equal counts give equal figures, in whatever order they come.

    The difference is the unweighted mean over benchmarks of the mean difference of a problem. Its interval has the
    percentiles of a bootstrap that draws problems anew within each benchmark, each with all its samples: the spread
    between problems has the noise of their samples in it. (Drawing samples anew within the drawn problems too would
    count that noise twice, and cover 99 % where samples are all that differs.) The p-value belongs to the hypothesis
    that the difference of a problem is as likely to be the one way as the other: signs are flipped at random. The
    variance between training seeds is in neither.

    Raises:
        DataError: they have no problem in common.
    """
    ours, swapped = _shared(mine, theirs), _shared(theirs, mine)
    if not ours:
        raise DataError("the two models were evaluated on no common problem: evaluate both on the same benchmarks")
    # Drawn in an order that does not depend on which model is the first, so that swapping them negates every figure.
    sign = 1 if _content(ours) <= _content(swapped) else -1
    benchmarks = ours if sign > 0 else swapped
    generator = np.random.default_rng(seed_of("paired", _content(benchmarks)))
    difference = float(np.mean([one.times @ one.differences / one.problems for one in benchmarks]))
    flipped = np.abs(_replicates(_flip, benchmarks, generator))
    hits = int((flipped >= abs(difference) - _ROUNDING).sum())
    low = high = None
    if all(one.problems > 1 for one in benchmarks):
        ends = np.quantile(sign * _replicates(_resample, benchmarks, generator), (0.025, 0.975))
        low, high = float(ends[0]), float(ends[1])
    problems = sum(one.problems for one in benchmarks)
    return Paired(sign * difference, low, high, (hits + 1) / (REPLICATES + 1), problems)


def _shared(mine: Counts, theirs: Counts) -> list[_Benchmark]:
    """The common problems of every benchmark that has any, in the order of the names."""
    benchmarks = []
    for name in sorted(mine.keys() & theirs.keys()):
        rows = [(*mine[name][i], *theirs[name][i]) for i in mine[name].keys() & theirs[name].keys()]
        if rows:
            benchmarks.append(_Benchmark(*np.unique(np.array(rows, dtype=np.int64), axis=0, return_counts=True)))
    return benchmarks


def _content(benchmarks: list[_Benchmark]) -> list[list[list[int]]]:
    return [[*one.counts.tolist(), one.times.tolist()] for one in benchmarks]


def _replicates(draw: _Draw, benchmarks: list[_Benchmark], generator: np.random.Generator) -> NDArray[np.float64]:
    """Means over the benchmarks of what is drawn; in chunks, which bound the memory."""
    chunks = []
    for start in range(0, REPLICATES, _CHUNK):
        size = min(_CHUNK, REPLICATES - start)
        chunks.append(np.mean([draw(one, size, generator) for one in benchmarks], axis=0))
    return np.concatenate(chunks)


def _resample(one: _Benchmark, size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """[size]: mean differences over problems drawn with replacement, each with its samples."""
    times = generator.multinomial(one.problems, one.times / one.problems, size)
    return np.asarray(times @ one.differences / one.problems)


def _flip(one: _Benchmark, size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """[size]: mean differences where the sign of every problem's difference is flipped with probability one half."""
    sizes, group = np.unique(np.abs(one.differences), return_inverse=True)
    times = np.bincount(group, one.times).astype(np.int64)
    kept = generator.binomial(times, 0.5, (size, sizes.size))
    return np.asarray((2 * kept - times) @ sizes / one.problems)
