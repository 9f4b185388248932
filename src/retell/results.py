"""What a run folder holds that is up to date, read for a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retell.legend import in_order
from retell.recipe import Recipe
from retell.runfolder import RunFolder

Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """One run: what its stages wrote, None or empty where a stage was not run or has been overtaken.

    ``trainings``, ``evaluations`` and ``tuned`` have the summary of each model, in the paper's order, the last its gap:
    the log-probs of the same texts under it. ``stale`` names the stages that rest on something that was replaced since;
    ``seconds`` are those of the starts that finished the stages, by name.
    """

    folder: RunFolder
    recipe: Recipe
    rewrite: Summary | None
    gap: Summary | None
    trainings: Mapping[str, Summary]
    evaluations: Mapping[str, Summary]
    tuned: Mapping[str, Summary]
    contamination: Summary | None
    stale: list[str]
    seconds: Mapping[str, float]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.rewrite or self.gap or self.trainings or self.evaluations)

    @property
    def models(self) -> list[str]:
        """The names of all models, in the paper's order."""
        return in_order({*self.trainings, *self.evaluations, *self.tuned})


def results_of(recipe: Recipe, folder: RunFolder) -> Results:
    """Reads what the folder holds."""
    done = folder.stages()

    def made(stage: str, place: str) -> dict[str, Summary]:
        names = in_order(name.removeprefix(f"{stage}/") for name in done if name.startswith(f"{stage}/"))
        return {name: summary for name in names if (summary := folder.read_json(f"{place}/{name}.json"))}

    return Results(
        folder,
        recipe,
        folder.read_json("rewrite.json") if "rewrite" in done else None,
        folder.read_json("gap.json") if "gap" in done else None,
        made("train", "checkpoints"),
        made("evaluate", "eval"),
        made("gap", "gap"),
        folder.read_json("contamination.json"),
        _stale(folder, done),
        folder.seconds(),
    )


def _stale(folder: RunFolder, done: list[str]) -> list[str]:
    """Stages that were finished once and are not up to date with those before them."""
    files = {"gap": "gap.json"}
    for stage, place in (("train", "checkpoints"), ("evaluate", "eval"), ("gap", "gap")):
        files |= {f"{stage}/{path.stem}": f"{place}/{path.name}" for path in (folder.path / place).glob("[!.]*.json")}
    return sorted(stage for stage, file in files.items() if stage not in done and (folder.path / file).is_file())
