"""What rungs, models and runs are called on every page, in which order, and in which colour."""

from collections.abc import Iterable, Sequence

TITLES = {
    "base": "base",
    "sft": "SFT",
    "dft": "DFT",
    "dr-sft": "DR + SFT",
    "dr-dft": "DR + DFT",
    "self-dft": "self only + DFT",
    "guided-dft": "guided only + DFT",
}
"""What the paper calls the models, in its order."""
RUNGS = ("self", "guided", "expert")
WHOSE = {"self": "own solution", "guided": "retelling", "expert": "expert's text"}
"""The text that a rung keeps."""
OTHERS = 6
"""Colours for what has none of its own: other-1 …"""


def title(name: str) -> str:
    """What an evaluation or training run is called on the page."""
    return TITLES.get(name, name)


def in_order(names: Iterable[str]) -> list[str]:
    """The paper's models in its order, then the others by name."""
    order = list(TITLES)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def colours(names: Sequence[str]) -> dict[str, str]:
    """A name of the style sheet for each model; one that the paper does not have gets the next that is free."""
    others = [name for name in names if name not in TITLES]
    own = {name: f"other-{number % OTHERS + 1}" for number, name in enumerate(others)}
    return {name: own.get(name, name) for name in names}
