from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.expressions import Parser
from retell.graders.latex import Unreadable, Unsupported, tokenize
from retell.graders.values import Doubtful, Expression, approximate, ratio_is_constant, same_value


def expression(text: str) -> Expression:
    parser = Parser(tokenize(text))
    node = parser.sum()
    assert not parser.rest
    return Expression(node, text)


def same(one: str, other: str) -> bool | None:
    """Whether two expressions are equal, either way round; None also where nobody can tell."""
    verdicts: list[bool | None] = []
    for sides in ((one, other), (other, one)):
        try:
            verdicts.append(same_value(*map(expression, sides)))
        except Doubtful:
            verdicts.append(None)
    assert verdicts[0] is verdicts[1]
    return verdicts[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2(n+1)", "2n+2"),
        ("(x+1)^2", "x^2+2x+1"),
        ("\\frac{x}{7}+\\frac{2}{7}", "\\frac{x+2}{7}"),
        ("\\frac{x^2-1}{x-1}", "x+1"),
        ("x/x", "1"),
        ("x-x", "0"),
        ("a/b/c", "\\frac{a}{bc}"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"),
        ("\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}"),
        ("2\\sqrt[3]{2}", "\\sqrt[3]{16}"),
        ("\\sqrt[3]{-8}", "-2"),
        ("16^{3/4}", "8"),
        ("x^{1/2}", "\\sqrt{x}"),
        ("x^{-2}", "\\frac{1}{x^2}"),
        ("2^{n+1}", "2\\cdot 2^n"),
        ("e^{at}", "\\exp(ta)"),
        ("\\sin^2 x+\\cos^2 x", "1"),
        ("\\sin 2t", "2\\sin t\\cos t"),
        ("\\sec^2 y", "\\tan^2 y+1"),
        ("\\sin^{-1} x", "\\arcsin x"),
        ("\\sin 30^\\circ", "\\frac{1}{2}"),
        ("\\arctan 1", "\\frac{\\pi}{4}"),
        ("\\cosh x", "\\frac{e^x+e^{-x}}{2}"),
        ("e^{i\\pi}", "-1"),
        ("i^2", "-1"),
        ("\\sqrt{-4}", "2i"),
        ("|3-4i|", "5"),
        ("(1+i)^2", "2i"),
        ("|a-b|", "|b-a|"),
        ("\\lfloor 3.7 \\rfloor", "3"),
        ("\\lfloor -3.7 \\rfloor", "-4"),
        ("\\lceil \\pi \\rceil", "4"),
        ("5!", "120"),
        ("\\binom{5}{2}", "10"),
        ("\\binom{n}{2}", "\\frac{n(n-1)}{2}"),
        ("\\frac{(n+1)!}{n!}", "n+1"),
        ("\\gcd(12,18)", "6"),
        ("\\max(1,\\pi)", "\\pi"),
        ("\\log_2 8", "3"),
        ("\\log_4 8", "1.5"),
        ("\\ln e^2", "2"),
        ("\\ln 8", "3\\ln 2"),
        ("0.\\overline{3}", "\\frac{1}{3}"),
        ("0.\\overline{9}", "1"),
        ("1\\frac12", "1.5"),
        ("2(3)", "6"),
        ("(2)(3)", "6"),
        ("2(1)/3", "\\frac{2}{3}"),
        ("(-1)(2)", "-2"),
        ("2.5e6", "2.5\\times 10^6"),
        ("f(x+1)", "f(1+x)"),
        ("2f(x)", "f(x)+f(x)"),
        ("x_1+x_2", "x_2+x_1"),
        ("y''+y", "y+y''"),
    ],
)
def test_equal_values(one: str, other: str) -> None:
    assert same(one, other) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x+1", "x+2"),
        ("2x", "2y"),
        ("x^2", "x^3"),
        ("a-b", "b-a"),
        ("\\frac{a}{b}", "\\frac{b}{a}"),
        ("x", "7"),
        ("x", "-x"),
        ("3+4i", "3-4i"),
        ("i", "-i"),
        ("\\pi", "3.14159265358979323846"),
        ("\\sqrt{2}", "1.41421356237309504880168872420969807856967"),
        ("\\sqrt{10}", "\\sqrt{11}"),
        ("x^2", "|x|^3"),
        ("|x|", "x"),
        ("|x-5|", "x-5"),
        ("|x-5|", "5-x"),
        ("|x-1000|", "1000-x"),
        ("x\\cdot|x|", "x^2"),
        ("\\lfloor x \\rfloor", "x"),
        ("\\lceil x \\rceil", "\\lfloor x \\rfloor"),
        ("\\lfloor \\frac{n}{2} \\rfloor", "\\frac{n}{2}"),
        ("\\lfloor \\frac{n}{20} \\rfloor", "\\lfloor \\frac{n}{30} \\rfloor"),
        ("\\lfloor \\frac{n}{200} \\rfloor", "\\lfloor \\frac{m}{200} \\rfloor"),
        ("\\lfloor \\frac{n}{2} \\rfloor", "\\lfloor \\frac{n+1}{2} \\rfloor"),
        ("n!", "n"),
        ("2n!", "(2n)!"),
        ("\\binom{n}{2}", "\\binom{n}{3}"),
        ("(-1)^n", "1"),
        ("f(x)", "f(y)"),
        ("f(x)", "x"),
        ("f(x+1)", "f(x)+1"),
        ("2(1)/3", "\\frac{7}{3}"),
        ("2\\frac{1}{3}", "\\frac{2}{3}"),
        ("f(x)", "g(x)"),
        ("v(t)", "vt"),
        ("x_1", "x_2"),
        ("y'", "y"),
        ("\\frac{dy}{dx}", "\\frac{y}{x}"),
        ("\\frac{d^2 v}{d t^2}", "\\frac{dv}{t^2}"),
        ("\\vec{a}", "a"),
        ("e^x", "x^e"),
        ("\\sin x", "\\sin(x)+10^{-20}"),
        ("\\sin 30", "\\frac{1}{2}"),
        ("\\sin x^2", "\\sin^2 x"),
        ("\\log_{10} 2", "\\ln 2"),
        ("1/2x", "\\frac{1}{2x}"),
    ],
)  # fmt: skip
def test_other_values(one: str, other: str) -> None:
    assert same(one, other) is False


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10^{20}+1", "10^{20}"),
        ("2^{4000}+1", "2^{4000}"),
        ("2^{4000}", "2^{4000}+10^{-1000}"),
        ("\\frac{10^{300}+1}{10^{300}}", "1"),
        ("100!", "100!+1"),
        ("\\binom{500}{250}", "\\binom{500}{250}-1"),
        ("\\sqrt{10^{60}+1}", "10^{30}"),
        ("\\sqrt{10^{100}}+1", "10^{50}"),
        ("e^{\\pi\\sqrt{163}}", "262537412640768744"),
        ("10^{-60}", "0"),
        ("7" * 400, "7" * 399 + "8"),
        ("x+10^{-60}", "x"),
    ],
)
def test_values_are_exact_or_of_many_digits(one: str, other: str) -> None:
    assert same(one, other) is False
    assert same(one, one) is True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("9^{9^{9^{9}}}", "9^{9^{9^{9}}}+1"),
        ("9^{9^{9^{9}}}", "3.5"),
        ("2^{10000000}+1", "2^{10000000}"),
        ("10^{10^{10}}", "7"),
        ("(10^9)!", "(10^9)!+1"),
        ("(((9!)!)!)!", "7"),
        ("\\binom{10^9}{10^8}", "7"),
        ("\\sin(10^{100})", "\\sin(10^{100})+1"),
        ("\\pi+10^{-600}", "\\pi"),
        ("\\sqrt{2}+10^{-2000}", "\\sqrt{2}"),
        ("\\sqrt{10^{3000}+1}", "10^{1500}"),
        ("e^{10^{-600}}", "1"),
        ("\\exp(\\exp(\\exp(\\exp(9))))", "7"),
        ("x^{10^{12}}", "x"),
    ],
)
def test_what_nobody_can_tell_is_not_equal(one: str, other: str) -> None:
    assert same(one, other) is not True


