import random
from contextlib import suppress
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retell.graders.equality import Algebra, Equality
from retell.graders.latex import Unreadable, Unsupported
from retell.graders.reading import read
from retell.graders.values import Doubtful


def unasked(one: str, other: str) -> bool | None:
    raise AssertionError(f"the algebra is asked: {one!r} and {other!r}")


def equal(answer: str, gold: str, algebra: Algebra = unasked) -> bool | None:
    return Equality(algebra).of(read(gold), read(answer))


def both_ways(one: str, other: str, algebra: Algebra = unasked) -> bool | None:
    verdict = equal(one, other, algebra)
    assert equal(other, one, algebra) is verdict
    return verdict


# Rules

SAME = [
    # units, money, percent, degrees
    ("5\\text{ cm}", "5"),
    ("5\\text{ m}", "500\\text{ cm}"),
    ("5\\text{ m}^2", "50000\\text{ cm}^2"),
    ("1.5\\text{ hours}", "90\\text{ minutes}"),
    ("36\\text{ km/h}", "10\\text{ m/s}"),
    ("9\\,\\mathrm{m\\,s^{-1}}", "9\\,\\mathrm{m/s}"),
    ("7\\text{ marbles}", "7\\text{ blue marbles}"),
    ("5\\text{ m}", "5 m"),
    ("x\\text{ cm}", "x"),
    ("\\$5", "500\\text{ cents}"),
    ("\\$12.50", "12.5"),
    ("\\$1,500", "1500"),
    ("25\\%", "0.25"),
    ("25\\%", "\\frac14"),
    ("25\\%", "25"),
    ("150\\%", "1.5"),
    ("100\\%", "1"),
    ("90^\\circ", "90"),
    ("90^\\circ", "\\frac{\\pi}{2}"),
    ("45\\text{ degrees}", "45^\\circ"),
    ("20^\\circ C", "20"),
    ("20^\\circ\\text{C}", "20\\text{ celsius}"),
    ("5\\text{ more apples}", "5\\text{ apples}"),
    # words and numbers
    ("\\text{twenty-one}", "21"),
    ("3 million", "3000000"),
    ("12\\text{ in total}", "12\\text{ apples}"),
    ("\\text{The answer is } 7", "7"),
    ("\\text{an ellipse}", "\\text{Ellipse}"),
    ("\\text{June 20}", "\\text{20 June}"),
    ("\\text{June 20th}", "\\text{June 20}"),
    # tuples, vectors, matrices
    ("(1,2)", "\\left( 1.0 , \\frac{4}{2} \\right)"),
    ("(1,2)", "\\langle 1,2\\rangle"),
    ("(1,2)", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("(1,2)", "\\begin{pmatrix}1&2\\end{pmatrix}"),
    ("(1,2)", "x=1, y=2"),
    ("(1,2)", "y=2, x=1"),
    ("(x,y)=(1,2)", "(1,2)"),
    ("a=1, b=2", "1,2"),
    ("m=2, b=3", "b=3, m=2"),
    ("m=2, b=3", "(2,3)"),
    ("b=3, m=2", "(3,2)"),
    ("\\begin{cases} x &= 1 \\\\ y &= 2 \\end{cases}", "x=1, y=2"),
    ("(1,2,3)", "1,2,3"),
    ("\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "\\begin{pmatrix}1&2\\\\3&4.0\\end{pmatrix}"),
    # sets and lists
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("\\{1,1,2\\}", "\\{1,2\\}"),
    ("1,2", "2,1"),
    ("1,2", "\\{2,1\\}"),
    ("1\\text{ and }2", "2, 1"),
    ("x=1\\text{ or }x=2", "1,2"),
    ("1\\pm\\sqrt2", "1-\\sqrt2, 1+\\sqrt2"),
    ("\\{\\sqrt8, 1\\}", "\\{1, 2\\sqrt2\\}"),
    ("(1,2),(3,4)", "(3,4),(1,2)"),
    ("\\{5\\}", "5"),
    ("\\{(1,2)\\}", "(1,2)"),
    ("\\emptyset", "\\{\\}"),
    ("\\text{no solution}", "\\emptyset"),
    # intervals and inequalities
    ("(1,2]", "1<x\\le 2"),
    ("(0,\\pi)", "0<x<\\pi"),
    ("x<e", "(-\\infty,e)"),
    ("0<x<\\infty", "(0,\\infty)"),
    ("x>3", "(3,\\infty)"),
    ("x>3", "3<x"),
    ("4>x>-1", "-1<x<4"),
    ("x\\ne 0", "(-\\infty,0)\\cup(0,\\infty)"),
    ("|x|<3", "(-3,3)"),
    ("3\\ge|x|", "[-3,3]"),
    ("|x-2|>3", "x<-1\\text{ or }x>5"),
    ("\\mathbb{R}\\setminus\\{0\\}", "x\\ne 0"),
    ("(2,\\infty)\\cup(-\\infty,1)", "(-\\infty,1)\\cup(2,\\infty)"),
    ("[0,1]\\cup[1,2]", "[0,2]"),
    ("[1,1]", "\\{1\\}"),
    ("x\\in[1,2]", "[1,2]"),
    ("(\\frac12,\\sqrt8)", "(0.5,2\\sqrt2)"),
    ("\\mathbb{R}", "(-\\infty,\\infty)"),
    ("x+y<1", "2x+2y<2"),
    ("a<b<c", "a < b < c"),
    ("a<b<c", "c>b>a"),
    ("x+y<1", "1>x+y"),
    ("x+y<1", "-x-y>-1"),
    # equations
    ("x=3", "3"),
    ("3=x", "3"),
    ("n=4+3=7", "7"),
    ("y=2x+3", "2x+3"),
    ("y=2x+3", "2x-y+3=0"),
    ("2x+2y=2", "x+y=1"),
    ("f(x)=x^2", "x^2"),
    ("f(x)=x^2", "f(t)=t^2"),
    ("AB=5", "5"),
    # ratios, times, bases, choices
    ("3:4", "6:8"),
    ("3:4", "\\frac34"),
    ("1:2:3", "2:4:6"),
    ("3 to 1", "3:1"),
    ("3\\text{ to }1", "6:2"),
    ("3:30\\text{ PM}", "15:30"),
    ("3:30\\text{ p.m.}", "3:30\\text{ PM}"),
    ("3:30\\text{ PM}", "3:30"),
    ("12:15\\text{ am}", "0:15"),
    ("3\\text{ pm}", "3:00\\text{ pm}"),
    ("101_2", "101_{2}"),
    ("101_2", "0101_{\\text{two}}"),
    ("C", "\\text{(C)}"),
    ("\\textbf{(D)}\\ 12", "D"),
    ("D", "(d)"),
    ("\\text{(D) }12", "12"),
    ("4.5e33", "4.5\\times 10^{33}"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_answer_either_way_round(one: str, other: str) -> None:
    assert both_ways(one, other) is True


OTHER = [
    # units, money, percent, degrees
    ("5\\text{ cm}", "5\\text{ m}"),
    ("5\\text{ cm}", "6\\text{ cm}"),
    ("5\\text{ cm}^2", "5\\text{ cm}"),
    ("5\\text{ m/s}", "5\\text{ m s}"),
    ("5\\text{ apples}", "5\\text{ oranges}"),
    ("5\\text{ red marbles}", "5\\text{ blue marbles}"),
    ("5 g", "5 kg"),
    ("\\$5", "€5"),
    ("\\$5", "5\\text{ cents}"),
    ("-\\$5", "\\$5"),
    ("\\$3.99", "\\$4"),
    ("0.5\\%", "0.5"),
    ("2.5\\%", "25\\%"),
    ("0.25", "25"),
    ("90^\\circ", "90\\text{ rad}"),
    ("90", "\\frac{\\pi}{2}"),
    ("60^\\circ", "30^\\circ"),
    ("20°C", "20°F"),
    ("20°C", "20°"),
    ("20°F", "20\\text{ K}"),
    # words and numbers
    ("\\text{five six}", "11"),
    ("\\text{two and three}", "5"),
    ("\\text{twenty thirty}", "50"),
    ("\\text{hundred hundred}", "10000"),
    ("\\begin{cases} 1 & x>0 \\\\ 2 & x<0 \\end{cases}", "\\begin{cases} 1 & x<0 \\\\ 2 & x>0 \\end{cases}"),
    ("\\begin{cases} 1 & x>0 \\\\ 2 & x<0 \\end{cases}", "\\begin{cases} 3 & x>0 \\\\ 4 & x<0 \\end{cases}"),
    ("one, two", "3"),
    ("3 million", "3"),
    ("3\\text{ thousand}", "3"),
    ("3\\text{ dozen}", "3"),
    ("two hundred", "two"),
    ("two hundred", "two hundred five"),
    ("\\$5\\text{ million}", "\\$5"),
    ("\\text{minus five}", "5"),
    ("5\\text{ halves}", "5"),
    ("\\text{not } 5", "5"),
    ("\\text{at least } 5", "5"),
    ("\\text{twice the area}=5", "5"),
    ("\\text{not the area}=5", "5"),
    ("\\text{The answer is not } 5", "5"),
    ("\\text{The answer plus one is } 5", "5"),
    ("\\text{even}", "\\text{odd}"),
    ("\\text{not even}", "\\text{even}"),
    ("\\text{July 20}", "\\text{June 20}"),
    ("\\text{June 20, 2020}", "\\text{June 20}"),
    ("\\text{page 1.5}", "\\text{page 1 5}"),
    ("-xy", "xy"),
    ("RC", "-RC"),
    ("a/bc", "a-bc"),
    ("xy!", "xy"),
    ("AB'", "AB"),
    ("xy\\%", "xy"),
    ("(a-b)cd", "(a/b)cd"),
    # tuples, vectors, matrices
    ("(1,2)", "(2,1)"),
    ("(1,2)", "(1,2,3)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "[1,2)"),
    ("(1,2)", "\\{1,2\\}"),
    ("(1,2)", "1"),
    ("(2,1)", "x=1, y=2"),
    ("2,1", "x=1, y=2"),
    ("m=2, b=3", "m=3, b=2"),
    ("b=3, m=2", "(2,3)"),
    ("m=2, b=3", "\\{2,3\\}"),
    ("(y,x)=(1,2)", "(1,2)"),
    ("\\langle 1,2\\rangle", "\\langle 2,1\\rangle"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "(1,2,3,4)"),
    ("(1,234)", "1234"),
    # sets and lists
    ("\\{1,2\\}", "\\{1,3\\}"),
    ("\\{1,2\\}", "\\{1,2,3\\}"),
    ("1,2", "1,1,2"),
    ("1,1,2", "1,2,2"),
    ("1,2", "1"),
    ("1,2,3", "1,2,3,4"),
    ("1,2,3,\\ldots", "1,2,3"),
    ("2,4,6,...", "2,4,6"),
    ("1\\text{ or }2", "1"),
    ("\\pm 5", "5"),
    ("1+\\sqrt2", "1\\pm\\sqrt2"),
    ("\\{0\\}", "\\emptyset"),
    ("\\{1,\\sqrt2\\}", "\\{1,\\sqrt2,\\pi\\}"),
    ("\\{x,y\\}", "\\{x,y,z\\}"),
    ("1,\\sqrt2", "1,\\sqrt2,\\pi"),
    ("x,x,y", "x,y,y"),
    ("0", "\\emptyset"),
    ("x=1, y=2", "x=2, y=1"),
    ("(1,2),(3,4)", "(2,1),(3,4)"),
    # intervals and inequalities
    ("(0,\\infty)", "[0,\\infty)"),
    ("(0,1)", "(0,1]"),
    ("(-1,1)", "(-1,0)\\cup(0,1)"),
    ("x>3", "x\\ge 3"),
    ("x>3", "x<3"),
    ("x>3", "3"),
    ("x>3", "y>3"),
    ("|x|<3", "(-3,3]"),
    ("|x|<3", "x<3"),
    ("|x|<3", "|y|<3"),
    ("|x|>3", "(-3,3)"),
    ("1<x<2", "1<x"),
    ("x+y<1", "-x-y<-1"),
    ("x+y<1", "x+y\\le 1"),
    ("a<b<c", "a<c<b"),
    ("a<b<c", "a<b"),
    ("2:30", "1:15"),
    ("I(0)", "0"),
    ("x\\ne 5", "5"),
    ("[2,1]", "[1,2]"),
    ("(0,10^{50}+1)", "(0,10^{50})"),
    ("\\mathbb{R}", "\\mathbb{Z}"),
    ("\\infty", "-\\infty"),
    ("\\infty", "5"),
    # equations
    ("x=3", "4"),
    ("x=3", "x=-3"),
    ("x=3", "y=3"),
    ("n=7=8", "7"),
    ("n=7=8", "8"),
    ("x=x", "7"),
    ("1=2", "2"),
    ("y=3x+2", "y=2x+3"),
    ("x+y=1", "x+y=2"),
    ("x+y=1", "-x-y=1"),
    ("y^2=x", "y=x"),
    ("f(x)=x^2", "g(x)=x^2"),
    ("f(t)=x^2", "f(x)=x^2"),
    ("x=5, y=6", "5"),
    ("x=5, y=6", "6"),
    # ratios, times, bases, choices
    ("3:4", "4:3"),
    ("3 to 1", "1:3"),
    ("1:2:3", "1:2:4"),
    ("1:2", "1:2:3"),
    ("3:30", "3:03"),
    ("3:30\\text{ am}", "3:30\\text{ pm}"),
    ("3:30", "15:30"),
    ("3:30\\text{ pm}", "4:30"),
    ("3:30\\text{ pm}", "3:31\\text{ pm}"),
    ("12:15\\text{ am}", "12:15\\text{ pm}"),
    ("101_2", "101_3"),
    ("101_2", "101"),
    ("11_2", "3"),
    ("C", "D"),
    ("C", "12"),
    ("C", "c"),
    ("(D) 12", "(C) 12"),
    ("(D) 12", "(D) 13"),
    ("\\text{A or B}", "A"),
    ("\\text{A bicycle}", "A"),
    ("\\text{C. is wrong}", "C"),
    ("\\text{C. not red}", "C"),
    ("A,B", "A"),
    ("4.5e33", "4.5e34"),
    ("6.03\\times 10^{23}", "6.02\\times 10^{23}"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_answer_either_way_round(one: str, other: str) -> None:
    with suppress(Unreadable, Unsupported):  # what cannot be read is wrong, too
        assert both_ways(one, other) is False


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("\\frac13", "0.333"), ("\\sqrt2", "1.41"), ("4.504e33", "4.50\\times 10^{33}"), ("(\\frac13, 1)", "(0.333, 1)")],
)
def test_only_the_gold_may_be_rounded(answer: str, gold: str) -> None:
    assert equal(answer, gold) is True
    assert equal(gold, answer) is False


@pytest.mark.parametrize(
    "words", ["squared", "factorial", "(wrong)", "not", "more", "or more", "more than x", "halves", "million"]
)
def test_an_answer_is_not_right_whatever_words_it_adds(words: str) -> None:
    for answer in (f"5\\text{{ {words}}}", f"5 \\text{{{words}}}"):
        with suppress(Unreadable, Unsupported):
            assert equal(answer, "5") is False


def test_money_is_not_rounded() -> None:
    assert equal("\\$\\frac{10}{3}", "\\$3.333") is False
    assert equal("\\frac{10}{3}", "3.333") is True


# What the algebra is asked


@pytest.mark.parametrize("verdict", [True, False, None])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\sum_{k=1}^{10} k", "55"),
        ("\\int_0^1 x dx", "0.5"),
        ("(1,\\int_0^1 x dx)", "(1,0.5)"),
        ("\\{\\sum_{k=1}^{10} k\\}", "55"),
        ("x=\\int_0^1 x dx", "0.5"),
        ("y=\\sum_{k=1}^n k", "\\frac{n(n+1)}{2}"),
    ],
)
def test_what_values_leave_open_the_algebra_decides(one: str, other: str, verdict: bool | None) -> None:
    asked = []

    def algebra(left: str, right: str) -> bool | None:
        asked.append((left, right))
        return verdict

    assert both_ways(one, other, algebra) is verdict
    assert len(asked) == 2


def test_the_algebra_is_not_asked_where_another_entry_differs() -> None:
    assert both_ways("(1,\\int_0^1 x dx)", "(2,0.5)", lambda *_: True) is False
    assert both_ways("(\\int_0^1 x dx,1)", "(0.5,2)", lambda *_: None) is False
    assert both_ways("\\{1,\\int_0^1 x dx\\}", "\\{1,0.5\\}", lambda *_: None) is None
    assert both_ways("1,\\int_0^1 x dx", "1,0.5", lambda *_: None) is None
    assert both_ways("\\{1,2,\\int_0^1 x dx\\}", "\\{0.5,1\\}", lambda *_: True) is False
    assert (
        both_ways(
            "\\begin{pmatrix}1\\\\\\int_0^1 x dx\\end{pmatrix}",
            "\\begin{pmatrix}1\\\\0.5\\end{pmatrix}",
            lambda *_: True,
        )
        is True
    )


@pytest.mark.parametrize("unit", ["\\text{ m}", "\\%"])
def test_a_factor_is_not_forgotten_where_the_algebra_would_be_asked(unit: str) -> None:
    other = "\\text{ cm}" if "m" in unit else ""
    assert both_ways(f"\\int_0^1 x dx {unit}", f"\\int_0^1 x dx {other}", lambda *_: True) is not True


def test_what_the_two_readings_of_a_text_leave_open() -> None:
    assert both_ways("1,234", "1234") is True
    assert both_ways("1,234", "234, 1") is True
    assert both_ways("1,234", "1.234") is False
    assert both_ways("1,234", "1235") is False


# Laws: an answer in two styles is one answer, and with an entry changed another

ENTRIES = st.fractions(min_value=-50, max_value=50, max_denominator=12)


def plain(value: Fraction) -> str:
    return str(value)


def latex(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    if value.denominator == 1:
        return f"{sign}{abs(value.numerator)}"
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def fancy(value: Fraction) -> str:
    """As a mixed number, a decimal or an unreduced fraction."""
    sign, whole = "-" if value < 0 else "", abs(value)
    if whole.denominator in (2, 4, 5, 8, 10):
        return f"{sign}{float(whole)}"
    if whole > 1 and whole.denominator > 1:
        return f"{sign}{int(whole)}\\frac{{{(whole % 1).numerator}}}{{{whole.denominator}}}"
    return f"{sign}\\dfrac{{{whole.numerator * 3}}}{{{whole.denominator * 3}}}"


STYLES = (plain, latex, fancy)
STYLE = st.sampled_from(STYLES)


def listed(values: list[Fraction], style: object, separator: str = ", ") -> str:
    return separator.join(map(style, values))  # type: ignore[call-overload]


@given(ENTRIES, ENTRIES, STYLE, STYLE)
def test_rationals_in_two_styles(one: Fraction, other: Fraction, style: object, another: object) -> None:
    assert both_ways(listed([one], style), listed([one], another)) is True
    assert both_ways(listed([one], style), listed([other], another)) is (one == other)


@given(st.lists(ENTRIES, min_size=2, max_size=5), st.data())
def test_tuples_in_two_styles(values: list[Fraction], data: st.DataObject) -> None:
    one = f"({listed(values, data.draw(STYLE))})"
    style = data.draw(STYLE)
    another = data.draw(st.sampled_from(["\\left({}\\right)", "({})", "\\langle {} \\rangle", "\\bigl({}\\bigr)"]))
    assert both_ways(one, another.format(listed(values, style, " , "))) is True
    column = " \\\\ ".join(map(style, values))
    assert both_ways(one, f"\\begin{{pmatrix}} {column} \\end{{pmatrix}}") is True
    place = data.draw(st.integers(0, len(values) - 1))
    changed = list(values)
    changed[place] += data.draw(ENTRIES.filter(bool))
    assert both_ways(one, another.format(listed(changed, style))) is False
    mixed = values[1:] + values[:1]
    assert both_ways(one, another.format(listed(mixed, style))) is (mixed == values)
    assert both_ways(one, another.format(listed([*values, Fraction(0)], style))) is False


@given(st.lists(ENTRIES, min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False), st.data())
def test_sets_and_lists_in_two_styles(values: list[Fraction], chance: random.Random, data: st.DataObject) -> None:
    mixed = list(values)
    chance.shuffle(mixed)
    form = data.draw(st.sampled_from([("\\{{{}\\}}", "\\left\\{{ {} \\right\\}}"), ("{}", "{}"), ("\\{{{}\\}}", "{}")]))
    one, other = (
        frame.format(listed(side, data.draw(STYLE))) for frame, side in zip(form, (values, mixed), strict=True)
    )
    assert both_ways(one, other) is True
    place = data.draw(st.integers(0, len(values) - 1))
    changed = list(mixed)
    changed[place] = data.draw(ENTRIES.filter(lambda value: value not in values))
    assert both_ways(one, form[1].format(listed(changed, latex))) is False
    assert both_ways(one, form[1].format(listed(mixed[1:], latex))) is False


@given(ENTRIES, ENTRIES.map(abs).filter(bool), st.sampled_from("(["), st.sampled_from(")]"), STYLE, STYLE, st.data())
def test_intervals_in_two_styles(
    low: Fraction, size: Fraction, left: str, right: str, style: object, another: object, data: st.DataObject
) -> None:
    ends = [low, low + size]
    one = f"{left}{listed(ends, style)}{right}"
    assert both_ways(one, f"\\left{left} {listed(ends, another)} \\right{right}") is True
    low_text, high_text = (listed([end], another) for end in ends)
    below, above = ("\\le" if left == "[" else "<"), ("\\leq" if right == "]" else "<")
    assert both_ways(one, f"{low_text} {below} x {above} {high_text}") is True
    assert both_ways(one, f"x \\in {one}") is True
    place = data.draw(st.integers(0, 1))
    changed = list(ends)
    changed[place] += size if place else -size
    assert both_ways(one, f"{left}{listed(changed, another)}{right}") is False
    turned = f"{'(' if left == '[' else '['}{listed(ends, another)}{right}"
    assert both_ways(one, turned) is False
    turned = f"{left}{listed(ends, another)}{']' if right == ')' else ')'}"
    assert both_ways(one, turned) is False


@given(st.integers(1, 4), st.integers(2, 4), st.data())
def test_matrices_in_two_styles(height: int, width: int, data: st.DataObject) -> None:
    rows = [[data.draw(ENTRIES) for _ in range(width)] for _ in range(height)]

    def matrix(rows: list[list[Fraction]], style: object, environment: str) -> str:
        body = "\\\\ ".join(listed(row, style, " & ") for row in rows)
        return f"\\begin{{{environment}}}{body}\\end{{{environment}}}"

    one = matrix(rows, data.draw(STYLE), "pmatrix")
    assert (
        both_ways(one, matrix(rows, data.draw(STYLE), data.draw(st.sampled_from(["bmatrix", "pmatrix", "matrix"]))))
        is True
    )
    changed = [list(row) for row in rows]
    changed[data.draw(st.integers(0, height - 1))][data.draw(st.integers(0, width - 1))] += data.draw(
        ENTRIES.filter(bool)
    )
    assert both_ways(one, matrix(changed, latex, "bmatrix")) is False
    turned = [list(column) for column in zip(*rows, strict=True)]
    if height > 1:
        assert both_ways(one, matrix(turned, latex, "bmatrix")) is (turned == rows)


PIECES = st.one_of(
    ENTRIES.map(latex),
    ENTRIES.map(fancy),
    st.integers(0, 10**9).map(lambda n: f"{n:,}"),
    st.sampled_from(
        [
            "\\sqrt{2}",
            "\\pi",
            "x",
            "2x+1",
            "\\frac{x}{y}",
            "\\infty",
            "e^{2}",
            "25\\%",
            "5\\text{ cm}",
            "\\$5",
            "30^\\circ",
            "xy",
            "-xy",
            "i",
            "\\sin x",
        ]
    ),
)


def joined(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    some = st.lists(children, min_size=2, max_size=3)
    frames = ["({})", "[{}]", "(  {}]", "\\{{{}\\}}", "\\langle {}\\rangle", "{}"]
    return st.builds(lambda frame, parts: frame.format(",".join(parts)), st.sampled_from(frames), some)


ANSWERS = st.one_of(
    PIECES,
    joined(PIECES),
    joined(joined(PIECES)),
    PIECES.map(lambda piece: f"x={piece}"),
    PIECES.map(lambda piece: f"y > {piece}"),
    st.tuples(PIECES, PIECES).map(lambda two: f"{two[0]} < y \\le {two[1]}"),
    st.tuples(PIECES, PIECES).map(lambda two: f"{two[0]}:{two[1]}"),
    st.tuples(PIECES, PIECES).map(lambda two: f"{two[0]} \\text{{ or }} {two[1]}"),
    st.lists(PIECES, min_size=2, max_size=3).map(
        lambda row: f"\\begin{{pmatrix}}{'&'.join(row)}\\\\{'&'.join(row)}\\end{{pmatrix}}"
    ),
    st.sampled_from(
        [
            "(0,1)\\cup(1,2)",
            "\\mathbb{R}",
            "\\mathbb{Z}",
            "\\emptyset",
            "\\text{even}",
            "\\text{odd}",
            "C",
            "(D)",
            "(D) 12",
            "101_2",
            "3:30",
            "3:30 pm",
            "\\text{June 20}",
            "\\text{four}",
            "f(x)=x^2",
            "x^2+y^2=1",
            "x+y<1",
            "y=2x+3",
        ]
    ),
)


def verdict_of(gold: str, answer: str) -> bool | None:
    try:
        return Equality(lambda *_: None).of(read(gold), read(answer))
    except Doubtful:
        return None


@settings(max_examples=300)
@given(ANSWERS)
def test_every_answer_equals_itself(text: str) -> None:
    try:
        read(text)
    except (Unreadable, Unsupported):
        return
    assert verdict_of(text, text) is True


@settings(max_examples=500)
@given(ANSWERS, ANSWERS)
def test_equivalence_is_symmetric(one: str, other: str) -> None:
    try:
        forward, back = verdict_of(one, other), verdict_of(other, one)
    except (Unreadable, Unsupported):
        return
    assert forward is back


# Size


def test_large_sets_are_compared_at_once() -> None:
    values = [f"{n * n + n // 7}" for n in range(1500)]
    changed = [*values[:700], "-1", *values[701:]]
    assert both_ways("\\{" + ",".join(values) + "\\}", "\\{" + ",".join(reversed(values)) + "\\}") is True
    assert both_ways("\\{" + ",".join(values) + "\\}", "\\{" + ",".join(changed) + "\\}") is False
    assert both_ways(", ".join(values), ", ".join(changed)) is False
    assert both_ways("(" + ",".join(values) + ")", "(" + ",".join(changed) + ")") is False


def test_large_sets_of_roots_are_not_compared_pair_by_pair() -> None:
    roots = [f"\\sqrt{{{n}}}" for n in range(2, 302)]
    other = [f"\\sqrt{{{n}.0}}" for n in range(3, 303)]
    assert both_ways("\\{" + ",".join(roots) + "\\}", "\\{" + ",".join(other) + "\\}") is not True
