"""Ranges of what is not known exactly: the fewest and the most, or None where nothing is known."""

from collections.abc import Iterable

Range = tuple[int, int]
"""The fewest and the most; (0, 0) is none."""
Mean = tuple[float, float]
"""Bounds of a mean."""
NONE: Range = (0, 0)


def times(one: Range | None, other: Mean | None) -> Range | None:
    """So many of what has so much each."""
    if one is None or other is None:
        return None
    return round(one[0] * other[0]), round(one[1] * other[1])


def total(ranges: Iterable[Range | None]) -> Range | None:
    """All together; None if any is unknown."""
    fewest, most = NONE
    for one in ranges:
        if one is None:
            return None
        fewest, most = fewest + one[0], most + one[1]
    return fewest, most
