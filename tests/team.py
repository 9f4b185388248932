"""A policy for workers of a cluster, who import it by name, and a rewriting that they draw.

    python team.py FOLDER '{"n": 64, "workers": 2, "address": "127.0.0.1:6379", "delay": 0.02, …}'

draws it with the cluster's workers and prints the summary.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gate import wait_at
from scripts import coin, loaded, problems

from retell.cluster import Cluster, Crew
from retell.drawing import Task, Work, starter
from retell.engines.scripted import ScriptedEngine
from retell.errors import EngineError
from retell.executor import Here
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.hashing import digest
from retell.journal import Journal, Marks
from retell.ladder import Ladder
from retell.leases import Blocks
from retell.meter import Meter
from retell.prompts import Prompter
from retell.recipe import Policy, Recipe, Rewrite
from retell.records import Completion, Request
from retell.rewrite import rewrite
from retell.runfolder import RunFolder
from retell.store import open_store

BLOCK = 8


class Scripted:
    """Opens a worker whose engine notes every request that it draws in a file of its own, and answers by `coin`, behind
    a gate.

    Whoever draws for the problem ``poison`` dies; requests for those that are ``failing`` fail. Where it is ``dead``,
    it cannot be opened for that reason, or is "killed" by it.
    """

    def __init__(
        self,
        notes: Path,
        *,
        delay: float = 0.0,
        poison: str = "",
        failing: Sequence[str] = (),
        lasting: bool = True,
        dead: str = "",
        batch: int = 4,
    ) -> None:
        self.notes = notes
        self.delay = delay
        self.poison = poison
        self.failing = failing
        self.lasting = lasting
        self.dead = dead
        self.batch = batch

    def __call__(self, task: Task) -> Work:
        self.notes.mkdir(exist_ok=True)
        if self.dead == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.dead:
            raise EngineError(self.dead)
        engine = ScriptedEngine(self.answer, batch=self.batch, delay=self.delay)
        return Work(engine, MathGrader(), starter(task, None, engine))

    def answer(self, request: Request, luck: random.Random) -> Completion | str:
        if request.problem == self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if request.problem in self.failing:
            return Completion("", None, None, "error", error="it cannot be drawn", lasting=self.lasting)
        with (self.notes / str(os.getpid())).open("a") as file:
            file.write(request.key + "\n")
        wait_at(gate_of(self.notes))
        return coin(request, luck)


def gate_of(notes: Path) -> Path:
    return notes.with_suffix(".gate")


def noted(notes: Path) -> dict[int, list[str]]:
    """Keys that were drawn, by process."""
    return {int(path.name): path.read_text().splitlines() for path in notes.iterdir()} if notes.is_dir() else {}


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


def task_of(workers: int | None = None, ray: str | None = None, **settings: Any) -> Task:
    settings = {"k": 4, "grader_workers": 1} | settings
    return Task("rewrite", Recipe(rewrite=Rewrite(ray=ray, workers=workers, **settings)), Policy(), "scripted")


def plan_of(task: Task) -> str:
    return digest(task.settings.k)


def on_cluster(
    folder: Path,
    opener: Callable[[Task], Work],
    n: int,
    workers: int,
    *,
    address: str = "auto",
    note: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    **settings: Any,
) -> dict[str, Any]:
    """A rewriting of n problems that workers draw."""
    task = task_of(workers, address, **settings)
    with RunFolder(folder) as run, Crew(task, folder, note, opener) as crew, GraderPool(MathGrader(), 1) as graders:
        cluster = Cluster(crew, task, Blocks(problems(n), BLOCK), plan_of(task), graders, run)
        ladder = Ladder(task.recipe.rewrite, Prompter(Policy(), None, "guided"), cluster, "scripted", 2048)
        return rewrite(loaded(problems(n)), ladder, cluster, task.stream, run)


def alone(folder: Path, opener: Callable[[Task], Work], n: int, **settings: Any) -> dict[str, Any]:
    """The same on this machine."""
    task = task_of(**settings)
    with (
        RunFolder(folder) as run,
        Journal(folder / "journal.sqlite") as journal,
        open_store(folder) as store,
        GraderPool(MathGrader(), 1) as graders,
    ):
        executor = Here(opener(task).engine, graders, store, Marks(journal), task.stream, Meter(), plan_of(task))
        ladder = Ladder(task.recipe.rewrite, Prompter(Policy(), None, "guided"), executor, "scripted", 2048)
        return rewrite(loaded(problems(n)), ladder, executor, task.stream, run)


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    of_run = {name: given.pop(name) for name in ("n", "workers", "address", "k") if name in given}
    place = Path(sys.argv[1])
    print(json.dumps(on_cluster(place, Scripted(place.with_suffix(".notes"), **given), **of_run)))
