"""Measures the search for benchmark problems among training problems.

    python bench/contamination.py [--data DIR] [--rows 860000] [--seed 0]

Makes a .jsonl file of that many problems in a temporary folder: words drawn from those of the benchmarks, in texts as
long as theirs, with solutions of some 1,200 characters, and benchmark problems planted among them. Then a fresh process
reads it and looks for the overlaps: once row by row, once by `load_problems`, which holds all. The data folder is
`--data`, else RETELL_TEST_DATA, else the one beside the checkout. See docs/log.md for what came out.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

from golds import BENCHMARKS, data_folder

from retell.contamination import Overlap, find_overlaps
from retell.problems import load_problems, read_rows
from retell.recipe import Data
from retell.records import Problem

GRAM = 13
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plant:
    """A training problem made of a benchmark's, and whether it is to be found."""

    kind: str
    found: bool
    benchmark: str
    benchmark_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What a check found, and what it took in all and for reading alone."""

    overlaps: list[Overlap]
    peak_bytes: int
    seconds: float
    reading_seconds: float


# ----------------------------------------------------------------------------------------------------------- plants


def _letters(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", text.casefold())


def _kept(text: str, whole: str) -> float:
    """The share of the grams of the whole that a text has; 0 for a whole without any."""
    had, wanted = (
        {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)} for words in map(_letters, (text, whole))
    )
    return len(had & wanted) / max(1, len(wanted))


def _restyled(text: str, draw: Random) -> str:
    case: Callable[[str], str] = draw.choice([str.upper, str.lower, str.title])
    text = re.sub(r"[.,;:?](?=\s|$)", lambda _: draw.choice(["", ";", " ...", "!", " :"]), case(text))
    return re.sub(r"\s+", lambda _: draw.choice([" ", "  ", "\n"]), text.replace("$", draw.choice(["", " ", "$$"])))


def _disturbed(text: str, draw: Random, words: list[str]) -> str:
    """With 40 % of the words others, and fewer than half of the grams left."""
    while True:
        parts = text.split()
        for place in draw.sample(range(len(parts)), -(-2 * len(parts) // 5)):
            parts[place] = draw.choice(words)
        changed = " ".join(parts)
        if _kept(changed, text) < 0.5 and "".join(_letters(changed)) != "".join(_letters(text)):
            return changed


def _plants(benchmarks: Mapping[str, Sequence[Problem]], most: int, draw: Random, words: list[str]) -> Iterator[Plant]:
    """Every kind of plant, of at most so many benchmark problems."""
    chosen = [(name, problem) for name, problems in benchmarks.items() for problem in problems]
    for name, problem in draw.sample(chosen, min(most, len(chosen))):
        text, short = problem.problem, len(_letters(problem.problem)) < GRAM
        framed = f"{_sentence(draw, words)} {text} {_sentence(draw, words)}"
        parts = text.split()
        third = " ".join([*draw.choices(words, k=20), *parts[: len(parts) // 3], *draw.choices(words, k=20)])
        yield Plant("copied", True, name, problem.id, text)
        yield Plant("case and punctuation changed", True, name, problem.id, _restyled(text, draw))
        yield Plant("short, between sentences" if short else "between sentences", not short, name, problem.id, framed)
        yield Plant("40 % of the words changed", False, name, problem.id, _disturbed(text, draw, words))
        if _kept(third, text) < 0.5:
            yield Plant("the first third, in other words", False, name, problem.id, third)


def _sentence(draw: Random, words: list[str]) -> str:
    return " ".join(draw.choices(words, k=draw.randint(6, 15))).capitalize() + "."


def make(path: Path, benchmarks: Mapping[str, Sequence[Problem]], rows: int, seed: int) -> dict[str, Plant]:
    """Writes the problems; the plants by the id of their rows."""
    draw = Random(seed)
    texts = [problem.problem.split() for problems in benchmarks.values() for problem in problems]
    # Some formula without a space is half a problem: drawn as a word, it would be found, and rightly.
    words = [word for text in texts for word in text if len(_letters(word)) < 5]
    steps = [" ".join(draw.choices(words, k=20)) + "." for _ in range(5000)]
    plants = list(_plants(benchmarks, rows // 50, draw, words))
    places = dict(zip(draw.sample(range(rows), len(plants)), plants, strict=True))
    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            text = places[number].text if number in places else " ".join(draw.choices(words, k=len(draw.choice(texts))))
            solution = " ".join(draw.choices(steps, k=draw.randint(4, 18))) + f" \\boxed{{{number}}}"
            row = {
                "id": f"row/{number}",
                "problem": text,
                "solution": solution,
                "answer": str(number),
                "source": "made",
            }
            file.write(json.dumps(row) + "\n")
    return {f"row/{number}": plant for number, plant in places.items()}


# --------------------------------------------------------------------------------------------------------- checking


def _streamed(path: str) -> Iterator[Problem]:
    for where, row in read_rows(Data(path=path)):
        assert isinstance(row, dict)
        yield Problem(row.get("id", where), row["problem"], "", "", "")


def _loaded(path: str) -> Iterator[Problem]:
    yield from load_problems(Data(path=path)).problems


WAYS = {"row by row": _streamed, "load_problems": _loaded}


def _benchmarks(data: Path) -> dict[str, Sequence[Problem]]:
    files = {name: Data(path=str(data / "benchmarks" / f"{name}.jsonl")) for name in BENCHMARKS}
    return {name: load_problems(file, needs_solution=False).problems for name, file in files.items()}


def check(way: str, path: str, data: Path) -> Measured:
    """The overlaps, the most memory that this process ever held, and the seconds of reading without any check."""
    start = time.perf_counter()
    found = find_overlaps(WAYS[way](path), _benchmarks(data))
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    start = time.perf_counter()
    for _ in WAYS[way](path):
        pass
    return Measured(found, peak, seconds, time.perf_counter() - start)


def _report(found: list[Overlap], plants: dict[str, Plant], benchmarks: Mapping[str, Sequence[Problem]]) -> None:
    wholes = {(name, problem.id): problem.problem for name, problems in benchmarks.items() for problem in problems}
    planted = {(row, plant.benchmark, plant.benchmark_id) for row, plant in plants.items() if plant.found}
    got = {(overlap.id, overlap.benchmark, overlap.benchmark_id) for overlap in found}
    for kind, wanted in dict.fromkeys((plant.kind, plant.found) for plant in plants.values()):
        every = {(row, plant.benchmark, plant.benchmark_id) for row, plant in plants.items() if plant.kind == kind}
        said = f"{len(every - got)} not found" if wanted else f"{len(every & got)} found wrongly"
        print(f"  {kind}: {len(every)} planted, {said}")
    # What is planted of one problem may be half of another, as the parts of a question that share their beginning.
    false = sorted(
        (row, name, id)
        for row, name, id in got - planted
        if row not in plants or _kept(plants[row].text, wholes[name, id]) < 0.5
    )
    others = len(got - planted) - len(false)
    print(f"  false alarms: {len(false)}; besides, {others} of plants that hold half of a further benchmark problem")
    for row, name, id in false[:10]:
        print(f"    {row} and {name} {id}: {plants.get(row)}")


def main() -> None:
    """Makes the problems and checks them both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with benchmarks/")
    parser.add_argument("--rows", type=int, default=860_000, help="how many training problems")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training problems")
    options = parser.parse_args()
    data = data_folder(options.data)
    benchmarks = _benchmarks(data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.jsonl"
        plants = make(path, benchmarks, options.rows, options.seed)
        print(f"{options.rows} problems, {path.stat().st_size / MIB:.0f} MiB, seed {options.seed}")
        for way in WAYS:
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                measured = fresh.submit(check, way, str(path), data).result()
            print(f"{way}: {measured.seconds:.1f} s", end=", ")
            print(f"reading alone {measured.reading_seconds:.1f} s; at most {measured.peak_bytes / MIB:.0f} MiB")
            _report(measured.overlaps, plants, benchmarks)


if __name__ == "__main__":
    main()