@pytest.mark.parametrize(
    ("one", "other"), [("2^{10000000}+1", "2^{10000000}"), ("9^{9^{9^{9}}}", "7"), ("\\pi+10^{-600}", "\\pi")]
)
def test_nobody_is_the_algebra_too(one: str, other: str) -> None:
    with pytest.raises(Doubtful):
        same_value(expression(one), expression(other))


@pytest.mark.parametrize(
    "text",
    ["\\frac{0}{0}", "\\frac{1}{0}", "0^{-1}", "\\ln 0", "\\infty-\\infty", "\\tan(x)/0", "(-3)!", "\\frac{x}{x-x}"],
)
def test_what_has_no_value_equals_none(text: str) -> None:
    assert approximate(expression(text)) is None
    assert same(text, "1") is not True
    assert same(text, f"{text}+1") is not True


def test_where_only_positive_numbers_have_a_value_they_decide() -> None:
    """Of a negative number the problem says whether there is one."""
    assert same("\\ln(x^2)", "2\\ln x") is not False
    assert same("\\sqrt{xy}", "\\sqrt{x}\\sqrt{y}") is not False
    assert same("\\sqrt{x^2}", "x") is not True
    assert same("\\ln(x^2)", "3\\ln x") is False
    assert same("\\sqrt{xy}", "\\sqrt{x}+\\sqrt{y}") is False


