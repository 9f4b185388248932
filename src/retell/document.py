"""A page as records: what it says, apart from how it is written as Markdown or HTML.

In prose, notes and notices a text in `backticks` is code; `code` puts somebody else's value there. Everything else is
plain text: each renderer escapes what its format would take for markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def code(value: object) -> str:
    """A value as code within prose, which it cannot end."""
    return f"`{str(value).replace('`', chr(39))}`"


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of short statements."""

    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text. The first column names the rows, and the others have numbers, or ``words``."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure of Plotly as a JSON object; colours in it are names of the style sheet, ``@expert`` or ``@expert/0.4``.

    ``alt`` says in words what is to be seen.
    """

    title: str
    figure: Mapping[str, Any]
    alt: str


@dataclass(frozen=True, slots=True)
class Figure:
    """Charts side by side that show what one table says; ``folded``: the table is opened by whoever wants it.

    Where there are no scripts, as in Markdown, the table stands for the charts.
    """

    charts: Sequence[Chart]
    table: Table
    title: str = ""
    folded: bool = True


@dataclass(frozen=True, slots=True)
class Branch:
    """Rows that take one way of a `Flow`, and why; ``colour`` is a name of the style sheet.

    Those that are set ``aside`` leave at the start, the others one branch after the other.
    """

    name: str
    rows: int
    colour: str
    says: str
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """Rows that part on their way, each branch as wide as it has rows; a table beside it has the numbers."""

    what: str
    branches: Sequence[Branch]
    alt: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that weakens what the page says or, if it is not ``grave``, was looked for and is in order."""

    title: str
    text: str
    grave: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """A text as it is, line by line, under a short title; ``folded`` where it is long."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to search and read where scripts run (a `retell.browse.Embedded` as a dict, None for no such rows);
    elsewhere, as in Markdown, the ``examples`` stand for them.
    """

    embedded: Mapping[str, Any] | None
    examples: Sequence[Listing]


Block = Prose | Items | Table | Figure | Flow | Notice | Listing | Rows


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading; ``short`` is its name in a list of all sections."""

    heading: str
    short: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole page."""

    title: str
    sections: Sequence[Section]
