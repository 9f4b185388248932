from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.reading import read
from retell.graders.realsets import Piece, RealSet, real_set


def described(text: str) -> RealSet | None:
    return real_set(read(text)[0])


def pieces(text: str) -> list[Piece]:
    found = described(text)
    assert found
    return found[1]


def bounds(text: str) -> list[tuple[float, bool, float, bool]]:
    return [(piece.low.at, piece.low_closed, piece.high.at, piece.high_closed) for piece in pieces(text)]


SAMPLES = [Fraction(n, 2) for n in range(-13, 14)]
"""All integers from -6 to 6 (the ends that are drawn lie between) and a point between any two."""


def contains(found: list[Piece], point: Fraction) -> bool:
    return any(
        (piece.low.at < point or (piece.low_closed and piece.low.at == point))
        and (point < piece.high.at or (piece.high_closed and point == piece.high.at))
        for piece in found
    )


@dataclass(frozen=True)
class Drawn:
    """A set as LaTeX, and the sample points in it."""

    text: str
    points: frozenset[Fraction]


def _interval(low: int, size: int, left: str, right: str) -> Drawn:
    high = low + size
    points = {point for point in SAMPLES if low < point < high}
    points |= {Fraction(low)} if left == "[" else set()
    points |= {Fraction(high)} if right == "]" else set()
    return Drawn(f"{left}{low},{high}{right}", frozenset(points))


def _below(high: int, right: str) -> Drawn:
    points = {point for point in SAMPLES if point < high or (right == "]" and point == high)}
    return Drawn(f"(-\\infty,{high}{right}", frozenset(points))


def _above(low: int, left: str) -> Drawn:
    points = {point for point in SAMPLES if point > low or (left == "[" and point == low)}
    return Drawn(f"{left}{low},\\infty)", frozenset(points))


def _listed(points: list[int]) -> Drawn:
    return Drawn("\\{" + ",".join(map(str, points)) + "\\}", frozenset(map(Fraction, points)))


INTERVALS = st.builds(_interval, st.integers(-6, 3), st.integers(1, 3), st.sampled_from("(["), st.sampled_from(")]"))
RAYS = st.builds(_below, st.integers(-6, 6), st.sampled_from(")]")) | st.builds(
    _above, st.integers(-6, 6), st.sampled_from("([")
)
POINTS = st.lists(st.integers(-6, 6), min_size=1, max_size=3).map(_listed)
REALS = st.just(Drawn("\\mathbb{R}", frozenset(SAMPLES)))
ANY = st.one_of(INTERVALS, RAYS, POINTS, REALS)


def check(text: str, points: frozenset[Fraction]) -> None:
    found = pieces(text)
    assert {point for point in SAMPLES if contains(found, point)} == points
    for one, other in pairwise(found):  # in order, and apart
        assert one.high.at < other.low.at or (one.high.at == other.low.at and not (one.high_closed or other.low_closed))


@given(ANY)
def test_a_set_holds_its_points(one: Drawn) -> None:
    check(one.text, one.points)


@given(st.lists(ANY, min_size=2, max_size=4))
def test_a_union_holds_what_any_holds(drawn: list[Drawn]) -> None:
    check("\\cup ".join(one.text for one in drawn), frozenset().union(*(one.points for one in drawn)))


@given(ANY, ANY)
def test_an_intersection_holds_what_both_hold(one: Drawn, other: Drawn) -> None:
    check(f"{one.text}\\cap {other.text}", one.points & other.points)


@given(ANY, ANY)
def test_a_difference_holds_what_the_other_does_not(one: Drawn, other: Drawn) -> None:
    check(f"{one.text}\\setminus {other.text}", one.points - other.points)


@given(ANY, ANY)
def test_complements_and_unions_either_way_round(one: Drawn, other: Drawn) -> None:
    check(f"\\mathbb{{R}}\\setminus {one.text}", frozenset(SAMPLES) - one.points)
    assert bounds(f"{one.text}\\cup {other.text}") == bounds(f"{other.text}\\cup {one.text}")


