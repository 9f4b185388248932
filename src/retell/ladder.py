"""The ladder: keep a correct solution of the policy's own; else its retelling of the expert's; else the expert's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from retell.engines.base import Source
from retell.hashing import seed_of
from retell.leaks import find_leak
from retell.prompts import Prompter
from retell.recipe import Rewrite
from retell.records import Attempt, Problem, Prompt, Reject, Row, Rung, Sampling
from retell.rollout import Ask, Plan


@dataclass(frozen=True, slots=True)
class Rollout:
    """What one rung drew for one problem: its attempts in index order, of how many it may draw, and the one kept."""

    prompt: Prompt
    wanted: int
    attempts: tuple[Attempt, ...]
    kept: Attempt | None

    @property
    def failed(self) -> Attempt | None:
        """A request that the engine failed on."""
        return next((attempt for attempt in self.attempts if not attempt.drawn), None)

    @property
    def drawn(self) -> list[Attempt]:
        """The attempts that are samples."""
        return [attempt for attempt in self.attempts if attempt.drawn]


@dataclass(frozen=True, slots=True)
class Climb:
    """How one problem climbed the ladder: the row it gave, or why none, and every attempt on the way."""

    result: Row | Reject
    own: Rollout
    guided: Rollout | None
    leaked: int


class Ladder:
    """Turns problems into plans; whether a response is acceptable depends on that response alone."""

    def __init__(
        self, settings: Rewrite, prompter: Prompter, engine: Source, policy: str | None, max_length: int
    ) -> None:
        self._settings = settings
        self._prompter = prompter
        self._engine = engine
        self._policy = policy
        self._max_length = max_length

    @property
    def exhaustive(self) -> bool:
        """Whether every rung draws all that it may; recorded ones cost nothing and are no independent draws."""
        return self._settings.exhaustive or not self._engine.draws

    def climb(self, problem: Problem) -> Plan[Climb]:
        """The method for one problem: self, else guided, else expert."""
        solve = self._prompter.solve(problem.problem)
        own = yield from self._draw(problem, "self", solve, solve)
        guided = None
        if own.kept is None and not own.failed and self._engine.draws:
            guided = yield from self._draw(problem, "guided", self._prompter.guided(problem), solve)
        leaked = sum(attempt.correct and self._leaks(problem, attempt) for attempt in guided.attempts) if guided else 0
        return Climb(self._result(problem, own, guided), own, guided, leaked)

    def _draw(self, problem: Problem, rung: Rung, prompt: Prompt, solve: Prompt) -> Plan[Rollout]:
        """One rung: wave after wave, until one has a sample that is accepted.

        Samples are independent and each is accepted or not by itself, so the accepted one of lowest index has the
        distribution of one chosen at random among all accepted. (The first to finish would not: it favours the short.)
        """
        sampling = Sampling(self._settings.temperature, self._settings.top_p, self._settings.max_tokens)
        samples = self._settings.k if self._engine.draws else len(problem.candidates or ())
        if self._engine.context is not None and len(prompt.ids or ()) >= self._engine.context:
            samples = 0  # a prompt that fills the context leaves no room to answer
        attempts: list[Attempt] = []
        kept = None
        for wave in waves(samples, self.exhaustive):
            attempts += yield Ask(problem, rung, prompt, sampling, wave)
            # What comes after a failed request may not be the first that is accepted.
            certain = list(takewhile(lambda attempt: attempt.drawn, attempts))
            kept = self._choose(problem, rung, solve, certain)
            if len(certain) < len(attempts) or (kept and not self.exhaustive):
                break
        return Rollout(prompt, samples, tuple(attempts), kept)

    def _result(self, problem: Problem, own: Rollout, guided: Rollout | None) -> Row | Reject:
        """The row; none where the engine failed: a request that nobody answered must not pass for a wrong answer."""
        last = guided or own
        if last.kept is None and last.failed:
            return reject(problem, "engine_failed", last.failed.verdict.reason)
        rung: Rung = "expert" if last.kept is None else "guided" if guided else "self"
        return self._row(problem, rung, last.kept, own.drawn, guided.drawn if guided else [])

    def _choose(self, problem: Problem, rung: Rung, solve: Prompt, attempts: Sequence[Attempt]) -> Attempt | None:
        accepted = [attempt for attempt in attempts if self._accepts(problem, rung, solve, attempt)]
        if not accepted:
            return None
        if self._engine.draws:
            return accepted[0]  # samples are exchangeable, so the one of lowest index is a random one
        return accepted[seed_of("choose", self._settings.seed, problem.id, rung, 0, 0) % len(accepted)]

    def _accepts(self, problem: Problem, rung: Rung, solve: Prompt, attempt: Attempt) -> bool:
        if not attempt.correct or not self._fits(problem, solve, attempt):
            return False
        return not (rung == "guided" and self._leaks(problem, attempt))

    def _fits(self, problem: Problem, solve: Prompt, attempt: Attempt) -> bool:
        """Whether it can be trained on; where no tokenizer is at hand, nobody knows that it cannot."""
        completion = attempt.sample.completion
        if solve.ids is None:
            return True
        if completion.ids is not None:
            return len(solve.ids) + len(completion.ids) <= self._max_length
        length = self._prompter.training_length(problem.problem, completion.text)
        return length is not None and length <= self._max_length

    def _leaks(self, problem: Problem, attempt: Attempt) -> bool:
        return find_leak(attempt.sample.completion.text, problem, self._settings.max_copied) is not None

    def _row(
        self, problem: Problem, rung: Rung, kept: Attempt | None, mine: list[Attempt], retold: list[Attempt]
    ) -> Row:
        completion = kept.sample.completion if kept else None
        response = completion.text if completion else problem.solution
        return Row(
            id=problem.id,
            source=problem.source,
            problem=problem.problem,
            answer=problem.answer,
            solution=problem.solution,
            rung=rung,
            response=response,
            messages=self._prompter.conversation(problem.problem, response),
            response_token_ids=completion.ids if completion else None,
            behaviour_logprobs=completion.logprobs if completion else None,
            samples_self=len(mine),
            correct_self=sum(attempt.correct for attempt in mine),
            samples_guided=len(retold),
            correct_guided=sum(attempt.correct for attempt in retold),
            verdict=kept.verdict.outcome if kept else None,
            policy=self._policy,
            seed=self._settings.seed,
        )


def waves(samples: int, exhaustive: bool) -> Iterator[range]:
    """The indices to draw together: all at once, or 1, 1, 2, 4, 8 …

    Growing waves keep the rounds few, and less than half of what is drawn comes after the first accepted sample.
    """
    start, end = 0, samples if exhaustive else 1
    while start < samples:
        yield range(start, min(end, samples))
        start, end = end, 2 * end


def reject(problem: Problem, reason: str, detail: str) -> Reject:
    """A problem that gives no row."""
    return Reject(f"problem {problem.id}", reason, detail, problem.id, problem.problem)
