"""A preview from the command on: which problems are looked at, what draws and scores them, and where it is kept."""

import contextlib
import sys
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from retell.advice import DFT, REWRITE, advise
from retell.connection import check_address
from retell.contamination import benchmarks_against, contaminated, without_overlaps
from retell.drawing import LocalPolicy, drawing_policy, open_engine_of
from retell.engines.base import Engine
from retell.engines.named import check_engine
from retell.errors import RecipeError
from retell.graders.base import Grader
from retell.graders.pool import GraderPool
from retell.ladder import Ladder
from retell.leaks import RULES as LEAK_RULES
from retell.meter import Budget, Meter
from retell.policy import default_device, load_model
from retell.preview import Look, climb_some, score_texts, summarise
from retell.problems import Loaded, Part, load_part, loaded
from retell.prompts import Prompter
from retell.recipe import Recipe, Rewrite
from retell.records import Row
from retell.rewrite import reject_untrainable
from retell.rollout import Stream
from retell.runfolder import RunFolder
from retell.steps import choosing, do_stage, free_memory, rewriting_identity, stored_in

Summary = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is looked at: some of the problems, those of them that can be trained on, and with what."""

    part: Part
    some: Loaded
    policy: LocalPolicy | None
    drawn_by: str | None
    prompter: Prompter
    grader: Grader
    identity: dict[str, object]


def run_preview(recipe: Recipe, count: int, folder: RunFolder | None = None) -> Summary:
    """What rewriting the data would come to and whether it looks worthwhile, from ``count`` of its problems.

    With a folder it writes preview.json, and its samples are there for a rewriting with the same settings.
    """
    settings = recipe.rewrite
    _check(settings, count, folder)
    chosen = _choose(recipe, count, folder)
    inputs = _inputs(recipe, count, chosen)
    if folder and folder.is_fresh("preview", inputs):
        return do_stage(folder, "preview", inputs, ["preview.json"], dict)
    with contextlib.ExitStack() as sampling:
        opened = open_engine_of(settings, chosen.policy, chosen.some.problems, recipe.policy)
        engine = sampling.enter_context(closing(opened))
        work = partial(_look, recipe, chosen, engine, sampling, folder)
        if folder is None:
            return work()
        folder.claim("rewrite", chosen.identity)
        if not (folder.path / "rewritten.parquet").is_file():  # what is rewritten already has a recipe of its own
            folder.store_recipe(recipe)
        return do_stage(folder, "preview", inputs, ["preview.json"], work)


def _check(settings: Rewrite, count: int, folder: RunFolder | None) -> None:
    """Raises:
    RecipeError: nothing can be looked at so.
    """
    if settings.ray is not None:
        check_address(settings.ray)
        print("a preview draws with one engine on this machine, without Ray", file=sys.stderr)
    if count < 1:
        raise RecipeError(f"--preview {count}: it is a number of problems, at least 1")
    if folder is None and (settings.max_tokens_total or settings.max_hours):
        raise RecipeError("a budget ends a preview that can go on: name the folder where it is kept, or leave it out")


def _choose(recipe: Recipe, count: int, folder: RunFolder | None) -> _Chosen:
    """Raises:
    RequestError: there are not so many problems, or they cannot be drawn so, or not in this folder.
    """
    settings = recipe.rewrite
    grader = choosing(settings)
    against = benchmarks_against(recipe)
    part = load_part(recipe.data, count)
    if count > part.everything:
        raise RecipeError(f"--preview {count}: the data has {part.everything:,} problems: give at most so many")
    policy, drawn_by = drawing_policy(recipe.policy, settings)
    tokenizer = policy.tokenizer if policy else None
    prompter = Prompter(recipe.policy, tokenizer, settings.guided_template)
    check_engine(settings, part.problems)
    identity = rewriting_identity(recipe, prompter, drawn_by, part.digest)
    if folder:
        folder.check("rewrite", identity)
    some = loaded(part.problems, ())
    some = without_overlaps(some, contaminated(some.problems, against), recipe)
    some = reject_untrainable(some, prompter, tokenizer, recipe.data.max_length)
    return _Chosen(part, some, policy, drawn_by, prompter, grader, identity)


def _inputs(recipe: Recipe, count: int, chosen: _Chosen) -> list[object]:
    """What the preview rests on."""
    how = {name: getattr(recipe.rewrite, name) for name in ("k", "exhaustive", "max_copied")}
    how["max_length"] = recipe.data.max_length
    rejected = [asdict(reject) for reject in chosen.some.rejected]
    rules = [chosen.grader.name, LEAK_RULES, repr((REWRITE, DFT))]
    inputs = [chosen.identity, how, count, chosen.some.digest, rejected, _unusable(chosen), *rules]
    return [*inputs, chosen.policy.fingerprint if chosen.policy else None]


def _unusable(chosen: _Chosen) -> dict[str, int]:
    return dict(Counter(reject.reason for reject in chosen.part.rejected))


def _look(
    recipe: Recipe, chosen: _Chosen, engine: Engine, sampling: contextlib.ExitStack, folder: RunFolder | None
) -> Summary:
    """Climbs with the problems, then closes what draws and scores the texts."""
    settings = recipe.rewrite
    meter = Meter(Budget(settings.max_tokens_total, settings.max_hours))
    stream = Stream("rewrite", chosen.drawn_by, settings.seed)
    ladder = Ladder(settings, chosen.prompter, engine, chosen.drawn_by, recipe.data.max_length)
    with stored_in(folder) as store, GraderPool(chosen.grader, settings.grader_workers) as graders:
        climbs = climb_some(chosen.some.problems, ladder, engine, graders, store, stream, meter)
    rate, exhaustive = meter.tokens_per_second(), ladder.exhaustive
    rows = [climb for climb in climbs if isinstance(climb.result, Row)]
    sampling.close()
    free_memory()
    scored = None
    if chosen.policy:
        model = load_model(chosen.policy.folder, "auto", default_device(), recipe.policy.trust_remote_code).eval()
        scored = score_texts(rows, chosen.policy.tokenizer, model, recipe.gap.batch_tokens)
    reasons = Counter(reject.reason for reject in chosen.some.rejected)
    summary = summarise(Look(rows, reasons, chosen.part.everything, exhaustive, scored, rate))
    summary |= {
        "unusable": _unusable(chosen),
        "failed": len(climbs) - len(rows),
        "policy": chosen.drawn_by,
        "grader": chosen.grader.name,
        "sampling": {name: getattr(settings, name) for name in ("k", "temperature", "top_p", "max_tokens")},
    }
    summary["advice"] = asdict(advise(summary))
    if folder:
        folder.write_json("preview.json", summary)
    return summary
