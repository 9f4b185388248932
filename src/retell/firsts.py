"""Where the base's own samples are, whatever came of them: those of index 0, which are always drawn.

What was kept is no sample of the policy but of its accepted responses; the first sample of every problem is one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retell.prompts import Prompter
from retell.recipe import Rewrite
from retell.records import Problem, Prompt, Sampling
from retell.rollout import Ask, Stream
from retell.runfolder import RunFolder
from retell.tables import count_rows, read_rows
from retell.tokens import ChatTokenizer

_PROBLEM = ("id", "problem", "answer")


@dataclass(frozen=True, slots=True)
class Group:
    """Prompts that the base answered, one in each of ``number`` rows.

    ``ask_of`` makes of a row what was asked for, and ``stream`` is that of the stage that asked.
    """

    rows: Iterable[Mapping[str, Any]]
    number: int
    ask_of: Callable[[Mapping[str, Any]], Ask]
    stream: Stream


def of_rewriting(
    rewritten: Path, settings: Rewrite, base: str, drew: str | None, tokenizer: ChatTokenizer
) -> Group | str:
    """The first samples of the rung `self` for the rows of a rewritten dataset, or why they are not the base's own.

    ``base`` is the base's fingerprint, and ``drew`` names what drew the samples.
    """
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens)
    if drew is None:
        return "recorded responses are no samples of the policy"
    if drew != base:
        return f"drawn by {drew}, of which nobody knows that it is the base"
    if why := _unfit(sampling):
        return why

    def ask_of(row: Mapping[str, Any]) -> Ask:
        messages = tuple(row["messages"][:-1])
        prompt = Prompt(messages, tokenizer.prompt_ids(messages))
        return Ask(_problem(row), "self", prompt, sampling, range(1))

    rows = read_rows(rewritten, [*_PROBLEM, "messages"])
    return Group(rows, count_rows(rewritten), ask_of, Stream("rewrite", base, settings.seed))


def of_evaluation(folder: RunFolder, prompter: Prompter, base: str) -> dict[str, Group | str]:
    """The first samples of every benchmark on which the base was evaluated, by its name, or why there are none.

    ``prompter`` makes the prompts of evaluation as the recipe has them now.
    """
    told = folder.read_json("eval/base.json") if "evaluate/base" in folder.stages() else None
    if not told:
        return {"old": f"the base was not evaluated: retell evaluate --benchmark … --out {folder.path}"}
    sampling = Sampling(told["temperature"], told["top_p"], told["max_tokens"])
    why = _unfit(sampling)
    if (told["prompt"], told["system"]) != (prompter.solve_template.text, prompter.system):
        why = "the base was evaluated with another prompt than the recipe has now: evaluate it again"
    stream = Stream("evaluate", base, told["seed"])

    def ask_of(row: Mapping[str, Any]) -> Ask:
        return Ask(_problem(row), row["benchmark"], prompter.solve(row["problem"]), sampling, range(1))

    table = folder.path / "eval/base.parquet"
    return {
        f"old/{name}": why or Group(_firsts(table, name), scores["n"], ask_of, stream)
        for name, scores in told["benchmarks"].items()
    }


def _firsts(table: Path, benchmark: str) -> Iterator[Mapping[str, Any]]:
    rows = read_rows(table, [*_PROBLEM, "benchmark", "index"])
    return (row for row in rows if row["index"] == 0 and row["benchmark"] == benchmark)


def _problem(row: Mapping[str, Any]) -> Problem:
    return Problem(row["id"], row["problem"], row["answer"], solution="", source="")


def _unfit(sampling: Sampling) -> str | None:
    """Why samples drawn like this are not the policy's own, if so."""
    if sampling.temperature == 1 and sampling.top_p == 1:
        return None
    return (
        f"drawn at temperature {sampling.temperature:g} and top_p {sampling.top_p:g}: only at 1 and 1 are samples the "
        "policy's own"
    )
