"""Somebody's own function, by the name ``module:function``: a grader, a loss."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from retell.errors import RecipeError
from retell.hashing import file_digest

_SPEC = re.compile(r"((?!\d)\w+(?:\.(?!\d)\w+)*):((?!\d)\w+)")


class Plugin:
    """A function of a module, looked for in the working directory, then where Python looks.

    Its version is a digest of the module's file, which changes whenever that is edited; what it imports is no part.

    Raises:
        RecipeError: the spec is no ``module:function``; ``kind`` and ``ours`` say what it could have been instead.
    """

    def __init__(self, kind: str, spec: str, ours: Iterable[str]) -> None:
        self._accepted = f"a {kind} is {', '.join(ours)}, or your own as module:function"
        parts = _SPEC.fullmatch(spec)
        if not parts:
            raise RecipeError(f"there is no {kind} {spec!r}: {self._accepted}")
        self._called = f"{kind} {spec!r}"
        self.module, self._function = parts[1], parts[2]

    def version(self) -> str:
        """That of the file as it is now, found without running any of it.

        Raises:
            RecipeError: there is no such file.
        """
        file = _file_of(self.module)
        if not file:
            raise self._missing()
        return _digest(file)

    def load(self) -> tuple[Callable[..., Any], str]:
        """The function, and the version that it is of: "" where the module has no file, such as a built-in one.

        The module is run, once in a process; what it raises is not caught.

        Raises:
            RecipeError: there is no such module or function.
        """
        invalidate_caches()  # it may have been written a moment ago
        if sys.path[:1] != [os.getcwd()]:
            sys.path.insert(0, os.getcwd())
        try:
            module = import_module(self.module)
        except ModuleNotFoundError as error:
            if f"{self.module}.".startswith(f"{error.name}."):
                raise self._missing() from None
            raise
        function = getattr(module, self._function, None)
        if not callable(function):
            where = getattr(module, "__file__", None) or self.module
            raise RecipeError(f"{where} has no function {self._function!r}")
        return function, _loaded_version(module)

    def _missing(self) -> RecipeError:
        return RecipeError(
            f"{self._called}: no module {self.module!r} in {os.getcwd()} or on sys.path; {self._accepted}"
        )


@cache  # The module stays as it was imported, whatever becomes of its file while this process runs.
def _loaded_version(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return _digest(Path(file)) if file and Path(file).is_file() else ""


def _digest(file: Path) -> str:
    return file_digest(file)[:12]


def _file_of(module: str) -> Path | None:
    """The file of a module, found without running any of it."""
    invalidate_caches()  # it may have been written a moment ago
    path: Sequence[str] | None = [os.getcwd(), *sys.path]
    for part in module.split("."):
        # The last part of the name is enough for the finders; by a full name they would look for imported parents.
        spec = PathFinder.find_spec(part, list(path)) if path is not None else None
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None