@given(st.integers(-6, 2), st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from(["x", "t", "\\theta"]))
def test_intervals_are_inequalities(low: int, size: int, left: bool, right: bool, name: str) -> None:
    high = low + size
    interval = f"{'[' if left else '('}{low},{high}{']' if right else ')'}"
    below, above = "\\le" if left else "<", "\\le" if right else "<"
    wanted = bounds(interval)
    assert bounds(f"{low} {below} {name} {above} {high}") == wanted
    turned_below, turned_above = "\\ge" if left else ">", "\\ge" if right else ">"
    assert bounds(f"{high} {turned_above} {name} {turned_below} {low}") == wanted
    assert bounds(f"{name} {turned_below} {low} \\text{{ and }} {name} {above} {high}") == wanted
    assert bounds(f"{name} \\in {interval}") == wanted
    assert bounds(f"\\{{{name} \\mid {low} {below} {name} {above} {high}\\}}") == wanted


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x>3", "(3,\\infty)"),
        ("3<x", "x>3"),
        ("x \\le 2", "(-\\infty,2]"),
        ("x \\ne 0", "(-\\infty,0)\\cup(0,\\infty)"),
        ("x<1 \\text{ or } x>2", "(-\\infty,1)\\cup(2,\\infty)"),
        ("[0,1]\\cup[1,2]", "[0,2]"),
        ("(0,1)\\cup\\{1\\}", "(0,1]"),
        ("(0,2)\\setminus\\{1\\}", "(0,1)\\cup(1,2)"),
        ("[1,1]", "\\{1\\}"),
        ("(-\\infty,\\infty)", "\\mathbb{R}"),
        ("(0,1)\\cap(1,2)", "\\emptyset"),
        ("\\{2,1,2\\}", "\\{1,2\\}"),
        ("(\\frac12,\\pi)", "(0.5,\\pi)"),
        ("0<x\\le\\pi", "(0,\\pi]"),
        ("x<e", "(-\\infty,e)"),
        ("0<x<\\infty", "(0,\\infty)"),
        ("|x|<3", "(-3,3)"),
        ("|x|\\le 3", "[-3,3]"),
        ("3>|x|", "(-3,3)"),
        ("|x|>3", "(-\\infty,-3)\\cup(3,\\infty)"),
        ("|x|\\ge 3", "(-\\infty,-3]\\cup[3,\\infty)"),
        ("|x-2|<3", "(-1,5)"),
        ("|x+2|<3", "(-5,1)"),
        ("|x+2|\\ge 3", "x\\le -5 \\text{ or } x\\ge 1"),
    ],
)
def test_two_descriptions_of_one_set(one: str, other: str) -> None:
    assert bounds(one) == bounds(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[0,1)", "[0,1]"),
        ("(0,1)\\cup(1,2)", "(0,2)"),
        ("x>3", "x\\ge 3"),
        ("x \\ne 0", "\\mathbb{R}"),
        ("(0,1)", "\\{0,1\\}"),
    ],
)
def test_other_sets(one: str, other: str) -> None:
    assert bounds(one) != bounds(other)


def test_the_variable_is_told() -> None:
    assert [described(text)[0] for text in ("x>3", "t \\in [0,1]", "(0,1)", "\\mathbb{R}")] == ["x", "t", None, None]  # type: ignore[index]


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "(1,2,3)",
        "(x,y)",
        "x=3",
        "x<y",
        "a<b<c",
        "x>3 \\text{ or } y>3",
        "\\{a,b\\}",
        "\\mathbb{Z}",
        "\\langle 1,2\\rangle",
        "1,2",
        "x^2<4",
        "(1,i)",
        "\\text{even}",
        "3>2",
        "x<x",
        "|x|<0",
        "|x|<-3",
        "|x|<a",
        "|2x|<3",
        "|x|<3<4",
    ],
)
def test_what_describes_no_set_of_real_numbers(text: str) -> None:
    assert described(text) is None
