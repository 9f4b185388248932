"""Which training problems are a benchmark's problems, or hold at least half of one. It depends on their texts alone."""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from unicodedata import normalize

from retell.problems import Loaded
from retell.records import Problem
from retell.runfolder import RunFolder

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


def check_contamination(
    problems: Iterable[Problem], benchmarks: Mapping[str, Loaded], folder: RunFolder
) -> dict[str, list[Overlap]]:
    """The overlaps by the id of the training problem; writes contamination.json and says what was found."""
    found = find_overlaps(problems, {name: loaded.problems for name, loaded in benchmarks.items()})
    summary = {}
    for name, loaded in benchmarks.items():
        here = [overlap for overlap in found if overlap.benchmark == name]
        known = {overlap.benchmark_id for overlap in here}
        equal = {overlap.benchmark_id for overlap in here if overlap.share == 1}
        training = {overlap.id for overlap in here}
        summary[name] = {
            "problems": len(loaded.problems),
            "known": len(known),
            "equal": len(equal),
            "training_problems": len(training),
        }
        if known:
            print(
                f"{name}: {len(known)} of {len(loaded.problems)} problems overlap {len(training)} training problems "
                f"({len(equal)} equal one): see contamination.json",
                file=sys.stderr,
            )
    overlaps = [asdict(overlap) for overlap in found]
    folder.write_json("contamination.json", {"benchmarks": summary, "overlaps": overlaps})
    by_id: dict[str, list[Overlap]] = {}
    for overlap in found:
        by_id.setdefault(overlap.id, []).append(overlap)
    return by_id


def _folded(text: str) -> str:
    return normalize("NFKC", text).casefold()


def _grams(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(GRAM)), strict=False)