def test_logarithms_without_a_base_are_natural_or_common() -> None:
    assert same("\\log 100", "2") is True
    assert same("\\log e", "1") is True
    assert same("\\log 8", "3\\log 2") is True
    assert same("\\log 2", "\\ln 2") is True
    assert same("\\log 2", "\\log_{10} 2") is True
    assert same("\\log 100", "3") is False
    assert same("\\ln 100", "2") is False
    assert same("\\lg 100", "2") is True


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("2x-y+3", "4x-2y+6", True),
        ("2x-y+3", "y-2x-3", True),
        ("x^2-1", "\\pi(x+1)(x-1)", True),
        ("2x-y+3", "2x-y+4", False),
        ("x", "x^2", False),
        ("x+y", "x+z", False),
        ("2", "x", None),
    ],
)
def test_what_is_a_constant_times_another(one: str, other: str, verdict: bool | None) -> None:
    assert ratio_is_constant(expression(one), expression(other)) is verdict
    assert ratio_is_constant(expression(other), expression(one)) is verdict


def test_exact_values_and_floats() -> None:
    assert expression("\\frac{6}{4}").exact == Fraction(3, 2)
    assert expression("\\sqrt{\\frac{4}{9}}").exact == Fraction(2, 3)
    assert expression("\\pi").exact is None
    assert expression("x-x").exact is None
    assert approximate(expression("\\sqrt{2}")) == pytest.approx(2**0.5)
    assert approximate(expression("-\\frac{1}{4}")) == -0.25
    assert approximate(expression("1+i")) is None
    assert approximate(expression("x")) is None


# Laws

COEFFICIENTS = st.lists(st.integers(-9, 9), min_size=1, max_size=6).filter(any)
SYMBOLS = st.sampled_from(["x", "t", "\\alpha", "x_1", "n"])


def polynomial(coefficients: list[int], name: str, order: list[int]) -> str:
    """The sum of ``coefficients[k] x^k``, the terms in this order."""
    terms = []
    for power in order:
        if coefficients[power]:
            size = abs(coefficients[power])
            sign = "-" if coefficients[power] < 0 else "+" if terms else ""
            symbol = "" if power == 0 else name if power == 1 else f"{name}^{{{power}}}"
            terms.append(sign + ("" if size == 1 and symbol else str(size)) + symbol)
    return " ".join(terms) or "0"


@given(COEFFICIENTS, SYMBOLS, st.randoms(use_true_random=False))
def test_a_polynomial_in_any_order_and_by_horner_is_the_same(
    coefficients: list[int], name: str, chance: object
) -> None:
    order = list(range(len(coefficients)))
    one = polynomial(coefficients, name, order)
    chance.shuffle(order)  # type: ignore[attr-defined]
    horner = "0"
    for coefficient in reversed(coefficients):
        horner = f"({horner}){name}{coefficient:+}"
    assert same(one, polynomial(coefficients, name, order)) is True
    assert same(one, horner) is True
    assert same(one, f"\\frac{{{'2(' + horner + ')'}}}{{2}}") is True


