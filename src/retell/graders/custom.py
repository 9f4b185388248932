"""The user's own grader: a function of (problem, response, gold)."""

import os
import re
import reprlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from pathlib import Path
from typing import get_args

from retell.errors import RecipeError
from retell.graders.base import Case
from retell.hashing import file_digest
from retell.records import Outcome, Verdict

_SPEC = re.compile(r"((?!\d)\w+(?:\.(?!\d)\w+)*):((?!\d)\w+)")
_ACCEPTED = "a grader is math, qwen, or your own as module:function"


class CustomGrader:
    """Calls ``function(problem, response, gold)`` of a module; it returns a bool or a `Verdict`.

    The module is looked for in the working directory, then where Python looks. Its file is part of the name, so that
    editing it grades again; what it imports is not.

    Raises:
        RecipeError: the spec is no ``module:function``, or there is no such module.
    """

    seconds = 10.0

    def __init__(self, spec: str) -> None:
        parts = _SPEC.fullmatch(spec)
        if not parts:
            raise RecipeError(f"there is no grader {spec!r}: {_ACCEPTED}")
        self._module, self._function = parts[1], parts[2]
        file = _file_of(self._module)
        if not file:
            raise RecipeError(
                f"grader {spec!r}: no module {self._module!r} in {os.getcwd()} or on sys.path; {_ACCEPTED}"
            )
        self.spec = spec
        self.name = f"{spec}@{file_digest(file)[:12]}"
        self._judge: Callable[[str, str, str], object] | None = None

    def prepare(self, case: Case) -> Verdict | Case:
        """Nothing is decided here: the function may look at everything."""
        return case

    def load(self) -> None:
        """Imports the module.

        Raises:
            RecipeError: it has no such function.
        """
        sys.path.insert(0, os.getcwd())
        module = import_module(self._module)
        self._judge = getattr(module, self._function, None)
        if not callable(self._judge):
            raise RecipeError(f"{module.__file__} has no function {self._function!r}")

    def judge(self, case: Case) -> Verdict:
        """What the function says."""
        assert self._judge, "load() comes first"
        said = self._judge(case.problem, case.response, case.gold)
        if isinstance(said, bool):
            return Verdict("correct" if said else "wrong", None, self.spec)
        if isinstance(said, Verdict) and _sound(said):
            return said
        return Verdict("undecided", None, f"the grader returned {reprlib.repr(said)}, no bool and no sound Verdict")


def _sound(verdict: Verdict) -> bool:
    return (
        verdict.outcome in get_args(Outcome)
        and isinstance(verdict.extracted, str | None)
        and isinstance(verdict.reason, str)
    )


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
