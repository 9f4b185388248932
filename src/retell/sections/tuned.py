"""After training: the same texts under the tuned models, and how far these have gone from the policy."""

from collections.abc import Mapping
from typing import Any

from retell.document import Block, Section, Table
from retell.legend import title
from retell.results import Results
from retell.sections.logprobs import PER_TOKEN, SUMMED, arrows, matched
from retell.sections.weights import TOKEN_ESS
from retell.stats import plus_minus


def tuned(results: Results) -> Section | None:
    """Log-probs of the expert's and of the rewritten responses under each checkpoint that was scored, and its drift."""
    gaps = results.tuned
    if not gaps:
        return None
    rungs = {
        f"{title(name)}: {rung}": one for name, gap in gaps.items() for rung, one in gap.items() if rung != "drift"
    }
    note = "Expert → rewritten, under the tuned models; means over rows, ± standard error over rows."
    blocks: list[Block] = [arrows(rungs, (SUMMED, PER_TOKEN, TOKEN_ESS), note, "model and rung")]
    blocks += matched(rungs, "model and rung")
    drift = {
        f"{title(name)}: {group}": one for name, gap in gaps.items() for group, one in gap.get("drift", {}).items()
    }
    return Section("After training: log-probs and drift", "Drift", [*blocks, *_drift(drift)])


def _drift(drift: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    rows = [
        [
            name,
            "–" if one["kl"] is None else plus_minus(one["kl"], one["stderr"], 5),
            f"{one['problems']:,}",
            f"{one['tokens']:,}",
        ]
        for name, one in drift.items()
    ]
    note = (
        "Drift: KL(policy before training ‖ tuned model), nats a token, ± standard error over problems, on samples "
        "that the policy drew, whatever their verdicts. `new` are the training prompts, the others benchmarks."
    )
    note += "".join(f" {name}: {one['reason']}." for name, one in drift.items() if one.get("reason"))
    return [Table(["model and prompts", "KL", "problems", "tokens"], rows, note)] if rows else []
