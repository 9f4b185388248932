"""Whether rewriting and DFT look worthwhile, by a small rule on what a preview has measured.

The rules and their numbers come from `studies/advice.py fit`; docs/advice.md says how, and docs/log.md (2026-11-27) how
often they were right in settings they were not fitted on. All settings are of a policy of 0.3 M parameters on chained
arithmetic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from retell.estimates import Estimate

Answer = Literal["yes", "no", "unknown"]
Features = Mapping[str, Estimate | None]

FEATURES: Mapping[str, str] = {
    "pass_rate.self": "% of the policy's own samples that are correct at one try",
    "shares.self": "% of the problems that it solves by itself",
    "shares.expert": "% of the problems that keep the expert's text",
    "gap.expert.mean_token_logprob": "mean log-prob of the expert's tokens",
    "gap.expert.share_below_0.1": "share of the expert's tokens that the policy gives less than 0.1",
    "gap.expert.token_ess": "token ESS of the expert's text",
    "gap.own.mean_token_logprob": "mean log-prob of the policy's own tokens",
    "gap.difference.own": "mean log-prob of the policy's own tokens minus that of the expert's",
    "gap.difference.rewritten": "mean log-prob of the rewritten tokens minus that of the expert's",
}
"""What a rule may look at, by its place in preview.json."""
SLACK = 0.1
"""How far outside the values that were seen a rule still speaks, as a share of their spread."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A feature above its threshold, or below it."""

    feature: str
    above: bool
    threshold: float

    def holds(self, found: Features) -> bool | None:
        """Whether it does; None where the feature is not known, or its interval holds the threshold."""
        one = found[self.feature]
        if one is None or one.low <= self.threshold <= one.high:
            return None
        return (one.value > self.threshold) == self.above


@dataclass(frozen=True, slots=True)
class Rule:
    """Yes where every condition holds; with none, always yes or, if ``constant`` is no, never.

    ``seen`` has the least and the largest value of features in the settings that the rule was fitted on.
    """

    conditions: tuple[Condition, ...]
    seen: Mapping[str, tuple[float, float]]
    constant: Answer = "yes"

    def strange(self, found: Features) -> list[str]:
        """The features that are unknown, or unlike what the rule was fitted on."""
        return [name for name, ends in self.seen.items() if _outside(found[name], ends)]

    def says(self, found: Features) -> Answer:
        """The answer; unknown where a feature is strange or too close to its threshold to tell."""
        if self.strange(found):
            return "unknown"
        held = [condition.holds(found) for condition in self.conditions]
        if not held:
            return self.constant
        return "no" if False in held else "unknown" if None in held else "yes"


def _outside(one: Estimate | None, ends: tuple[float, float]) -> bool:
    low, high = ends
    slack = SLACK * (high - low)
    return one is None or not low - slack <= one.value <= high + slack


SETTINGS = 27
"""How many settings the rules rest on."""
SEEN = {"pass_rate.self": (1.33, 89.7), "gap.expert.mean_token_logprob": (-0.719, -0.00288)}
REWRITE = Rule(
    (Condition("gap.difference.rewritten", above=True, threshold=0.0385),),
    {"gap.difference.rewritten": (-0.0550, 0.686), **SEEN},
)
"""Whether rewriting is better."""
DFT = Rule((), SEEN)
"""Whether DFT is better than SFT."""
FEWEST = 100
"""Fewer problems say too little."""
MANY = 0.1
"""A larger share of samples that are cut off or undecided is a fault of the settings."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What looks worthwhile: ``rewrite`` says whether rewriting does, ``loss`` is the one that looks better.

    ``reasons`` are what led to it, and ``words`` all of it for people.
    """

    rewrite: Answer
    loss: Literal["dft", "sft", "unknown"]
    reasons: tuple[str, ...]
    words: tuple[str, ...]


def features(summary: Mapping[str, Any]) -> Features:
    """The features of a preview; None is what it could not measure."""
    return {name: _at(summary, name) for name in FEATURES}


def _at(summary: Mapping[str, Any], name: str) -> Estimate | None:
    value: Any = summary
    for part in name.split(".", 2):  # the last part may have a dot: share_below_0.1
        value = value.get(part) if value else None
    return Estimate(**value) if value else None


