"""When rewriting and DFT pay: the evidence behind `retell gap --preview`, with the tiny policy, on the validation set.

    python studies/advice.py run --out runs/advice [--base DIR ...] [--practised RATE ...]
    python studies/advice.py fit --out runs/advice [--lineage BASE=NAME ...]

`run` makes settings of a base and an expert: it previews 300 of the 2,048 training problems, rewrites all, trains SFT,
DFT, DR + SFT and DR + DFT at every learning rate, and evaluates each, 4 samples of each of 400 validation problems.
`--practised` adds bases that were tuned from the packaged policy with DR + DFT on fresh problems at these learning
rates, and so are more able than any that was pretrained. It goes on where it was when started again, and prints a
Markdown row for each setting.

`fit` looks for the rule of `retell.advice` and holds it against settings that it was not fitted on. What counts was
fixed before the settings were run (docs/log.md says what had been seen of them by then):

- Each method counts at the better of its learning rates. Rewriting is *better* (or *worse*) in a setting if the best of
  DR + SFT and DR + DFT beats (or is beaten by) the best of SFT and DFT by more than two standard errors, paired over
  the problems; else it is a *tie*. DFT likewise: the best of DFT and DR + DFT against the best of SFT and DR + SFT.
- Advice is a *hit* if it says yes to what is better or no to what is worse, a *miss* if it says the opposite, else
  *unknown*. Ties are counted apart: nothing said there costs accuracy, though a yes to rewriting costs the sampling.
- A rule says yes where every condition holds, a feature above or below a threshold, one or two of them. It is the one
  with the fewest misses in the decided settings it is fitted on, a condition counting as a miss, so that each has to
  save more than one; among equals that with the widest margin, as a share of the feature's spread. Thresholds are in
  the middle between neighbouring values. The constant answers yes and no compete as rules without a condition.
- It says unknown where the interval of a feature holds the threshold, and where a feature of its conditions, the pass
  rate or the log-prob of the expert's text lies outside the values it was fitted on by more than a tenth of their
  spread.
"""

import argparse
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does

import numpy as np
import pyarrow.parquet as pq
import torch

import retell
from retell import pipeline
from retell.advice import FEATURES, Answer, Condition, Features, Rule, features
from retell.mixes import run_named
from retell.previewing import run_preview
from retell.recipe import Recipe, load_recipe
from retell.runfolder import RunFolder
from retell.tiny.splits import TRAIN, reserved_problems
from retell.tiny.task import (
    BACKWARDS,
    EQUATIONS,
    LEAPING,
    RESULTS,
    VERBOSE,
    Author,
    draw_problem,
    parse_problem,
    write_solution,
)

TINY = Path(retell.__file__).parent / "tiny"
METHODS = ("sft", "dft", "dr-sft", "dr-dft")
PREVIEWED = 300
EXPERTS: Mapping[str, tuple[Author, ...]] = {
    "verbose": (VERBOSE,),
    "leaping": (LEAPING,),
    "backwards": (BACKWARDS,),
    "equations": (EQUATIONS,),
    "results": (RESULTS,),
    "mixed": (VERBOSE, BACKWARDS),
}
"""Who writes the solutions: the tiny policy's experts, two of its native authors, an easy and a hard one in turn."""


def recipe(base: Path, data: Path, rate: float) -> Recipe:
    """The demo's recipe on another base and data, evaluated on the validation set."""
    changed = load_recipe(TINY / "demo.toml").model_dump()
    changed["policy"]["model"] = str(base)
    changed["data"]["path"] = str(data)
    changed["train"] |= {"runs": METHODS, "learning_rate": rate}
    changed["evaluate"] |= {"benchmark": [str(TINY / "data/valid.jsonl")], "limit": None, "k": 4}
    return Recipe.model_validate(changed)


def expert_data(expert: str, out: Path) -> Path:
    """Training problems with solutions of this expert, each by one of its authors, none of whom makes slips."""
    path = out / f"data-{expert}.jsonl"
    if not path.is_file():
        problems = [json.loads(line) for line in (TINY / "data/train.jsonl").read_text(encoding="utf-8").splitlines()]
        rng = random.Random(f"{expert} {TRAIN.name}")
        for row in problems:
            author = rng.choice(EXPERTS[expert]) if len(EXPERTS[expert]) > 1 else EXPERTS[expert][0]
            row["solution"] = write_solution(parse_problem(row["problem"]), author, rng)
        path.write_text("".join(json.dumps(row) + "\n" for row in problems), encoding="utf-8")
    return path


