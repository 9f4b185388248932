"""Small scripted worlds that several tests play."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gate import wait_at

from retell.engines.base import Engine
from retell.engines.scripted import ScriptedEngine
from retell.executor import Here
from retell.graders.base import Case
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.hashing import digest
from retell.journal import Journal, Marks
from retell.ladder import Ladder
from retell.meter import Budget, Meter
from retell.problems import Loaded
from retell.prompts import Prompter
from retell.recipe import Policy, Rewrite
from retell.records import Completion, Problem, Reject, Request, Verdict
from retell.rewrite import rewrite
from retell.rollout import Stream
from retell.runfolder import RunFolder


def problems(n: int) -> list[Problem]:
    """Problems p0 … whose gold is their number plus 100."""
    return [
        Problem(f"p{i}", f"What is {i} + 100?", str(i + 100), f"Adding gives \\boxed{{{i + 100}}}.", "test")
        for i in range(n)
    ]


def graded(pool: GraderPool, cases: list[Case]) -> list[Verdict]:
    """The verdicts on cases, in their order."""
    for number, case in enumerate(cases):
        pool.submit(str(number), case)
    found: dict[str, Verdict] = {}
    while pool.pending:
        found |= pool.collect(wait=True)
    return [found[str(number)] for number in range(len(cases))]


def loaded(rows: list[Problem], rejected: tuple[Reject, ...] = ()) -> Loaded:
    return Loaded(tuple(rows), rejected, digest([row.id for row in rows]))


def coin(request: Request, random_: random.Random) -> Completion | str:
    """Right, wrong or truncated by chance; right ones differ in length."""
    gold = int(request.problem[1:]) + 100
    luck = random_.random()
    if luck < 0.15:
        return f"I count \\boxed{{{gold}}}" + "!" * random_.randrange(9)
    if luck < 0.25:
        return Completion(f"\\boxed{{{gold}}} and so on", None, None, "length")
    return f"\\boxed{{{gold + 1}}}"


def asked(script: Any = coin, **options: Any) -> tuple[ScriptedEngine, list[Request]]:
    """An engine that notes what it is asked for."""
    notes: list[Request] = []

    def noting(request: Request, luck: random.Random) -> Completion | str:
        notes.append(request)
        return script(request, luck)  # type: ignore[no-any-return]

    return ScriptedEngine(noting, **options), notes


def climb_all(
    folder: Path,
    rows: list[Problem],
    engine: Engine | None = None,
    rejected: tuple[Reject, ...] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Rewrites with a scripted engine; returns the summary."""
    engine = engine or ScriptedEngine(coin)
    chosen = Rewrite(**settings)
    prompter = Prompter(Policy(), None, "guided")
    stream = Stream("rewrite", "scripted", chosen.seed)
    with (
        RunFolder(folder) as run,
        Journal(folder / "journal.sqlite") as journal,
        GraderPool(MathGrader(), 1) as graders,
    ):
        ladder = Ladder(chosen, prompter, engine, "scripted", 2048)
        meter = Meter(Budget(chosen.max_tokens_total, chosen.max_hours))
        plan = digest(chosen.k, chosen.exhaustive)
        executor = Here(engine, graders, journal, Marks(journal), stream, meter, plan)
        return rewrite(loaded(rows, rejected), ladder, executor, stream, run)


def here(engine: Engine, graders: GraderPool, journal: Journal, stage: str, plan: object = 0) -> Here:
    """What draws for a stage of the policy `scripted`."""
    return Here(engine, graders, journal, Marks(journal), Stream(stage, "scripted", 0), Meter(), digest(plan))


def says(answer: Callable[[Request], str]) -> ScriptedEngine:
    """An engine that answers each request with ``answer(request)``."""
    return ScriptedEngine(lambda request, _: answer(request))


def noting(path: Path) -> ScriptedEngine:
    """A slow `coin` behind a gate in the working directory, that appends the key of every request to a file first."""

    def answer(request: Request, luck: random.Random) -> Completion | str:
        wait_at(Path("gate"))
        with path.open("a") as file:
            file.write(request.key + "\n")
        return coin(request, luck)

    return ScriptedEngine(answer, batch=4, delay=0.02, steps=lambda completion: len(completion.text))
