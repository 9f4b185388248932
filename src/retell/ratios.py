"""True importance ratios of whole responses: π(y | training prompt) / π_β(y | prompt that drew y)."""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retell.stats import effective_share, mean_and_error

Floats = NDArray[np.float64]

RELIABLE_BELOW = 0.7
"""k̂ of a tail below which importance sampling is reliable (Vehtari et al., arXiv 1507.02646)."""
_NOT_INSTALLED = "arviz-stats is not installed: pip install 'retell[gap]' and start again"
_EQUAL = 0.01
"""Weights whose logs differ by less are called equal: a tail made of rounding has no meaning."""
_FEWEST = 25
"""Rows whose largest fifth has the five that a tail needs."""


def ratio_statistics(log_ratios: Floats, tokens: int) -> dict[str, Any] | None:
    """What the log-ratios of kept responses, with ``tokens`` tokens together, say of importance weights; None for none.

    All of it is conditional on acceptance. A kept response was drawn from π_β restricted to accepted responses, whose
    density is π_β(y)·1[accepted] / P(accepted | x): the ratio lacks that factor of its problem, and ``kl``, the mean of
    −log ratio (nats a response, with its standard error over rows), is KL(π_β ‖ π) only where everything is accepted;
    it can be negative.

    ``ess`` is (Σw)² / (n Σw²) in (0, 1]; ``pareto_k`` the shape of the tail of the weights (Vehtari et al.,
    arXiv 1507.02646), and ``reliable`` whether it is below 0.7. ``note`` says why there is no ``pareto_k``.
    """
    if not len(log_ratios):
        return None
    k, reliable, note = _tail(log_ratios)
    kl, error = mean_and_error(-log_ratios)
    return {
        "rows": len(log_ratios),
        "ess": effective_share(np.exp(log_ratios - log_ratios.max())),
        "pareto_k": k,
        "reliable": reliable,
        "note": note,
        "kl": kl,
        "kl_stderr": error,
        "kl_per_token": float(-log_ratios.sum()) / tokens,
        "conditional_on": "acceptance",
    }


def lacks_tails(summary: Mapping[str, Any]) -> bool:
    """Whether statistics by rung have no k̂ because ArviZ was not installed, and it is now."""
    found = [entry.get("sequence") or {} for entry in summary.values()]
    return _can_fit() and any(one.get("note") == _NOT_INSTALLED for one in found)


def _can_fit() -> bool:
    return find_spec("arviz_stats") is not None


def _tail(log_ratios: Floats) -> tuple[float | None, bool | None, str | None]:
    """k̂, whether it is reliable, and why there is no k̂."""
    rows = len(log_ratios)
    if rows < _FEWEST:
        return None, None, f"fewer than {_FEWEST} rows"
    tail = int(3 * rows**0.5) if rows > 225 else rows // 5  # as ArviZ has it
    largest = np.partition(log_ratios, -tail)[-tail:]
    if largest.max() - largest.min() < _EQUAL:
        return None, True, "the largest weights are equal"
    if np.quantile(largest, 0.25) - largest.min() < _EQUAL:
        return None, None, "too many of the largest weights are equal for a tail"
    if not _can_fit():
        return None, None, _NOT_INSTALLED
    k = _pareto_k(log_ratios)
    return (k, k < RELIABLE_BELOW, None) if np.isfinite(k) else (None, None, "no tail can be fitted")


def _pareto_k(log_ratios: Floats) -> float:
    """k̂ by ArviZ, which takes the log-likelihoods that it weighs down; not a number where its fit fails."""
    from arviz_stats.base.array import array_stats

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return float(array_stats.psislw(-log_ratios)[1])
        except ValueError:
            return float("nan")
