"""Charts as figures of Plotly: histograms, curves, and dots with intervals. Pure: numbers in, a JSON object out.

Colours are names of the style sheet, ``@self`` or ``@self/0.3``, which the page's script looks up in the theme of
whoever reads it. Names from outside are no markup: Plotly would read some tags in them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from retell.document import Chart
from retell.legend import OTHERS, TITLES
from retell.shell import visible

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_PLACES = {colour: place for place, colour in enumerate((*TITLES, *(f"other-{n + 1}" for n in range(OTHERS))))}
"""What has a colour of its own also has its own symbol and dash."""
POINTS = 200
"""Most points of a curve: as many as a screen tells apart, and few enough for a page."""
_LABEL, _DOT, _AROUND = 24, 13, 96
"""Pixels of a row's label, of each of its dots, and of axis and legend."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one histogram counts: ``counts[i]`` between ``edges[i]`` and ``edges[i + 1]``."""

    name: str
    colour: str
    edges: Sequence[float]
    counts: Sequence[float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Dots:
    """A value for each row, with the ends of its interval where they are known; None where there is no value.

    ``hollow`` are somebody else's values for what stands before them, which are drawn on the same line.
    """

    name: str
    colour: str
    values: Sequence[float | None]
    ends: Sequence[tuple[float, float] | None] = ()
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A share of every row's whole, in percent."""

    name: str
    colour: str
    shares: Sequence[float]


def histogram(
    title: str, counted: Sequence[Counts], axis: str, what: str, alt: str, *, share_from: float | None = None
) -> Chart:
    """Histograms over one another as outlines, on the same bins. ``what`` is counted; with ``share_from``, the counts
    are shares of it, on a logarithmic axis from there to 1.
    """
    log = share_from is not None
    traces = [_outline(one, number, what, log=log) for number, one in enumerate(counted)]
    vertical: dict[str, Any] = {"title": {"text": what}, "rangemode": "tozero"}
    if share_from is not None:
        vertical = {"title": {"text": f"share of the {what}"}, "tickformat": "~%", "type": "log", "dtick": 1}
        vertical["range"] = [min(-1, math.floor(math.log10(share_from))), 0]
    edges = counted[0].edges
    layout = {
        "xaxis": {"title": {"text": axis}, "range": [edges[0], edges[-1]]},
        "yaxis": vertical,
        "height": 300,
        "hovermode": "x unified",
    }
    return Chart(title, {"data": traces, "layout": layout}, alt)


def curves(title: str, lines: Sequence[Curve], axis: str, vertical: str, alt: str) -> Chart:
    """Lines over the same axis; a point of a long one is the mean of several, as `averaged` says."""
    traces = []
    for line in lines:
        size = averaged(len(line.x))
        parts = range(0, len(line.x), size)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(line.name),
                "x": [line.x[min(start + size, len(line.x)) - 1] for start in parts],
                "y": [_rounded(fmean(line.y[start : start + size])) for start in parts],
                "line": {
                    "color": f"@{line.colour}",
                    "width": 1.75,
                    "dash": _DASHES[_PLACES.get(line.colour, 0) % len(_DASHES)],
                },
                "hovertemplate": "%{y:.4f}",
            }
        )
    low = min((y for line in lines for y in line.y), default=0.0)
    layout = {
        "xaxis": {"title": {"text": axis}},
        # Where a loss is negative, as that of a ratio, its axis must show that.
        "yaxis": {"title": {"text": vertical}, "rangemode": "tozero" if low >= 0 else "normal"},
        "height": 380,
        "hovermode": "x unified",
    }
    return Chart(title, {"data": traces, "layout": layout}, alt)


