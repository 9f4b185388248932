"""avg@k on benchmarks: k samples of every problem, each graded and scored."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retell.engines.base import room_for
from retell.errors import DataError, EngineError
from retell.executor import Executor, Job
from retell.graders.base import Case
from retell.graders.pool import GraderPool
from retell.graders.qwen import QwenGrader
from retell.problems import Loaded
from retell.progress import progress
from retell.prompts import Prompter
from retell.recipe import Evaluate
from retell.records import Problem, Sampling
from retell.rollout import Ask, Plan
from retell.runfolder import RunFolder
from retell.scores import Answered, average, ballot, score


def evaluate(
    name: str,
    benchmarks: Mapping[str, Loaded],
    prompter: Prompter,
    settings: Evaluate,
    executor: Executor,
    graders: GraderPool,
    folder: RunFolder,
) -> dict[str, Any]:
    """Evaluates one model; writes eval/NAME.parquet (every response) and eval/NAME.json, and returns the latter.

    All k samples are drawn, whatever their verdicts.

    Raises:
        DataError: a prompt fills the model's context.
        EngineError: the engine gave no response at all on a benchmark.
    """
    todo = [(benchmark, problem) for benchmark, loaded in benchmarks.items() for problem in loaded.problems]
    room = {
        problem.problem: room_for(prompter.solve(problem.problem), settings.max_tokens, executor.context)
        for _, problem in todo
    }
    _check_room(name, todo, room, executor.context)

    def jobs() -> Iterator[Job[Answered]]:
        for benchmark, problem in todo:
            yield Job(f"{benchmark}/{problem.id}", partial(answer, prompter, settings, benchmark, problem))

    with progress(f"evaluating {name}", len(todo), executor.figures, executor.seconds_left) as tick:
        for done in executor.draw(jobs(), lambda _: None):
            tick(done)
    answered = {(one.benchmark, one.problem.id): one for one in executor.settle(jobs())}
    by_benchmark = {
        benchmark: [answered[benchmark, problem.id] for problem in loaded.problems]
        for benchmark, loaded in benchmarks.items()
    }
    for benchmark, problems in by_benchmark.items():
        if not any(one.drawn for one in problems):
            why = problems[0].attempts[0].verdict.reason
            raise EngineError(f"{name} has no response on {benchmark}: {why}; mend the cause and start again")
    rounded = settings.grader == QwenGrader.spec
    scores = {
        benchmark: score(problems, _won(problems, graders), rounded=rounded)
        | {"shortened": sum(room[one.problem.problem] < settings.max_tokens for one in problems)}
        for benchmark, problems in by_benchmark.items()
    }
    summary = {
        "model": name,
        "k": settings.k,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
        "prompt": prompter.solve_template.text,
        "system": prompter.system,
        "context": executor.context,
        "grader": graders.name,
        "rounded": rounded,
        "benchmarks": scores,
        "rejected": {benchmark: len(loaded.rejected) for benchmark, loaded in benchmarks.items()},
        "failed": sum(not attempt.drawn for one in answered.values() for attempt in one.attempts),
        "faults": dict(executor.faults),
        **average(scores),
    }
    _write_responses(folder, name, [one for problems in by_benchmark.values() for one in problems])
    folder.write_json(f"eval/{name}.json", summary)
    return summary


def answer(prompter: Prompter, settings: Evaluate, benchmark: str, problem: Problem) -> Plan[Answered]:
    """The k samples of one problem."""
    sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens)
    prompt = prompter.solve(problem.problem)
    attempts = yield Ask(problem, benchmark, prompt, sampling, range(settings.k))
    return Answered(benchmark, problem, tuple(attempts))


def _check_room(name: str, todo: Sequence[tuple[str, Problem]], room: Mapping[str, int], context: int | None) -> None:
    """Raises:
    DataError: the context has no room for an answer to some problem.
    """
    full = [(benchmark, problem.id) for benchmark, problem in todo if room[problem.problem] < 1]
    if full:
        benchmark, id = full[0]
        raise DataError(
            f"{benchmark}: the prompt of problem {id} fills the context of {name}, {context:,} tokens, and leaves no "
            f"room for an answer ({len(full)} such problems): take a model with a longer context"
        )


def _won(answered: Sequence[Answered], graders: GraderPool) -> list[float | None]:
    """The chance of each problem's majority vote, wrong answers being compared with one another where it matters; None
    where the grader does not tell which answers it read.
    """
    ballots = [ballot(one) for one in answered]
    pairs: dict[str, tuple[int, str, str]] = {}
    for number, (one, votes) in enumerate(zip(answered, ballots, strict=True)):
        for mine, theirs in combinations(votes.wrong, 2) if votes.open else ():
            ticket = str(len(pairs))
            pairs[ticket] = number, mine, theirs
            response = votes.wrong[mine][0].sample.completion.text
            graders.submit(ticket, Case(one.problem.problem, response, theirs, one.benchmark))
    classes = [{text: frozenset([text]) for text in votes.wrong} for votes in ballots]
    with progress("comparing answers", len(pairs)) as tick:
        compared = 0
        while graders.pending:
            for ticket, verdict in graders.collect(wait=True):
                compared += 1
                if verdict.outcome == "correct":
                    number, mine, theirs = pairs[ticket]
                    merged = classes[number][mine] | classes[number][theirs]
                    classes[number].update(dict.fromkeys(merged, merged))
            tick(compared)
    return [
        votes.won([list(texts) for texts in set(found.values())]) if votes.known else None
        for votes, found in zip(ballots, classes, strict=True)
    ]


def _write_responses(folder: RunFolder, name: str, answered: Sequence[Answered]) -> None:
    rows = [
        {
            "benchmark": one.benchmark,
            "id": one.problem.id,
            "problem": one.problem.problem,
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
