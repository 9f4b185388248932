"""Drawing on a Ray cluster: an actor for each engine, which writes what it draws to storage that all machines share.

Ray starts the actors and tells when one is lost; who draws what is up to `retell.leases`, and what is stored is what a
worker has written. Ray Data is not used: it tries a block that kills its worker for ever.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from retell.drawing import Task, Work, open_work
from retell.errors import (
    BudgetError,
    EngineError,
    MissingExtraError,
    RecipeError,
    RetellError,
    StorageError,
    first_line,
)
from retell.executor import Job, settle
from retell.graders.pool import GraderPool
from retell.leases import Blocks, Lease, Leases, Report, Standing
from retell.meter import Budget, Meter
from retell.shards import blocks_done
from retell.store import open_store
from retell.worker import Worker

T = TypeVar("T")
AUTO = "auto"
"""The address that stands for the cluster that is there, or else for one on this machine alone."""
_LOOK_SECONDS = 0.5
_ABOUT = "about.json"


class Cluster:
    """An executor whose engines are on many machines.

    ``plan`` stands for all that decides what is drawn. A worker that is lost costs what it had not written, and is
    replaced; a machine that is lost, its workers. Without a ``crew`` everything has been drawn.
    """

    draws = True

    def __init__(
        self, crew: "Crew | None", task: Task, blocks: Blocks, plan: str, graders: GraderPool, folder: Path
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._crew = crew
        self._task = task
        self._blocks = blocks
        self._graders = graders
        self._plan = plan
        self._folder = folder
        self._failed: dict[str, str] = {}
        self._meter = Meter()
        about = folder / "samples" / plan / _ABOUT
        if crew:
            about.parent.mkdir(parents=True, exist_ok=True)
            about.write_text(json.dumps({"context": crew.context}), encoding="utf-8")
        self.context: int | None = json.loads(about.read_text(encoding="utf-8"))["context"]

    def draw(self, jobs: Iterable[Job[T]], note: Callable[[T], None]) -> Iterator[int]:
        """See `retell.executor.Executor.draw`; the jobs are those of the blocks, and what they come to is not told."""
        if self._crew is None:
            yield len(self._blocks.problems)
            return
        for standing in self._crew.work(self._blocks, self._plan):
            self._meter = standing.meter
            self.faults = Counter(standing.faults)
            self._failed = standing.failed
            yield standing.done

    def settle(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """See `retell.executor.Executor.settle`."""
        with open_store(self._folder) as store:
            yield from settle(jobs, self._failed, self._graders, store, self._task.stream)

    def figures(self) -> Mapping[str, str]:
        """What the workers have drawn, and how many there are."""
        return ({"workers": str(self._crew.size)} if self._crew else {}) | self._meter.figures()

    def seconds_left(self, done: int, total: int) -> float | None:
        """At the rate so far."""
        return self._meter.seconds_left(done, total)


def drawn_before(folder: Path, blocks: Blocks, plan: str) -> bool:
    """Whether workers have drawn all blocks of a plan in a run folder."""
    samples = folder / "samples"
    return len(blocks_done(samples, plan)) == len(blocks) and (samples / plan / _ABOUT).is_file()


class Crew:
    """The actors of a cluster, and which of them are at work. Used as a context; a worker is open when it begins."""

    def __init__(
        self, task: Task, folder: Path, note: Callable[[str], None], opener: Callable[[Task], Work] = open_work
    ) -> None:
        assert task.settings.ray
        self._ray = _connected(task.settings.ray)
        self._task = task
        self._opener = opener
        self._folder = folder.resolve()
        self._note = note
        self._hired = 0
        self._idle: dict[str, Any] = {}
        self._opening: dict[Any, tuple[str, Any]] = {}
        self._working: dict[Any, tuple[str, Any]] = {}
        self._ever_open = False
        self._leases: Any = None
        self.context: int | None = None

    def __enter__(self) -> Self:
        try:
            self._wanted, demands = _team(self._ray, self._task)
            self._hiring = self._ray.remote(**demands)(_Actor)
            for _ in range(self._wanted):
                self._hire()
            while not self._ever_open:
                self._look(None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for _name, actor in (*self._idle.items(), *self._opening.values(), *self._working.values()):
            self._ray.kill(actor)
        self._ray.shutdown()

    @property
    def size(self) -> int:
        """How many workers there are, those that are being opened left out."""
        return len(self._idle) + len(self._working)

    def work(self, blocks: Blocks, plan: str) -> Iterator[Standing]:
        """Keeps all workers busy until every block is done; yields where it stands now and then.

        Raises:
            EngineError: one worker after the other is lost.
            BudgetError: a budget is used up; what was lent has been drawn.
            StorageError: a worker cannot write.
        """
        settings, near = self._task.settings, self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = near(self._ray.get_runtime_context().get_node_id(), soft=False)
        desk = self._ray.remote(num_cpus=0, scheduling_strategy=here)(Leases)
        done = blocks_done(self._folder / "samples", plan)
        budget = Budget(settings.max_tokens_total, settings.max_hours)
        self._leases = desk.remote(blocks, done, budget, self._wanted)
        self._ray.get(self._leases.begin.remote())
        while True:
            standing: Standing = self._ray.get(self._leases.standing.remote())
            yield standing
            if standing.broken:
                raise EngineError(f"one worker after the other is lost: {standing.broken}; what was drawn is stored")
            if standing.finished:
                return
            if standing.spent and not self._working:
                raise BudgetError(f"{standing.spent}; what was drawn is stored")
            while standing.waiting and self._idle:
                name, actor = self._idle.popitem()
                self._working[actor.run.remote(plan, self._leases)] = name, actor
            self._look(_LOOK_SECONDS)

    def _hire(self) -> None:
        self._hired += 1
        name = f"worker {self._hired}"
        actor = self._hiring.remote(name, self._task, self._folder, self._opener)
        self._opening[actor.open.remote()] = name, actor

    def _look(self, seconds: float | None) -> None:
        """Waits for a worker to be open, to have nothing to do or to be lost."""
        pending = [*self._opening, *self._working]
        if not pending:
            time.sleep(seconds or 0)
            return
        for reference in self._ray.wait(pending, timeout=seconds)[0]:
            opening = reference in self._opening
            name, actor = (self._opening if opening else self._working).pop(reference)
            try:
                answer = self._ray.get(reference)
            except Exception as error:
                self._lose(name, actor, error, opening=opening)
                continue
            self._idle[name] = actor
            if opening:
                self._ever_open, self.context = True, answer

    def _lose(self, name: str, actor: Any, error: Exception, *, opening: bool) -> None:
        """Replaces a worker that is no more, or cannot go on.

        Raises:
            RetellError: another worker would meet the same.
        """
        cause = getattr(error, "cause", None) or error
        if isinstance(cause, StorageError) or (isinstance(cause, RetellError) and opening and not self._ever_open):
            raise cause
        why = str(cause) if isinstance(cause, RetellError) else _why(error)
        self._note(f"{name} is lost: {why}")
        self._ray.kill(actor)
        if self._leases is not None:
            self._ray.get(self._leases.lost.remote(name, why))
        self._hire()


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, name: str, task: Task, folder: Path, opener: Callable[[Task], Work]) -> None:
        self._opener = opener
        self._name = name
        self._task = task
        self._folder = folder
        self._work: Work | None = None
        self._graders: GraderPool | None = None

    def open(self) -> int | None:
        """Opens engine and grader; the context of the engine."""
        if not self._folder.is_dir():
            raise StorageError(
                f"{self._folder} is not there on machine {os.uname().nodename}: put the run folder on storage that all "
                "machines share, under the same path"
            )
        self._work = self._opener(self._task)
        self._graders = GraderPool(self._work.grader, self._task.settings.grader_workers)
        return self._work.engine.context

    def run(self, plan: str, leases: Any) -> None:
        """Draws until nothing is lent."""
        assert self._work
        assert self._graders
        line = _Line(self._name, leases)
        Worker(self._work, self._graders, self._task.stream, self._folder, plan, line).run()


@dataclass(frozen=True, slots=True)
class _Line:
    """A worker's line to the leases."""

    name: str
    leases: Any

    def next(self) -> Lease | None:
        """The next lease."""
        import ray

        lease: Lease | None = ray.get(self.leases.next.remote(self.name))
        return lease

    def done(self, number: int, report: Report) -> None:
        """Gives a lease back."""
        import ray

        ray.get(self.leases.done.remote(number, report))


