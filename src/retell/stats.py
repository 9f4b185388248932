"""The few statistics that several stages share."""

from collections.abc import Sequence
from statistics import stdev

import numpy as np
from numpy.typing import NDArray


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None for a single value, whose spread nobody knows."""
    return float(stdev(values) / len(values) ** 0.5) if len(values) > 1 else None


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float | None]:
    """The mean of at least one value with its standard error; for columns of any length."""
    error = float(values.std(ddof=1) / values.size**0.5) if values.size > 1 else None
    return float(values.mean()), error


def effective_share(weights: NDArray[np.float64]) -> float:
    """Kish's effective sample size as a share of the sample, (Σw)² / (n Σw²) in [0, 1]; 1 means equal weights."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / (weights.size * squares) if squares > 0 else 0.0


def plus_minus(value: float, error: float | None, places: int = 1) -> str:
    """A figure with its standard error, where that is known."""
    return f"{value:.{places}f}" + (f" ± {error:.{places}f}" if error is not None else "")
