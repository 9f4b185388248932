"""The user's own grader: a function of (problem, response, gold)."""

import reprlib
from collections.abc import Callable
from typing import get_args

from retell.graders.base import Case
from retell.plugins import Plugin
from retell.records import Outcome, Verdict


class CustomGrader:
    """Calls ``function(problem, response, gold)`` of a module; it returns a bool or a `Verdict`.

    The module is looked for in the working directory, then where Python looks. Its file is part of the name, so that
    editing it grades again; what it imports is not.

    Raises:
        RecipeError: the spec is no ``module:function``, or there is no such module.
    """

    seconds = 10.0

    def __init__(self, spec: str) -> None:
        self._plugin = Plugin("grader", spec, ("math", "qwen"))
        self.spec = spec
        self.name = f"{spec}@{self._plugin.version()}"
        self._judge: Callable[[str, str, str], object] | None = None

    def prepare(self, case: Case) -> Verdict | Case:
        """Nothing is decided here: the function may look at everything."""
        return case

    def load(self) -> None:
        """Imports the module.

        Raises:
            RecipeError: it has no such function.
        """
        self._judge, _ = self._plugin.load()

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
