"""Drawing on a Ray cluster: an actor for each engine, which writes what it draws to storage that all machines share.

Ray starts the actors and tells when one is lost; who draws what is up to `retell.leases`, and what is stored is what a
worker has written. Ray Data is not used: it tries a block that kills its worker for ever.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from retell.connection import connected, fate, team
from retell.drawing import Task, Work, open_work
from retell.errors import BudgetError, EngineError, RecipeError, RequestError, RetellError, StorageError
from retell.executor import Failed, Job, failures, settle, watched
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.leases import SILENT_SECONDS, Blocks, Lease, Leases, Report, Standing
from retell.meter import Budget, Meter
from retell.progress import duration
from retell.runfolder import RunFolder
from retell.shards import blocks_done, undo_blocks
from retell.store import open_store
from retell.worker import Worker

T = TypeVar("T")
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 20.0
"""How long no worker may be open before somebody is told, and again told."""
_SEEN_SECONDS = 90.0
"""How long a file that another machine has written may take to be seen here: NFS looks again after a minute."""
_SHY = 4
"""Workers that may be lost while they are opened, beside one for each that there is to be, before any has been open."""


class Cluster:
    """An executor whose engines are on many machines.

    ``plan`` stands for all that decides what is drawn. A worker that is lost costs what it had not written, and is
    replaced; a machine that is lost, its workers. Without a ``crew`` everything has been drawn.
    """

    draws = True

    def __init__(
        self, crew: "Crew | None", task: Task, blocks: Blocks, plan: str, graders: GraderPool, folder: RunFolder
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._crew = crew
        self._task = task
        self._blocks = blocks
        self._graders = graders
        self._plan = plan
        self._folder = folder.path
        self._samples = folder.path / "samples"
        self._failed: Failed = {}
        self._meter = Meter()
        if crew:
            folder.write_json(_about(plan), {"context": crew.context})
        self.context: int | None = (folder.read_json(_about(plan)) or {}).get("context")

    def draw(self, jobs: Iterable[Job[T]], note: Callable[[T], None]) -> Iterator[int]:
        """See `retell.executor.Executor.draw`; the jobs are those of the blocks, and what they come to is not told."""
        if self._crew is None:
            yield len(self._blocks.problems)
            return
        # What a killed start has left in the write-ahead log goes into the file: machines can share nothing else of it.
        with Journal(self._folder / "journal.sqlite"):
            pass
        written: list[str] = []
        for standing in self._crew.work(self._blocks, self._plan):
            self._meter = standing.meter
            self.faults = Counter(standing.faults)
            self._failed, written = standing.failed, standing.files
            yield standing.done
        self._crew.dismiss()  # what is left to do needs none of them, and they hold what others may want
        _await_files(self._samples / self._plan, written)

    def settle(self, jobs: Iterable[Job[T]]) -> Iterator[T]:
        """See `retell.executor.Executor.settle`; a block that was done, and rested on samples that are not there any
        more, is not done.
        """
        lacking: set[int] = set()
        try:
            with open_store(self._folder) as store:
                ones = settle(map(watched, jobs), self._failed, self._graders, store, self._task.stream)
                for number, one in enumerate(ones):
                    lacking |= {number // self._blocks.size} if failures(one.attempts) else set()
                    yield one.result
        finally:
            undo_blocks(self._samples, self._plan, lacking)

    def figures(self) -> Mapping[str, str]:
        """What the workers have drawn, and how many there are."""
        return ({"workers": str(self._crew.size)} if self._crew else {}) | self._meter.figures()

    def seconds_left(self, done: int, total: int) -> float | None:
        """At the rate so far."""
        return self._meter.seconds_left(done, total)


def drawn_before(folder: RunFolder, blocks: Blocks, plan: str) -> bool:
    """Whether workers have drawn all blocks of a plan in a run folder."""
    done = blocks_done(folder.path / "samples", plan)
    return len(done) == len(blocks) and folder.read_json(_about(plan)) is not None


class Crew:
    """The actors of a cluster, and which of them are at work. Used as a context; a worker is open when it begins."""

    def __init__(
        self, task: Task, folder: Path, note: Callable[[str], None], opener: Callable[[Task], Work] = open_work
    ) -> None:
        self._task = task
        self._opener = opener
        self._folder = folder.resolve()
        self._note = note
        self._held = contextlib.ExitStack()
        self._hired = 0
        self._lost_opening = 0
        self._told = time.monotonic()
        self._placing: dict[str, Any] = {}
        self._idle: dict[str, Any] = {}
        self._opening: dict[Any, tuple[str, Any]] = {}
        self._working: dict[Any, tuple[str, Any]] = {}
        self._ever_open = False
        self._leases: Any = None
        self.context: int | None = None

    def __enter__(self) -> Self:
        assert self._task.settings.ray
        with contextlib.ExitStack() as held:
            self._ray = held.enter_context(connected(self._task.settings.ray))
            held.callback(self._kill)
            self._team = team(self._ray, self._task)
            self._hiring = self._ray.remote(num_cpus=self._team.cpus, num_gpus=self._team.gpus, max_restarts=0)(_Actor)
            for _ in range(self._team.workers):
                self._hire()
            while not self._ever_open:
                self._look()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """Ends all workers and leaves the cluster."""
        self._held.close()

    @property
    def size(self) -> int:
        """How many workers there are, those that are being opened left out."""
        return len(self._idle) + len(self._working)

    def work(self, blocks: Blocks, plan: str) -> Iterator[Standing]:
        """Keeps all workers busy until every block is done; yields where it stands now and then.

        Raises:
            EngineError: one worker after the other is lost, or Ray fails.
            BudgetError: a budget is used up; what was lent has been drawn.
            StorageError: a worker cannot write.
        """
        settings, near = self._task.settings, self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = near(self._ray.get_runtime_context().get_node_id(), soft=False)
        desk = self._ray.remote(num_cpus=0, scheduling_strategy=here)(Leases)
        done = blocks_done(self._folder / "samples", plan)
        budget = Budget(settings.max_tokens_total, settings.max_hours)
        self._leases = desk.remote(blocks, done, budget, self._team.workers, SILENT_SECONDS)
        self._ask(self._leases.begin.remote())
        while True:
            standing: Standing = self._ask(self._leases.standing.remote())
            yield standing
            if standing.broken:
                raise EngineError(f"one worker after the other is lost: {standing.broken}; what was drawn is stored")
            if standing.finished:
                return
            self._replace(standing.silent)
            if standing.spent and not self._working:
                raise BudgetError(f"{standing.spent}; what was drawn is stored")
            while standing.waiting and self._idle:
                name, actor = self._idle.popitem()
                self._working[actor.run.remote(plan, self._leases)] = name, actor
            self._look()

    def _ask(self, reference: Any) -> Any:
        """What the leases answer.

        Raises:
            EngineError: they are gone.
        """
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"Ray has failed here: {fate(error)}; what was drawn is stored: start again") from error

    def _hire(self) -> None:
        self._hired += 1
        name = f"worker {self._hired}"
        actor = self._hiring.remote(name, self._task, self._folder, self._opener, Path.cwd())
        self._placing[name] = actor.place.remote()
        self._opening[actor.open.remote()] = name, actor

    def _kill(self) -> None:
        for _name, actor in (*self._idle.items(), *self._opening.values(), *self._working.values()):
            with contextlib.suppress(Exception):  # of a cluster that is gone
                self._ray.kill(actor)
        for those in (self._idle, self._opening, self._working):
            those.clear()

    def _look(self) -> None:
        """Waits a moment for a worker to be open, to have nothing to do or to be lost."""
        pending = [*self._opening, *self._working]
        if not pending:
            time.sleep(_LOOK_SECONDS)
            return
        for reference in self._ray.wait(pending, timeout=_LOOK_SECONDS)[0]:
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
        self._tell_of_waiting()

    def _replace(self, silent: Mapping[str, float]) -> None:
        """Replaces workers that seem to hang."""
        for reference, (name, actor) in list(self._working.items()):
            if name in silent:
                del self._working[reference]
                why = f"nothing was heard of it for {duration(silent[name])}: it hangs"
                self._lose(name, actor, EngineError(why), opening=False)

    def _tell_of_waiting(self) -> None:
        """Says now and then that no worker is open, and why."""
        now = time.monotonic()
        if self.size:
            self._told = now
        if now - self._told < _PATIENCE_SECONDS:
            return
        self._told = now
        placing = [self._placing[name] for name, _ in self._opening.values()]
        without = len(self._ray.wait(placing, num_returns=len(placing), timeout=0)[1])
        free = self._ray.available_resources()
        said = "their engines are being opened"
        if without:
            offer = f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU"
            said = f"{without} of them wait for room in the cluster, {self._team} each; it has {offer} free"
        self._note(f"no worker is open yet of {len(placing)}: {said}")

    def _lose(self, name: str, actor: Any, error: Exception, *, opening: bool) -> None:
        """Replaces a worker that is no more, or cannot go on.

        Raises:
            RetellError: another worker would meet the same.
            EngineError: none has ever been open, and so many could not be opened.
        """
        cause = getattr(error, "cause", None) or error
        first = opening and not self._ever_open
        if isinstance(cause, StorageError | RequestError) or (isinstance(cause, RetellError) and first):
            raise cause
        why = str(cause) if isinstance(cause, RetellError) else fate(error)
        self._note(f"{name} is lost: {why}")
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
        del self._placing[name]
        self._lost_opening += first
        if self._lost_opening > self._team.workers + _SHY:
            raise EngineError(f"no worker opens: {why}")
        if self._leases is not None:
            self._ask(self._leases.lost.remote(name, why))
        self._hire()


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, name: str, task: Task, folder: Path, opener: Callable[[Task], Work], here: Path) -> None:
        self._opener = opener
        self._here = here
        self._name = name
        self._task = task
        self._folder = folder
        self._work: Work | None = None
        self._graders: GraderPool | None = None

    def place(self) -> None:
        """Answers as soon as it has a place."""

    def open(self) -> int | None:
        """Opens engine and grader; the context of the engine."""
        if self._here.is_dir():
            os.chdir(self._here)  # paths, and somebody's own grader, are looked for where the command was given
        if not self._folder.is_dir():
            raise StorageError(
                f"{self._folder} is not there on machine {os.uname().nodename}: put the run folder on storage that all "
                "machines share, under the same path"
            )
        try:
            self._work = self._opener(self._task)
        except RetellError as error:
            kind = RecipeError if isinstance(error, RequestError) else EngineError
            raise kind(f"on machine {os.uname().nodename}: {error}") from error
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

    def alive(self) -> None:
        """Says that something has been answered, without waiting."""
        self.leases.heard.remote(self.name)


def _about(plan: str) -> str:
    """The file that says of the samples of a plan what the engines had in common."""
    return f"samples/{plan}/about.json"


def _await_files(folder: Path, names: Iterable[str]) -> None:
    """Waits until all files are seen that workers have written on other machines.

    Raises:
        StorageError: they are not.
    """
    missing = set(names)
    deadline = time.monotonic() + _SEEN_SECONDS
    while missing := missing - set(os.listdir(folder)):
        if time.monotonic() > deadline:
            raise StorageError(
                f"{len(missing)} files that workers have written are not in {folder}, such as {min(missing)}: put the "
                "run folder on storage that all machines share"
            )
        time.sleep(_LOOK_SECONDS)
