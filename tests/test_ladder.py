import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import retell
from retell.engines.scripted import ScriptedEngine
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.journal import Journal
from retell.ladder import Climb, Ladder, waves
from retell.meter import Meter
from retell.prompts import Prompter
from retell.recipe import Policy, Rewrite
from retell.records import Attempt, Completion, Problem, Prompt, Reject, Request, Row, Rung
from retell.rollout import Stream, run_plans
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
K = 8
PROBLEMS = 2000
RIGHT = {"\\boxed{7}": 0.12, "so \\boxed{7}": 0.1, "after a long and winding road: \\boxed{7}": 0.14}
WRONG = {"\\boxed{8}": 0.34, "I get lost on a very long road and say \\boxed{9} in the end": 0.3}
ACCEPTED = sum(RIGHT.values())


def answer(request: Request, luck: random.Random) -> str:
    """Draws from a known distribution in which how long a response takes says whether it is right."""
    said = RIGHT | WRONG
    return luck.choices(list(said), list(said.values()))[0]


class FirstToFinish(Ladder):
    """The tempting mistake: all at once, and whichever right one is there first."""

    def _choose(self, problem: Problem, rung: Rung, solve: Prompt, attempts: Sequence[Attempt]) -> Attempt | None:
        right = [attempt for attempt in attempts if attempt.correct]
        return min(right, key=lambda attempt: steps(attempt.sample.completion), default=None)


def steps(completion: Completion) -> int:
    return len(completion.text)


def kept(path: Path, seed: int, ladder: type[Ladder] = Ladder, *, exhaustive: bool = False) -> Counter[str]:
    """The responses that are kept for 2,000 problems."""
    engine = ScriptedEngine(answer, batch=64, steps=steps)
    settings = Rewrite(k=K, seed=seed, exhaustive=exhaustive)
    climber = ladder(settings, Prompter(Policy(), None, "guided"), engine, "scripted", 2048)
    rows = [Problem(f"p{i}", "What is 3 + 4?", "7", "It is \\boxed{7}.", "test") for i in range(PROBLEMS)]
    stream = Stream("rewrite", "scripted", seed)
    with Journal(path / f"{seed}.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        plans = (climber.climb(problem) for problem in rows)
        results = [climb.result for climb in run_plans(plans, engine, graders, journal, stream, Meter())]
    return Counter(row.response for row in results if isinstance(row, Row) and row.rung != "expert")


def p_value(counts: Counter[str]) -> float:
    """Of the chi-square test against the known conditional distribution: with three responses, exp(-χ²/2)."""
    assert counts.keys() <= RIGHT.keys() and len(RIGHT) == 3
    total = sum(counts.values())
    expected = {text: total * p / ACCEPTED for text, p in RIGHT.items()}
    return math.exp(-sum((counts[text] - n) ** 2 / n for text, n in expected.items()) / 2)


def test_what_is_kept_has_the_distribution_of_an_accepted_sample(tmp_path: Path) -> None:
    counts = {seed: kept(tmp_path, seed) for seed in range(20)}
    # A rung fails with probability 0.64^8; so both do for one problem in a thousand.
    assert all(sum(found.values()) > 0.99 * PROBLEMS for found in counts.values())
    assert min(p_value(found) for found in counts.values()) > 1e-4
    assert p_value(sum(counts.values(), Counter())) > 1e-4


def test_the_first_to_finish_would_be_noticed(tmp_path: Path) -> None:
    for seed in range(3):
        assert p_value(kept(tmp_path, seed, FirstToFinish, exhaustive=True)) < 1e-6


@pytest.mark.parametrize(
    ("samples", "expected"),
    [(0, []), (1, [(0, 1)]), (5, [(0, 1), (1, 2), (2, 4), (4, 5)]), (8, [(0, 1), (1, 2), (2, 4), (4, 8)])],
)
def test_waves_double_and_end_with_the_last_sample(samples: int, expected: list[tuple[int, int]]) -> None:
    assert [(wave.start, wave.stop) for wave in waves(samples, False)] == expected
    assert [index for wave in waves(samples, True) for index in wave] == list(range(samples))


@pytest.mark.parametrize("first", range(100))
def test_less_than_half_of_what_is_drawn_comes_after_the_first_accepted(first: int) -> None:
    drawn = next(wave.stop for wave in waves(128, False) if first in wave)
    assert 2 * (drawn - (first + 1)) < drawn


def climbed(path: Path, engine: ScriptedEngine, problem: Problem, max_length: int = 2048) -> Climb:
    """One problem's way up, with the tiny policy's tokenizer."""
    tokenizer = ChatTokenizer(TINY / "policy")
    prompter = Prompter(Policy(), tokenizer, str(TINY / "guided.txt"))
    ladder = Ladder(Rewrite(k=4), prompter, engine, "scripted", max_length)
    with Journal(path / "journal.sqlite") as journal, GraderPool(MathGrader(), 1) as graders:
        plans = iter([ladder.climb(problem)])
        (climb,) = run_plans(plans, engine, graders, journal, Stream("rewrite", "scripted", 0), Meter())
    return climb


SEVEN = Problem("p", "What is 3 + 4?", "7", "It is \\boxed{7}.", "test")


def test_a_prompt_that_fills_the_context_draws_nothing_on_its_rung(tmp_path: Path) -> None:
    prompter = Prompter(Policy(), ChatTokenizer(TINY / "policy"))
    engine = ScriptedEngine(lambda request, _: "\\boxed{8}")
    engine.context = len(prompter.solve(SEVEN.problem).ids or ()) + 1
    climb = climbed(tmp_path, engine, SEVEN)
    assert isinstance(climb.result, Row) and climb.result.rung == "expert"
    assert (climb.result.samples_self, climb.result.samples_guided) == (4, 0)


def test_a_response_without_token_ids_that_is_too_long_to_train_on_is_passed_over(tmp_path: Path) -> None:
    long = "well " * 300 + "\\boxed{7}"
    engine = ScriptedEngine(lambda request, _: "so \\boxed{7}" if request.index else long)
    climb = climbed(tmp_path, engine, SEVEN, max_length=100)
    assert isinstance(climb.result, Row)
    assert (climb.result.rung, climb.result.response) == ("self", "so \\boxed{7}")


def test_nothing_after_a_failed_request_is_kept_and_what_is_before_it_is(tmp_path: Path) -> None:
    def fails_at(number: int) -> ScriptedEngine:
        failed = Completion("", None, None, "error", error="timeout")
        right = number - 1 if number == 3 else number + 1
        return ScriptedEngine(
            lambda request, _: failed if request.index == number else f"\\boxed{{{7 if request.index == right else 8}}}"
        )

    assert isinstance(climbed(tmp_path, fails_at(2), SEVEN).result, Reject)
    (tmp_path / "journal.sqlite").unlink()
    kept = climbed(tmp_path, fails_at(3), SEVEN)
    assert isinstance(kept.result, Row) and kept.own.kept and kept.own.kept.sample.index == 2
