"""The export: a run's data in the files of another tool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from retell.errors import DataError
from retell.exports.datacard import Origin, dataset_card
from retell.exports.named import FORMATS
from retell.exports.rows import MixRows
from retell.hashing import digest, file_digest
from retell.records import Rung
from retell.runfolder import RunFolder


def export(rewritten: Path, format: str, mix: str, origin: Origin, folder: RunFolder) -> dict[str, Any]:
    """Writes export/FORMAT anew, whole or not at all: the rows of ``rewritten`` under one of the named mixes.

    The rows are read and written some at a time.

    Raises:
        DataError: the rows cannot be read, or none can be exported.
    """
    rows = MixRows(rewritten, mix)
    name = f"export/{format}"
    with folder.replacing(name) as target:
        target.mkdir(parents=True)
        FORMATS[format](rows, target)
        if not rows.rungs:
            reasons = ", ".join(f"{n} {reason}" for reason, n in rows.rejected.items()) or "it is empty"
            raise DataError(f"no row of the mix {mix} can be exported: {reasons}")
        if format == "hf":
            content = digest([file_digest(file) for file in sorted(target.rglob("*.parquet"))])
            card = dataset_card(origin, mix, _ordered(rows.rungs), rows.rejected, content)
            (target / "README.md").write_text(card, encoding="utf-8")
    place = folder.path / name
    return {
        "format": format,
        "mix": mix,
        "path": str(place),
        "rows": rows.rungs.total(),
        "rungs": _ordered(rows.rungs),
        "rejected": dict(rows.rejected),
        "files": sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file()),
    }


def _ordered(rungs: Mapping[str, int]) -> dict[str, int]:
    return {rung: rungs[rung] for rung in get_args(Rung) if rung in rungs}
