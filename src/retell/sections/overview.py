"""What was run."""

from retell.document import Prose, Section, Table, code
from retell.legend import title
from retell.recipe import Recipe
from retell.results import Results

_LISTED = 8
_FACTS = ("loss", "mix", "rows", "learning_rate", "batch_size", "updates", "seed")
_HEADER = ("training run", "loss", "data", "rows", "learning rate", "rows an update", "updates", "seed")


def overview(results: Results) -> Section:
    """The policy, the data, how it was sampled, and the training runs."""
    recipe, summary = results.recipe, results.rewrite
    blocks: list[Prose | Table] = [Prose(f"{', '.join(_inputs(recipe))}.")]
    if summary:
        r = recipe.rewrite
        drawn = sum(summary["samples"].values())
        blocks.append(
            Prose(
                f"Rewriting: K = {r.k} samples a rung with the {r.engine} engine at temperature {r.temperature:g}, "
                f"top_p {r.top_p:g}, seed {r.seed}; {drawn:,} samples."
            )
        )
    if results.evaluations:
        counted = {b: one["n"] for e in results.evaluations.values() for b, one in e["benchmarks"].items()}
        models = ", ".join(map(title, results.evaluations))
        listed = ", ".join(counted) if len(counted) <= _LISTED else f"{len(counted)} benchmarks"
        blocks.append(Prose(f"Evaluation of {models} on {listed}."))
    if results.trainings:
        rows = [[title(name), *(_shown(one[fact]) for fact in _FACTS)] for name, one in results.trainings.items()]
        blocks.append(Table(_HEADER, rows))
    return Section("What was run", "Run", blocks)


def _inputs(recipe: Recipe) -> list[str]:
    named = {"Policy": recipe.policy.model, "data": recipe.data.path}
    return [f"{what} {code(which)}" for what, which in named.items() if which] or ["No policy and no data are named"]


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
