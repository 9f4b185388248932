from dataclasses import asdict
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.advice import DFT, EVIDENCE, FEATURES, FEWEST, REWRITE, Advice, Condition, Rule, advise, features
from retell.estimates import Estimate

SEEN = {"pass_rate.self": (10.0, 50.0)}
ABOVE, BELOW = Condition("shares.expert", True, 5.0), Condition("gap.difference.own", False, 0.2)
RULES = (REWRITE, DFT)


def near(value: float, half: float = 0.0) -> Estimate:
    return Estimate(value, value - half, value + half)


def found(**changes: Estimate | None) -> dict[str, Estimate | None]:
    """Features that lie within what both rules have seen, and at which every condition holds."""
    usual: dict[str, Estimate | None] = dict.fromkeys(FEATURES, near(0.0))
    for rule in RULES:
        usual |= {name: near((low + high) / 2) for name, (low, high) in rule.seen.items()}
    for rule in RULES:
        for one in rule.conditions:
            low, high = rule.seen[one.feature]
            usual[one.feature] = near((one.threshold + (high if one.above else low)) / 2)
    return usual | {name.replace("__", "."): value for name, value in changes.items()}


def preview(found: dict[str, Estimate | None], problems: int = FEWEST, **changes: Any) -> dict[str, Any]:
    """A preview with these features."""
    summary: dict[str, Any] = {"problems": problems, "samples": {"self": 100, "guided": 100}, "gap": {}}
    summary |= {"truncated": 0, "undecided": 0}
    summary["sampling"] = {"k": 8, "temperature": 1.0, "top_p": 1.0, "max_tokens": 64}
    for name, one in found.items():
        *places, last = name.split(".", 2)
        at = summary
        for place in places:
            at = at.setdefault(place, {})
        at[last] = asdict(one) if one else None
    return summary | changes


def test_a_condition_is_unknown_where_the_interval_holds_its_threshold() -> None:
    def holds(condition: Condition, one: Estimate | None) -> bool | None:
        return condition.holds({condition.feature: one})

    assert holds(ABOVE, near(6.0, 0.9)) is True
    assert holds(ABOVE, near(6.0, 1.0)) is None
    assert holds(ABOVE, near(5.0)) is None
    assert holds(ABOVE, near(4.0, 0.9)) is False
    assert holds(ABOVE, None) is None
    assert holds(BELOW, near(0.1, 0.05)) is True
    assert holds(BELOW, near(0.3, 0.05)) is False


@pytest.mark.parametrize(
    ("expert", "own", "says"),
    [
        (near(9.0), near(0.0), "yes"),
        (near(9.0), near(0.9), "no"),
        (near(1.0), near(0.0), "no"),
        (near(9.0, 8.0), near(0.0), "unknown"),
        (near(9.0, 8.0), near(0.9), "no"),  # whatever the other is
        (None, near(0.9), "no"),
        (None, near(0.0), "unknown"),
    ],
)
def test_a_rule_says_yes_where_every_condition_holds(expert: Estimate | None, own: Estimate, says: str) -> None:
    rule = Rule((ABOVE, BELOW), SEEN)
    told = {"shares.expert": expert, "gap.difference.own": own, "pass_rate.self": near(30.0)}
    assert rule.says(told) == says
    assert rule.says(told | {"pass_rate.self": near(70.0)}) == "unknown"


@pytest.mark.parametrize(("rate", "says"), [(6.0, "yes"), (5.9, "unknown"), (54.0, "yes"), (54.1, "unknown")])
def test_a_rule_speaks_a_tenth_of_the_spread_outside_what_was_seen(rate: float, says: str) -> None:
    assert Rule((), SEEN).says({"pass_rate.self": near(rate)}) == says
    assert (Rule((), SEEN, "no").says({"pass_rate.self": near(rate)}) == "no") == (says == "yes")
    assert Rule((), SEEN).says({"pass_rate.self": None}) == "unknown"


def test_the_rules_are_sound() -> None:
    for rule in RULES:
        assert rule.seen.keys() >= {condition.feature for condition in rule.conditions}
        assert rule.seen.keys() <= FEATURES.keys()
        assert all(low < high for low, high in rule.seen.values())
        assert all(rule.seen[one.feature][0] < one.threshold < rule.seen[one.feature][1] for one in rule.conditions)


