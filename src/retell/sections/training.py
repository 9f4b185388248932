"""Figure 4: training curves."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retell.charts import Curve, averaged, curves, thinned
from retell.document import Figure, Prose, Section, Table
from retell.legend import colours, title
from retell.results import Results

_ROWS = 9
_MEASURED = {"loss": "training loss", "nll": "plain NLL of the same tokens"}


def training(results: Results) -> Section | None:
    """The loss of each training run by update, and beside it the plain NLL, which compares across losses."""
    lines = {name: _updates(results.folder.path, name) for name in results.trainings}
    lines = {name: updates for name, updates in lines.items() if updates}
    if not lines:
        return None
    colour = colours(results.models)
    charts = [
        curves(
            words[0].upper() + words[1:],
            [Curve(title(name), colour[name], _column(u, "step"), _column(u, key)) for name, u in lines.items()],
            "update",
            "nats per token",
            f"{words} by update. " + " ".join(_in_words(name, updates, key) for name, updates in lines.items()),
        )
        for key, words in _MEASURED.items()
    ]
    note = "The losses are weighted differently and cannot be compared with one another; the NLL can, on the same data."
    size = max(averaged(len(updates)) for updates in lines.values())
    if size > 1:
        note += f" A point of a long curve is the mean of up to {size} updates in a row."
    return Section("Figure 4: training curves", "Training", [Figure(charts, _table(lines)), Prose(note)])


def _updates(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / "checkpoints" / name / "metrics.jsonl"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if "loss" in line]


def _column(updates: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [update[key] for update in updates]


def _in_words(name: str, updates: Sequence[Mapping[str, Any]], key: str) -> str:
    return f"{title(name)}: from {updates[0][key]:.3f} to {updates[-1][key]:.3f}."


def _table(lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Some of the updates, evenly; loss and NLL of each run."""
    longest = max(lines.values(), key=len)
    rows = []
    for number in thinned(len(longest), _ROWS):
        cells = [_cell(updates, number) for updates in lines.values()]
        rows.append([str(longest[number]["step"]), *cells])
    note = f"Training loss / plain NLL, nats per token, at {len(rows)} of {len(longest):,} updates."
    return Table(["update", *map(title, lines)], rows, note)


def _cell(updates: Sequence[Mapping[str, Any]], number: int) -> str:
    if number >= len(updates):
        return "–"
    return " / ".join(f"{updates[number][key]:.3f}" for key in _MEASURED)
