"""What the stages have in common: done once, drawn by whatever draws, from a folder's rows and its policy."""

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from retell.cluster import Cluster, Crew, drawn_before
from retell.drawing import LocalPolicy, Task, open_engine_of, open_policy
from retell.engines.base import Engine
from retell.engines.named import PRECISION
from retell.errors import PolicyError, RecipeError, RunFolderError
from retell.executor import Executor, Here
from retell.graders.base import Grader
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.graders.qwen import QwenGrader
from retell.hashing import digest, file_digest
from retell.journal import Journal, Marks
from retell.leases import Blocks
from retell.meter import Budget, Meter
from retell.problems import SUFFIXES
from retell.prompts import Prompter
from retell.recipe import Recipe, Rewrite
from retell.records import Problem
from retell.runfolder import RunFolder
from retell.store import Layered, open_store
from retell.tables import read_rows as table_rows

Summary = dict[str, Any]


def do_stage(folder: RunFolder, name: str, inputs: object, outputs: list[str], work: Callable[[], Summary]) -> Summary:
    """Does the work, unless it was done with the same inputs before; returns the summary, which is the first output.

    Where the engine failed on some of it, another start does it again; what was made from it stays if that changes
    nothing.
    """
    if folder.is_fresh(name, inputs):
        print(f"{name}: nothing to do, its inputs are unchanged", file=sys.stderr)
        return folder.read_json(outputs[0]) or {}
    started = time.monotonic()
    again = folder.is_fresh(name, _but_for_failures(inputs))
    before = [digest_of(folder.path / output) for output in outputs[1:]] if again else None
    if not again:
        folder.begin(name)
    try:
        summary = work()
    finally:
        free_memory()
    if again and [digest_of(folder.path / output) for output in outputs[1:]] != before:
        folder.begin(name)
    failed = summary.get("failed")
    if failed:
        print(
            f"{name}: the engine failed on {failed} of what it was asked; the same command tries again", file=sys.stderr
        )
    seconds = round(time.monotonic() - started, 3)
    folder.finished(name, _but_for_failures(inputs) if failed else inputs, outputs, seconds)
    return summary


def free_memory() -> None:
    """Gives back what a stage's model held, for the next stage or another process may need it."""
    gc.collect()  # the Trainer leaves its model in a reference cycle
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _but_for_failures(inputs: object) -> object:
    return ["but for what the engine failed on", inputs]


@contextlib.contextmanager
def drawer_of(
    task: Task, policy: LocalPolicy | None, problems: Sequence[Problem], size: int, plan: str, folder: RunFolder
) -> Iterator[Engine | Crew | None]:
    """What draws for a stage, opened: an engine here, or workers on a cluster; None if those have drawn all before."""
    settings = task.settings
    if settings.ray is None:
        with closing(open_engine_of(settings, policy, problems, task.model)) as engine:
            yield engine
    elif not folder.restarting and drawn_before(folder, Blocks(problems, size), plan):
        yield None
    else:
        with Crew(task, folder.path, lambda line: print(line, file=sys.stderr)) as crew:
            yield crew


@contextlib.contextmanager
def executor_of(
    drawer: Engine | Crew | None, task: Task, blocks: Blocks, plan: str, grader: Grader, folder: RunFolder
) -> Iterator[tuple[Executor, GraderPool]]:
    """How a stage gets its samples from what draws; ``plan`` stands for all that decides what is drawn."""
    settings = task.settings
    with GraderPool(grader, settings.grader_workers) as graders:
        if drawer is None or isinstance(drawer, Crew):
            yield Cluster(drawer, task, blocks, plan, graders, folder), graders
            return
        meter = Meter(Budget(settings.max_tokens_total, settings.max_hours))
        with Journal(folder.path / "journal.sqlite") as journal, open_store(folder.path) as store:
            yield Here(drawer, graders, store, Marks(journal), task.stream, meter, plan), graders


def stored_in(folder: RunFolder | None) -> Journal | Layered:
    """What is stored in the folder; without a folder a journal in memory."""
    return open_store(folder.path) if folder else Journal(Path(":memory:"))


def choosing(settings: Rewrite) -> Grader:
    """The grader of rewriting, which chooses what is trained on.

    Raises:
        RecipeError: it was made for another purpose, and is not forced.
    """
    if settings.grader == QwenGrader.spec and not settings.force_grader:
        raise RecipeError(
            f"rewrite.grader = {settings.grader!r} is for scores that compare with the paper's: it calls wrong answers "
            "correct, and would choose what is trained on. Rewrite with 'math' and evaluate with 'qwen', or insist: "
            "--force-grader"
        )
    return grader_named(settings.grader)


def own_policy(recipe: Recipe, folder: RunFolder) -> LocalPolicy:
    """The policy that the folder's data was rewritten for.

    Raises:
        PolicyError: the model has changed since.
    """
    policy = open_policy(recipe.policy)
    drew = (folder.read_json("rewrite.json") or {}).get("policy")
    # What a server calls its model cannot be compared with a folder.
    if drew not in (None, policy.fingerprint) and not drew.startswith("served:"):
        raise PolicyError(
            f"{policy.folder} is not the model that the data in {folder.path} was rewritten for (its fingerprint is "
            f"{policy.fingerprint}, not {drew}): restore it, or rewrite into another folder"
        )
    return policy


def rewritten_path(folder: RunFolder) -> Path:
    """Where the rewritten rows are.

    Raises:
        RunFolderError: there are none.
    """
    path = folder.path / "rewritten.parquet"
    if not path.is_file():
        raise RunFolderError(
            f"{folder.path} holds no rewritten.parquet: `retell rewrite --out {folder.path}` writes it when it is done"
        )
    return path


def rewritten_rows(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The columns of the rewritten rows that training needs, one row after the other."""
    columns = ["id", "rung", "solution", "messages", "response_token_ids", "behaviour_logprobs"]
    return table_rows(rewritten_path(folder), columns)


def rewriting_identity(recipe: Recipe, prompter: Prompter, drawn_by: str | None, data: str) -> dict[str, object]:
    """What the samples of a rewriting rest on, by name: a folder holds those of one. ``data`` is its digest."""
    settings = recipe.rewrite
    assert prompter.guided_template
    return {
        "policy": drawn_by,
        "data": data,
        "system message": prompter.system,
        "prompt template": prompter.solve_template.user,
        "guided template": prompter.guided_template.text,
        **{name: settings.engine_args.get(name, "auto") for name in PRECISION},
        "served model": settings.engine_args.get("served_model"),
        **{name: getattr(settings, name) for name in ("temperature", "top_p", "max_tokens", "seed")},
    }


def digest_of(path: Path) -> str:
    """What a file holds, or the data files of a folder."""
    if path.is_dir():
        return digest([(file.name, file_digest(file)) for file in sorted(path.iterdir()) if file.suffix in SUFFIXES])
    return file_digest(path) if path.is_file() else str(path)
