"""Which training problems are a benchmark's problems, or hold at least half of one, and what becomes of them.

Whether two problems overlap depends on their texts alone.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from unicodedata import normalize

from retell.benchmarks import load_benchmarks
from retell.errors import DataError, RecipeError
from retell.problems import Loaded
from retell.problemtable import chosen
from retell.recipe import Evaluate, Recipe
from retell.records import Problem, Reject
from retell.runfolder import RunFolder
from retell.tables import read_rows

GRAM = 13
SHARE = 0.5
# Letters and digits apart: `15a` and `15 a`, `x_1` and `x_{1}` are the same words. A LaTeX command is a word.
_WORD = re.compile(r"[^\W\d_]+|\d+")
# A hyphen before two letters is one of prose.
_FIGURE = re.compile(r"\d+|[+/=<>]|-(?![^\W\d_]{2})")


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training problem, by its id, and the benchmark problem that it equals or holds at least half of.

    ``share`` is the part of the benchmark problem's distinct 13-grams of words that the training problem has, in
    [SHARE, 1]; 1 where the two are equal.
    """

    id: str
    benchmark: str
    benchmark_id: str
    share: float


class Index:
    """The benchmarks' problems, to be looked up by what training problems say.

    Two problems are equal if they have the same letters and digits in the same order, the same numbers and the same
    signs ``+ - / = < >``. Case, other punctuation and white space are nothing. A problem of fewer than 13 words has no
    13-gram: only its equal overlaps it, for where it is merely a part, it is mostly a phrase.
    """

    def __init__(self, benchmarks: Mapping[str, Sequence[Problem]]) -> None:
        self._known = [(name, problem.id) for name, problems in benchmarks.items() for problem in problems]
        texts = [_folded(problem.problem) for problems in benchmarks.values() for problem in problems]
        self._figures = [_FIGURE.findall(text) for text in texts]
        self._sizes: list[int] = []
        self._spelt: dict[str, list[int]] = {}
        self._holders: dict[tuple[str, ...], list[int]] = {}
        for number, text in enumerate(texts):
            words = _WORD.findall(text)
            grams = set(_grams(words))
            self._sizes.append(len(grams))
            self._spelt.setdefault("".join(words), []).append(number)
            for gram in grams:
                self._holders.setdefault(gram, []).append(number)
        self._spelt.pop("", None)

    def overlaps(self, problem: Problem) -> list[Overlap]:
        """The benchmark problems that a training problem overlaps: the largest share first, then by name and id."""
        text = _folded(problem.problem)
        words = _WORD.findall(text)
        shares = self._held(words) | dict.fromkeys(self._equal(words, text), 1.0)
        found = [Overlap(problem.id, *self._known[number], share) for number, share in shares.items()]
        return sorted(found, key=lambda overlap: (-overlap.share, overlap.benchmark, overlap.benchmark_id))

    def _held(self, words: list[str]) -> dict[int, float]:
        # Hardly any gram is in a benchmark, so what is done for each is left to C.
        known = set(filter(self._holders.__contains__, _grams(words)))
        counts = Counter(number for gram in known for number in self._holders[gram])
        shares = {number: count / self._sizes[number] for number, count in counts.items()}
        return {number: share for number, share in shares.items() if share >= SHARE}

    def _equal(self, words: list[str], text: str) -> list[int]:
        alike = self._spelt.get("".join(words), ())
        return [number for number in alike if self._figures[number] == _FIGURE.findall(text)]


def find_overlaps(problems: Iterable[Problem], benchmarks: Mapping[str, Sequence[Problem]]) -> list[Overlap]:
    """The overlaps of training problems with benchmarks, by name, in the order of the problems, each one's best first.

    The problems are read once and not kept.
    """
    index = Index(benchmarks)
    return [overlap for problem in problems for overlap in index.overlaps(problem)]


def contaminated(problems: Iterable[Problem], benchmarks: Mapping[str, Loaded]) -> list[Overlap]:
    """The overlaps of training problems with benchmarks, which are also said."""
    found = find_overlaps(problems, {name: loaded.problems for name, loaded in benchmarks.items()})
    for name, told in _told(found, benchmarks, dropped=False).items():
        if told["known"]:
            print(
                f"{name}: {told['known']} of {told['problems']} problems overlap {told['training_problems']} training "
                f"problems ({told['equal']} equal one)",
                file=sys.stderr,
            )
    return found