def fresh_data(out: Path) -> Path:
    """As many problems as the training data has, and none of the packaged ones."""
    path = out / "fresh.jsonl"
    if not path.is_file():
        rng, reserved, rows = random.Random("fresh"), reserved_problems(), []
        while len(rows) < TRAIN.size:
            problem = draw_problem(rng, rng.choice(TRAIN.lengths))
            if problem not in reserved:
                solution = write_solution(problem, LEAPING, rng)
                rows.append({"problem": problem.text, "answer": str(problem.answer), "solution": solution})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def practised(base: Path, rate: float, out: Path) -> Path:
    """The base tuned with DR + DFT on fresh problems."""
    folder = out / f"practised-{rate:g}"
    if not (folder / "config.json").is_file():
        with RunFolder(out / f"practising-{rate:g}") as run:
            chosen = recipe(base, fresh_data(out), rate)
            pipeline.run_rewrite(chosen, run)
            pipeline.run_train(chosen, run, run_named("dr-dft"))
        (out / f"practising-{rate:g}/checkpoints/dr-dft").rename(folder)
    return folder


def settings(out: Path, bases: Sequence[Path], experts: Sequence[str], rates: Sequence[float]) -> None:
    """Runs every setting that results.jsonl lacks."""
    store = Store(out / "results.jsonl")
    for base, expert in product(bases, experts):
        with RunFolder(out / f"{base.name}-{expert}") as folder:
            chosen = recipe(base, expert_data(expert, out), rates[0])
            if (base.name, expert, "preview") not in store:
                store.add((base.name, expert, "preview"), run_preview(chosen, PREVIEWED, folder))
                store.add((base.name, expert, "rewrite"), pipeline.run_rewrite(chosen, folder))
            for rate in rates:
                for name in ("base", *METHODS):
                    key = (base.name, expert, name if name == "base" else f"{name} {rate:g}")
                    if key not in store:
                        store.add(key, correct(recipe(base, expert_data(expert, out), rate), folder, name))
        for line in rows(store, [(base.name, expert)], rates):
            print(line, flush=True)


def correct(chosen: Recipe, folder: RunFolder, name: str) -> dict[str, Any]:
    """How many of its samples are right for each validation problem, of the base or of a method."""
    policy = chosen.policy
    if name != "base":
        pipeline.run_rewrite(chosen, folder)
        pipeline.run_train(chosen, folder, run_named(name))
        policy = policy.model_copy(update={"model": str(folder.path.resolve() / "checkpoints" / name)})
    pipeline.run_evaluate(chosen, folder, name, policy)
    found: dict[str, int] = {}
    for row in pq.read_table(folder.path / f"eval/{name}.parquet").to_pylist():
        found[row["id"]] = found.get(row["id"], 0) + (row["verdict"] == "correct" and row["stop"] == "stop")
    return {"k": chosen.evaluate.k, "correct": [found[id] for id in sorted(found)]}


class Store:
    """What was measured, one line each, appended as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        entries = (json.loads(line) for line in lines)
        self._found: dict[tuple[str, ...], Any] = {tuple(entry["key"]): entry["found"] for entry in entries}

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._found

    def __getitem__(self, key: tuple[str, ...]) -> Any:
        return self._found[key]

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self._found)

    def add(self, key: tuple[str, ...], found: Mapping[str, Any]) -> None:
        """Keeps what was measured."""
        self._found[key] = found
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "found": found}) + "\n")

    def accuracies(self, key: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Of each problem, in percent."""
        found = self._found[key]
        return 100 * np.asarray(found["correct"], dtype=np.float64) / found["k"]


def rows(store: Store, which: Sequence[tuple[str, str]], rates: Sequence[float]) -> Iterator[str]:
    """Markdown rows of settings: rungs, and each method at the better of its learning rates."""
    for base, expert in which:
        rungs = store[base, expert, "rewrite"]["rungs"].values()
        found = {name: store.accuracies(best(store, base, expert, name, rates)).mean() for name in METHODS}
        cells = [f"{store.accuracies((base, expert, 'base')).mean():.1f}", *(f"{found[name]:.1f}" for name in METHODS)]
        yield f"| {base} | `{expert}` | {'/'.join(map(str, rungs))} | " + " | ".join(cells) + " |"


def best(store: Store, base: str, expert: str, name: str, rates: Sequence[float]) -> tuple[str, str, str]:
    """The key of a method's result at the better learning rate."""
    keys = [(base, expert, f"{name} {rate:g}") for rate in rates]
    return max(keys, key=lambda key: float(store.accuracies(key).mean()))