@given(COEFFICIENTS, SYMBOLS, st.data())
def test_a_polynomial_with_another_coefficient_is_another(
    coefficients: list[int], name: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(coefficients) - 1))
    changed = list(coefficients)
    changed[place] += data.draw(st.integers(-5, 5).filter(bool))
    order = list(range(len(coefficients)))
    assert same(polynomial(coefficients, name, order), polynomial(changed, name, order)) is False


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 3))
def test_a_product_of_roots_expanded_is_the_same(roots: list[int], place: int, step: int) -> None:
    coefficients = [1]
    for root in roots:
        shifted, scaled = [0, *coefficients], [-root * c for c in coefficients] + [0]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    expanded = polynomial(coefficients, "x", list(range(len(coefficients)))[::-1])

    def factored(roots: list[int]) -> str:
        return "".join(f"(x{-root:+})" for root in roots)

    assert same(expanded, factored(roots)) is True
    moved = list(roots)
    moved[place % len(roots)] += step
    assert same(expanded, factored(moved)) is False


def grown(children: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
    """Two styles of one expression that is made of others."""
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda p: (f"{p[0][0]} + {p[1][0]}", f"({p[1][1]})+({p[0][1]})")),
        pairs.map(
            lambda p: (f"\\left({p[0][0]}\\right) \\times \\left({p[1][0]}\\right)", f"({p[1][1]}) \\cdot ({p[0][1]})")
        ),
        pairs.map(lambda p: (f"\\dfrac{{{p[0][0]}}}{{{p[1][0]}}}", f"({p[0][1]})/({p[1][1]})")),
        pairs.map(lambda p: (f"{p[0][0]} - ({p[1][0]})", f"-({p[1][1]})+{{{p[0][1]}}}")),
        children.map(lambda c: (f"\\left({c[0]}\\right)^2", f"({c[1]})\\times ({c[1]})")),
        children.map(lambda c: (f"\\sqrt{{{c[0]}}}", f"({c[1]})^{{1/2}}")),
        children.map(lambda c: (f"e^{{{c[0]}}}", f"\\exp\\left({c[1]}\\right)")),
        children.map(lambda c: (f"\\sin^2({c[0]})", f"1-\\cos({c[1]})^2")),
        children.map(lambda c: (f"\\left|{c[0]}\\right|", f"|-({c[1]})|")),
    )


LEAVES = st.one_of(
    st.integers(0, 30).map(lambda n: (str(n), f"{n}.0")),
    st.sampled_from([("x", "{x}"), ("\\pi", "π"), ("\\frac12", "0.5"), ("x_1", "x_{1}"), ("2y", "y\\cdot 2")]),
)
STYLES = st.recursive(LEAVES, grown, max_leaves=6)


@given(STYLES)
def test_two_styles_of_one_expression_do_not_differ(pair: tuple[str, str]) -> None:
    assert same(*pair) is not False


@given(STYLES, STYLES)
def test_equality_is_reflexive_and_symmetric(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert same(one[0], one[0]) is True
    same(one[0], other[1])  # which compares them both ways


@given(STYLES)
def test_one_more_is_not_the_same(pair: tuple[str, str]) -> None:
    assert same(pair[0], f"{pair[1]} + 1") is not True


@given(st.integers(-(10**40), 10**40), st.integers(1, 10**40), st.integers(1, 10**6))
def test_rationals_are_compared_exactly(above: int, below: int, factor: int) -> None:
    one = f"\\frac{{{above}}}{{{below}}}"
    assert same(one, f"\\frac{{{above * factor}}}{{{below * factor}}}") is True
    assert same(one, f"\\frac{{{above + 1}}}{{{below}}}") is False


@given(
    st.lists(
        st.sampled_from(
            [
                "1",
                "0",
                "x",
                "+",
                "-",
                "*",
                "/",
                "^",
                "(",
                ")",
                "!",
                "\\sqrt",
                "\\sin",
                "\\log",
                "9",
                "i",
                "\\lfloor",
                "\\rfloor",
                "|",
                "\\binom",
                "\\pi",
            ]
        ),
        max_size=10,
    ).map("".join)
)
def test_any_expression_is_the_same_as_itself_and_not_as_one_more(text: str) -> None:
    try:
        one = expression(text)
    except (Unreadable, Unsupported, AssertionError):
        return
    assert same_value(one, expression(text)) is True
    assert same(text, f"({text})+1") is not True


def test_small_integers_as_sums_products_and_powers() -> None:
    for a, b in product(range(-4, 5), repeat=2):
        assert same(f"({a})+({b})", str(a + b)) is True
        assert same(f"({a})({b})", str(a * b)) is True
        if b >= 0 and (a or b):
            assert same(f"({a})^{{{b}}}", str(a**b)) is True
            assert same(f"({a})^{{{b}}}", str(a**b + 1)) is False
