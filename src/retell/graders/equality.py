"""Whether two answers are the same answer: kind by kind, in three values.

True and False are decided by exact or high-precision values; None is left open, by an algebra too. Only the gold may be
a rounding of the answer, never the answer one of the gold.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from string import ascii_lowercase

from retell.graders.expressions import PI, Call, Node, Number, Symbol
from retell.graders.forms import (
    Choice,
    Clock,
    Form,
    Group,
    Matrix,
    Numbers,
    Operation,
    Ratio,
    Relation,
    Scalar,
    Words,
    infinite,
    node_of,
)
from retell.graders.realsets import Piece, real_set
from retell.graders.rounding import is_rounding
from retell.graders.units import same_thing
from retell.graders.values import Expression, approximate, is_real, ratio_is_constant, same_value

Algebra = Callable[[str, str], bool | None]
"""Decides whether two expressions, given as LaTeX, are equal; None if it cannot."""

_MOST_PAIRS = 2500
_NOON = 12 * 3600


class Equality:
    """Compares readings of a gold with readings of an answer; what values leave open is asked of ``algebra``."""

    def __init__(self, algebra: Algebra) -> None:
        self._algebra = algebra

    def of(self, gold: Sequence[Form], answer: Sequence[Form]) -> bool | None:
        """Whether some reading of the gold equals some reading of the answer."""
        if all(any(isinstance(form, Clock) for form in side) for side in (gold, answer)):
            # 4:20 is no other way to say 2:10
            gold, answer = ([form for form in side if isinstance(form, Clock)] for side in (gold, answer))
        return _any(self._same(one, other) for one in gold for other in answer)

    def _same(self, gold: Form, answer: Form) -> bool | None:
        if gold == answer:
            return True
        match gold, answer:
            case Scalar(), Scalar():
                return self._scalars(gold, answer)
            case Choice(), Choice():
                if gold.letter != answer.letter:
                    return False
                return gold.rest is None or answer.rest is None or self._same(gold.rest, answer.rest)
            case Choice(rest=Scalar() | Words() as rest), _:
                return self._same(rest, answer)
            case _, Choice(rest=Scalar() | Words() as rest):
                return self._same(gold, rest)
            case Clock(), Clock():
                return _same_time(gold, answer)
            case Ratio(), Ratio():
                return self._ratios(gold.parts, answer.parts)
            case Ratio(parts=(over, under)), Scalar():
                return self._scalars(_fraction(over, under), answer)
            case Scalar(), Ratio(parts=(over, under)):
                return self._scalars(gold, _fraction(over, under))
            case Matrix(), Matrix():
                return self._matrices(gold, answer)
            case Matrix(), Group():
                return self._vector(gold, answer)
            case Group(), Matrix():
                return self._vector(answer, gold, swapped=True)
            case Relation(), Relation():
                return self._relations(gold, answer)
            case Relation(), _:
                return self._stated(gold, lambda value: self._same(value, answer), answer)
            case _, Relation():
                return self._stated(answer, lambda value: self._same(gold, value), gold)
            case Group(), Group():
                return self._groups(gold, answer)
            case Group(opening="{", items=(item,)), Scalar():
                return self._same(item, answer)
            case Scalar(), Group(opening="{", items=(item,)):
                return self._same(gold, item)
        if isinstance(gold, _SETS) and isinstance(answer, _SETS):
            return self._sets(gold, answer)
        return False

    # Scalars

    def _scalars(self, gold: Scalar, answer: Scalar) -> bool | None:
        if infinite(gold) or infinite(answer):
            return infinite(gold) == infinite(answer)
        factor = Fraction(1)
        if gold.unit and answer.unit:
            if _measures(gold, "angle") and _measures(answer, "radian"):
                return self._angles(gold, answer)
            if _measures(gold, "radian") and _measures(answer, "angle"):
                return self._angles(answer, gold)
            if gold.unit.dimensions == answer.unit.dimensions:
                factor = answer.unit.size / gold.unit.size
            elif not (gold.unit.counted and answer.unit.counted and same_thing(gold.unit, answer.unit)):
                return False
        elif answer.unit and answer.unit.odd:
            return False
        if gold.expression is None or answer.expression is None:
            if gold.percent != answer.percent or factor != 1:
                return None
            return True if gold.text == answer.text else self._algebra(gold.text, answer.text)
        wanted, found = gold.expression, _scaled(answer.expression, factor)
        if gold.percent != answer.percent:
            return self._percent(gold, wanted, found)
        verdict = self._expressions(wanted, found)
        angles = [_measures(side, "angle") for side in (gold, answer)]
        if verdict is False and angles[0] != angles[1] and not (gold.unit and answer.unit):
            degrees, plain = (wanted, found) if angles[0] else (found, wanted)
            if "\\pi" in plain.text:
                verdict = same_value(_radians(degrees), plain)
        return verdict if verdict is not False or _measures(gold, "money") else is_rounding(wanted, found)

    def _percent(self, gold: Scalar, wanted: Expression, found: Expression) -> bool | None:
        """25 % is 0.25; where the other side stands for a percentage without its sign, 25 % is 25."""
        stated, plain = (wanted, found) if gold.percent else (found, wanted)
        verdict = self._expressions(_scaled(stated, Fraction(1, 100)), plain)
        if verdict is False and abs(approximate(plain) or 0) > 1:
            return self._expressions(stated, plain)
        return verdict

    def _expressions(self, one: Expression, other: Expression) -> bool | None:
        verdict = same_value(one, other)
        return self._algebra(one.text, other.text) if verdict is None else verdict

    def _angles(self, degrees: Scalar, radians: Scalar) -> bool | None:
        if degrees.expression is None or radians.expression is None:
            return None
        return self._expressions(_radians(degrees.expression), radians.expression)

    def _ratios(self, gold: Sequence[Form], answer: Sequence[Form]) -> bool | None:
        if len(gold) != len(answer):
            return False
        shares = [[_fraction(side[0], part) for part in side[1:]] for side in (gold, answer)]
        return _all(self._scalars(one, other) for one, other in zip(*shares, strict=True))

    # Lists

    def _groups(self, gold: Group, answer: Group) -> bool | None:
        mine, theirs = _coordinates(gold), _coordinates(answer)
        if (mine is gold) != (theirs is answer):
            gold, answer = mine, theirs
            if len(gold.items) != len(answer.items) or "{" in (gold.opening, answer.opening):
                return False
            return self._ordered(gold.items, answer.items)
        if gold.opening in ("", "{") and answer.opening in ("", "{"):
            if gold.opening == answer.opening == "":
                return self._unordered(gold.items, answer.items)
            return self._sets_of(gold.items, answer.items)
        if "{" in (gold.opening, answer.opening):
            whole = gold if gold.opening == "{" else answer
            if len(whole.items) == 1 and self._same(
                *(whole.items[0] if side is whole else side for side in (gold, answer))
            ):
                return True  # a set of one pair, and the pair
            return self._sets(gold, answer)
        if len(gold.items) != len(answer.items):
            return False
        if len(gold.items) == 2 and not {"", "<"} & {gold.opening, answer.opening}:
            if (gold.opening, gold.closing) != (answer.opening, answer.closing):
                return False
            if any(map(infinite, (*gold.items, *answer.items))):
                return self._sets(gold, answer)
        return self._ordered(gold.items, answer.items)

    def _ordered(self, gold: Iterable[Form], answer: Iterable[Form]) -> bool | None:
        return _all(self._same(one, other) for one, other in zip(gold, answer, strict=True))

    def _unordered(self, gold: Sequence[Form], answer: Sequence[Form]) -> bool | None:
        """Whether the items of one are those of the other, each as often."""
        if len(gold) != len(answer):
            return False
        wanted, found = _without_common(gold, answer)
        return self._matched(wanted, found)

    def _sets_of(self, gold: Sequence[Form], answer: Sequence[Form]) -> bool | None:
        """Whether each item of one is in the other; how often does not matter."""
        keys = [{_key(form): form for form in side} for side in (gold, answer)]
        wanted = [form for key, form in keys[0].items() if key not in keys[1]]
        found = [form for key, form in keys[1].items() if key not in keys[0]]
        if not wanted and not found:
            return True
        if all(isinstance(_key(form), Fraction) for form in (*gold, *answer)):
            return False
        if len(wanted) * len(answer) + len(found) * len(gold) > _MOST_PAIRS:
            return None
        contained = _all(_any(self._same(one, other) for other in answer) for one in wanted)
        return _both(contained, lambda: _all(_any(self._same(one, other) for one in gold) for other in found))

    def _matched(self, wanted: Sequence[Form], found: list[Form]) -> bool | None:
        if all(isinstance(_key(form), Fraction) for form in (*wanted, *found)):
            return not wanted
        if len(wanted) * len(found) > _MOST_PAIRS:
            return None
        unknown = False
        for one in wanted:
            verdicts = []
            for place, other in enumerate(found):
                verdicts.append(self._same(one, other))
                if verdicts[-1]:
                    del found[place]
                    break
            else:
                if None not in verdicts:
                    return False
                unknown = True
        return None if unknown else True

    # Matrices

    def _matrices(self, gold: Matrix, answer: Matrix) -> bool | None:
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return False
        return _all(self._ordered(one, other) for one, other in zip(gold.rows, answer.rows, strict=True))

    def _vector(self, matrix: Matrix, group: Group, swapped: bool = False) -> bool | None:
        entries = [entry for row in matrix.rows for entry in row]
        single = len(matrix.rows) == 1 or all(len(row) == 1 for row in matrix.rows)
        if not single or group.opening in ("{", "") or len(entries) != len(group.items):
            return False
        return self._ordered(group.items, entries) if swapped else self._ordered(entries, group.items)

    # Relations

    def _stated(self, relation: Relation, same: Callable[[Form], bool | None], other: Form) -> bool | None:
        """A relation against something that is none: the value it states, or the set it describes."""
        if set(relation.operators) == {"="}:
            return _both(self._consistent(relation), lambda: same(relation.members[-1]))
        if relation.operators == ("in",):
            return same(relation.members[1]) if relation.name else False
        return self._sets(relation, other) if isinstance(other, _SETS) else False

    def _consistent(self, relation: Relation) -> bool | None:
        """Whether the members of a chain of equations are equal, but for the name they are given."""
        first = relation.members[0]
        named = relation.name or (len(relation.members) > 2 and isinstance(first, Scalar) and _has_symbols(first))
        *values, last = relation.members[1:] if named else relation.members
        return _all(self._same(last, value) for value in values)

    def _relations(self, gold: Relation, answer: Relation) -> bool | None:
        if set(gold.operators) == set(answer.operators) == {"="}:
            return self._equations(gold, answer)
        if "=" in gold.operators or "=" in answer.operators:
            return False
        if gold.operators == answer.operators == ("in",):
            return self._same(gold.members[1], answer.members[1]) if gold.name == answer.name else False
        return self._sets(gold, answer)

    def _equations(self, gold: Relation, answer: Relation) -> bool | None:
        if gold.name and answer.name:
            consistent = _both(self._consistent(gold), lambda: self._consistent(answer))
            if not consistent:
                return consistent
            wanted, found = gold.members[-1], answer.members[-1]
            if gold.name == answer.name or {gold.name, answer.name} <= {"y", f"f({_bound(gold) or _bound(answer)})"}:
                return self._same(wanted, found)
            mine, theirs = _bound(gold), _bound(answer)
            if mine and theirs and gold.name.partition("(")[0] == answer.name.partition("(")[0]:
                renamed = _renamed(found, theirs, mine)
                return renamed is not None and self._same(wanted, renamed)
        sides = [_difference(relation.members) for relation in (gold, answer)]
        if sides[0] is None or sides[1] is None:
            return False
        return ratio_is_constant(sides[0], sides[1])

    # Sets of real numbers

    def _sets(self, gold: Form, answer: Form) -> bool | None:
        wanted, found = real_set(gold), real_set(answer)
        if wanted and found:
            names = {name for name, _ in (wanted, found) if name}
            return len(names) < 2 and self._pieces(wanted[1], found[1])
        if isinstance(gold, Operation) and isinstance(answer, Operation) and gold.operator == answer.operator:
            return self._unordered(gold.parts, answer.parts)
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self._orders(gold, answer)
        if isinstance(gold, Group) and isinstance(answer, Group):
            return self._ordered(gold.items, answer.items)
        return False

    def _pieces(self, gold: list[Piece], answer: list[Piece]) -> bool | None:
        if len(gold) != len(answer):
            return False
        for one, other in zip(gold, answer, strict=True):
            if (one.low_closed, one.high_closed) != (other.low_closed, other.high_closed):
                return False
        ends = [(one.low, other.low) for one, other in zip(gold, answer, strict=True)]
        ends += [(one.high, other.high) for one, other in zip(gold, answer, strict=True)]
        return _all(
            one.at == other.at if one.form is None or other.form is None else self._same(one.form, other.form)
            for one, other in ends
        )

    def _orders(self, gold: Relation, answer: Relation) -> bool | None:
        """Inequalities between expressions, such as x + y < 3: the same up to a positive factor."""
        gold, answer = _ascending(gold), _ascending(answer)
        if gold.operators == answer.operators and len(gold.operators) > 1:
            return self._ordered(gold.members, answer.members)
        sides = [_order(relation) for relation in (gold, answer)]
        if sides[0] is None or sides[1] is None:
            return False
        (operator, one), (other_operator, other) = sides[0], sides[1]
        if operator != other_operator:
            return False
        signs = [expression.value("positive", 0) for expression in (one, other)]
        if signs[0] is None or signs[1] is None:
            return None
        if not all(is_real(sign[0]) for sign in signs if sign):
            return None
        if operator != "!=" and (signs[0][0] > 0) != (signs[1][0] > 0):
            return False
        return ratio_is_constant(one, other)


_SETS = (Group, Operation, Relation, Numbers)


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    unknown = False
    for verdict in verdicts:
        if verdict:
            return True
        unknown |= verdict is None
    return None if unknown else False


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown |= verdict is None
    return None if unknown else True


def _both(first: bool | None, second: Callable[[], bool | None]) -> bool | None:
    return False if first is False else _all((first, second()))


def _key(form: Form) -> Hashable:
    """A rational number by its value, anything else by itself."""
    if isinstance(form, Scalar) and form.expression and not form.unit and not form.percent:
        exact = form.expression.exact
        return form if exact is None else exact
    return form


def _without_common(gold: Sequence[Form], answer: Sequence[Form]) -> tuple[list[Form], list[Form]]:
    common = Counter(map(_key, gold)) & Counter(map(_key, answer))
    sides = []
    for side in (gold, answer):
        left = Counter(common)
        kept = []
        for form in side:
            key = _key(form)
            if left[key]:
                left[key] -= 1
            else:
                kept.append(form)
        sides.append(kept)
    return sides[0], sides[1]


def _scaled(expression: Expression, factor: Fraction) -> Expression:
    if factor == 1:
        return expression
    node = Call("mul", (Number(factor, str(factor)), expression.node))
    return Expression(node, f"({factor})({expression.text})")


def _fraction(over: Form, under: Form) -> Scalar:
    """One part of a ratio over another."""
    if isinstance(over, Scalar) and isinstance(under, Scalar) and over.expression and under.expression:
        text = f"\\frac{{{over.text}}}{{{under.text}}}"
        return Scalar(Expression(Call("div", (over.expression.node, under.expression.node)), text), text)
    return Scalar(None, "")


def _has_symbols(scalar: Scalar) -> bool:
    return scalar.expression is not None and bool(scalar.expression.symbols)


def _measures(scalar: Scalar, dimension: str) -> bool:
    return scalar.unit is not None and scalar.unit.dimensions == ((dimension, 1),)


def _radians(degrees: Expression) -> Expression:
    node = Call("div", (Call("mul", (degrees.node, PI)), Number(Fraction(180), "180")))
    return Expression(node, f"\\frac{{\\pi}}{{180}}({degrees.text})")


def _same_time(one: Clock, other: Clock) -> bool:
    if one.half and other.half:
        return _of_day(one) == _of_day(other)
    if one.half or other.half:
        halved, plain = (one, other) if one.half else (other, one)
        return plain.seconds in (halved.seconds, _of_day(halved))
    return one.seconds == other.seconds


def _of_day(clock: Clock) -> int:
    return clock.seconds % _NOON + (_NOON if clock.half == "pm" else 0)


def _coordinates(group: Group) -> Group:
    """A bare list ``x = 2, y = 3`` as the values in the order of their names."""
    named = [item for item in group.items if isinstance(item, Relation) and item.operators == ("=",) and item.name]
    if group.opening or len(named) < max(len(group.items), 2) or len({item.name for item in named}) < len(named):
        return group
    names = sorted(str(item.name) for item in named)
    if "".join(names) in ascii_lowercase:  # x, y, z have an order of their own; m and b have that of the answer
        named.sort(key=lambda item: str(item.name))
    return Group("(", ")", tuple(item.members[1] for item in named))


def _bound(relation: Relation) -> str | None:
    """The variable ``x`` of a definition ``f(x) = …``."""
    node = node_of(relation.members[0])
    if isinstance(node, Call) and node.name.endswith("()") and len(node.arguments) == 1:
        argument = node.arguments[0]
        return argument.name if isinstance(argument, Symbol) else None
    return None


def _renamed(form: Form, old: str, new: str) -> Form | None:
    """The form with another name for its variable; None where that name means something else in it."""
    if not isinstance(form, Scalar) or form.expression is None or old == new:
        return form
    if new in form.expression.symbols:
        return None

    def rename(node: Node) -> Node:
        if isinstance(node, Symbol):
            return Symbol(new) if node.name == old else node
        return Call(node.name, tuple(map(rename, node.arguments))) if isinstance(node, Call) else node

    text = f"{form.text} [{old} → {new}]"
    return Scalar(Expression(rename(form.expression.node), text), text, form.unit, form.percent)


def _difference(members: Sequence[Form]) -> Expression | None:
    """Left side less right side."""
    if len(members) != 2:
        return None
    left, right = members
    if not (isinstance(left, Scalar) and isinstance(right, Scalar) and left.expression and right.expression):
        return None
    node = Call("add", (left.expression.node, Call("neg", (right.expression.node,))))
    return Expression(node, f"{left.text} - ({right.text})")


def _ascending(relation: Relation) -> Relation:
    """``a < b < c`` for ``c > b > a``."""
    if not all(operator in (">", ">=") for operator in relation.operators):
        return relation
    operators = tuple(operator.replace(">", "<") for operator in reversed(relation.operators))
    return Relation(operators, relation.members[::-1], relation.name)


def _order(relation: Relation) -> tuple[str, Expression] | None:
    """An inequality as (operator, expression) with expression < 0, <= 0 or != 0."""
    if len(relation.operators) != 1 or relation.operators[0] == "in":
        return None
    members = relation.members if relation.operators[0][0] in "<!" else relation.members[::-1]
    difference = _difference(members)
    return (relation.operators[0].replace(">", "<"), difference) if difference else None
