"""After training: the same texts under the tuned models, and how far these have gone from the policy."""

from collections.abc import Mapping
from typing import Any

from retell.charts import Dots, dots
from retell.document import Block, Chart, Figure, Section, Table
from retell.legend import colours, title
from retell.results import Results
from retell.sections.accuracy import NORMAL
from retell.sections.logprobs import PER_TOKEN, SUMMED, arrows, matched
from retell.sections.weights import TOKEN_ESS
from retell.stats import plus_minus

Drift = Mapping[str, Mapping[str, Any]]
"""KL by group of prompts: see `retell.drift`."""


def tuned(results: Results) -> Section | None:
    """Log-probs of the expert's and of the rewritten responses under each checkpoint that was scored, and its drift."""
    if not results.tuned:
        return None
    rungs = {
        f"{title(name)}: {rung}": one
        for name, gap in results.tuned.items()
        for rung, one in gap.items()
        if rung != "drift"
    }
    note = "Expert → rewritten, under the tuned models; means over rows, ± standard error over rows."
    blocks: list[Block] = [arrows(rungs, (SUMMED, PER_TOKEN, TOKEN_ESS), note, "model and rung")]
    blocks += matched(rungs, "model and rung")
    return Section("After training: log-probs and drift", "Drift", [*blocks, *_drift(results)])


def _drift(results: Results) -> list[Figure]:
    """KL from the policy by model and prompts."""
    drifts: dict[str, Drift] = {name: gap["drift"] for name, gap in results.tuned.items() if gap.get("drift")}
    rows = [
        [f"{title(name)}: {group}", _nats(one), f"{one['problems']:,}", f"{one['tokens']:,}"]
        for name, drift in drifts.items()
        for group, one in drift.items()
    ]
    note = (
        "Drift: KL(policy before training ‖ tuned model), nats a token, ± standard error over problems, on samples "
        "that the policy drew, whatever their verdicts. `new` are the training prompts, the others benchmarks."
    )
    for name, drift in drifts.items():
        note += "".join(f" {title(name)}: {group}: {one['reason']}." for group, one in drift.items() if one["reason"])
    table = Table(["model and prompts", "KL", "problems", "tokens"], rows, note)
    return [Figure([_chart(drifts, colours(results.models))], table, folded=False)] if drifts else []


def _chart(drifts: Mapping[str, Drift], colour: Mapping[str, str]) -> Chart:
    groups = list(dict.fromkeys(group for drift in drifts.values() for group in drift))
    shown, said = [], []
    for name, drift in drifts.items():
        values = [drift[group]["kl"] if group in drift else None for group in groups]
        ends = [_ends(drift[group]) if group in drift else None for group in groups]
        shown.append(Dots(title(name), colour[name], values, ends))
        said += [f"{title(name)} {group} {_nats(one)}" for group, one in drift.items()]
    alt = "How far each tuned model has gone from the policy: " + ", ".join(said)
    return dots("Drift, with 95 % intervals", groups, shown, "KL from the policy, nats a token", f"{alt}.")


def _nats(one: Mapping[str, Any]) -> str:
    return "–" if one["kl"] is None else plus_minus(one["kl"], one["stderr"], 5)


def _ends(one: Mapping[str, Any]) -> tuple[float, float] | None:
    if one["kl"] is None or one["stderr"] is None:
        return None
    half = NORMAL * one["stderr"]
    return max(one["kl"] - half, 0.0), one["kl"] + half
