"""The way to a Ray cluster: found or started, what room it has for workers, and what its errors mean."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType

from retell.drawing import Task
from retell.errors import MissingExtraError, RecipeError, first_line

AUTO = "auto"
"""The address that stands for the cluster that is there, or else for one on this machine alone."""
_OWN = "local"
"""Ray's own word for the latter."""
_ANSWER_SECONDS = 10.0
_OBJECTS_BYTES = 100 << 20
"""Room for what a cluster of our own shares: what workers draw goes to disk."""
_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
"""vLLM's arguments that multiply the GPUs of one engine."""
_FATES = (
    ("node has died", "its machine is gone"),
    ("low on memory", "its machine ran out of memory"),
    ("is unavailable", "it cannot be reached any more"),
    ("process has died", "its process died, as happens when memory runs out"),
)
"""Words of Ray's long messages about an actor, and what they come to."""


@dataclass(frozen=True, slots=True)
class Team:
    """How many workers there are to be, and what each takes of its machine."""

    workers: int
    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{self.cpus} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")


@contextlib.contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected to a cluster while the block runs.

    What Ray would print of its machines' troubles stays in its logs: standard output is for results. SIGTERM goes on
    meaning what it meant. A cluster that is started here, for this process alone, listens to this machine alone.

    Raises:
        RequestError: it is not installed, or there is no such cluster, or it runs another version.
    """
    named = (_in_the_environment() or _started_here() or _OWN) if address == AUTO else address
    own = named == _OWN
    if not own:
        _check_answer(named)
    for name, value in _environment(own=own).items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            with _same_signals():
                ray.init(
                    named,
                    object_store_memory=_OBJECTS_BYTES if own else None,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except Exception as error:
            ray.shutdown()
            if own:
                raise RecipeError(f"Ray does not start on this machine: {first_line(error)}") from error
            raise RecipeError(f"cannot use the Ray cluster {named}: {_refusal(error, ray.__version__)}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def team(ray: ModuleType, task: Task) -> Team:
    """The workers of a task on a cluster: as many as asked for, else one for each GPU (or as many as an engine takes),
    else one for each machine.

    Raises:
        RequestError: the cluster has no room for them.
    """
    settings = task.settings
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = [int(machine.get("GPU", 0)) for machine in machines]
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    if any(gpus) and settings.engine != "server":
        parallel = [int(settings.engine_args.get(name, 1)) for name in _PARALLEL]
        each = prod(parallel) if settings.engine == "vllm" else 1
        if max(gpus) < each:
            raise RecipeError(
                f"an engine takes {each} GPUs ({', '.join(_PARALLEL)}), and no machine of the cluster has more than "
                f"{max(gpus)}"
            )
        room = sum(min(here // each, cores) for here, cores in zip(gpus, cpus, strict=True))
        usual = room
    else:
        each, room, usual = 0, sum(cpus), sum(cores > 0 for cores in cpus)
    if not room or (settings.workers or 0) > room:
        raise RecipeError(
            f"the cluster has room for {room} workers of {Team(1, 1, each)} each, and there are to be "
            f"{settings.workers or 'some'}: give it machines, or choose --workers"
        )
    return Team(settings.workers or usual, 1, each)


def fate(error: Exception) -> str:
    """What became of an actor, in a line."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {first_line(cause)}"
    text = str(error)
    if "creation task" in text:
        return text.strip().splitlines()[-1].strip()
    return next((meaning for words, meaning in _FATES if words in text), first_line(error))


def check_address(address: str) -> None:
    """Raises:
    RecipeError: it can be no cluster's address.
    """
    host, _, port = address.rpartition(":")
    if address != AUTO and ("/" in address or not host or not port.isdecimal()):
        raise RecipeError(
            f"{address!r} (of --ray or RAY_ADDRESS) is no address of a cluster, which is HOST:PORT; on a machine of "
            "the cluster a bare --ray will do"
        )


def _in_the_environment() -> str | None:
    """The address that RAY_ADDRESS names; Ray's word for any cluster names none."""
    address = os.environ.get("RAY_ADDRESS")
    return address if address != AUTO else None


def _started_here() -> str | None:
    """The address of the cluster that `ray start` has made this machine a part of."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with contextlib.suppress(OSError):
        return Path(folder, "ray", "ray_current_cluster").read_text(encoding="utf-8").strip()
    return None


def _check_answer(address: str) -> None:
    """Raises:
    RecipeError: nobody listens at an address, which Ray would go on trying for a quarter of an hour.
    """
    check_address(address)
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RecipeError(
            f"no Ray cluster answers at {address}: {getattr(error, 'strerror', None) or error}; is `ray start --head` "
            "running there? (`ray stop` here makes a bare --ray forget a cluster that is no more)"
        ) from error


def _environment(*, own: bool) -> dict[str, str]:
    """What Ray is to find in the environment, where the user has not said otherwise."""
    chosen = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_NUM_REDIS_GET_RETRIES": "2",  # tries to connect, of 40 s each
    }
    # The name is misleading: without clusters, as by default on those systems, Ray uses the loopback address.
    return chosen | ({"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if own else {})


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    """Gives SIGTERM back, which Ray takes for itself when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _refusal(error: Exception, version: str) -> str:
    if str(error).startswith("Version mismatch"):
        return f"{' '.join(str(error).split())}: install the same versions on every machine"
    return f"{first_line(error)}; is `ray start --head` running there, with Ray {version} on every machine?"
