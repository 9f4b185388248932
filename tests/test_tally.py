import random
from fractions import Fraction

import pytest

from retell.ladder import Climb, Rollout, waves
from retell.prompts import Prompter
from retell.recipe import Policy
from retell.records import Attempt, Completion, Prompt, Row, Sample, Verdict
from retell.tally import Tally, pass_rate

PROMPT = Prompter(Policy(), None).solve("What is 3 + 4?")


def attempt(index: int, correct: bool, stop: str = "stop") -> Attempt:
    completion = Completion("", (1, 2, 3), None, stop)  # type: ignore[arg-type]
    verdict = Verdict("undecided" if stop == "error" else "correct" if correct else "wrong", None, "")
    return Attempt(Sample(f"k{index}", "p", "self", 0, index, completion), verdict)


def lazily(outcomes: list[bool]) -> Rollout:
    """What a lazy rung draws where sample i comes out as ``outcomes[i]``."""
    attempts: list[Attempt] = []
    for wave in waves(len(outcomes), False):
        attempts += [attempt(i, outcomes[i]) for i in wave]
        if any(one.correct for one in attempts):
            break
    kept = next((one for one in attempts if one.correct), None)
    return Rollout(PROMPT, len(outcomes), tuple(attempts), kept)


def test_the_pass_rate_of_a_lazy_run_is_unbiased_and_the_share_of_correct_ones_would_not_be() -> None:
    def mean(estimate: object) -> Fraction:
        """Exact expectation over all outcomes of four samples, each correct with probability 1/4."""
        total = Fraction(0)
        for bits in range(16):
            outcomes = [bool(bits >> i & 1) for i in range(4)]
            chance = Fraction(1, 4) ** sum(outcomes) * Fraction(3, 4) ** (4 - sum(outcomes))
            total += chance * Fraction(estimate(lazily(outcomes)))  # type: ignore[operator]
        return total

    assert mean(lambda rollout: pass_rate(rollout, False)[0]) == 25
    assert mean(lambda rollout: pass_rate(rollout, True)[0]) > 30


def test_a_failed_request_counts_in_no_pass_rate() -> None:
    rollout = Rollout(PROMPT, 4, (attempt(0, False, "error"), attempt(1, True)), None)
    assert pass_rate(rollout, False) == []
    assert pass_rate(rollout, True) == [100]


def test_counts_add_up() -> None:
    luck = random.Random(0)
    tally = Tally(False)
    rollouts = [lazily([luck.random() < 0.3 for _ in range(8)]) for _ in range(200)]
    row = Row("p", "s", "", "", "", "self", "", (), None, None, 0, 0, 0, 0, "correct", None, 0)
    for rollout in rollouts:
        tally.add(Climb(row, rollout, None, 0))
    summary = tally.summary()
    assert summary["rungs"] == {"self": 200, "guided": 0, "expert": 0}
    assert summary["samples"]["self"] + summary["not_drawn"]["self"] == 1600
    assert summary["tokens"] == {"prompt": None, "generated": 3 * summary["samples"]["self"]}
    share = summary["not_drawn"]["self"] / 1600  # all samples are equally long
    assert tally.figures() == {"self": "200", "guided": "0", "expert": "0", "tokens saved": f"≈ {share:.0%}"}
    assert summary["tokens_saved"] == 3 * summary["not_drawn"]["self"]
    assert summary["pass_rate"]["self"]["percent"] == pytest.approx(
        100 * sum(rollout.attempts[0].correct for rollout in rollouts) / 200
    )
    assert summary["pass_rate"]["guided"] is None


def test_a_failed_request_counts_as_neither_drawn_nor_spared() -> None:
    tokens = Prompt(({"role": "user", "content": "x"},), (1, 2))
    attempts = (attempt(0, False), attempt(1, False, "error"))
    row = Row("p", "s", "", "", "", "self", "", (), None, None, 0, 0, 0, 0, "correct", None, 0)
    tally = Tally(False)
    tally.add(Climb(row, Rollout(tokens, 4, attempts, None), None, 0))
    summary = tally.summary()
    assert summary["samples"]["self"] == 1
    assert summary["not_drawn"]["self"] == 2
    assert summary["undecided"] == 0
    assert summary["tokens"] == {"prompt": 2, "generated": 3}
