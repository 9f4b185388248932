from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.expressions import IMAGINARY, INFINITY, PI, Call, E, Node, Number, Parser, Symbol, number
from retell.graders.latex import Unreadable, Unsupported, tokenize


def parsed(text: str) -> Node:
    parser = Parser(tokenize(text))
    node = parser.sum()
    assert not parser.rest, f"left over: {parser.rest}"
    return node


def shape(node: Node) -> str:
    """The tree in brackets: ``(mul a (pow b 2))``."""
    if isinstance(node, Number):
        return str(node.value)
    if isinstance(node, Symbol):
        return node.name
    return "(" + " ".join([node.name, *map(shape, node.arguments)]) + ")"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", Fraction(12)),
        ("0.125", Fraction(1, 8)),
        (".5", Fraction(1, 2)),
        ("3.", Fraction(3)),
        ("4.5e33", Fraction(45 * 10**32)),
        ("1e-3", Fraction(1, 1000)),
        ("0.r3", Fraction(1, 3)),
        ("0.1r6", Fraction(1, 6)),
        ("0.r9", Fraction(1)),
        ("2.r142857", Fraction(15, 7)),
        ("0.333r3", Fraction(1, 3)),
        ("0.1r00", Fraction(1, 10)),
    ],
)
def test_the_value_of_a_literal(text: str, value: Fraction) -> None:
    assert number(text) == Number(value, text)


