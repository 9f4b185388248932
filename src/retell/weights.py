"""What token log-probs say of the weights that they make: statistics of any number of rows, from running sums."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from retell.stats import mean_and_error

LOW = 0.1
"""Below this probability the policy would hardly have written the token itself."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scored:
    """Token log-probs of some responses, laid flat: ``logp_N``, and how many tokens each response has."""

    logp_N: Floats
    lengths: Ints

    @classmethod
    def of(cls, rows: Iterable[Sequence[float]]) -> Self:
        """Rows of token log-probs."""
        listed = [np.asarray(row, dtype=np.float64) for row in rows]
        return cls(np.concatenate([np.zeros(0), *listed]), np.array([len(row) for row in listed], dtype=np.int64))

    @classmethod
    def column(cls, column: pa.ChunkedArray) -> Self:
        """A column of a table whose cells are lists."""
        flat, lengths = pc.list_flatten(column), pc.list_value_length(column)
        return cls(flat.to_numpy().astype(np.float64), lengths.to_numpy().astype(np.int64))

    @property
    def sums(self) -> Floats:
        """The log-prob of each whole response."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return np.bincount(rows, self.logp_N, len(self.lengths)).astype(np.float64)


@dataclass(slots=True)
class TokenSums:
    """Sums over tokens by group, (groups,) each: all that statistics of tokens need, however many there are."""

    groups: int
    _sums: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._sums = np.zeros((5, self.groups))

    def add(self, scored: Scored, group_of: Ints) -> None:
        """Adds responses, each to the group with its number in ``group_of``."""
        of_token, logp_N = np.repeat(group_of, scored.lengths), scored.logp_N
        weight_N = np.exp(logp_N)
        summed = (np.ones_like(logp_N), logp_N, weight_N, np.square(weight_N), weight_N < LOW)
        self._sums += [np.bincount(of_token, values, self.groups) for values in summed]

    def statistics(self, groups: Sequence[int], sums: Floats) -> dict[str, Any] | None:
        """Of some groups together, whose responses have the log-probs ``sums``; None where they have no token.

        ``perplexity`` is exp(−mean log-prob of a token). ``token_ess`` is (Σw)² / (n Σw²) in (0, 1] with
        w = π(y_t | …), the weights of DFT (denominator 1), over all tokens: 1 means that all weigh the same.
        """
        tokens, logp, weight, square, low = (float(value) for value in self._sums[:, list(groups)].sum(axis=1))
        if not tokens:
            return None
        mean, error = mean_and_error(sums)
        return {
            "sum_logprob": mean,
            "sum_logprob_stderr": error,
            "mean_token_logprob": logp / tokens,
            "perplexity": math.exp(min(-logp / tokens, 700.0)),
            "token_ess": weight**2 / (tokens * square) if square else 0.0,
            "token_weight_variance": max(0.0, square / tokens - (weight / tokens) ** 2),
            "share_below_0.1": low / tokens,
            "mean_tokens": tokens / len(sums),
        }
