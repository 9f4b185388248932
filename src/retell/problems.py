"""Files and hub datasets → problems; every row that cannot be used is kept with its reason."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop, nsmallest
from itertools import islice
from pathlib import Path
from typing import Any

from retell.answers import gold_of_solution
from retell.errors import DataError, MissingExtraError, first_line
from retell.hashing import digest, digest_of_all
from retell.problemtable import ProblemTable, write_problems
from retell.recipe import Data, located
from retell.records import Problem, Reject
from retell.tables import read_rows as read_table

SUFFIXES = (".jsonl", ".parquet")
_UNNAMED = "no data named: give --data FILE, a folder, or a Hugging Face dataset id"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read: rows in = problems + rejected. ``digest`` identifies the problems' content."""

    problems: Sequence[Problem]
    rejected: tuple[Reject, ...]
    digest: str


def load_problems(data: Data, *, needs_solution: bool = True, spool: Path | None = None) -> Loaded:
    """Reads problems from a file, a folder of files or a hub dataset; with ``spool`` they are kept there.

    The gold is ``answer_field``, or else ``answer_raw``, else ``answer``, else the solution's last box or ``####``. Ids
    that repeat, given or derived, are made distinct. Benchmarks need no solution.

    Raises:
        DataError: the data cannot be read, is empty, or no row of it can be used.
    """
    if not data.path:
        raise DataError(_UNNAMED)
    rejected: list[Reject] = []
    usable = _usable(data, needs_solution, rejected)
    problems: Sequence[Problem]
    if spool is None:
        problems = tuple(usable)
    else:
        write_problems(spool, usable)
        problems = ProblemTable(spool)
    if not problems:
        raise DataError(_nothing_left(data.path, rejected))
    return loaded(problems, rejected)


def _usable(data: Data, needs_solution: bool, rejected: list[Reject]) -> Iterator[Problem]:
    """The problems with distinct ids; rows that cannot be used are added to ``rejected``."""
    taken: Counter[str] = Counter()
    rows = islice(read_rows(data), data.limit)
    items = (_problem(where, row, data, needs_solution) for where, row in rows)
    for item in items if data.sample is None else _sampled(items, data.sample, data.sample_seed):
        if isinstance(item, Reject):
            rejected.append(item)
        else:
            yield _distinct(item, taken)


def loaded(problems: Sequence[Problem], rejected: Sequence[Reject]) -> Loaded:
    """Both, with the digest of the problems' content."""
    return Loaded(problems, tuple(rejected), digest_of_all(map(_content, problems)))


@dataclass(frozen=True, slots=True)
class Part:
    """Some problems of a data source, how many it has, and of all of them the rejects and the digest of a `Loaded`."""

    problems: tuple[Problem, ...]
    everything: int
    rejected: tuple[Reject, ...]
    digest: str


def load_part(data: Data, size: int) -> Part:
    """Reads all problems and holds ``size`` of them, or all if there are fewer, in their order; which ones depends on
    their ids and the seed, as with ``sample``. Each has the id that it has among all.

    Raises:
        DataError: as `load_problems`.
    """
    if not data.path:
        raise DataError(_UNNAMED)
    rejected: list[Reject] = []
    held: list[tuple[int, int, Problem]] = []
    everything = 0

    def contents() -> Iterator[object]:
        nonlocal everything
        for problem in _usable(data, True, rejected):
            everything += 1
            one = -int(digest("sample", data.sample_seed, problem.id), 16), -everything, problem
            (heappush if len(held) < size else heappushpop)(held, one)
            yield _content(problem)

    of_all = digest_of_all(contents())
    if not everything:
        raise DataError(_nothing_left(data.path, rejected))
    ordered = sorted(held, key=lambda one: -one[1])
    return Part(tuple(problem for _, _, problem in ordered), everything, tuple(rejected), of_all)


