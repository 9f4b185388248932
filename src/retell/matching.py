"""The expert's and the rewritten responses compared at equal length, since a summed log-prob falls with length."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retell.hashing import seed_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WIDTH = 1.1
"""Lengths of one class differ by less than this factor."""
REPLICATES = 200
"""So many give a standard error to within 5 % of itself."""


@dataclass(frozen=True, slots=True)
class Side:
    """One response of each row, (rows,) each: its summed log-prob and its tokens."""

    sums: Floats
    lengths: Ints


@dataclass(frozen=True, slots=True)
class _Classes:
    """The class of length of each response, and how many classes there are."""

    expert: Ints
    rewritten: Ints
    number: int


@dataclass(frozen=True, slots=True)
class _Means:
    """How many responses are wanted on either side, and the means of what was chosen."""

    wanted: float
    expert: float
    rewritten: float
    expert_tokens: float
    rewritten_tokens: float


def matched(expert: Side, rewritten: Side) -> dict[str, Any] | None:
    """Mean summed log-probs of both sides over one and the same distribution of lengths; None where they share none.

    Coarsened exact matching (Iacus, King and Porro, 2012): a class of length c has lengths that differ by less than a
    tenth, and m(c) = min(n_expert(c), n_rewritten(c)) responses of it are wanted on either side. Each of the n(c) that
    a side has weighs m(c) / n(c), which is the mean over every way of choosing m(c) of them: responses are left out,
    and none counts more than once. Where the lengths of both sides have the same distribution, all weights are 1.

    ``share`` is Σ m(c) over the rows; ``difference`` is rewritten minus expert, and ``stderr`` its standard error from
    a bootstrap that draws rows anew, each with both of its responses (None for a single row); ``expert_tokens`` and
    ``rewritten_tokens`` show how well the lengths match, and ``tokens`` is the mean of both. The responses of a class
    are not of the same problems.
    """
    classes = _classes(expert.lengths, rewritten.lengths)
    rows = len(expert.sums)
    means = _means(expert, rewritten, classes, np.ones(rows))
    if means is None:
        return None
    return {
        "share": means.wanted / rows,
        "expert": means.expert,
        "rewritten": means.rewritten,
        "difference": means.rewritten - means.expert,
        "stderr": _stderr(expert, rewritten, classes),
        "tokens": (means.expert_tokens + means.rewritten_tokens) / 2,
        "expert_tokens": means.expert_tokens,
        "rewritten_tokens": means.rewritten_tokens,
    }


def _classes(expert: Ints, rewritten: Ints) -> _Classes:
    # A response has at least its end token; a length of 0 is a class of its own all the same.
    logs = np.log(np.maximum(np.concatenate([expert, rewritten]), 0.5)) / np.log(WIDTH)
    names, of_each = np.unique(np.floor(logs + 1e-9), return_inverse=True)
    return _Classes(of_each[: len(expert)], of_each[len(expert) :], len(names))


def _means(expert: Side, rewritten: Side, classes: _Classes, times: Floats) -> _Means | None:
    """What is chosen where row i counts ``times[i]`` times; None where no class has both."""
    has_expert = np.bincount(classes.expert, times, classes.number).astype(np.float64)
    has_rewritten = np.bincount(classes.rewritten, times, classes.number).astype(np.float64)
    wanted = np.minimum(has_expert, has_rewritten)
    total = float(wanted.sum())
    if not total:
        return None

    def mean(values: Floats | Ints, class_of: Ints, has: Floats) -> float:
        summed = np.bincount(class_of, times * values, classes.number)
        return float((wanted * summed / np.maximum(has, 1)).sum()) / total

    return _Means(
        total,
        mean(expert.sums, classes.expert, has_expert),
        mean(rewritten.sums, classes.rewritten, has_rewritten),
        mean(expert.lengths, classes.expert, has_expert),
        mean(rewritten.lengths, classes.rewritten, has_rewritten),
    )


def _stderr(expert: Side, rewritten: Side, classes: _Classes) -> float | None:
    rows = len(expert.sums)
    if rows < 2:
        return None
    generator = np.random.default_rng(seed_of("matched", rows, float(expert.sums.sum()), float(rewritten.sums.sum())))
    differences = []
    for _ in range(REPLICATES):
        times = np.bincount(generator.integers(rows, size=rows), minlength=rows).astype(np.float64)
        means = _means(expert, rewritten, classes, times)
        if means is not None:
            differences.append(means.rewritten - means.expert)
    return float(np.std(differences, ddof=1)) if len(differences) > 1 else None
