"""A document as one HTML file that needs no network: it is read on a phone, on paper, in a light or a dark room."""

import re

from retell import browse
from retell.document import (
    Block,
    Chart,
    Document,
    Figure,
    Flow,
    Items,
    Listing,
    Notice,
    Prose,
    Rows,
    Section,
    Table,
)
from retell.errors import MissingExtraError
from retell.flow import drawn
from retell.shell import asset, escaped, page

_CODE = re.compile(r"`([^`]*)`")


def webpage(document: Document) -> str:
    """The whole page. Plotly is in it only if it has charts, and what shows rows only if it has some.

    Raises:
        MissingExtraError: Plotly is needed and not installed.
    """
    writer = _Writer()
    links = "".join(f'<a href="#{_slug(one)}">{escaped(one.short)}</a>' for one in document.sections)
    body = (
        f'<header class="top"><h1>{_words(document.title)}</h1></header>\n'
        f'<nav class="sections" aria-label="Sections"><div>{links}</div></nav>\n'
        f"<main>\n{''.join(map(writer.section, document.sections))}</main>\n"
        '<footer class="end soft small">Made by retell. This file needs no network.</footer>'
    )
    styles, scripts = [asset("report.css")], list[str]()
    data: dict[str, object] = {}
    if writer.rows is not None:
        styles += browse.styles()
        scripts += browse.scripts()
        data["browse"] = writer.rows
    if writer.figures:
        scripts += [plotly(), asset("report.js")]
        data["figures"] = writer.figures
    return page(document.title, body, styles=styles, scripts=scripts, data=data)


def plotly() -> str:
    """The source of plotly.js.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("plotly", "report") from error
    return str(get_plotlyjs())


class _Writer:
    """Writes blocks as markup, and collects the figures that the script draws into it."""

    def __init__(self) -> None:
        self.figures: list[object] = []
        self.rows: object = None

    def section(self, one: Section) -> str:
        blocks = "\n".join(map(self.block, one.blocks))
        slug = _slug(one)
        return (
            f'<section id="{slug}" aria-labelledby="{slug}-title">\n'
            f'<h2 id="{slug}-title">{_words(one.heading)}</h2>\n{blocks}\n</section>\n'
        )

    def block(self, block: Block) -> str:
        match block:
            case Prose(text):
                return f"<p>{_words(text)}</p>"
            case Items(texts):
                return f"<ul>{''.join(f'<li>{_words(text)}</li>' for text in texts)}</ul>"
            case Table():
                return _table(block)
            case Figure():
                return self._figure(block)
            case Flow():
                return drawn(block)
            case Notice():
                return _notice(block)
            case Listing(title, text, folded):
                listing = f"<pre>{escaped(text)}</pre>"
                return _folded(title, listing) if folded else f"<h3>{_words(title)}</h3>\n{listing}"
            case Rows():
                return self._rows(block)

    def _figure(self, figure: Figure) -> str:
        charts = "".join(map(self._chart, figure.charts))
        table = _table(figure.table)
        below = _folded("The numbers as a table", table) if figure.folded else table
        title = f"<h3>{_words(figure.title)}</h3>\n" if figure.title else ""
        without = "<noscript><p>The charts need scripts; their table does not.</p></noscript>"
        grid = f'<div class="charts" style="--charts:{min(3, len(figure.charts))}">{charts}</div>'
        return f"{title}{grid}\n{without}\n{below}"

    def _rows(self, block: Rows) -> str:
        examples = "\n".join(map(self.block, block.examples))
        if block.embedded is None:
            return examples
        self.rows = block.embedded
        return f"{browse.MARKUP}\n<noscript>{examples}</noscript>"

    def _chart(self, chart: Chart) -> str:
        number = len(self.figures)
        self.figures.append(chart.figure)
        height = int(chart.figure["layout"]["height"])
        return (
            f'<figure><figcaption>{_words(chart.title)}</figcaption><div class="plot" data-figure="{number}" '
            f'role="img" aria-label="{escaped(chart.alt)}" style="height:{height}px"></div></figure>'
        )


def _table(one: Table) -> str:
    head = "".join(f'<th scope="col">{_words(text)}</th>' for text in one.header)
    body = "".join(
        f'<tr><th scope="row">{_words(cells[0])}</th>{"".join(f"<td>{_words(text)}</td>" for text in cells[1:])}</tr>'
        for cells in one.rows
    )
    look = ' class="words"' if one.words else ""
    table = f"<table{look}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    table = f'<div class="scroll" tabindex="0">{table}</div>'
    note = f'<p class="note">{_words(one.note)}</p>' if one.note else ""
    return table + note if one.rows else note


def _notice(one: Notice) -> str:
    grave, word = ("grave", "Warning") if one.grave else ("fine", "In order")
    return (
        f'<p class="notice {grave}"><strong><span class="hidden-visually">{word}: </span>{_words(one.title)}.</strong> '
        f"{_words(one.text)}</p>"
    )


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{_words(title)}</summary>{body}</details>"


def _words(text: str) -> str:
    """Prose as markup: code in backticks, and nothing else."""
    return _CODE.sub(r"<code>\1</code>", escaped(text))


def _slug(one: Section) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", one.short.lower()))
