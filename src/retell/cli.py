"""The command line: runs a command, and says in one line how it failed."""

import contextlib
import io
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise

from cyclopts import CycloptsError, MissingArgumentError
from pydantic import ValidationError

from retell.commands import app
from retell.errors import BudgetError, RecipeError, RetellError, RunError
from retell.processes import first_to_fail, joined, rank, world
from retell.recipe import explain

_RESTART = re.compile(r"--restart(=|$)")
_BARE_RAY = re.compile(r"--(\w+\.)?ray")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status. Errors are one line on standard error.

    Of processes that train together the first that fails says why.

    With RETELL_TRACEBACK=1 in the environment an error that retell did not foresee shows its traceback. SIGTERM, with
    which clusters end a job, stops a run as cleanly as Ctrl-C.
    """
    given = _complete(arguments if arguments is not None else sys.argv[1:])
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait long at a barrier make every step many times slower as soon as the cores are shared; threads
        # that do not wait at all make it a fifth slower where they are not.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ± shows a ?
    if world() > 1 and (refusal := _alone(given)):
        if rank() == 0:
            _say(refusal)
        return RecipeError.exit_status
    try:
        with _voice(), joined():
            app(given, exit_on_error=False, print_error=False)
            sys.stdout.flush()
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read the output has had enough
        return 1
    except BudgetError as error:
        return _fail(f"{error}, to go on: {_again(given)}", error.exit_status)
    except RunError as error:
        hint = " (without --restart)" if any(map(_RESTART.match, given)) else ""
        return _fail(f"{error}{hint}", error.exit_status)
    except RetellError as error:
        return _fail(str(error), error.exit_status)
    except ValidationError as error:
        return _fail(explain(error), RecipeError.exit_status)
    except CycloptsError as error:
        return _fail(_refusal(error), RecipeError.exit_status)
    except KeyboardInterrupt:
        return _fail(f"interrupted; what was stored is kept, to go on: {_again(given)}", 130)
    except Exception as error:
        if os.environ.get("RETELL_TRACEBACK"):
            raise
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(f"{error}: lower engine_args.batch_size, micro_batch_tokens or batch_tokens", 1)
        return _fail(f"{type(error).__name__}: {error} (RETELL_TRACEBACK=1 shows where); what was stored is kept", 1)


def _refusal(error: CycloptsError) -> str:
    """What is wrong with the arguments."""
    if isinstance(error.__cause__, ValidationError):
        return explain(error.__cause__)
    if isinstance(error, MissingArgumentError) and error.argument and error.keyword is None:
        missing, command = error.argument, " ".join(("retell", *(error.command_chain or ())))
        name = missing.name.lstrip("-").upper() if missing.field_info.is_positional else missing.name
        return f"`{command}` needs {name}: see `{command} --help`"
    return str(error)


def _complete(given: Sequence[str]) -> list[str]:
    """The arguments, a bare --ray with the address that it stands for."""
    return [
        f"{word}=auto" if _BARE_RAY.fullmatch(word) and after.startswith("-") else word
        for word, after in pairwise([*given, "--"])
    ]


def _alone(given: Sequence[str]) -> str | None:
    """Why a command cannot run in several processes."""
    command = next(iter(app.parse_commands(given)[0]), "train")
    if command == "train" or command.startswith("-"):
        return None
    return (
        f"`retell {command}` runs in one process, and WORLD_SIZE is {world()}: start it without torchrun or accelerate "
        "launch, which are for `retell train`"
    )


@contextlib.contextmanager
def _voice() -> Iterator[None]:
    """Lets only the lead of several processes speak while the block runs."""
    if rank() == 0:
        yield
        return
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - loggers may keep it until the process ends
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _fail(message: str, status: int) -> int:
    if world() > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that fails ends the others, which are ending too
        if not first_to_fail():
            return status
    _say(message)
    return status


def _say(message: str) -> None:
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
    print(f"retell: {line}", file=sys.stderr)


def _again(given: Sequence[str]) -> str:
    """The command that goes on where this one was stopped: the same, but it must not discard what was done."""
    if world() > 1:
        return "the same command"
    return shlex.join(["retell", *(word for word in given if not _RESTART.match(word))])
