"""Where samples and verdicts are found: one journal, and beside it what workers elsewhere have written, as one."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

from retell.journal import Journal
from retell.records import Outcome, Sample, Verdict
from retell.shards import Shards


class Desk(Protocol):
    """What a rollout needs: samples by key and verdicts by (sample, grader), each stored once and for good."""

    def samples(self, keys: Sequence[str]) -> dict[str, Sample]:
        """The stored samples among ``keys``."""
        ...

    def verdicts(self, keys: Sequence[str], grader: str) -> dict[str, Verdict]:
        """The stored verdicts of one grader on the samples ``keys``."""
        ...

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Stores samples; they are durable when this returns."""
        ...

    def add_verdicts(self, verdicts: Iterable[tuple[str, str, Verdict]]) -> None:
        """Stores (sample key, grader, verdict); they are durable when this returns."""
        ...


class Store(Desk, Protocol):
    """All that is stored in a run folder: see `retell.journal.Journal`."""

    def all_verdicts(self, keys: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts of every grader on the samples ``keys``, by (sample key, grader)."""
        ...

    def judged(self, outcome: Outcome, grader: str) -> dict[str, int]:
        """The problems of which rewriting drew samples that a grader judged so, whatever the gold, and how many."""
        ...

    def rungs(self) -> dict[str, int]:
        """How many samples are stored of each rung or benchmark."""
        ...

    def pages(self, rungs: Sequence[str]) -> Iterator[list[Sample]]:
        """The stored samples of some rungs or benchmarks, some hundred at a time."""
        ...


class Layered:
    """A journal, which takes all that is added, over the shards that workers have written."""

    def __init__(self, journal: Journal, shards: Shards) -> None:
        self._journal = journal
        self._shards = shards

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def samples(self, keys: Sequence[str]) -> dict[str, Sample]:
        """The stored samples among ``keys``."""
        found = self._journal.samples(keys)
        return found | self._shards.samples([key for key in keys if key not in found])

    def verdicts(self, keys: Sequence[str], grader: str) -> dict[str, Verdict]:
        """The stored verdicts of one grader on the samples ``keys``."""
        found = self._journal.verdicts(keys, grader)
        elsewhere = self._shards.all_verdicts([key for key in keys if key not in found])
        return found | {key: verdict for (key, by), verdict in elsewhere.items() if by == grader}

    def all_verdicts(self, keys: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts of every grader on the samples ``keys``, by (sample key, grader)."""
        return self._shards.all_verdicts(keys) | self._journal.all_verdicts(keys)

    def judged(self, outcome: Outcome, grader: str) -> dict[str, int]:
        """The problems of which rewriting drew samples that a grader judged so, whatever the gold, and how many. It
        reads all samples: with millions of them that takes minutes.
        """
        counts: Counter[str] = Counter()
        for page in self.pages(["self", "guided"]):
            problems = {sample.key: sample.problem for sample in page if sample.round == 0}
            found = self.all_verdicts(list(problems))
            so = {key for (key, by), one in found.items() if one.outcome == outcome and by.startswith(f"{grader}#")}
            counts.update(problems[key] for key in so)
        return dict(counts)

    def rungs(self) -> dict[str, int]:
        """How many samples are stored of each rung or benchmark."""
        counts = self._journal.rungs()
        for rung, n in self._shards.rungs().items():
            counts[rung] = counts.get(rung, 0) + n
        return dict(sorted(counts.items()))

    def pages(self, rungs: Sequence[str]) -> Iterator[list[Sample]]:
        """The stored samples of some rungs or benchmarks, some hundred at a time: the journal's, then the shards'."""
        yield from self._journal.pages(rungs)
        for page in self._shards.pages(rungs):
            twice = self._journal.samples([sample.key for sample in page])
            yield [sample for sample in page if sample.key not in twice]

    def add_samples(self, samples: Iterable[Sample]) -> None:
        """Stores samples in the journal."""
        self._journal.add_samples(samples)

    def add_verdicts(self, verdicts: Iterable[tuple[str, str, Verdict]]) -> None:
        """Stores verdicts in the journal, also those on samples of the shards."""
        self._journal.add_verdicts(verdicts)


def open_store(folder: Path, *, readonly: bool = False, without: Collection[Path] = ()) -> Journal | Layered:
    """The samples and verdicts of a run folder; ``readonly`` for whoever reads beside the command that writes, and
    ``without`` shards that hold nothing which the reader needs.

    Raises:
        StorageError: they cannot be read.
    """
    journal = Journal(folder / "journal.sqlite", readonly=readonly)
    shards = Shards(folder / "samples", without)
    return Layered(journal, shards) if shards.any else journal
