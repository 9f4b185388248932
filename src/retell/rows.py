"""Rows of a run with all that is known of them: expert's, own and retold response, verdicts, log-probs, attempts.

They are dicts for JSON, made from texts that nobody trusts: what a model wrote goes into strings and nowhere else.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from retell.errors import DataError, first_line
from retell.journal import graded_by
from retell.mixes import expert_ids, kept_ids
from retell.prompts import Prompter
from retell.records import Attempt, Problem, Rung, Sample, Sampling, TrainRow, Verdict
from retell.rollout import Ask, Stream
from retell.runfolder import RunFolder
from retell.tables import IdIndex, TableReader
from retell.tokens import ChatTokenizer

Json = dict[str, Any]
Tries = Mapping[str, Sequence[Attempt]]
"""The attempts at a problem by rung, in the order of their indices."""
DRAWN: tuple[Rung, ...] = ("self", "guided")
"""The rungs that samples are drawn on."""
_COLUMNS = (
    "id", "source", "problem", "answer", "solution", "rung", "response", "response_token_ids", "behaviour_logprobs",
    "samples_self", "correct_self", "samples_guided", "correct_guided", "verdict",
)  # fmt: skip
_LOGPROBS = ("id", "expert_logprobs", "rewritten_logprobs")
_UNLIKELY = 9999
"""Log-probs are told in hundredths, down to this."""
_SAMPLED = {"sampled": True}
"""Marks log-probs that are those of the distribution which drew a response, with the prompt that was really used."""
_UNGRADED = Verdict("undecided", None, "no verdict is stored")


class Samples(Protocol):
    """What samples and verdicts are looked up in: see `retell.journal.Journal`."""

    def samples(self, keys: Sequence[str]) -> dict[str, Sample]:
        """The stored samples among ``keys``."""
        ...

    def all_verdicts(self, keys: Sequence[str]) -> dict[tuple[str, str], Verdict]:
        """The stored verdicts on the samples ``keys``, by (sample key, grader)."""
        ...


@dataclass(frozen=True, slots=True)
class SampleSource:
    """What finds the samples behind the rows of a run: it makes their keys from content, as rewriting did.

    ``prompters`` build the prompts: several where it is not known which one did, as of recorded responses. ``graders``
    are those whose verdicts are shown, the first that has one. Without a tokenizer tokens have no texts.
    """

    store: Samples
    stream: Stream
    prompters: tuple[Prompter, ...]
    tokenizer: ChatTokenizer | None
    sampling: Sampling
    k: int
    graders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A run as far as it could be opened: without a source, rows have no attempts, and ``missing`` says why."""

    source: SampleSource | None
    missing: str | None = None


