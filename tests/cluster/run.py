"""A rewriting on a cluster, and the same on this machine.

python run.py FOLDER NOTES PROBLEMS WORKERS [DELAY [POISON [FAILING]]]
"""

import json
import sys
from pathlib import Path
from typing import Any

from scripts import here, loaded, problems
from team import Scripted

from retell.cluster import Cluster, Crew
from retell.drawing import Task
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.ladder import Ladder
from retell.leases import Blocks
from retell.prompts import Prompter
from retell.recipe import Policy, Recipe, Rewrite
from retell.rewrite import rewrite
from retell.runfolder import RunFolder

BLOCK = 8
PLAN = "plan"


def recipe(workers: int, ray: str = "auto", **settings: Any) -> Recipe:
    return Recipe(rewrite=Rewrite(ray=ray, workers=workers, k=4, grader_workers=1, **settings))


def on_cluster(
    folder: Path, scripted: Scripted, n: int, workers: int, *, address: str = "auto", plan: str = PLAN, **settings: Any
) -> dict[str, Any]:
    chosen = recipe(workers, address, **settings)
    task = Task("rewrite", chosen, Policy(), "scripted")
    with RunFolder(folder) as run, Crew(task, folder, print, scripted) as crew, GraderPool(MathGrader(), 1) as graders:
        cluster = Cluster(crew, task, Blocks(problems(n), BLOCK), plan, graders, run)
        ladder = Ladder(chosen.rewrite, Prompter(Policy(), None, "guided"), cluster, "scripted", 2048)
        return rewrite(loaded(problems(n)), ladder, cluster, task.stream, run)


def alone(folder: Path, scripted: Scripted, n: int) -> dict[str, Any]:
    chosen = recipe(1)
    work = scripted(Task("rewrite", chosen, Policy(), "scripted"))
    with (
        RunFolder(folder) as run,
        Journal(folder / "journal.sqlite") as journal,
        GraderPool(MathGrader(), 1) as graders,
    ):
        executor = here(work.engine, graders, journal, "rewrite")
        ladder = Ladder(chosen.rewrite, Prompter(Policy(), None, "guided"), executor, "scripted", 2048)
        return rewrite(loaded(problems(n)), ladder, executor, Task("rewrite", chosen, Policy(), "scripted").stream, run)


if __name__ == "__main__":
    folder, notes, n, workers, delay, poison, failing = [*sys.argv[1:], *[""] * 5][:7]
    scripted = Scripted(Path(notes), delay=float(delay or 0), poison=poison, failing=failing)
    print(json.dumps(on_cluster(Path(folder), scripted, int(n), int(workers))))
