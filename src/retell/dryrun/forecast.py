"""What a run of a recipe comes to, estimated before it is started: its steps, samples, tokens, disk and GPU hours.

A count is exact where it follows from the recipe and the data. Everything else is a range and says what it rests on;
what cannot be known yet is None.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from retell.dryrun.footprint import BASIS, REPORT, of_answers, of_gap, of_journal, of_rewritten, of_training
from retell.dryrun.inputs import Check, Inputs, State, look
from retell.dryrun.lengths import Lengths, unknown_lengths
from retell.dryrun.spans import NONE, Mean, Range, times, total
from retell.errors import RetellError
from retell.ladder import waves
from retell.mixes import MIXES, ONLINE, Run
from retell.recipe import Evaluate, Recipe, Rewrite, dump
from retell.runfolder import RunFolder
from retell.schedule import held_out

Summary = dict[str, Any]
Kind = Literal["rewrite", "gap", "train", "evaluate", "report"]
_HOUR = 3600.0
_ALIKE = "responses are taken to be as long as the expert's solutions, which the policy's own need not be"
_NEEDS = {
    "rewrite": ("policy", "data", "rewrite"),
    "gap": ("policy", "data", "rewrite"),
    "train": ("policy", "data", "rewrite", "train"),
    "evaluate": ("policy", "data", "rewrite", "train", "evaluate"),
    "evaluate/base": ("policy", "evaluate"),
}
"""The sections of a recipe that a stage rests on."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run; None is what is not known, (0, 0) what there is none of.

    ``tokens`` are generated, trained on or, by the gap, scored: a guess at their number, from a usual length;
    ``tokens_at_most`` is a bound. ``passing_bytes`` are on disk only while the step lasts, beside ``disk_bytes``.
    ``hours`` are those of what has the known rate: GPU hours, if that is one GPU's. ``done``: by an earlier start.
    """

    stage: str
    kind: Kind
    rests_on: tuple[str, ...] = ()
    rows: Range | None = NONE
    updates: Range | None = NONE
    samples: Range | None = NONE
    tokens: Range | None = NONE
    tokens_at_most: int | None = 0
    disk_bytes: Range | None = NONE
    passing_bytes: int | None = 0
    hours: Mean | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens in a second, and where that is from."""

    tokens_per_second: float
    says: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """The steps in order, the checks of what they need, and the rates that are known, by kind of step."""

    steps: tuple[Step, ...]
    checks: tuple[Check, ...]
    rates: dict[Kind, Rate]


def forecast(
    recipe: Recipe,
    out: Path | None = None,
    restart: bool = False,
    generation_rate: float | None = None,
    training_rate: float | None = None,
) -> Forecast:
    """Looks at every input that can be reached without a network, and estimates every step; writes nothing.

    ``out`` is the run folder to be, which may hold a run already; ``restart`` would discard it. Rates are tokens a
    second: generated, and of rows trained on. Without one of generation, that of a finished rewriting in ``out`` holds.
    """
    inputs = look(recipe)
    rates = _rates(inputs, out, generation_rate, training_rate)
    finished = set() if restart or out is None else _finished(recipe, out)
    steps = tuple(replace(step, hours=_hours(step, rates), done=step.stage in finished) for step in _steps(inputs))
    return Forecast(steps, (*inputs.checks, *_place(inputs, out, restart, steps)), rates)


def summarise(found: Forecast) -> Summary:
    """The forecast as one JSON object: steps, totals of those that are not done, rates and checks."""
    ahead = [step for step in found.steps if not step.done]
    hours = [step.hours for step in ahead if step.hours is not None]
    known = len(hours) == len(ahead)
    return {
        "steps": [asdict(step) for step in found.steps],
        "total": {
            "samples": total(step.samples for step in ahead),
            "disk_bytes": _disk(ahead),
            "hours": (sum(h[0] for h in hours), sum(h[1] for h in hours)) if known else None,
        },
        "rates": {kind: asdict(rate) for kind, rate in found.rates.items()},
        "checks": [asdict(check) for check in found.checks],
        "wrong": sum(check.state == "wrong" for check in found.checks),
        "unknown": sum(check.state == "unknown" for check in found.checks),
    }


