"""What workers of a cluster can import by name: a scripted policy that notes what it draws and can be made to fail."""

import os
import random
import time
from pathlib import Path
from typing import Any

from retell.drawing import Task, Work, starter
from retell.engines.scripted import ScriptedEngine
from retell.graders.math import MathGrader
from retell.records import Completion, Request


def coin(request: Request, luck: random.Random) -> Completion | str:
    """Right, wrong or truncated by chance; right ones differ in length."""
    gold = int(request.problem[1:]) + 100
    chance = luck.random()
    if chance < 0.3:
        return f"I count \\boxed{{{gold}}}" + "!" * luck.randrange(9)
    if chance < 0.4:
        return Completion(f"\\boxed{{{gold}}} and so on", None, None, "length")
    return f"\\boxed{{{gold + 1}}}"


class Scripted:
    """Opens a worker whose engine answers by `coin` and notes every request that it draws in a file of its own.

    ``poison`` kills the process that draws for that problem; ``failing`` answers it with an error.
    """

    def __init__(self, notes: Path, *, delay: float = 0.0, poison: str = "", failing: str = "", batch: int = 4) -> None:
        self.notes = notes
        self.delay = delay
        self.poison = poison
        self.failing = failing
        self.batch = batch

    def __call__(self, task: Task) -> Work:
        self.notes.mkdir(exist_ok=True)
        engine = ScriptedEngine(self.answer, batch=self.batch, delay=self.delay)
        return Work(engine, MathGrader(), starter(task, None, engine))

    def answer(self, request: Request, luck: random.Random) -> Completion | str:
        if request.problem == self.poison:
            os._exit(9)
        if request.problem == self.failing:
            return Completion("", None, None, "error", error="it cannot be drawn", lasting=True)
        with (self.notes / str(os.getpid())).open("a") as file:
            file.write(request.key + "\n")
        return coin(request, luck)


def noted(notes: Path) -> dict[int, list[str]]:
    """Keys that were drawn, by process."""
    return {int(path.name): path.read_text().splitlines() for path in notes.iterdir()} if notes.is_dir() else {}


def until(condition: Any, seconds: float = 120) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)
