"""Rows to read: in Markdown the first of each rung that was rewritten, beside the expert's text."""

import textwrap
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from retell.document import Listing, Rows, Section, code
from retell.results import Results
from retell.shell import visible
from retell.tables import read_rows

_COLUMN = 58


def examples(results: Results, embedded: Mapping[str, Any] | None) -> Section | None:
    """The rows of the run: those to be searched, and the examples."""
    if not results.rewrite:
        return None
    return Section("Rows", "Rows", [Rows(embedded, _first_of_each_rung(results))])


def _first_of_each_rung(results: Results) -> list[Listing]:
    wanted = {"self": "the policy's own solution", "guided": "the policy's retelling"}
    wanted = {rung: whose for rung, whose in wanted.items() if (results.rewrite or {})["rungs"][rung]}
    found: dict[str, Listing] = {}
    columns = ["id", "rung", "problem", "solution", "response"]
    for row in read_rows(results.folder.path / "rewritten.parquet", columns):
        if len(found) == len(wanted):
            break
        if row["rung"] in wanted and row["rung"] not in found:
            sides = _side_by_side("the expert", row["solution"], wanted[row["rung"]], row["response"])
            text = f"{_wrap(row['problem'])}\n\n{sides}"
            found[row["rung"]] = Listing(f"Rung {code(row['rung'])}, row {code(row['id'])}", text)
    return [found[rung] for rung in wanted if rung in found]


def _side_by_side(left_title: str, left: str, right_title: str, right: str) -> str:
    pairs = zip_longest(
        [left_title, "-" * _COLUMN, *_lines(left)], [right_title, "-" * _COLUMN, *_lines(right)], fillvalue=""
    )
    return "\n".join(f"{a:<{_COLUMN}} | {b}".rstrip() for a, b in pairs)


def _wrap(text: str) -> str:
    return "\n".join(_lines(text, 2 * _COLUMN))


def _lines(text: str, width: int = _COLUMN) -> list[str]:
    shown = visible(text.expandtabs(4))
    return [part for line in shown.splitlines() for part in textwrap.wrap(line, width) or [""]]