class Rows:
    """The rewritten rows of a run folder, which is only read; used as a context.

    Its tables are those that were there when it was opened: what a command replaces later is not noticed.

    Raises:
        DataError: there are none, or they cannot be read.
    """

    def __init__(self, folder: RunFolder, opened: Opened) -> None:
        self.path = folder.path / "rewritten.parquet"
        self.notes = [opened.missing] if opened.missing else []
        self._source = opened.source
        self._tokenizer = opened.source.tokenizer if opened.source else None
        try:
            self._table = TableReader(self.path)
            self.index = IdIndex(self.path)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {self.path}: {first_line(error)}") from error
        self._gap: TableReader | None = None
        self._gap_at = np.full(len(self._table), -1)
        path = folder.path / "gap.parquet"
        if "gap" in folder.stages() and path.is_file():
            self._gap = TableReader(path)
            self._gap_at = IdIndex(path).places(self.index.hashes)
        else:
            self.notes.append(
                f"The log-probs of the expert's texts are not known: `retell gap {folder.path}` measures them."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.__exit__()
        if self._gap:
            self._gap.__exit__()

    def __len__(self) -> int:
        return len(self._table)

    def by_group(self, positions: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """The same positions in ascending order, with the row group that each part of them is in."""
        return self._table.by_group(positions)

    def groups(self, start: int) -> Iterator[tuple[int, int, int]]:
        """The row groups from the one that holds row ``start`` on: number, first row, one past the last row."""
        return self._table.groups(start)

    def search(self, group: int, columns: Sequence[str], text: str) -> npt.NDArray[np.bool_]:
        """Which rows of a row group have a text in one of some columns; case makes no difference."""
        table = self._table.group(group, columns)
        found = np.zeros(table.num_rows, np.bool_)
        for name in columns:
            found |= pc.match_substring(table[name], text, ignore_case=True).to_numpy().astype(np.bool_)
        return found

    def place(self, of: str) -> int | None:
        """The position of the row that has an id, or else a number, counted from 1; None where there is no such row."""
        (place,) = self.index.find([of]).tolist()
        if place >= 0 and self._table.rows([place], ["id"])[0]["id"] == of:
            return int(place)
        number = int(of) - 1 if of.isascii() and of.isdigit() and len(of) < 20 else -1
        return number if 0 <= number < len(self) else None

    def read(self, positions: Sequence[int]) -> list[Json]:
        """The rows at some positions: problem, responses side by side, and the attempts (None where nothing is known
        of them).
        """
        rows = self._table.rows(positions, _COLUMNS)
        measured = self._measured(positions, rows)
        attempts = self._attempts(rows) if self._source else [None] * len(rows)
        return [self._told(*of_one) for of_one in zip(positions, rows, measured, attempts, strict=True)]

    def attempt(self, position: int, rung: str, index: int) -> Json | None:
        """One attempt at the problem of a row, with its text and its tokens; None where it is not known."""
        if self._source is None or not 0 <= position < len(self):
            return None
        (row,) = self._table.rows([position], _COLUMNS)
        tries = self._attempts([row])[0].get(rung, [])
        chosen = next((one for one in tries if one.sample.index == index), None)
        if chosen is None:
            return None
        if chosen is _chosen(row, tries):
            return self._kept(row, chosen, self._measured([position], [row])[0])
        return self._tried(chosen)

    def _measured(self, positions: Sequence[int], rows: Sequence[Json]) -> list[Json]:
        """The rows of gap.parquet; empty where there is none."""
        places = {position: int(self._gap_at[position]) for position in positions}
        wanted = [place for place in places.values() if place >= 0]
        read = dict(zip(wanted, self._gap.rows(wanted, _LOGPROBS), strict=True)) if self._gap else {}
        found = [read.get(places[position], {}) for position in positions]
        return [one if one.get("id") == row["id"] else {} for one, row in zip(found, rows, strict=True)]

    def _attempts(self, rows: Sequence[Json]) -> list[Tries]:
        """By row and rung, the samples that it rests on, in the order of their indices."""
        assert self._source
        keys = [{rung: self._keys(row, rung) for rung in DRAWN} for row in rows]
        wanted = [key for of_row in keys for of_rung in of_row.values() for key in of_rung]
        samples, verdicts = self._source.store.samples(wanted), self._source.store.all_verdicts(wanted)
        found: list[Tries] = []
        for row, of_row in zip(rows, keys, strict=True):
            by = [graded_by(grader, row["answer"]) for grader in self._source.graders]
            tries: dict[str, list[Attempt]] = {}
            for rung, of_rung in of_row.items():
                stored = sorted((samples[key] for key in of_rung if key in samples), key=lambda sample: sample.index)
                # A row rests on its first samples: what else is stored was drawn beside them, or for another k.
                tries[rung] = [
                    Attempt(one, next((verdicts[one.key, g] for g in by if (one.key, g) in verdicts), _UNGRADED))
                    for one in stored[: row[f"samples_{rung}"]]
                ]
            found.append(tries)
        return found

    def _keys(self, row: Json, rung: Rung) -> list[str]:
        assert self._source
        drawn = row[f"samples_{rung}"]
        if not drawn:
            return []
        problem = Problem(row["id"], row["problem"], row["answer"], row["solution"], row["source"])
        indices = range(max(drawn, self._source.k))  # one that failed is no sample and leaves a gap
        keys = []
        for prompter in self._source.prompters:
            prompt = prompter.solve(problem.problem) if rung == "self" else prompter.guided(problem)
            ask = Ask(problem, rung, prompt, self._source.sampling, indices)
            keys += [self._source.stream.request(ask, index).key for index in indices]
        return keys

    def _told(self, position: int, row: Json, measured: Json, attempts: Tries | None) -> Json:
        kept = _chosen(row, (attempts or {}).get(row["rung"], ()))
        first = {rung: next(iter(tries), None) for rung, tries in (attempts or {}).items()}
        columns: Json = {"expert": self._expert(row, measured)}
        for rung in DRAWN:
            shown = first.get(rung)
            if rung == row["rung"]:
                columns[rung], first[rung] = self._kept(row, kept, measured), kept
            else:
                columns[rung] = self._tried(shown) if shown else None
        told = [
            {**_judged(one), "rung": rung, "kept": one is kept, "shown": one is first[rung]}
            for rung, tries in (attempts or {}).items()
            for one in tries
        ]
        return {
            "row": position,
            **{name: row[name] for name in ("id", "source", "problem", "answer", "rung")},
            **columns,
            "attempts": None if attempts is None else told,
            "counts": {rung: [row[f"correct_{rung}"], row[f"samples_{rung}"]] for rung in DRAWN},
            "verdicts": sorted({one["outcome"] for one in told} if told else _outcomes(row)),
        }

    def _expert(self, row: Json, measured: Json) -> Json:
        logprobs = measured.get("expert_logprobs")
        ids = None if logprobs is None else self._ids(row, expert_ids)
        response = {"text": row["solution"], "kept": row["rung"] == "expert"}
        return response | shades(row["solution"], ids, logprobs, self._tokenizer)

    def _kept(self, row: Json, attempt: Attempt | None, measured: Json) -> Json:
        response: Json = {"text": row["response"], "kept": True, "outcome": row["verdict"]}
        if attempt:
            response |= _judged(attempt)
        logprobs = measured.get("rewritten_logprobs")
        if logprobs is not None:
            return response | shades(row["response"], self._ids(row, kept_ids), logprobs, self._tokenizer)
        ids, logprobs = row["response_token_ids"], row["behaviour_logprobs"]
        return response | shades(row["response"], ids, logprobs, self._tokenizer) | _SAMPLED

    def _tried(self, attempt: Attempt) -> Json:
        completion = attempt.sample.completion
        response: Json = {"text": completion.text, "kept": False} | _judged(attempt)
        return response | shades(completion.text, completion.ids, completion.logprobs, self._tokenizer) | _SAMPLED

    def _ids(self, row: Json, make: Callable[[Json, ChatTokenizer], TrainRow]) -> Sequence[int] | None:
        """Token ids of a response as they were scored, or None where they cannot be told."""
        if self._source is None or self._tokenizer is None:
            return None
        messages = self._source.prompters[0].conversation(row["problem"], row["response"])
        try:
            return make({**row, "messages": messages}, self._tokenizer).response
        except DataError:
            return None


def shades(
    text: str, ids: Sequence[int] | None, logprobs: Sequence[float] | None, tokenizer: ChatTokenizer | None
) -> Json:
    """What shades a text by log-prob: their sum in nats and, where the tokens are known, of each its length in UTF-16
    units and its log-prob in hundredths below 0.

    A token of length 0 belongs to the character that the next one completes, or ``ends`` the response if it is the
    last. ``spelt`` is what the tokens say where that is not the text.
    """
    if logprobs is None:
        return {}
    total = sum(logprobs)
    told: Json = {"scored": len(logprobs), "logprob": round(total, 2) if math.isfinite(total) else None}
    if tokenizer is None or ids is None or len(ids) != len(logprobs):
        return told
    pieces = tokenizer.pieces(ids)
    said = "".join(pieces)
    told |= {
        "lengths": [_units(piece) for piece in pieces],
        "logprobs": [_hundredths(logprob) for logprob in logprobs],
        "ends": bool(ids) and ids[-1] in tokenizer.end_ids,
    }
    return told if said == text else told | {"spelt": said}


def _chosen(row: Json, tries: Sequence[Attempt]) -> Attempt | None:
    """The attempt that was kept: of several that say the same, the first, as the ladder chooses."""
    for one in tries:
        completion = one.sample.completion
        if one.correct and completion.text == row["response"] and row["response_token_ids"] in (
            None, list(completion.ids or ())
        ):  # fmt: skip
            return one
    return None


def _judged(attempt: Attempt) -> Json:
    verdict, completion = attempt.verdict, attempt.sample.completion
    return {
        "index": attempt.sample.index,
        "outcome": verdict.outcome,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "stop": completion.stop,
        "tokens": completion.tokens,
    }


def _outcomes(row: Json) -> set[str]:
    """What is known of the verdicts from the counts alone."""
    correct = row["correct_self"] + row["correct_guided"]
    others = row["samples_self"] + row["samples_guided"] - correct
    return {name for name, n in (("correct", correct), ("wrong", others)) if n}


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _hundredths(logprob: float) -> int:
    return min(max(round(-100 * logprob), 0), _UNLIKELY) if math.isfinite(logprob) else _UNLIKELY