def _steps(inputs: Inputs) -> Iterator[Step]:
    yield _rewriting(inputs)
    yield _gap(inputs)
    for training in inputs.runs:
        if training.mix == ONLINE:
            yield _rounds(inputs, training)
        yield _training(inputs, training)
    if inputs.recipe.evaluate.benchmark:
        for name in ("base", *(training.name for training in inputs.runs)):
            yield _evaluation(inputs, name)
    yield Step("report", "report", (BASIS,), disk_bytes=REPORT)


def _rewriting(inputs: Inputs) -> Step:
    table = of_rewritten(inputs.problems, _lengths(inputs).together(responses=2))
    if inputs.recipe.rewrite.engine != "recorded":
        step = _climbing(inputs, "rewrite", inputs.problems)
        return replace(step, disk_bytes=total([step.disk_bytes, table]))
    says = inputs.counted, "recorded responses are read and none is drawn", BASIS
    if inputs.loaded is None:
        return Step("rewrite", "rewrite", says, inputs.problems, samples=None, disk_bytes=None)
    n = sum(len(problem.candidates or ()) for problem in inputs.loaded.problems)
    journal = of_journal((n, n), times((n, n), _lengths(inputs).response))
    return Step("rewrite", "rewrite", says, inputs.problems, samples=(n, n), disk_bytes=total([journal, table]))


