"""The formats by name."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path

from retell.errors import RecipeError
from retell.exports import axolotl, hf, llamafactory, trl, verl
from retell.exports.rows import MixRows
from retell.mixes import KEPT

FORMATS: Mapping[str, Callable[[MixRows, Path], None]] = {
    "trl": trl.write,
    "llamafactory": llamafactory.write,
    "axolotl": axolotl.write,
    "verl": verl.write,
    "hf": hf.write,
}
"""By name, what writes a format's files into an empty folder."""


def check_export(format: str, mix: str) -> None:
    """Raises:
    RecipeError: there is no such format or mix.
    """
    for what, name, known in (("format", format, FORMATS), ("mix", mix, KEPT)):
        if name not in known:
            near = get_close_matches(name.lower(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
            raise RecipeError(f"unknown {what} {name!r}: {hint}")