def dots(title: str, rows: Sequence[str], shown: Sequence[Dots], axis: str, alt: str, *, zero: bool = False) -> Chart:
    """Values of several things in each row, with intervals; a row's name stands above its dots, so that a long one
    takes no room from them. ``zero`` draws the line from which differences go.
    """
    lines = [sum(not one.hollow for one in shown[: number + 1]) - 1 for number in range(len(shown))]
    height = _LABEL + _DOT * (max(lines, default=0) + 1)
    traces = [_dotted(one, line, rows, height) for one, line in zip(shown, lines, strict=True)]
    layout = _in_rows(rows, height) | {
        "xaxis": {"title": {"text": axis}, "zeroline": False, "rangemode": "normal" if zero else "tozero"},
        "height": height * len(rows) + _AROUND + (0 if len(shown) < 2 else 40),
        "showlegend": len(shown) > 1,
    }
    if zero:
        layout["shapes"].append(_rule({"yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1}, "@soft"))
    return Chart(title, {"data": traces, "layout": layout}, alt)


def stacked(title: str, rows: Sequence[str], parts: Sequence[Part], axis: str, alt: str) -> Chart:
    """A bar for each row, in parts that add up to 100 %; its name stands above it."""
    height = _LABEL + 2 * _DOT
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": plain(part.name),
            "x": [_rounded(share) for share in part.shares],
            "y": [height * number + _LABEL + _DOT for number in range(len(rows))],
            "width": 2 * _DOT - 6,
            "customdata": [[plain(part.name), plain(row)] for row in rows],
            "hovertemplate": "%{customdata[0]}, %{customdata[1]}: %{x:.1f} %<extra></extra>",
            "marker": {"color": f"@{part.colour}"},
        }
        for part in parts
    ]
    layout = _in_rows(rows, height) | {
        "xaxis": {"title": {"text": axis}, "range": [0, 100]},
        "barmode": "stack",
        "height": height * len(rows) + _AROUND + 40,
    }
    return Chart(title, {"data": traces, "layout": layout}, alt)


def _in_rows(rows: Sequence[str], height: int) -> dict[str, Any]:
    """A layout whose rows have their names above them and a rule between them."""
    labels = [
        {
            "text": plain(_clipped(row)),
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "y": height * number,
            "yanchor": "top",
            "yshift": -2,
            "showarrow": False,
            "align": "left",
        }
        for number, row in enumerate(rows)
    ]
    rules = [_rule({"xref": "paper", "x0": 0, "x1": 1, "y0": height * n, "y1": height * n}) for n in range(len(rows))]
    vertical = {"range": [height * len(rows), 0], "showticklabels": False, "showgrid": False, "zeroline": False}
    return {"yaxis": vertical, "annotations": labels, "shapes": rules, "hovermode": "closest"}


def _outline(one: Counts, number: int, what: str, *, log: bool) -> Mapping[str, Any]:
    """A histogram as a line with steps, which it goes up and down at both of its ends."""
    bins = list(pairwise(one.edges))
    middles = [(low + high) / 2 for low, high in bins]
    first, last = 2 * one.edges[0] - middles[0], 2 * one.edges[-1] - middles[-1]
    # No logarithm is 0: there the ends are drawn out instead.
    ends = (one.counts[0], one.counts[-1]) if log else (0, 0)
    heights = [ends[0], *one.counts, ends[1]]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(one.name),
        "x": [_rounded(x) for x in (first, *middles, last)],
        "y": [_rounded(y) or None for y in heights] if log else [_rounded(y) for y in heights],
        "customdata": ["", *(f"{_short(low)} to {_short(high)}" for low, high in bins), ""],
        "hovertemplate": f"%{{customdata}}: %{{y:{'.2%' if log else ','}}} of the {what}",
        "line": {"shape": "hvh", "color": f"@{one.colour}", "width": 2, "dash": "3px,2px" if number % 2 else "solid"},
        "fill": "none" if log else "tozeroy",
        "fillcolor": f"@{one.colour}/0.22",
    }


def _dotted(one: Dots, line: int, rows: Sequence[str], height: int) -> Mapping[str, Any]:
    places = [i for i, value in enumerate(one.values) if value is not None]
    values = [one.values[i] or 0.0 for i in places]
    ends = [(one.ends[i] if one.ends else None) or (value, value) for i, value in zip(places, values, strict=True)]
    said = [
        f"{value:.2f}" + (f", {low:.2f} to {high:.2f}" if low < high else "")
        for value, (low, high) in zip(values, ends, strict=True)
    ]
    symbol = _SYMBOLS[_PLACES.get(one.colour, 0) % len(_SYMBOLS)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(one.name),
        "legendgroup": str(line),
        "showlegend": not one.hollow,
        "x": [_rounded(value) for value in values],
        "y": [height * i + _LABEL + _DOT * (line + 0.25) for i in places],
        "customdata": [[plain(one.name), plain(rows[i]), text] for i, text in zip(places, said, strict=True)],
        "hovertemplate": "%{customdata[0]}, %{customdata[1]}: %{customdata[2]}<extra></extra>",
        "marker": {"color": f"@{one.colour}", "size": 9, "symbol": symbol + ("-open" if one.hollow else "")},
        "error_x": {
            "type": "data",
            "array": [_rounded(high - value) for value, (_, high) in zip(values, ends, strict=True)],
            "arrayminus": [_rounded(value - low) for value, (low, _) in zip(values, ends, strict=True)],
            "color": f"@{one.colour}",
            "thickness": 1.75,
            "width": 3,
            "visible": not one.hollow,
        },
    }


def averaged(count: int) -> int:
    """How many of so many values in a row are drawn as one point, their mean."""
    return max(1, -(-count // POINTS))


def thinned(count: int, most: int) -> list[int]:
    """At most so many of the numbers 0 … count − 1, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def plain(text: str) -> str:
    """Text in which Plotly finds no markup."""
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clipped(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _rule(where: Mapping[str, Any], colour: str = "@line") -> Mapping[str, Any]:
    return {"type": "line", "layer": "below", "line": {"color": colour, "width": 1}, **where}


def _rounded(value: float) -> float:
    """In so many digits as anybody sees, which keeps the page small."""
    return float(f"{value:.6g}")


def _short(value: float) -> str:
    return f"{value:,.6g}".replace("-", "−")
