"""The errors people see.

    RetellError                 something a person can act on: one line, no traceback
    ├── RequestError     (2)    the request was wrong: nothing was started
    │   ├── RecipeError             an unknown key, a bad value
    │   ├── DataError               a file that is missing, unreadable or holds no usable row
    │   ├── PolicyError             a model folder that cannot be used as a policy
    │   ├── RunFolderError          a run folder that is locked, read-only or of another recipe
    │   └── MissingExtraError        a part of retell that is not installed
    ├── BudgetError      (130)  a budget is used up: the same command goes on
    └── RunError         (1)    the run failed on the way: what was stored is kept
        ├── StorageError            the disk is full or broken
        ├── GraderError             grading processes do not start
        ├── EngineError             the engine cannot go on
        ├── HubError                the hub cannot be reached, or refuses
        └── TrainingError           the loss or the data of an update is unusable

The number is the exit status of the command. A message names the value that was wrong and what to do about it.
"""

from typing import Self


class RetellError(Exception):
    """Base of every error meant for a person; ``str(error)`` is one line."""

    exit_status = 1


class RequestError(RetellError):
    """The request was wrong; nothing was started."""

    exit_status = 2


class RecipeError(RequestError):
    """A recipe or an option has an unknown key or a bad value."""


class DataError(RequestError):
    """A data file is missing, unreadable, or holds no usable row."""


class PolicyError(RequestError):
    """A model cannot be used as a policy."""


class RunFolderError(RequestError):
    """A run folder is in use, not writable, or belongs to another recipe."""


class MissingExtraError(RequestError):
    """An optional part of retell is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'retell[{extra}]'")
        self._missing = package, extra

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        """It may be raised in another process."""
        return type(self), self._missing


class BudgetError(RetellError):
    """A stage stopped as it was asked to, before its end; the same command goes on."""

    exit_status = 130


class RunError(RetellError):
    """The run failed on the way; what was stored is kept and the run can be started again."""


class StorageError(RunError):
    """Something could not be written."""


class EngineError(RunError):
    """The engine cannot go on."""


class GraderError(RunError):
    """Grading cannot go on."""


class HubError(RunError):
    """The Hugging Face hub cannot be reached, or refuses what is sent."""


class TrainingError(RunError):
    """Training cannot go on."""


def first_line(error: BaseException) -> str:
    """The first line of somebody else's error, or its type where it has no words."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