def advise(summary: Mapping[str, Any]) -> Advice:
    """What the rules say of a preview."""
    found = features(summary)
    unfit = _unfit(summary)
    rewrite, dft = ("unknown" if unfit else rule.says(found) for rule in (REWRITE, DFT))
    reasons = unfit or [*_reasons("rewriting", REWRITE, found), *_reasons("DFT", DFT, found)]
    lines = [
        f"advice: {_HEADLINES[rewrite, dft]}",
        *(f"- {line}" for line in (*reasons, *_cautions(summary))),
        EVIDENCE,
    ]
    loss: dict[Answer, Literal["dft", "sft", "unknown"]] = {"yes": "dft", "no": "sft", "unknown": "unknown"}
    return Advice(rewrite, loss[dft], tuple(reasons), tuple(lines))


def _unfit(summary: Mapping[str, Any]) -> list[str]:
    """Why a preview is nothing that the rules can be asked about."""
    if not summary["gap"]:
        return ["the rules need log-probs of the texts, and so the policy at hand: name it with --model"]
    if summary["problems"] < FEWEST:
        return [f"{summary['problems']} problems are too few to tell: preview {FEWEST} at least"]
    drawn = summary["sampling"]["temperature"], summary["sampling"]["top_p"]
    if drawn != (1, 1):
        return [
            "the rules look at what the policy writes at temperature 1 and top_p 1, and this was drawn at "
            f"{drawn[0]:g} and {drawn[1]:g}: preview once more without those options, and without the folder"
        ]
    return []


def _cautions(summary: Mapping[str, Any]) -> list[str]:
    """What is to be mended before anything is drawn in earnest."""
    samples = sum(summary["samples"].values())
    longest = f"{summary['sampling']['max_tokens']:,} tokens"
    remedies = {
        "truncated": f"cut off at {longest}, which counts as wrong: raise --max-tokens",
        "undecided": "undecided, which counts as wrong: see docs/grading.md",
    }
    return [
        f"before you go on: {summary[name] / samples:.0%} of the samples are {what}"
        for name, what in remedies.items()
        if summary[name] > MANY * samples
    ]


_HEADLINES: Mapping[tuple[Answer, Answer], str] = {
    ("yes", "yes"): "both look worthwhile: rewrite the data and train on it with DFT",
    ("yes", "no"): "rewriting looks worthwhile, DFT does not: rewrite the data and train on it with SFT",
    ("yes", "unknown"): "rewriting looks worthwhile; whether DFT does is unknown",
    ("no", "yes"): "DFT looks worthwhile, rewriting does not: train on the expert's text with DFT",
    ("no", "no"): "neither looks worthwhile: train on the expert's text with SFT",
    ("no", "unknown"): "rewriting does not look worthwhile; whether DFT does is unknown",
    ("unknown", "yes"): "DFT looks worthwhile; whether rewriting does is unknown",
    ("unknown", "no"): "DFT does not look worthwhile; whether rewriting does is unknown",
    ("unknown", "unknown"): "unknown: nothing can be said of this preview",
}
EVIDENCE = (
    f"How sure: the evidence is small-scale, {SETTINGS} settings of a policy of 0.3 M parameters on chained sums. "
    "Of another model it is a guess: before you spend, train all four ways on a few thousand rows (docs/advice.md)."
)


def _reasons(what: str, rule: Rule, found: Features) -> list[str]:
    """Why a rule says what it says, with the figures."""
    strange = [
        f"{what}: the {FEATURES[name]} is {_told(found[name])}, and {_ends(rule.seen[name])} in the settings "
        "that the rule rests on"
        for name in rule.strange(found)
    ]
    if strange:
        return strange
    return [
        f"{what}: the {FEATURES[one.feature]} is {_told(found[one.feature])}, "
        f"{_HELD[one.holds(found), one.above]} {one.threshold:.3g}"
        for one in rule.conditions
    ] or [f"{what}: {rule.constant}, as in every setting that was tried, or there was no difference"]


_HELD: Mapping[tuple[bool | None, bool], str] = {
    (True, True): "above", (True, False): "below", (False, True): "not above", (False, False): "not below",
    (None, True): "too close to tell whether it is above", (None, False): "too close to tell whether it is below",
}  # fmt: skip


def _told(one: Estimate | None) -> str:
    return "unknown" if one is None else f"{one.value:.3g} ({one.low:.3g} to {one.high:.3g})"


def _ends(ends: tuple[float, float]) -> str:
    return f"it was {ends[0]:.3g} to {ends[1]:.3g}"