def test_each_condition_of_the_rules_counts() -> None:
    usual = advise(preview(found()))
    assert usual.rewrite == ("yes" if REWRITE.conditions else REWRITE.constant)
    for rule, answer in ((REWRITE, lambda told: told.rewrite), (DFT, lambda told: told.loss)):
        for one in rule.conditions:
            low, high = rule.seen[one.feature]
            other = found() | {one.feature: near((one.threshold + (low if one.above else high)) / 2)}
            assert answer(advise(preview(other))) in ("no", "sft")
            at = found() | {one.feature: near(one.threshold)}
            assert answer(advise(preview(at))) == "unknown"
        for name, (low, high) in rule.seen.items():
            for strange in (near(low - 0.2 * (high - low)), near(high + 0.2 * (high - low)), None):
                told = advise(preview(found() | {name: strange}))
                assert answer(told) == "unknown"
                assert any(FEATURES[name] in reason for reason in told.reasons)


def test_what_the_rules_cannot_be_asked_about() -> None:
    sampling = {"k": 8, "temperature": 0.6, "top_p": 1.0, "max_tokens": 64}
    for summary, why in (
        (preview(found(), FEWEST - 1), f"preview {FEWEST} at least"),
        (preview(found(), gap={}), "--model"),
        (preview(found(), sampling=sampling), "temperature 1"),
        (preview(found(), sampling=sampling | {"temperature": 1.0, "top_p": 0.9}), "top_p 1"),
    ):
        told = advise(summary)
        assert (told.rewrite, told.loss, len(told.reasons)) == ("unknown", "unknown", 1)
        assert why in told.reasons[0] and told.words[-1] == EVIDENCE


def test_faults_of_the_settings_are_named() -> None:
    assert not [line for line in advise(preview(found(), truncated=20)).words if "before you go on" in line]
    lines = advise(preview(found(), truncated=21, undecided=50)).words
    assert [line for line in lines if "10% of the samples" in line and "--max-tokens" in line]
    assert [line for line in lines if "25% of the samples" in line and "grading.md" in line]


def test_every_advice_says_what_it_rests_on(monkeypatch: pytest.MonkeyPatch) -> None:
    headlines = set()
    answers: dict[str, Rule] = {
        "yes": Rule((), {}), "no": Rule((), {}, "no"), "unknown": Rule((), {"pass_rate.self": (1e6, 1e7)})
    }  # fmt: skip
    for rewrite, dft in product(answers, repeat=2):
        monkeypatch.setattr("retell.advice.REWRITE", answers[rewrite])
        monkeypatch.setattr("retell.advice.DFT", answers[dft])
        told = advise(preview(found()))
        assert (told.rewrite, told.loss) == (rewrite, {"yes": "dft", "no": "sft"}.get(dft, dft))
        assert "small-scale" in told.words[-1] and "docs/advice.md" in told.words[-1]
        headlines.add(told.words[0])
    assert len(headlines) == 9


def test_features_are_found_by_their_place_in_a_preview() -> None:
    estimate = {"value": 1.0, "low": 0.5, "high": 2.0}
    summary: dict[str, Any] = {"pass_rate": {"self": estimate, "guided": None}, "shares": {"self": estimate}}
    summary["gap"] = {"expert": {"share_below_0.1": estimate}, "difference": {"own": estimate}}
    told = features(summary)
    assert told.keys() == FEATURES.keys()
    known = {name for name, one in told.items() if one == Estimate(1.0, 0.5, 2.0)}
    assert known == {"pass_rate.self", "shares.self", "gap.expert.share_below_0.1", "gap.difference.own"}
    assert features({"pass_rate": {"self": None}, "gap": {}}) == dict.fromkeys(FEATURES)


@given(st.dictionaries(st.sampled_from(sorted(FEATURES)), st.floats(-1e6, 1e6), min_size=len(FEATURES)))
def test_any_features_have_advice(values: dict[str, float]) -> None:
    told = advise(preview({name: near(value, abs(value) / 10) for name, value in values.items()}))
    assert isinstance(told, Advice) and told.reasons and len(told.words) == len(told.reasons) + 2