def _rounds(inputs: Inputs, training: Run) -> Step:
    """What an online run draws beside its training; the samples of its first round are those of the rewriting."""
    settings, rest = inputs.recipe.train, inputs.problems
    if rest is not None:
        updates = (_updates(n, inputs.recipe) // (settings.rounds or 1) for n in rest)
        fewest, most = (max(n - first * settings.batch_size, 0) for n, first in zip(rest, updates, strict=True))
        rest = fewest, most
    return _climbing(inputs, f"train/{training.name}", rest)


def _climbing(inputs: Inputs, stage: str, problems: Range | None) -> Step:
    """A step that climbs the ladder with so many problems."""
    settings = inputs.recipe.rewrite
    k, first = settings.k, len(next(waves(settings.k, settings.exhaustive)))
    says = f"a problem takes {first} to {2 * k} samples: at most {k} of its own and {k} guided, fewer once one is kept"
    step = _drawn(inputs, Step(stage, "rewrite", rows=problems, samples=times(problems, (first, 2 * k))), settings)
    return replace(step, rests_on=(inputs.counted, says, *step.rests_on))


def _gap(inputs: Inputs) -> Step:
    rows, lengths = inputs.problems, _lengths(inputs)
    # A row that keeps the expert's text is scored once.
    once_or_twice = lengths.together()[0], lengths.together(prompts=2, responses=2)[1]
    return Step(
        "gap",
        "gap",
        (inputs.counted, lengths.rests_on, BASIS),
        rows,
        tokens=times(rows, once_or_twice) if inputs.lengths else None,
        tokens_at_most=rows and 2 * rows[1] * inputs.recipe.data.max_length,
        disk_bytes=of_gap(rows, lengths.together(prompts=0, responses=2)),
    )


def _training(inputs: Inputs, training: Run) -> Step:
    settings, limit = inputs.recipe.train, inputs.recipe.data.max_length
    rows, lengths, says = inputs.problems, inputs.lengths, [inputs.counted]
    if training.mix not in MIXES:
        found = inputs.rows.get(training.mix)
        rows, lengths = (found, found) if found else None, None
        says = [f"{found:,} rows were counted in {training.mix}" if found else f"{training.mix} cannot be read here"]
    if settings.holdout:
        rows = _trained_on(inputs, rows)
        says.append(f"about {settings.holdout:.1%} of the rows are held out")
    seen = times(rows, (settings.epochs, settings.epochs))
    updates = rows and (_updates(rows[0], inputs.recipe), _updates(rows[1], inputs.recipe))
    result, passing, checkpoints = _checkpoints(inputs, training, updates)
    return Step(
        f"train/{training.name}",
        "train",
        (*says, (lengths or unknown_lengths(limit)).rests_on, checkpoints),
        rows,
        updates,
        tokens=times(seen, lengths.together()) if lengths else None,
        tokens_at_most=seen and seen[1] * limit,
        disk_bytes=result,
        passing_bytes=passing,
    )


def _trained_on(inputs: Inputs, rows: Range | None) -> Range | None:
    """The rows that are left where some are held out: exact, where the ids of all are known."""
    settings = inputs.recipe.train
    ids = [problem.id for problem in inputs.loaded.problems] if inputs.loaded else []
    out = settings.holdout
    if ids and rows == (len(ids), len(ids)):
        out = sum(held_out(id, settings.holdout, settings.seed) for id in ids) / len(ids)
    return times(rows, (1 - out, 1 - out))


def _updates(rows: int, recipe: Recipe) -> int:
    return -(-rows // recipe.train.batch_size) * recipe.train.epochs


def _checkpoints(inputs: Inputs, training: Run, updates: Range | None) -> tuple[Range | None, int | None, str]:
    """Bytes of a run's result and of what it can go on from meanwhile, and what they rest on."""
    settings, weights = inputs.recipe.train, inputs.weights
    if weights is None:
        return None, None, "the size of checkpoints is unknown: the policy's weights are not on disk"
    result, trained, handed_over = weights.bytes, weights.parameters, 0
    if settings.lora_rank:
        trained = weights.adapters(settings.lora_rank, settings.lora_targets)
        result += 4 * trained
    # While one is written, the one before is there, and that with the lowest loss of the rows held out.
    copies = 3 if settings.holdout else 2
    if training.mix == ONLINE:
        copies, handed_over = min(copies, (settings.rounds or 1) - 1), weights.bytes
    elif updates:
        copies = min(copies, max(updates[1] - 1, 0) // settings.save_every + bool(settings.holdout))
    says = f"a trained policy is as large as the policy, {_size(weights.bytes)}"
    if copies:
        says += (
            f"; up to {copies} checkpoint(s) to go on from are there at once while it is trained, each of "
            f"{_size(of_training(trained, 1))}: 12 bytes for every parameter that is trained, {trained:,}"
        )
    return (result, result), of_training(trained, copies) + handed_over, says


def _evaluation(inputs: Inputs, name: str) -> Step:
    settings, problems = inputs.recipe.evaluate, total(inputs.asked.values())
    samples = times(problems, (settings.k, settings.k))
    step = _drawn(inputs, Step(f"evaluate/{name}", "evaluate", rows=problems, samples=samples), settings)
    return replace(step, disk_bytes=total([step.disk_bytes, of_answers(samples, _tokens(step))]))


def _drawn(inputs: Inputs, step: Step, settings: Rewrite | Evaluate) -> Step:
    """A step with the tokens of its samples, and the room they take in the journal."""
    samples, most = step.samples, settings.max_tokens
    tokens, says = None, [f"how long responses will be is unknown: at most {most:,} tokens each", BASIS]
    if inputs.lengths is not None:
        fewest, longest = inputs.lengths.response
        tokens = times(samples, (min(fewest, most), min(longest, most)))
        says = [inputs.lengths.rests_on, _ALIKE, BASIS]
    step = replace(step, rests_on=tuple(says), tokens=tokens, tokens_at_most=samples and samples[1] * most)
    return replace(step, disk_bytes=of_journal(samples, _tokens(step)))


def _tokens(step: Step) -> Range | None:
    """The guess, or what there is at most where none is made."""
    bound = step.tokens_at_most
    return step.tokens if step.tokens is not None or bound is None else (0, bound)


def _lengths(inputs: Inputs) -> Lengths:
    return inputs.lengths or unknown_lengths(inputs.recipe.data.max_length)


def _rates(inputs: Inputs, out: Path | None, generation: float | None, training: float | None) -> dict[Kind, Rate]:
    rates: dict[Kind, Rate] = {}
    rewrite, evaluate = inputs.recipe.rewrite, inputs.recipe.evaluate
    if generation is not None:
        rates["rewrite"] = rates["evaluate"] = Rate(generation, "as given")
    elif measured := _measured(inputs, out):
        rates["rewrite"] = measured
        if (evaluate.engine, evaluate.engine_args) == (rewrite.engine, rewrite.engine_args):
            rates["evaluate"] = measured
    if training is not None:
        rates["train"] = Rate(training, "as given")
        rates["gap"] = Rate(training, "at least, for training does more with each token")
    return rates


def _measured(inputs: Inputs, out: Path | None) -> Rate | None:
    """What a finished rewriting by the same policy and engine came to, if there is one."""
    if out is None:
        return None
    with suppress(RetellError, OSError):
        place = RunFolder(out)
        found, stored = place.read_json("rewrite.json") or {}, place.recipe() or Recipe()
        mine, theirs = inputs.recipe.rewrite, stored.rewrite
        same = (mine.engine, mine.engine_args) == (theirs.engine, theirs.engine_args)
        tokens, seconds = (found.get("tokens") or {}).get("generated"), found.get("seconds")
        if same and found.get("policy") == inputs.fingerprint and tokens and seconds:
            says = f"measured by {out / 'rewrite.json'}: {tokens:,} tokens in {seconds:,.0f} s"
            return Rate(tokens / seconds, f"{says} (too high, if that was interrupted and went on)")
    return None


def _hours(step: Step, rates: dict[Kind, Rate]) -> Mean | None:
    tokens = _tokens(step)
    if tokens == NONE:
        return 0.0, 0.0
    if tokens is None or step.kind not in rates:
        return None
    fewest, most = (count / rates[step.kind].tokens_per_second / _HOUR for count in tokens)
    return (0.0 if step.kind == "gap" else fewest), most


def _finished(recipe: Recipe, out: Path) -> set[str]:
    """The stages that a folder has, up to date, of a recipe that says the same about them."""
    with suppress(RetellError, OSError):
        place = RunFolder(out)
        stored = place.recipe()
        if stored is not None:
            mine, theirs = dump(recipe), dump(stored)
            for sections in (mine, theirs):
                del sections["train"]["runs"]  # which others are trained
            same = {name for name in mine if mine[name] == theirs[name]}
            needs = {stage: _NEEDS.get(stage) or _NEEDS.get(stage.partition("/")[0]) for stage in place.stages()}
            return {stage for stage, sections in needs.items() if sections and same.issuperset(sections)}
    return set()


def _disk(steps: Sequence[Step]) -> Range | None:
    """What steps leave behind, and the most that one of them needs besides; None where any of that is unknown."""
    passing = [step.passing_bytes for step in steps if step.passing_bytes is not None]
    left = total(step.disk_bytes for step in steps)
    most = max(passing, default=0)
    return (left[0] + most, left[1] + most) if left and len(passing) == len(steps) else None


def _place(inputs: Inputs, out: Path | None, restart: bool, steps: Sequence[Step]) -> Iterator[Check]:
    """Whether the run folder can be had, and has room."""
    if out is None:
        yield Check("disk", "unknown", "with --out DIR it is looked at how much is free there")
        return
    there = next(path for path in (out, *out.absolute().parents) if os.path.exists(path))  # unlike Path's, never raises
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        yield Check("out", "wrong", f"{there} is no folder that can be written into: choose another --out")
        return
    try:
        RunFolder(out, restart=restart).check("rewrite", _identity(inputs))
        yield Check("out", "ok", f"{out} {'is there' if there == out else 'is to be made'}")
    except (RetellError, OSError) as error:
        yield Check("out", "wrong", str(error))
    yield _room(there, steps)


def _identity(inputs: Inputs) -> dict[str, object]:
    """What is known of what a run folder is bound to."""
    settings = inputs.recipe.rewrite
    known = {name: getattr(settings, name) for name in ("temperature", "top_p", "max_tokens", "seed")}
    if inputs.fingerprint is not None and settings.engine != "recorded":
        known["policy"] = inputs.fingerprint
    if inputs.loaded is not None:
        known["data"] = inputs.loaded.digest
    return known


def _room(place: Path, steps: Sequence[Step]) -> Check:
    free = shutil.disk_usage(place).free
    ahead = [step for step in steps if not step.done]
    needed = _disk(ahead)
    known = _disk([step for step in ahead if step.disk_bytes and step.passing_bytes is not None]) or NONE
    says = f"{_size(free)} are free in {place}, and the run needs"
    if free < known[0]:
        return Check("disk", "wrong", f"{says} at least {_size(known[0])}: make room, or choose another --out")
    if needed is None:
        return Check("disk", "unknown", f"{says} up to {_size(known[1])} besides what is unknown")
    state: State = "unknown" if free < needed[1] else "ok"
    return Check("disk", state, f"{says} about {_size(needed[0])} to {_size(needed[1])}")


def _size(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