@given(st.fractions(min_value=0, max_value=1000, max_denominator=60))
def test_a_repeating_decimal_is_its_fraction(value: Fraction) -> None:
    """By long division: the digits repeat from where a remainder comes again."""
    whole, rest = divmod(value.numerator, value.denominator)
    digits: list[int] = []
    seen: dict[int, int] = {}
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(rest * 10, value.denominator)
        digits.append(digit)
    text = "".join(map(str, digits))
    start = seen[rest]
    assert number(f"{whole}.{text[:start]}r{text[start:]}").value == value


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        # sums and signs
        ("a+b-c", "(add a b (neg c))"),
        ("a-(b-c)", "(add a (neg (add b (neg c))))"),
        ("--a", "a"),
        ("+a", "a"),
        ("a--b", "(add a b)"),
        ("-a^2", "(neg (pow a 2))"),
        ("(-a)^2", "(pow (neg a) 2)"),
        ("2\\cdot -3", "(mul 2 (neg 3))"),
        # products
        ("ab^2", "(mul a (pow b 2))"),
        ("(ab)^2", "(pow (mul a b) 2)"),
        ("a^2b", "(mul (pow a 2) b)"),
        ("a b/c d", "(mul (div (mul a b) c) d)"),
        ("1/2x", "(mul (div 1 2) x)"),
        ("\\frac{1}{2}x", "(mul (div 1 2) x)"),
        ("\\frac{1}{2x}", "(div 1 (mul 2 x))"),
        ("a/b/c", "(div (div a b) c)"),
        ("a/(b/c)", "(div a (div b c))"),
        ("2(x+1)", "(mul 2 (add x 1))"),
        ("(x+1)(x-1)", "(mul (add x 1) (add x (neg 1)))"),
        ("x(y+1)", "(mul x (add y 1))"),
        ("2\\sqrt{3}", "(mul 2 (root 3 2))"),
        ("2 \\cdot 3", "(mul 2 3)"),
        # powers
        ("2^{3^4}", "(pow 2 (pow 3 4))"),
        ("x^12", "(pow x 12)"),
        ("x^-1", "(pow x (neg 1))"),
        ("x^{-1}", "(pow x (neg 1))"),
        ("e^{at}", "(pow e (mul a t))"),
        ("x^\\pi", "(pow x \\pi)"),
        ("x^\\frac12", "(pow x (div 1 2))"),
        ("2^n!", "(pow 2 (fact n))"),
        ("2n!", "(mul 2 (fact n))"),
        ("(2n)!", "(fact (mul 2 n))"),
        # fractions and mixed numbers
        ("\\frac12", "(div 1 2)"),
        ("\\frac\\pi2", "(div \\pi 2)"),
        ("\\frac{\\pi}2", "(div \\pi 2)"),
        ("{9 \\over 4}", "(div 9 4)"),
        ("{5 \\choose 2}", "(binom 5 2)"),
        ("\\binom52", "(binom 5 2)"),
        ("1\\frac{1}{2}", "(add 1 (div 1 2))"),
        ("1 1/2", "(add 1 (div 1 2))"),
        ("-1\\frac12", "(neg (add 1 (div 1 2)))"),
        ("3\\frac{5}{4}", "(mul 3 (div 5 4))"),
        ("1.5\\frac{1}{2}", "(mul 3/2 (div 1 2))"),
        ("2\\frac{a}{b}", "(mul 2 (div a b))"),
        ("x\\frac{1}{2}", "(mul x (div 1 2))"),
        # roots and brackets
        ("\\sqrt[3]{x}", "(root x 3)"),
        ("\\sqrt2x", "(mul (root 2 2) x)"),
        ("\\sqrt{2}x", "(mul (root 2 2) x)"),
        ("|x-1|", "(abs (add x (neg 1)))"),
        ("|a||b|", "(mul (abs a) (abs b))"),
        ("2|x|", "(mul 2 (abs x))"),
        ("|(|x|)|", "(abs (abs x))"),
        ("\\lfloor x \\rfloor", "(floor x)"),
        ("\\lceil x \\rceil", "(ceil x)"),
        ("[x+1]^2", "(pow (add x 1) 2)"),
        # functions
        ("\\sin 2t \\cos t", "(mul (sin (mul 2 t)) (cos t))"),
        ("\\sin x + 1", "(add (sin x) 1)"),
        ("\\sin(x) y", "(mul (sin x) y)"),
        ("\\sin^2 x", "(pow (sin x) 2)"),
        ("\\sin^2(x)", "(pow (sin x) 2)"),
        ("\\sin(x)^2", "(pow (sin x) 2)"),
        ("\\sin x^2", "(sin (pow x 2))"),
        ("\\sin^{-1} x", "(arcsin x)"),
        ("\\sin^{-2} x", "(pow (sin x) (neg 2))"),
        ("\\sin -x", "(sin (neg x))"),
        ("\\sin 30^\\circ", "(sin (deg 30))"),
        ("\\ln 2x", "(ln (mul 2 x))"),
        ("\\ln\\frac{x}{2}", "(ln (div x 2))"),
        ("\\ln \\ln x", "(ln (ln x))"),
        ("\\log_2 8", "(logb 8 2)"),
        ("\\log_{10}{x}", "(logb x 10)"),
        ("\\log_2^2 8", "(pow (logb 8 2) 2)"),
        ("\\exp(2x)", "(exp (mul 2 x))"),
        ("\\gcd(12, 18)", "(gcd 12 18)"),
        ("\\max(a,b,c)", "(max a b c)"),
        # applications and symbols
        ("f(x)", "(f() x)"),
        ("I(0)", "(I() 0)"),
        ("f(x+1)", "(f() (add x 1))"),
        ("f(x,y)", "(f() x y)"),
        ("f'(x)", "(f'() x)"),
        ("v(t)^2", "(pow (v() t) 2)"),
        ("x_1", "x_1"),
        ("x_{1}", "x_1"),
        ("x_{ab}", "x_ab"),
        ("x_1^2", "(pow x_1 2)"),
        ("y''", "y''"),
        ("y^{\\prime}", "y'"),
        ("y^\\prime", "y'"),
        ("x^*", "x'"),
        ("\\frac{d^2 v}{d t^2}", "d^2v/dt^2"),
        ("\\frac{dy}{dx}", "dy/dx"),
        ("\\frac{d}{2}", "(div d 2)"),
        ("\\alpha\\beta", "(mul \\alpha \\beta)"),
        ("\\angle ABC", "angle ABC"),
    ],
)  # fmt: skip
def test_the_tree_of_an_expression(text: str, tree: str) -> None:
    assert shape(parsed(text)) == tree