def _connected(address: str) -> ModuleType:
    """Ray, connected to a cluster.

    Raises:
        RequestError: it is not installed, or there is no such cluster, or it runs another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": "retell"}
    if address != AUTO:
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:
        raise RecipeError(
            f"cannot use the Ray cluster {address}: {first_line(error)}; is `ray start --head` running there, with Ray "
            f"{ray.__version__} on every machine?"
        ) from error
    return ray


def _team(ray: ModuleType, task: Task) -> tuple[int, dict[str, Any]]:
    """How many workers there are to be, and what each takes of its machine.

    Raises:
        RequestError: the cluster has no room for a single one.
    """
    there: Mapping[str, float] = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    each = int(task.settings.engine_args.get("tensor_parallel_size", 1)) if task.settings.engine == "vllm" else 1
    machines = sum(node["Alive"] for node in ray.nodes())
    if gpus and task.settings.engine != "server":
        if gpus < each:
            raise RecipeError(f"a worker takes {each} GPUs (tensor_parallel_size), and the cluster has {gpus}")
        return task.settings.workers or gpus // each, {"num_cpus": 1, "num_gpus": each, "max_restarts": 0}
    return task.settings.workers or machines, {"num_cpus": 1, "num_gpus": 0, "max_restarts": 0}


def _why(error: Exception) -> str:
    """What became of an actor, in a line."""
    text = str(error)
    if "node" in text.lower() and "died" in text.lower():
        return "its machine is gone"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cause = getattr(error, "cause", None)
    return f"{type(cause).__name__}: {first_line(cause)}" if cause else lines[0] if lines else type(error).__name__
