"""Digests and seeds from content, so that batch, order, workers and resumption never change a result."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

_CHUNK = 1 << 20
_canonical = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode


def digest(*parts: object) -> str:
    """A 128-bit hex digest of JSON-like ``parts``; equal parts give equal digests on every machine."""
    text = _canonical(parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_of_all(parts: Iterable[object]) -> str:
    """The same of many parts, which are taken one by one and not held."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(digest(part).encode())
    return state.hexdigest()


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^63) from JSON-like ``parts``."""
    return int(digest(*parts)[:16], 16) >> 1


def file_digest(path: Path) -> str:
    """A 128-bit hex digest of a file's bytes."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()