def write_contamination(
    folder: RunFolder, found: Sequence[Overlap], benchmarks: Mapping[str, Loaded], *, dropped: bool, anew: bool
) -> None:
    """Writes contamination.json: what was found of each benchmark, and whether it was dropped.

    What it says of other benchmarks stays, unless it is made ``anew`` for other training problems.
    """
    before = {} if anew else folder.read_json("contamination.json") or {}
    others = [overlap for overlap in before.get("overlaps", []) if overlap["benchmark"] not in benchmarks]
    told = before.get("benchmarks", {}) | _told(found, benchmarks, dropped)
    if told:
        overlaps = [*others, *map(asdict, found)]
        folder.write_json("contamination.json", {"benchmarks": told, "overlaps": overlaps})


def _told(
    found: Sequence[Overlap], benchmarks: Mapping[str, Loaded], dropped: bool
) -> dict[str, dict[str, int | bool]]:
    told: dict[str, dict[str, int | bool]] = {}
    for name, loaded in benchmarks.items():
        here = [overlap for overlap in found if overlap.benchmark == name]
        told[name] = {
            "problems": len(loaded.problems),
            "known": len({overlap.benchmark_id for overlap in here}),
            "equal": len({overlap.benchmark_id for overlap in here if overlap.share == 1}),
            "training_problems": len({overlap.id for overlap in here}),
            "dropped": dropped,
        }
    return told


def benchmarks_against(recipe: Recipe, own: Mapping[str, Loaded] | None = None) -> dict[str, Loaded]:
    """The benchmarks that are looked for among the training problems."""
    named = Evaluate(benchmark=recipe.data.against, data_dir=recipe.data.data_dir)
    found = dict(own or {}) | (load_benchmarks(named) if named.benchmark else {})
    if not found and recipe.data.overlap == "drop":
        raise RecipeError("data.overlap = 'drop' needs benchmarks to look for: name them with data.against")
    return found


def without_overlaps(read: Loaded, found: Sequence[Overlap], recipe: Recipe) -> Loaded:
    """Drops the problems that overlap a benchmark's, if the recipe says so."""
    if recipe.data.overlap == "report" or not found:
        return read
    why: dict[str, list[str]] = {}
    for overlap in found:
        why.setdefault(overlap.id, []).append(f"{overlap.share:.0%} of {overlap.benchmark} {overlap.benchmark_id}")
    kept = chosen(read.problems, [problem.id not in why for problem in read.problems])
    if not kept:
        raise DataError(f"every problem of {recipe.data.path} is one of a benchmark: nothing is left to train on")
    dropped = [
        Reject(f"problem {problem.id}", "contaminated", "; ".join(why[problem.id]), problem.id, problem.problem)
        for problem in read.problems
        if problem.id in why
    ]
    # The same data: what was drawn for the others stays theirs.
    return replace(read, problems=kept, rejected=(*read.rejected, *dropped))


def overlaps_to_drop(recipe: Recipe, read: Loaded) -> list[Overlap]:
    """What a run on the mix `online` leaves out of the data, as the rewriting of the whole does."""
    if recipe.data.overlap == "report":
        return []
    own = whole_benchmarks(recipe.evaluate) if recipe.evaluate.benchmark else {}
    return contaminated(read.problems, benchmarks_against(recipe, own))


def look_for_benchmarks(recipe: Recipe, folder: RunFolder) -> None:
    """Says which problems of the recipe's benchmarks are among those of the folder's rewritten rows, if it has any."""
    if (folder.path / "rewritten.parquet").is_file():
        benchmarks = whole_benchmarks(recipe.evaluate)
        found = contaminated(_trained_on(folder), benchmarks)
        write_contamination(folder, found, benchmarks, dropped=False, anew=False)


def whole_benchmarks(settings: Evaluate) -> dict[str, Loaded]:
    """The benchmarks without the limit: a training problem must not be one of the others either."""
    return load_benchmarks(settings.model_copy(update={"limit": None}))


def _trained_on(folder: RunFolder) -> Iterator[Problem]:
    """The problems of the rewritten rows, read in parts."""
    for row in read_rows(folder.path / "rewritten.parquet", ["id", "problem"]):
        yield Problem(row["id"], row["problem"], "", "", "")


def _folded(text: str) -> str:
    return normalize("NFKC", text).casefold()


def _grams(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(GRAM)), strict=False)
