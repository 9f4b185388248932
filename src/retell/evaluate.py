"""avg@k on benchmarks: k samples of every problem, each graded, with the standard error over problems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retell.engines.base import Engine
from retell.errors import EngineError
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.meter import Meter
from retell.problems import Loaded
from retell.progress import progress
from retell.prompts import Prompter
from retell.recipe import Evaluate
from retell.records import Attempt, Problem, Sampling
from retell.rollout import Ask, Plan, Stream, run_plans
from retell.runfolder import RunFolder
from retell.stats import standard_error


@dataclass(frozen=True, slots=True)
class Answered:
    """One problem of a benchmark with its k attempts."""

    benchmark: str
    problem: Problem
    attempts: tuple[Attempt, ...]


def evaluate(
    name: str,
    benchmarks: Mapping[str, Loaded],
    prompter: Prompter,
    settings: Evaluate,
    engine: Engine,
    graders: GraderPool,
    journal: Journal,
    stream: Stream,
    meter: Meter,
    folder: RunFolder,
) -> dict[str, Any]:
    """Evaluates one model; writes eval/NAME.parquet (every response) and eval/NAME.json, and returns the latter.

    All k samples are drawn, whatever their verdicts.
    """

    def plan(benchmark: str, problem: Problem) -> Plan[Answered]:
        prompt = prompter.solve(problem.problem)
        sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens)
        attempts = yield Ask(problem, benchmark, prompt, sampling, range(settings.k))
        return Answered(benchmark, problem, tuple(attempts))

    todo = [(benchmark, problem) for benchmark, loaded in benchmarks.items() for problem in loaded.problems]
    answered: dict[tuple[str, str], Answered] = {}
    with progress(f"evaluating {name}", len(todo), meter.figures, meter.seconds_left) as tick:
        for one in run_plans((plan(*item) for item in todo), engine, graders, journal, stream, meter):
            answered[one.benchmark, one.problem.id] = one
            tick(len(answered))
    ordered = [answered[benchmark, problem.id] for benchmark, problem in todo]
    by_benchmark = {benchmark: [one for one in ordered if one.benchmark == benchmark] for benchmark in benchmarks}
    for benchmark, problems in by_benchmark.items():
        if not any(attempt.drawn for one in problems for attempt in one.attempts):
            why = problems[0].attempts[0].verdict.reason
            raise EngineError(f"{name} has no response on {benchmark}: {why}; mend the cause and start again")
    scores = {benchmark: score(problems) for benchmark, problems in by_benchmark.items()}
    summary = {
        "model": name,
        "k": settings.k,
        "temperature": settings.temperature,
        "grader": graders.name,
        "benchmarks": scores,
        "rejected": {benchmark: len(loaded.rejected) for benchmark, loaded in benchmarks.items()},
        "failed": meter.failed,
        "faults": dict(engine.faults),
        **average(scores),
    }
    _write_responses(folder, name, ordered)
    folder.write_json(f"eval/{name}.json", summary)
    return summary


def score(problems: Sequence[Answered]) -> dict[str, Any]:
    """avg@k, its standard error over problems, and pass@k in percent; undecided responses score 0.

    ``undecided`` and ``truncated`` are percentages of the responses; avg_at_k + undecided bounds avg@k from above. What
    the engine failed on is no response: it is left out, and ``failed`` counts it.
    """
    drawn = [[attempt for attempt in one.attempts if attempt.drawn] for one in problems]
    attempts = [attempt for ones in drawn for attempt in ones]
    means = [100 * fmean(attempt.correct for attempt in ones) for ones in drawn if ones]
    return {
        "avg_at_k": fmean(means),
        "stderr": standard_error(means),
        "pass_at_k": 100 * fmean(mean > 0 for mean in means),
        "n": len(means),
        "failed": sum(len(one.attempts) for one in problems) - len(attempts),
        "undecided": 100 * fmean(attempt.verdict.outcome == "undecided" for attempt in attempts),
        "truncated": 100 * fmean(attempt.sample.completion.stop == "length" for attempt in attempts),
    }


def average(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """The unweighted mean of the benchmarks, and its standard error, benchmarks being independent samples."""
    errors = [one["stderr"] for one in scores.values()]
    known = all(error is not None for error in errors)
    return {
        "average": fmean(one["avg_at_k"] for one in scores.values()),
        "average_stderr": sum(error**2 for error in errors) ** 0.5 / len(errors) if known else None,
    }


def _write_responses(folder: RunFolder, name: str, answered: Sequence[Answered]) -> None:
    rows = [
        {
            "benchmark": one.benchmark,
            "id": one.problem.id,
            "index": attempt.sample.index,
            "response": attempt.sample.completion.text,
            "answer": one.problem.answer,
            "verdict": attempt.verdict.outcome,
            "extracted": attempt.verdict.extracted,
            "reason": attempt.verdict.reason,
            "stop": attempt.sample.completion.stop,
            "tokens": attempt.sample.completion.tokens,
        }
        for one in answered
        for attempt in one.attempts
        if attempt.drawn
    ]
    with folder.replacing(f"eval/{name}.parquet") as path:
        pq.write_table(pa.Table.from_pylist(rows), path)