def _sampled(items: Iterable[Problem | Reject], size: int, seed: int) -> list[Problem | Reject]:
    """``size`` of the items, in their order; which ones depends on their content, not on where they stand."""

    def keyed() -> Iterator[tuple[str, int, Problem | Reject]]:
        for number, item in enumerate(items):
            what = item.id if isinstance(item, Problem) else digest(item.reason, item.id, item.problem, item.detail)
            yield digest("sample", seed, what), number, item

    chosen = nsmallest(size, keyed(), key=lambda one: one[:2])  # holds so many and no more
    return [item for _, _, item in sorted(chosen, key=lambda one: one[1])]


def read_rows(data: Data) -> Iterator[tuple[str, dict[str, Any] | Reject]]:
    """Yields (where it stands, row or reject) of every row of a data source.

    Raises:
        DataError: the source is missing or unreadable.
    """
    assert data.path
    copy = copy_of(data.data_dir, [data.path])
    path = copy or Path(located(data.path))
    if os.path.isdir(path):  # unlike Path's, never raises
        inside = sorted(path.iterdir())
        files = [file for file in inside if file.suffix in SUFFIXES]
        if (path / "README.md") in inside or (not files and any(map(os.path.isdir, inside))):  # as the hub has it
            yield from _read_dataset(str(path), data)
            return
        if not files:
            raise DataError(f"the folder {path} holds no .jsonl or .parquet file")
    elif os.path.isfile(path):
        files = [path]
    elif path.suffix in SUFFIXES or path.is_absolute() or str(path).count("/") > 1:
        raise DataError(f"there is no file {path}: check the path")
    elif data.data_dir:
        raise DataError(f"there is no copy of {data.path} in {data.data_dir}: put one there, or leave out data_dir")
    else:
        yield from _read_dataset(data.path, data)
        return
    for file in files:
        yield from _read_file(file)


def _read_file(path: Path) -> Iterator[tuple[str, dict[str, Any] | Reject]]:
    if path.suffix not in SUFFIXES:
        raise DataError(f"cannot read {path}: data files end in .jsonl or .parquet")
    try:
        if path.suffix == ".parquet":
            for number, row in enumerate(read_table(path), 1):
                yield f"{path.name}:{number}", row
        else:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{path.name}:{number}", _parse_line(f"{path.name}:{number}", line)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    except ValueError as error:  # pyarrow's errors are ValueErrors
        raise DataError(f"cannot read {path}: it is no Parquet file ({first_line(error)})") from error


def _parse_line(where: str, line: bytes) -> dict[str, Any] | Reject:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Reject(where, "broken_line", f"not JSON: {error}")
    return row if isinstance(row, dict) else Reject(where, "broken_line", f"a {type(row).__name__}, not an object")


def copy_of(folder: str | None, names: Iterable[str]) -> Path | None:
    """The copy in a folder of what goes by one of these names there, if there is any."""
    root = Path(located(folder)) if folder else None
    return next((root / name for name in names if root and (root / name).exists()), None)


