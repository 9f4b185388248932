"""The browser of a run's rows: the sample of them that a report embeds, and what shows rows in any page.

A page shows them where `MARKUP` stands, with `styles` and `scripts`, if its data object ``browse`` is an `Embedded`
(as a dict) or says ``{"live": true}``, and then they come from the server that the page came from (`retell.view`).
"""

import base64
import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain

from retell.hashing import digest
from retell.rows import Json, Opened, Rows
from retell.runfolder import RunFolder
from retell.shell import asset, json_block
from retell.tables import read_batches

SAMPLED = 300
"""Rows that a report shows."""
EMBEDDED_BYTES = 7 << 20
"""Most that they may take in its page."""
MARKUP = '<div class="browse"></div>'
_FONT = re.compile(r'url\(fonts/([\w-]+\.woff2)\) format\("woff2"\)(?:,url\([^)]*\) format\("\w+"\))*')


@dataclass(frozen=True, slots=True)
class Embedded:
    """Some rows of a run for a page: ``shown`` of ``total``; ``notes`` say what they are and what is missing."""

    rows: list[Json]
    shown: int
    total: int
    notes: list[str]


def sampled_rows(
    folder: RunFolder, opened: Opened, count: int = SAMPLED, limit_bytes: int = EMBEDDED_BYTES
) -> Embedded:
    """A random sample of the rows, in their order: those whose ids have the smallest digests, so that it is the same
    every time. There are fewer than ``count`` where more would not fit into ``limit_bytes`` of the page.

    Raises:
        DataError: the run has no rewritten rows that can be read.
    """
    with Rows(folder, opened) as table:
        ids = chain.from_iterable(batch["id"].to_pylist() for batch in read_batches(table.path, ["id"]))
        drawn = heapq.nsmallest(count, ((digest("browse", one), number) for number, one in enumerate(ids)))
        order = [number for _, number in drawn]
        rows, room = [], limit_bytes
        for row in _in_order(table, order):
            room -= len(json_block("", row).encode())
            if room < 0:
                break
            rows.append(row)
        total, notes = len(table), table.notes
    what = f"{len(rows):,} of {total:,} rows, chosen at random" if len(rows) < total else f"All {total:,} rows"
    if len(rows) < len(order):
        what += f"; {len(order):,} would be too large for this page"
    more = f"`retell view {folder.path}` shows all" if len(rows) < total else ""
    told = "; ".join(part for part in (what, more) if part)
    return Embedded(sorted(rows, key=lambda row: row["row"]), len(rows), total, [f"{told}.", *notes])


def _in_order(table: Rows, positions: Sequence[int]) -> Iterator[Json]:
    """The rows one by one; they stand far apart, and each row group should be read once."""
    told = {row["row"]: row for _, places in table.by_group(positions) for row in table.read(places)}
    return (told[position] for position in positions)


def styles() -> tuple[str, ...]:
    """The style sheets of the browser, KaTeX's first, with its fonts in them."""
    katex = _FONT.sub(lambda found: f'url({_font(found[1])}) format("woff2")', asset("vendor/katex/katex.min.css"))
    return katex, asset("browse.css")


def scripts() -> tuple[str, ...]:
    """The scripts of the browser, in the order in which they run."""
    return asset("vendor/katex/katex.min.js"), asset("text.js"), asset("browse.js")


def _font(name: str) -> str:
    data = files("retell").joinpath("page", "vendor", "katex", "fonts", name).read_bytes()
    return f"data:font/woff2;base64,{base64.b64encode(data).decode()}"