@dataclass(frozen=True)
class Setting:
    """What a preview measured and what came out: for each question 1 if better, -1 if worse, 0 if neither."""

    base: str
    expert: str
    features: Features
    truth: Mapping[str, int]
    difference: Mapping[str, tuple[float, float]]
    """In points of percent, with its standard error."""


SIDES = {"rewrite": (("dr-sft", "dr-dft"), ("sft", "dft")), "dft": (("dft", "dr-dft"), ("sft", "dr-sft"))}
"""The methods with what is asked about, and those without."""
ALWAYS = ("pass_rate.self", "gap.expert.mean_token_logprob")
"""Features that must be like those of the settings a rule was fitted on, whatever it looks at."""


def measured(store: Store, rates: Sequence[float]) -> list[Setting]:
    """The settings of which everything is there."""
    found = []
    for base, expert in dict.fromkeys(key[:2] for key in store):
        if any((base, expert, f"{name} {rate:g}") not in store for name in METHODS for rate in rates):
            continue
        difference = {}
        for question, sides in SIDES.items():
            keys = [[best(store, base, expert, name, rates) for name in side] for side in sides]
            scores = [max(map(store.accuracies, side), key=lambda one: float(one.mean())) for side in keys]
            change = scores[0] - scores[1]
            difference[question] = float(change.mean()), float(change.std(ddof=1) / change.size**0.5)
        truth = {question: int(np.sign(d)) if abs(d) > 2 * e else 0 for question, (d, e) in difference.items()}
        found.append(Setting(base, expert, features(store[base, expert, "preview"]), truth, difference))
    return found


def fitted(seen: Sequence[Setting], question: str) -> Rule:
    """The rule for these settings: see above."""
    decided = [one for one in seen if one.truth[question]]
    better = np.array([one.truth[question] > 0 for one in decided], dtype=bool)
    cuts = [cut for name in FEATURES for cut in cuts_of(name, np.array([value(one, name) for one in decided]))]
    yes = np.array([cut.yes for cut in cuts]).reshape(len(cuts), len(decided))
    # (cost, conditions, -margin): the least is taken.
    ranked: list[tuple[tuple[float, int, float], tuple[Condition, ...], Answer]] = [
        ((float((better != (answer == "yes")).sum()), 0, 0.0), (), answer) for answer in ("yes", "no")
    ]
    for at, cut in enumerate(cuts):
        misses = (yes[at] != better).sum()
        ranked.append(((misses + 1.0, 1, -cut.margin), (cut.condition,), "yes"))
        for other in np.flatnonzero(((yes[at] & yes[at + 1 :]) != better).sum(axis=1) + 2 <= misses + 1):
            two = cut, cuts[at + 1 + int(other)]
            cost = float(((two[0].yes & two[1].yes) != better).sum() + 2)
            ranked.append(((cost, 2, -min(one.margin for one in two)), tuple(one.condition for one in two), "yes"))
    _, conditions, constant = min(ranked, key=lambda one: one[0])
    looked_at = dict.fromkeys([*(condition.feature for condition in conditions), *ALWAYS])
    ends = {name: (min(values), max(values)) for name in looked_at if (values := [value(one, name) for one in seen])}
    return Rule(conditions, ends, constant)


@dataclass(frozen=True)
class Cut:
    """A condition between two neighbouring settings, which of the settings it holds in, and how far apart they are."""

    condition: Condition
    yes: np.ndarray[Any, np.dtype[np.bool_]]
    margin: float


def cuts_of(name: str, column: np.ndarray[Any, np.dtype[np.float64]]) -> Iterator[Cut]:
    """Both conditions on a feature at every threshold that tells some of the settings from others."""
    levels = np.unique(column)
    for low, high in pairwise(levels):
        threshold = float((low + high) / 2)
        margin = float((high - low) / (levels[-1] - levels[0]))
        for above in (True, False):
            yield Cut(Condition(name, above, threshold), (column > threshold) == above, margin)


def value(one: Setting, name: str) -> float:
    """A feature without its interval."""
    found = one.features[name]
    assert found is not None
    return found.value


SCHEMES: Mapping[str, Callable[[Setting, Mapping[str, str]], str]] = {
    "one setting": lambda one, _: f"{one.base} {one.expert}",
    "one base": lambda one, _: one.base,
    "one pretraining": lambda one, lineage: lineage.get(one.base, one.base),
    "one expert": lambda one, _: one.expert,
}
"""What is left out at a time."""


