"""When rewriting and DFT pay: the evidence behind `retell gap --preview`, with the tiny policy, on the validation set.

    python studies/advice.py run --out runs/advice [--base DIR ...] [--lineage NAME ...]
    python studies/advice.py fit --out runs/advice

`run` makes settings of a base and an expert: it previews 300 of the 2,048 training problems, rewrites all, trains SFT, DFT,
DR + SFT and DR + DFT at every learning rate, and evaluates each, 4 samples of each of 400 validation problems. `--practised`
adds bases that were tuned with DR + DFT on fresh problems, at the named rates, and so are more able than any that were
pretrained. It goes on where it was when started again, and prints a Markdown row for each setting.

`fit` looks for the rule of `retell.advice` and holds it against settings that it was not fitted on. What counts was fixed
before the runs were looked at:

- Each method counts at the better of its learning rates. Rewriting is *better* (or *worse*) in a setting if the best of
  DR + SFT and DR + DFT beats (or is beaten by) the best of SFT and DFT by more than two standard errors, paired over the
  problems; else it is a *tie*. DFT likewise: the best of DFT and DR + DFT against the best of SFT and DR + SFT.
- Advice is a *hit* if it says yes to what is better or no to what is worse, a *miss* if it says the opposite, else
  *unknown*. Ties are counted apart: nothing said there costs accuracy, though a yes to rewriting costs the sampling.
- A rule says yes where every condition holds, feature > threshold or feature < threshold, of one or two features. It has
  the fewest misses on the decided settings, a second condition counting as a miss; among equals the one with the widest
  margin, relative to the feature's spread. Thresholds are in the middle of two neighbouring settings. Without a rule that
  beats the constant answer, the constant is taken.
- It says unknown where the interval of a feature holds its threshold, and where a feature lies outside the values of the
  settings that it was fitted on by more than a tenth of their spread.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does

import numpy as np
import pyarrow.parquet as pq
import torch

import retell
from retell import pipeline
from retell.mixes import run_named
from retell.recipe import Recipe, load_recipe
from retell.runfolder import RunFolder
from retell.tiny.splits import TRAIN, reserved_problems
from retell.tiny.task import LEAPING, draw_problem, write_solution

TINY = Path(retell.__file__).parent / "tiny"
METHODS = ("sft", "dft", "dr-sft", "dr-dft")
PREVIEWED = 300


def recipe(base: Path, data: Path, rate: float) -> Recipe:
    """The demo's recipe on another base and data, evaluated on the validation set."""
    changed = load_recipe(TINY / "demo.toml").model_dump()
    changed["policy"]["model"] = str(base)
    changed["data"]["path"] = str(data)
    changed["train"] |= {"runs": METHODS, "learning_rate": rate}
    changed["evaluate"] |= {"benchmark": [str(TINY / "data/valid.jsonl")], "limit": None, "k": 4}
    return Recipe.model_validate(changed)


def expert_data(expert: str, out: Path) -> Path:
    """Training problems with this expert's solutions."""
    folder = out / f"data-{expert}"
    if not (folder / "train.jsonl").is_file():
        maker = [sys.executable, "-m", "retell.tiny.make_data", "--out", str(folder), "--expert", expert]
        subprocess.run(maker, check=True, stdout=subprocess.DEVNULL)
    return folder / "train.jsonl"


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
                store.add((base.name, expert, "preview"), pipeline.run_preview(chosen, PREVIEWED, folder))
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


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "fit"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", type=Path, nargs="*", default=[TINY / "policy"])
    parser.add_argument(
        "--practised", type=float, nargs="*", default=[], help="rates of bases tuned from the first one"
    )
    parser.add_argument("--expert", nargs="+", default=["verbose", "leaping", "backwards"])
    parser.add_argument("--rate", type=float, nargs="+", default=[1e-4, 1e-3])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.what == "run":
        tuned = [practised(TINY / "policy", rate, chosen.out) for rate in chosen.practised]
        settings(chosen.out, [*chosen.base, *tuned], chosen.expert, chosen.rate)


if __name__ == "__main__":
    main()
