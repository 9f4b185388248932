"""The licence that a run's data has from its source, where a dataset card on this machine says so."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retell.errors import DataError, MissingExtraError, RecipeError, first_line
from retell.problems import copy_of
from retell.recipe import Data, located

_ID = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Licence:
    """What a card says: the hub's identifiers, name and address where it has its own, and who says so."""

    ids: tuple[str, ...]
    name: str | None
    link: str | None
    source: str


def given_licence(text: str) -> Licence:
    """The licence that somebody names.

    Raises:
        RecipeError: no identifier looks like that.
    """
    if not _ID.fullmatch(text):
        raise RecipeError(f"--license {text!r} is no licence identifier of the hub: they look like mit or cc-by-4.0")
    return Licence((text,), None, None, "whoever made this data set")


def inherited_licence(data: Data) -> Licence | None:
    """What the card of the source says, if it is a dataset folder, or a hub dataset whose card was downloaded with it.

    Raises:
        DataError: there is a card, and it cannot be read.
        MissingExtraError: there is a card, and what reads it is not installed.
    """
    card = _card(data)
    if card is None:
        return None
    try:
        from huggingface_hub.repocard import metadata_load
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub") from error
    try:
        said: Mapping[str, Any] = metadata_load(card) or {}
    except Exception as error:
        raise DataError(f"cannot read the card {card}: {first_line(error)}; mend it, or name the --license") from error
    listed = said.get("license")
    ids = tuple(str(one) for one in (listed if isinstance(listed, list) else [listed]) if one)
    if not ids:
        return None
    name, link = (str(said[key]) if said.get(key) else None for key in ("license_name", "license_link"))
    return Licence(ids, name, _address(link, data.path or ""), "the card of the source")


def _address(link: str | None, source: str) -> str | None:
    """Where a licence can be read; a file beside the source's card is not beside another's."""
    if link is None or link.startswith(("https://", "http://")):
        return link
    return f"https://huggingface.co/datasets/{source}/blob/main/{link}" if _HUB.fullmatch(source) else None


def _card(data: Data) -> Path | None:
    """README.md of the source, found as `retell.problems.read_rows` finds the rows."""
    if not data.path:
        return None
    place = copy_of(data.data_dir, [data.path]) or Path(located(data.path))
    if place.exists() or place.is_absolute() or data.path.count("/") > 1:
        card = place / "README.md"
        return card if card.is_file() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None  # nothing was downloaded without it
    try:
        cached = try_to_load_from_cache(data.path, "README.md", repo_type="dataset")
    except ValueError:
        return None  # it is no name of a hub dataset
    return Path(cached) if isinstance(cached, str) else None
