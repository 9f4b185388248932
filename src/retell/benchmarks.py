"""Benchmarks: problems with a gold answer, by name or from anywhere."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from retell.errors import DataError
from retell.problems import SUFFIXES, Loaded, copy_of, load_problems, loaded, read_rows
from retell.recipe import Data, Evaluate


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark by name: where the hub has it, its columns there, and how many problems it has."""

    hub: str
    split: str
    rows: tuple[int, ...]
    """How many problems there are; several where copies of it differ."""
    licence: str
    columns: Mapping[str, str]
    """Fields of `Data` that say which column holds what, on the hub; copies with a column ``problem`` need none."""
    config: str | None = None
    copies: tuple[str, ...] = ()
    """Names that copies on disk go by besides its own."""


_MAA = "problems of the MAA: for evaluation only"
_ASKED = {"problem_field": "question"}

BENCHMARKS: Mapping[str, Benchmark] = {
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", (500,), "MIT", {}),
    "minerva_math": Benchmark(
        "math-ai/minervamath",
        "test",
        (272,),
        "problems of MIT OpenCourseWare, CC BY-NC-SA: for evaluation only",
        _ASKED,
    ),
    # 675 text-only, English, open-ended problems in mathematics; the hub's copies have lost one.
    "olympiadbench": Benchmark(
        "math-ai/olympiadbench", "test", (675, 674), "MIT", _ASKED | {"answer_field": "final_answer"}
    ),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "train", (30,), _MAA, {}),
    "amc23": Benchmark("math-ai/amc23", "test", (40,), _MAA, _ASKED),
    "aime25": Benchmark("math-ai/aime25", "test", (30,), _MAA, {}),
    "gsm8k": Benchmark(
        "openai/gsm8k", "test", (1319,), "MIT", _ASKED | {"solution_field": "answer"}, "main", ("gsm8k_test",)
    ),
}


def load_benchmarks(settings: Evaluate) -> dict[str, Loaded]:
    """The benchmarks by name (of a file its name without the ending), each cut to ``limit`` problems.

    Raises:
        DataError: none is named, one cannot be read or is not whole, or two have the same name.
    """
    if not settings.benchmark:
        raise DataError(f"no benchmark named: give --benchmark {' '.join(BENCHMARKS)}, a file, or a hub dataset")
    names = [benchmark if benchmark in BENCHMARKS else Path(benchmark).stem for benchmark in settings.benchmark]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"two benchmarks are called {twice[0]!r}: rename one of the files")
    return {name: _load(benchmark, settings) for name, benchmark in zip(names, settings.benchmark, strict=True)}


def _load(name: str, settings: Evaluate) -> Loaded:
    if name not in BENCHMARKS:
        # The hub's datasets for evaluation have their problems under `test`.
        near = get_close_matches(name.lower(), BENCHMARKS, n=1, cutoff=0.8)
        if near and not os.path.exists(name):
            raise DataError(f"there is no benchmark {name!r}: did you mean {near[0]}?")
        data = Data(path=name, split="test", data_dir=settings.data_dir)
        return _first(load_problems(data, needs_solution=False), settings.limit)
    known = BENCHMARKS[name]
    whole = load_problems(_source(name, known, settings.data_dir), needs_solution=False)
    found = len(whole.problems)
    if found not in known.rows:
        wanted = " or ".join(f"{rows:,}" for rows in known.rows)
        why = f" ({whole.rejected[0].where}: {whole.rejected[0].detail})" if whole.rejected else ""
        raise DataError(
            f"{name} has {wanted} problems, and this copy {found:,}{why}: get it again, or name it by its path"
        )
    return _first(whole, settings.limit)


def _first(whole: Loaded, limit: int | None) -> Loaded:
    return whole if limit is None else loaded(whole.problems[:limit], whole.rejected)


def _source(name: str, known: Benchmark, folder: str | None) -> Data:
    """Where a named benchmark is read from: a copy in the folder, if one is given, else the hub."""
    stems = (name, *known.copies)
    names = [*(f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES), known.hub, Path(known.hub).name]
    copy = copy_of(folder, names)
    if folder and not copy:
        raise DataError(
            f"there is no copy of {name} in {folder}: looked for {', '.join(names)}; without evaluate.data_dir it is "
            f"taken from the hub ({known.hub})"
        )
    plain = Data(path=str(copy or known.hub), split=known.split, config=known.config)
    first = next((row for _, row in read_rows(plain) if isinstance(row, dict)), {})
    return plain if "problem" in first else plain.model_copy(update=dict(known.columns))
