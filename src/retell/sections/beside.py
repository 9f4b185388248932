"""This run's figures beside the paper's."""

from collections.abc import Sequence

from retell.document import Table
from retell.stats import plus_minus

ORIENTATION = (
    "For orientation only: figures of another policy, on other data or other benchmarks, are not comparable with those "
    "of this run."
)
NO_ERRORS = (
    "The paper gives no standard errors: ± is that of this run alone, and a difference is less certain than its ± says."
)

Compared = tuple[str, float, float | None, float]
"""What it is, this run's value with its standard error, the paper's value."""


def beside_paper(what: str, figures: Sequence[Compared], note: str = "") -> list[Table]:
    """A table of this run's figures, the paper's, and the differences; the error is this run's. None without any."""
    rows = []
    for name, value, error, published in figures:
        difference = f"{value - published:+.1f}" + (f" ± {error:.1f}" if error is not None else "")
        rows.append([name, plus_minus(value, error), f"{published:.2f}", difference])
    return [Table([what, "this run", "paper", "difference"], rows, note)] if rows else []
