"""A document as Markdown, for a pull request or a model card; its tables are aligned in a terminal too."""

import re
from collections.abc import Iterable, Sequence

from retell.document import Block, Document, Figure, Flow, Items, Listing, Notice, Prose, Rows, Section, Table
from retell.shell import visible

_MARKUP = re.compile(r"[\\*\[\]]|<(?=[A-Za-z/!?])")
_CODE = re.compile(r"(`[^`]*`)")


def markdown(document: Document) -> str:
    """The whole page."""
    return joined([f"# {_words(document.title)}", *map(section, document.sections)]) + "\n"


def section(one: Section) -> str:
    """A section with its heading; empty where it has nothing to say in Markdown."""
    body = joined(map(_block, one.blocks))
    return f"## {_words(one.heading)}\n\n{body}" if body else ""


def joined(parts: Iterable[str]) -> str:
    """The parts that are not empty, with a blank line between."""
    return "\n\n".join(part for part in parts if part)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """A Markdown table; the first column is text, the others numbers, unless they are ``words``."""
    header, rows = [_cell(text) for text in header], [[_cell(text) for text in cells] for cells in rows]
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * width if words else "-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            cells[0].ljust(widths[0]),
            *(c.ljust(w) if words else c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)),
        ]
        for cells in (header, rule, *rows)
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def fenced(text: str) -> str:
    """Text as a code block that nothing in it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{visible(text)}\n{fence}"


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return _words(text)
        case Items(texts):
            return "\n".join(f"- {_words(text)}" for text in texts)
        case Table():
            return _table(block)
        case Figure():
            return joined([f"**{_words(block.title)}**" if block.title else "", _table(block.table)])
        case Flow():
            return ""
        case Notice(title, text):
            return f"**{_words(title)}.** {_words(text)}"
        case Listing(title, text):
            return joined([f"{_words(title)}:", fenced(text)])
        case Rows():
            return joined(map(_block, block.examples))


def _table(one: Table) -> str:
    return joined([table(one.header, one.rows, words=one.words) if one.rows else "", _words(one.note)])


def _words(text: str) -> str:
    """Prose, with what Markdown would take for markup escaped outside of code."""
    parts = _CODE.split(" ".join(visible(text).split()))
    return "".join(part if number % 2 else _MARKUP.sub(r"\\\g<0>", part) for number, part in enumerate(parts))


def _cell(text: str) -> str:
    return _words(text).replace("|", "\\|")
