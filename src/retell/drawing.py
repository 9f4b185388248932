"""What draws for a stage, opened from a recipe alone: on this machine, and the same on every other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from retell.engines.base import Engine, Source
from retell.engines.named import open_engine, served_model
from retell.errors import PolicyError
from retell.evaluate import answer
from retell.graders.base import Grader
from retell.graders.named import grader_named
from retell.ladder import Ladder
from retell.policy import fingerprint, resolve_policy
from retell.prompts import Prompter, load_template
from retell.recipe import Evaluate, Policy, Recipe, Rewrite
from retell.records import Problem
from retell.rollout import Plan, Stream
from retell.tokens import ChatTokenizer


@dataclass(frozen=True, slots=True)
class LocalPolicy:
    """A policy at hand: its folder, what identifies it, and its tokenizer."""

    folder: Path
    fingerprint: str
    tokenizer: ChatTokenizer


def open_policy(policy: Policy) -> LocalPolicy:
    """Finds the policy's folder, identifies it and loads its tokenizer."""
    folder = resolve_policy(policy)
    return LocalPolicy(folder, fingerprint(folder), ChatTokenizer(folder, policy.trust_remote_code))


def drawing_policy(model: Policy, settings: Rewrite | Evaluate) -> tuple[LocalPolicy | None, str | None]:
    """The policy at hand, if there is one, and what names the one that draws, if any does.

    Recorded responses need no model, and a server has its own; where one is named all the same, its tokenizer makes
    exact prompts and tells what is too long to train on.
    """
    policy = open_policy(model) if model.model or settings.engine not in ("recorded", "server") else None
    if settings.engine == "recorded":
        return policy, None
    return policy, policy.fingerprint if policy else served_model(settings)


def open_engine_of(
    settings: Rewrite | Evaluate, policy: LocalPolicy | None, problems: Sequence[Problem], model: Policy
) -> Engine:
    """The engine of a stage; ``problems`` are those with recorded candidates."""
    folder, tokenizer = (policy.folder, policy.tokenizer) if policy else (None, None)
    return open_engine(settings, folder, tokenizer, problems, model.trust_remote_code)


def asked(model: Policy, settings: Evaluate) -> Policy:
    """The model as it is addressed in evaluation: as in training, or with a template for it alone."""
    if settings.prompt is None:
        return model
    own = load_template(settings.prompt, needs=("problem",)).system is not None
    return model.model_copy(update={"template": settings.prompt, "system": None if own else model.system})


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to know to draw for a stage of a recipe, on whatever machine.

    ``model`` is the policy that draws, ``drawn_by`` what identifies it.
    """

    stage: Literal["rewrite", "evaluate"]
    recipe: Recipe
    model: Policy
    drawn_by: str | None

    @property
    def settings(self) -> Rewrite | Evaluate:
        """The section of the stage."""
        return self.recipe.rewrite if self.stage == "rewrite" else self.recipe.evaluate

    @property
    def stream(self) -> Stream:
        """What all its samples have in common."""
        return Stream(self.stage, self.drawn_by, self.settings.seed)


@dataclass(frozen=True, slots=True)
class Work:
    """A task that has been opened: its engine, its grader, and the plan of a problem of a benchmark (or of none)."""

    engine: Engine
    grader: Grader
    start: Callable[[str, Problem], Plan[Any]]


def open_work(task: Task) -> Work:
    """Opens the policy, the engine and the grader of a task.

    Raises:
        RequestError: one of them cannot be opened here, or the policy is another one here.
        EngineError: the engine does not start.
    """
    policy, drawn_by = drawing_policy(task.model, task.settings)
    if drawn_by != task.drawn_by:
        raise PolicyError(
            f"{task.model.model} is another model on this machine (its fingerprint is {drawn_by}, not "
            f"{task.drawn_by}): give every machine the same files"
        )
    tokenizer = policy.tokenizer if policy else None
    engine = open_engine_of(task.settings, policy, (), task.model)
    return Work(engine, grader_named(task.settings.grader), starter(task, tokenizer, engine))


def starter(task: Task, tokenizer: ChatTokenizer | None, source: Source) -> Callable[[str, Problem], Plan[Any]]:
    """How the plan of a problem is started; its first argument names the benchmark, where the task is an evaluation."""
    if task.stage == "evaluate":
        settings = task.recipe.evaluate
        return partial(answer, Prompter(asked(task.model, settings), tokenizer), settings)
    rewriting = task.recipe.rewrite
    prompter = Prompter(task.recipe.policy, tokenizer, rewriting.guided_template)
    ladder = Ladder(rewriting, prompter, source, task.drawn_by, task.recipe.data.max_length)
    return lambda _, problem: ladder.climb(problem)