def _read_dataset(place: str, data: Data) -> Iterator[tuple[str, dict[str, Any]]]:
    """A dataset of the hub, or a folder laid out like one, by the library that knows the layouts."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "hub") from error
    datasets.utils.logging.disable_progress_bar()
    try:
        table = datasets.load_dataset(place, data.config, split=data.split)
    except Exception as error:
        raise DataError(_unreachable(place, data, error)) from error
    for number, row in enumerate(table, 1):
        yield f"{data.path}:{number}", dict(row)


def _unreachable(place: str, data: Data, error: Exception) -> str:
    what = f"{data.path}, split {data.split}" + (f", config {data.config}" if data.config else "")
    if os.path.isdir(place):
        return f"cannot read {what} in {place}: {first_line(error)}; check --split and --config"
    reason = first_line(error).rstrip(".")
    if "gated" in str(error).lower():
        reason = f"it is gated: accept its terms on the hub and log in (`hf auth login`); {reason}"
    elif isinstance(error, ConnectionError | OSError) and not isinstance(error, FileNotFoundError):
        reason = f"the hub cannot be reached: {reason}"
    return (
        f"cannot get the data {what}: there is no such file here, and the hub does not give it: {reason}. With a copy: "
        f"`hf download {data.path} --repo-type dataset --local-dir DIR/{data.path}`, then --data-dir DIR"
    )


def _problem(where: str, row: dict[str, Any] | Reject, data: Data, needs_solution: bool) -> Problem | Reject:
    if isinstance(row, Reject):
        return row
    problem, solution = _text(row.get(data.problem_field)), _text(row.get(data.solution_field))
    given_id = _text(row.get("id"))
    messages = row.get(data.messages_field)
    if not problem and messages is not None:
        turns = _single_turn(messages)
        if turns is None:
            detail = f"{data.messages_field} is not one user turn and one assistant turn"
            return Reject(where, "bad_messages", detail, given_id)
        problem, solution = turns
    if not problem:
        detail = f"no text under {data.problem_field!r}; the row has {', '.join(map(str, row)) or 'nothing'}"
        return Reject(where, "missing_problem", detail, given_id)
    if not solution and needs_solution:
        detail = f"no text under {data.solution_field!r}; the row has {', '.join(map(str, row))}"
        return Reject(where, "missing_solution", detail, given_id, problem)
    answer = _gold(row, solution, data.answer_field, data.solution_field)
    if not answer:
        named = f"no text under {data.answer_field!r}" if data.answer_field else "no answer, no box and no ####"
        return Reject(where, "no_gold", named, given_id, problem)
    candidates = row.get("candidates")
    if candidates is not None and not (isinstance(candidates, list) and all(isinstance(c, str) for c in candidates)):
        return Reject(where, "bad_candidates", "candidates is not a list of texts", given_id, problem)
    return Problem(
        id=given_id or digest("problem", problem, solution),
        problem=problem,
        answer=answer,
        solution=solution,
        source=_text(row.get("source")),
        candidates=tuple(map(_valid, candidates)) if candidates is not None else None,
    )


def _gold(row: dict[str, Any], solution: str, field: str | None, solution_field: str) -> str:
    if field:
        value = row.get(field)
        return ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)
    fields = [name for name in ("answer_raw", "answer") if name != solution_field]  # GSM8K's answers are solutions
    return next((text for name in fields if (text := _text(row.get(name)))), "") or gold_of_solution(solution) or ""


def _single_turn(messages: Any) -> tuple[str, str] | None:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return None
    turns = [message for message in messages if message.get("role") != "system"]
    if [turn.get("role") for turn in turns] != ["user", "assistant"]:
        return None
    return _text(turns[0].get("content")), _text(turns[1].get("content"))


def _text(value: Any) -> str:
    """A cell as text; numbers are written out, everything else that is no text counts as missing."""
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _valid(value).strip() if isinstance(value, str) else ""


def _valid(text: str) -> str:
    """A lone surrogate is valid JSON and no valid text: it could be neither stored nor tokenised."""
    return text.encode("utf-8", "replace").decode()


def _distinct(problem: Problem, taken: Counter[str]) -> Problem:
    taken[problem.id] += 1
    if taken[problem.id] == 1:
        return problem
    name = f"{problem.id}~{taken[problem.id]}"
    while taken[name]:
        name += "~"
    taken[name] += 1
    return Problem(name, problem.problem, problem.answer, problem.solution, problem.source, problem.candidates)


def _content(problem: Problem) -> object:
    return problem.id, problem.problem, problem.answer, problem.solution, problem.candidates


def _nothing_left(path: str, rejected: list[Reject]) -> str:
    if not rejected:
        return f"{path} is empty: it holds no rows"
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r.reason for r in rejected).most_common())
    return f"no row of {path} can be used: {reasons}; the first, {rejected[0].where}: {rejected[0].detail}"
