"""The picture of a flow: bands that part on their way down, as wide as they have rows.

It is SVG that stretches with the page, so that it needs no script, takes the colours of the theme and can be printed;
names and numbers are text beside it.
"""

from retell.document import Branch, Flow
from retell.shell import escaped

_WIDE, _LEVEL, _BAR, _GAP = 1000.0, 60.0, 9.0, 14.0
"""Width of the picture, height of a step, height of a bar, room between branches; the width stretches."""

Span = tuple[float, float]


def drawn(flow: Flow) -> str:
    """The flow as markup; empty without any rows."""
    total = sum(branch.rows for branch in flow.branches)
    if not total:
        return ""
    height = _LEVEL * sum(not branch.aside for branch in flow.branches) + _BAR
    drawing = f'viewBox="0 0 {_WIDE:g} {height:g}" height="{height:g}" preserveAspectRatio="none" aria-hidden="true"'
    parts, labels = _parts(flow, total)
    return (
        f'<figure class="flow"><div class="picture" role="img" aria-label="{escaped(flow.alt)}">'
        f"<svg {drawing}>{''.join(parts)}</svg>{''.join(labels)}</div>"
        f'<ul class="branches">{"".join(_named(branch, total) for branch in flow.branches)}</ul></figure>'
    )


def _parts(flow: Flow, total: int) -> tuple[list[str], list[str]]:
    """Bands and bars, and the texts over them. From left to right: the branches in their order, then those aside."""
    on = [branch for branch in flow.branches if not branch.aside]
    scale = (_WIDE - _GAP * (len(flow.branches) - 1)) / total
    bottom = _LEVEL * len(on)
    parts, labels = [_bar(0.0, (0.0, total * scale), "soft")], [_label(0.0, "left", 0.0, f"{total:,} {flow.what}")]
    left = sum(branch.rows for branch in on)
    start, end = 0.0, left * scale
    for level, branch in enumerate(on):
        top, here = _LEVEL * level, (start, start + branch.rows * scale)
        parts += _leaving(branch, here, top, here, bottom)
        left -= branch.rows
        if not left:
            break
        start, end = here[1] + _GAP, end + _GAP
        parts.append(_band((here[1], end - _GAP), top + _BAR, (start, end), top + _LEVEL, "soft"))
        parts.append(_bar(top + _LEVEL, (start, end), "soft"))
        labels.append(_label(top + _LEVEL, "right", 1 - end / _WIDE, f"{left:,} left"))
    for branch in flow.branches:
        if branch.aside:
            width = branch.rows * scale
            parts += _leaving(branch, (total * scale - width, total * scale), 0.0, (_WIDE - width, _WIDE), bottom)
    return parts, labels


def _named(branch: Branch, total: int) -> str:
    return (
        f'<li><span class="key" style="background:var(--{escaped(branch.colour)})"></span>'
        f"<strong>{escaped(branch.name)}</strong> {branch.rows:,} ({branch.rows / total:.1%}) "
        f'<span class="soft">{escaped(branch.says)}</span></li>'
    )


def _leaving(branch: Branch, source: Span, top: float, target: Span, bottom: float) -> list[str]:
    if not branch.rows:
        return []
    says = f"{branch.name}: {branch.rows:,}"
    return [
        _band(source, top + _BAR, target, bottom, branch.colour, says),
        _bar(bottom, target, branch.colour),
    ]


def _band(source: Span, top: float, target: Span, bottom: float, colour: str, says: str = "") -> str:
    (a, b), (c, d), middle = source, target, (top + bottom) / 2
    path = (
        f"M{a:.2f},{top:g} C{a:.2f},{middle:g} {c:.2f},{middle:g} {c:.2f},{bottom:g} L{d:.2f},{bottom:g} "
        f"C{d:.2f},{middle:g} {b:.2f},{middle:g} {b:.2f},{top:g} Z"
    )
    return f'<path class="band" style="fill:var(--{colour})" d="{path}"><title>{escaped(says)}</title></path>'


def _bar(top: float, span: Span, colour: str) -> str:
    left, right = span
    place = f'x="{left:.2f}" y="{top:g}" width="{max(right - left, 1):.2f}" height="{_BAR:g}"'
    return f'<rect {place} style="fill:var(--{colour})"/>'


def _label(top: float, side: str, share: float, text: str) -> str:
    return f'<span class="at" style="top:{top:g}px;{side}:{share:.2%}">{escaped(text)}</span>'
