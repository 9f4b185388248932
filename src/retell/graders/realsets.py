"""Sets of real numbers: intervals, unions, inequalities and conditions, as disjoint pieces in order."""

import math
from dataclasses import dataclass
from fractions import Fraction

from retell.graders.expressions import Call, Node, Number, Symbol
from retell.graders.forms import Form, Group, Numbers, Operation, Relation, Scalar, infinite, node_of, variable
from retell.graders.values import Expression, approximate


@dataclass(frozen=True, slots=True)
class End:
    """An end of an interval: where it is, about, and the exact form; None for infinity."""

    at: float
    form: Form | None


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval, open or closed at each end."""

    low: End
    low_closed: bool
    high: End
    high_closed: bool


_LEFT, _RIGHT = End(-math.inf, None), End(math.inf, None)
RealSet = tuple[str | None, list[Piece]]
"""The variable that is described, if one is named, and the pieces in order."""


def real_set(form: Form) -> RealSet | None:
    """A set of real numbers as disjoint pieces in order, or None if the form describes none."""
    if isinstance(form, Numbers):
        return {"R": (None, [Piece(_LEFT, False, _RIGHT, False)]), "empty": (None, [])}.get(form.name)
    if isinstance(form, Group):
        return _real_group(form)
    if isinstance(form, Relation):
        return _real_relation(form)
    if isinstance(form, Operation):
        return _real_operation(form)
    return None


def _real_group(group: Group) -> RealSet | None:
    if not group.opening and all(isinstance(item, Relation) for item in group.items):
        # x in R, x != 0 holds together; x < -1, x > 1 could not, and lists two cases.
        both = _real_operation(Operation("and", group.items))
        return both if both is None or both[1] else _real_operation(Operation("or", group.items))
    ends = [_end(item) for item in group.items]
    known = [end for end in ends if end]
    if len(known) < len(ends) or not group.opening or group.opening == "<":
        return None
    if group.opening == "{":
        return None, _joined([Piece(end, True, end, True) for end in known])
    if len(known) != 2:
        return None
    low, high = known
    return None, [Piece(low, group.opening == "[", high, group.closing == "]")]


def _end(form: Form) -> End | None:
    sign = infinite(form)
    if sign:
        return _RIGHT if sign > 0 else _LEFT
    if isinstance(form, Scalar) and form.expression:
        value = approximate(form.expression)
        return None if value is None else End(value, form)
    return None


def _real_relation(relation: Relation) -> RealSet | None:
    """``x > 3``, ``2 < x <= 5``, ``x in S``, ``x != 0``."""
    distance = _real_distance(relation)
    if distance:
        return distance
    names = [variable(member) for member in relation.members]
    if relation.operators == ("in",) and names[0]:
        found = real_set(relation.members[1])
        return (names[0], found[1]) if found else None
    places = [place for place, name in enumerate(names) if name]
    if len(places) != 1 or "in" in relation.operators or "=" in relation.operators:
        return None
    pieces = [Piece(_LEFT, False, _RIGHT, False)]
    for place, operator in enumerate(relation.operators):
        left, right = relation.members[place], relation.members[place + 1]
        if places[0] not in (place, place + 1):
            return None
        end = _end(right if place == places[0] else left)
        if end is None:
            return None
        turned = operator if place == places[0] else operator.translate(str.maketrans("<>", "><"))
        pieces = _common(pieces, _half_line(turned, end))
    return names[places[0]], pieces


def _real_distance(relation: Relation) -> RealSet | None:
    """``|x - a| < r`` and its like."""
    if len(relation.members) != 2 or relation.operators[0] not in ("<", "<=", ">", ">="):
        return None
    left, right = relation.members
    operator = relation.operators[0]
    if isinstance(node_of(right), Call):
        left, right, operator = right, left, operator.translate(str.maketrans("<>", "><"))
    inside, radius = node_of(left), _end(right)
    if not isinstance(inside, Call) or inside.name != "abs" or radius is None or not 0 < radius.at < math.inf:
        return None
    match inside.arguments[0]:
        case Symbol(name):
            centre: Node = Number(Fraction(0), "0")
        case Call("add", (Symbol(name), Call("neg", (Number() as centre,)))):
            pass
        case Call("add", (Symbol(name), Number() as shift)):
            centre = Call("neg", (shift,))
        case _:
            return None
    reach = node_of(right)
    assert reach is not None
    ends = [_end_at(Call("add", (centre, far))) for far in (Call("neg", (reach,)), reach)]
    closed = operator.endswith("=")
    inner = [Piece(ends[0], closed, ends[1], closed)]
    outer = [Piece(ends[0], not closed, ends[1], not closed)]
    return name, inner if operator[0] == "<" else _complement(outer)


def _end_at(node: Node) -> End:
    expression = Expression(node, repr(node))
    return End(approximate(expression) or 0.0, Scalar(expression, expression.text))


def _half_line(operator: str, end: End) -> list[Piece]:
    closed = operator.endswith("=")
    if operator == "!=":
        return [Piece(_LEFT, False, end, False), Piece(end, False, _RIGHT, False)]
    return [Piece(_LEFT, False, end, closed) if operator[0] == "<" else Piece(end, closed, _RIGHT, False)]


def _real_operation(operation: Operation) -> RealSet | None:
    sets = [real_set(part) for part in operation.parts]
    known = [found for found in sets if found]
    names = {name for name, _ in known if name}
    if len(known) < len(sets) or len(names) > 1:
        return None
    pieces = known[0][1]
    for _, others in known[1:]:
        if operation.operator in ("cup", "or"):
            pieces = _joined(pieces + others)
        else:
            pieces = _common(pieces, _complement(others) if operation.operator == "backslash" else others)
    return (names.pop() if names else None), pieces


def _near(one: float, other: float) -> bool:
    return one == other or math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-300)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The union of pieces, in order and disjoint."""
    joined: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.low.at, not piece.low_closed, piece.high.at)):
        last = joined[-1] if joined else None
        if last is None:
            joined.append(piece)
            continue
        touches = _near(last.high.at, piece.low.at) and (last.high_closed or piece.low_closed)
        if not (touches or (piece.low.at < last.high.at and not _near(last.high.at, piece.low.at))):
            joined.append(piece)
        elif _near(last.high.at, piece.high.at):
            closed = last.high_closed or piece.high_closed
            joined[-1] = Piece(last.low, last.low_closed, last.high, closed)
        elif piece.high.at > last.high.at:
            joined[-1] = Piece(last.low, last.low_closed, piece.high, piece.high_closed)
    return joined


def _complement(pieces: list[Piece]) -> list[Piece]:
    left: list[Piece] = []
    low, closed = _LEFT, False
    for piece in _joined(pieces):
        if piece.low.at > -math.inf:
            left.append(Piece(low, closed, piece.low, not piece.low_closed))
        low, closed = piece.high, not piece.high_closed
    if low.at < math.inf:
        left.append(Piece(low, closed, _RIGHT, False))
    return left


def _common(ones: list[Piece], others: list[Piece]) -> list[Piece]:
    """The intersection."""
    common = []
    for one in ones:
        for other in others:
            low, low_closed = _inner(one.low, one.low_closed, other.low, other.low_closed, upper=False)
            high, high_closed = _inner(one.high, one.high_closed, other.high, other.high_closed, upper=True)
            if (low.at < high.at and not _near(low.at, high.at)) or (
                _near(low.at, high.at) and low_closed and high_closed
            ):
                common.append(Piece(low, low_closed, high, high_closed))
    return _joined(common)


def _inner(one: End, one_closed: bool, other: End, other_closed: bool, upper: bool) -> tuple[End, bool]:
    if _near(one.at, other.at):
        return one, one_closed and other_closed
    return (one, one_closed) if (one.at < other.at) == upper else (other, other_closed)