def fit(store: Store, rates: Sequence[float], lineage: Mapping[str, str]) -> None:
    """Prints the settings, the rule of each question and how it does on what it was not fitted on."""
    found = measured(store, rates)
    print_settings(found)
    print_projections(store, found)
    for question in SIDES:
        rule = fitted(found, question)
        print(f"\n{question}: {rule}\n")
        print("| left out | hits | misses | unknown | ties: yes, no, unknown |")
        print("|---|---:|---:|---:|---:|")
        print(tally("none", question, [(one, rule.says(one.features)) for one in found]))
        for scheme, part in SCHEMES.items():
            said = []
            for left_out in dict.fromkeys(part(one, lineage) for one in found):
                held = fitted([one for one in found if part(one, lineage) != left_out], question)
                said += [(one, held.says(one.features)) for one in found if part(one, lineage) == left_out]
            print(tally(scheme, question, said))
            for one, answer in said:
                if one.truth[question] and answer != ("yes" if one.truth[question] > 0 else "no"):
                    print(f"    {answer}: {one.base} {one.expert}", file=sys.stderr)
        for answer in ("yes", "no"):
            print(tally(f"always {answer}", question, [(one, answer) for one in found]))


def tally(scheme: str, question: str, said: Sequence[tuple[Setting, str]]) -> str:
    """A Markdown row of hits and misses."""
    right = {1: "yes", -1: "no"}
    decided = [(right[one.truth[question]], answer) for one, answer in said if one.truth[question]]
    hits = sum(wanted == answer for wanted, answer in decided)
    unknown = sum(answer == "unknown" for _, answer in decided)
    ties = [answer for one, answer in said if not one.truth[question]]
    counts = [hits, len(decided) - hits - unknown, unknown]
    tied = ", ".join(str(ties.count(answer)) for answer in ("yes", "no", "unknown"))
    return f"| {scheme} | {' | '.join(map(str, counts))} | {tied} |"


def print_settings(found: Sequence[Setting]) -> None:
    """Features of every setting, and what came out."""
    names = list(FEATURES)
    print("| base | expert | " + " | ".join(names) + " | rewriting | DFT |")
    print("|---|---|" + "---:|" * (len(names) + 2))
    for one in found:
        numbers = [f"{value(one, name):.3g}" for name in names]
        changes = [f"{d:+.1f} ± {e:.1f}" for d, e in one.difference.values()]
        print(f"| {one.base} | `{one.expert}` | " + " | ".join([*numbers, *changes]) + " |")


def print_projections(store: Store, found: Sequence[Setting]) -> None:
    """How often the whole lay in the interval that the preview of a part of it gave, and how far off the middle was."""
    inside: Counter[str] = Counter()
    off: dict[str, list[float]] = {}
    for one in found:
        preview, whole = store[one.base, one.expert, "preview"], store[one.base, one.expert, "rewrite"]
        told = {f"share of {rung}": (preview["shares"][rung], n / 20.48) for rung, n in whole["rungs"].items()}
        told |= {f"samples, {rung}": (preview["whole"]["samples"][rung], n) for rung, n in whole["samples"].items()}
        told["tokens"] = preview["whole"]["tokens"]["generated"], whole["tokens"]["generated"]
        for name, (estimate, truth) in told.items():
            inside[name] += estimate["low"] <= truth <= estimate["high"]
            off.setdefault(name, []).append(abs(estimate["value"] - truth) / truth if truth else 0.0)
    print("\n| projection of 300 problems | truth inside | mean error |")
    print("|---|---:|---:|")
    for name, errors in off.items():
        print(f"| {name} | {inside[name]} of {len(found)} | {np.mean(errors):.0%} |")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "fit"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, nargs="*", default=[TINY / "policy"])
    parser.add_argument("--practised", type=float, nargs="*", default=[], help="learning rates of bases to tune first")
    parser.add_argument("--lineage", nargs="*", default=[], help="BASE=NAME: bases that come from one pretraining")
    parser.add_argument("--expert", nargs="+", choices=EXPERTS, default=["verbose", "leaping", "backwards"])
    parser.add_argument("--rate", type=float, nargs="+", default=[1e-4, 1e-3])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.what == "run":
        tuned = [practised(TINY / "policy", rate, chosen.out) for rate in chosen.practised]
        settings(chosen.out, [*chosen.base, *tuned], chosen.expert, chosen.rate)
    else:
        fit(Store(chosen.out / "results.jsonl"), chosen.rate, dict(one.split("=") for one in chosen.lineage))


if __name__ == "__main__":
    main()
