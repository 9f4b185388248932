"""The processes that train together: which of them this is, and how they agree.

`torchrun` and `accelerate launch` start them and say it in the environment. All do the same; process 0, the lead, alone
writes and speaks.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from retell.errors import MissingExtraError, TrainingError

_T = TypeVar("_T")
_LAUNCHED = "RETELL_LAUNCHED"
"""Set in the environment of the processes that `launch` starts."""
_TO_END = 20.0
"""Seconds that processes have to end when they are told to."""
_PATIENCE = timedelta(hours=1)
"""How long a process waits for another, such as for the lead while it saves a model."""


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """This process's number; 0 leads."""
    return int(os.environ.get("RANK") or 0) if world() > 1 else 0


@contextmanager
def joined() -> Iterator[None]:
    """Connects this process with the others and gives it its GPU, while the block runs.

    Where the block ends well, it waits for the others; where it fails, it does not: what started them ends them.

    Raises:
        MissingExtraError: there are several, and what connects them is not installed.
    """
    if world() == 1:
        yield
        return
    try:
        import torch

        # What is imported here takes the group of all processes as a default argument. Imported later, it would keep
        # the group, whose threads would run into the end of the interpreter and abort it (pytorch issue 190489).
        import torch.distributed.nn.functional
        from accelerate import PartialState
    except ImportError as error:
        raise MissingExtraError("accelerate (with torch)", "local") from error
    if torch.cuda.is_available():
        PartialState(timeout=_PATIENCE)
    else:
        PartialState(cpu=True, backend="gloo", timeout=_PATIENCE)
    yield
    wait()
    torch.distributed.destroy_process_group()


def launches(configuration: str | None) -> bool:
    """Whether this process, being the only one, is to start those that train."""
    return configuration is not None and world() == 1 and _LAUNCHED not in os.environ


def launch(configuration: str, command: Sequence[str]) -> None:
    """Runs a command of retell in the processes that an accelerate configuration names; what it prints goes to stderr.

    Raises:
        TrainingError: it failed; it has said why.
    """
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", configuration]
    start = [*accelerate, "-m", "retell", *command]
    environment = {**os.environ, _LAUNCHED: "1"}
    with subprocess.Popen(start, env=environment, stdout=sys.stderr, start_new_session=True) as launcher:
        try:
            status = launcher.wait()
        except BaseException:
            _end(launcher)
            raise
    if status:
        raise TrainingError(f"`{shlex.join(start)}` failed (exit status {status}): see above")


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """Has a launcher end what it has started, and ends what is left of its group after a while."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(_TO_END)
        os.killpg(launcher.pid, signal.SIGKILL)


def wait() -> None:
    """Until every process has come here."""
    if world() > 1:
        import torch

        torch.distributed.barrier()


def agreed(find: Callable[[], _T]) -> _T:
    """What the lead finds, for every process: none goes on before the lead has found it. Others need not look."""
    if world() == 1:
        return find()
    import torch

    found: list[Any] = [find() if rank() == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[no-any-return]


def gathered(mine: list[_T]) -> list[_T]:
    """The items of all processes, in the order of their numbers."""
    if world() == 1:
        return mine
    import torch

    parts: list[Any] = [None] * world()
    torch.distributed.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def first_to_fail() -> bool:
    """Whether no other process has failed before this one: the first says why, and what follows from it is not said."""
    if world() == 1:
        return True
    try:
        import torch

        store = torch.distributed.distributed_c10d._get_default_store()
        return bool(store.add("retell/failed", 1) == 1)
    except (RuntimeError, ValueError, ImportError):  # they never met, could not, or whoever kept the count is gone
        return True