def test_constants() -> None:
    assert [parsed(text) for text in ("\\pi", "e", "i", "\\infty")] == [PI, E, IMAGINARY, INFINITY]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\dot x", "x"),
        ("\\vec a", "a"),
        ("\\hat{x}", "\\vec{x}"),
        ("x_1", "x_2"),
        ("x_1", "x"),
        ("x'", "x"),
        ("x''", "x'"),
        ("\\alpha", "a"),
        ("f(x)", "fx"),
        ("v(t)", "vt"),
        ("f'(x)", "f(x)"),
        ("\\frac{dy}{dx}", "\\frac{y}{x}"),
        ("\\frac{dy}{dx}", "\\frac{dx}{dy}"),
        ("\\triangle ABC", "\\triangle DEF"),
        ("\\overline{AB}", "\\overline{CD}"),
        ("\\frac{\\partial f}{\\partial x}", "\\frac{\\partial f}{\\partial y}"),
        ("e", "E"),
        ("i", "I"),
    ],
)
def test_different_names_are_different_symbols(one: str, other: str) -> None:
    assert shape(parsed(one)) != shape(parsed(other))


@pytest.mark.parametrize("text", ["RC", "xyz", "ab", "XYZW"])
def test_a_short_run_of_letters_is_a_product(text: str) -> None:
    spaced = shape(parsed(" ".join(text)))
    assert shape(parsed(text)) == spaced


@pytest.mark.parametrize(
    "text",
    [
        "", "1+", "*2", "(1", "1)", "{1", "|1", "\\frac{1}", "\\sqrt",
        "2 3", "1.5 2", "1 3/2", "x^", "3_2", "()", "\\frac{}{2}",
        "and", "the", "hello", "\\unknown", "1 \\le 2", "\\lfloor 1", "1=", "%", "!", "^2", "2^3^2",
    ],
)  # fmt: skip
def test_what_is_no_expression(text: str) -> None:
    try:
        parser = Parser(tokenize(text))
        parser.sum()
    except Unreadable:
        return
    assert parser.rest


@pytest.mark.parametrize(
    "text",
    [
        "\\sum_{k=1}^n k",
        "\\int_0^1 x dx",
        "\\lim_{x \\to 0} x",
        "\\prod_{k=1}^n k",
        "\\det A",
        "\\begin{cases} 1 \\end{cases}",
    ],
)
def test_what_only_the_algebra_may_read(text: str) -> None:
    with pytest.raises(Unsupported):
        parsed(text)


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("(", ")"),
        ("{", "}"),
        ("\\sqrt{", "}"),
        ("|(", ")|"),
        ("-(", ")"),
        ("\\sin(", ")"),
        ("2^{", "}"),
        ("\\frac{1}{1+", "}"),
        ("-{", "}"),
        ("\\lfloor (", ")\\rfloor "),
        ("f(", "+1)"),
        ("\\sqrt[", "]2"),
    ],
)
def test_nesting_has_a_limit(opening: str, closing: str) -> None:
    assert parsed(opening * 20 + "x" + closing * 20)
    with pytest.raises(Unreadable):
        parsed(opening * 2_000 + "x" + closing * 2_000)


@given(
    st.lists(
        st.sampled_from(
            [
                "1",
                "2.5",
                "x",
                "ab",
                "+",
                "-",
                "*",
                "/",
                "^",
                "_",
                "(",
                ")",
                "{",
                "}",
                "|",
                "!",
                "°",
                "\\frac",
                "\\sqrt",
                "\\sin",
                "\\log",
                "f",
                "'",
                ",",
                "\\pi",
                " ",
                "[",
                "]",
                "\\lfloor",
                "\\rfloor",
                "\\over",
                "\\binom",
                "\\dot",
            ]
        ),
        max_size=14,
    ).map("".join)
)
def test_any_tokens_are_read_or_refused(text: str) -> None:
    try:
        parser = Parser(tokenize(text))
        node = parser.sum()
    except (Unreadable, Unsupported):
        return
    assert isinstance(node, Number | Symbol | Call)
