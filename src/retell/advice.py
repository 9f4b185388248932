"""stub"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Advice:
    """stub"""

    rewrite: str = "unknown"
    words: tuple[str, ...] = ("stub",)


def features(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """stub"""
    return summary


def advise(found: Mapping[str, Any]) -> Advice:
    """stub"""
    return Advice()
