import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.latex import Unreadable, tokenize


def signs(text: str) -> list[tuple[str, str]]:
    """Kind and text of each token, white space aside."""
    return [(token.kind, token.text) for token in tokenize(text)]


def numbers(text: str) -> list[str]:
    return [token.text for token in tokenize(text) if token.kind == "number"]


THOUSANDS = [",\\!", ",\\,", "{,}", "\\,", "\\!", "\\;", "\\ ", "~", " ", "{,} "]


@given(st.integers(1000, 10**18), st.sampled_from(THOUSANDS))
def test_thousands_separators_are_part_of_the_number(value: int, separator: str) -> None:
    grouped = f"{value:,}".replace(",", separator)
    assert signs(grouped) == [("number", str(value))]
    assert signs(f"{grouped}.25") == [("number", f"{value}.25")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1{,}23", ["1", "23"]),
        ("1{,}2345", ["1", "2345"]),
        ("1234{,}567", ["1234", "567"]),
        ("12 34", ["12", "34"]),
        ("1.5 234", ["1.5", "234"]),
        ("1,234", ["1", "234"]),  # one number or two is decided where it is known what stands around it
        ("1\\,234\\,56", ["1234", "56"]),
    ],
)
def test_what_is_no_group_of_thousands(text: str, found: list[str]) -> None:
    assert numbers(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("\\tfrac{1}{2}", "\\frac{1}{2}"),
        ("\\cfrac{1}{2}", "\\frac{1}{2}"),
        ("½", "\\frac{1}{2}"),
        ("\\dbinom{5}{2}", "\\binom{5}{2}"),
        ("x\\leq 2", "x\\le 2"),
        ("x\\leqslant 2", "x\\le 2"),
        ("x<=2", "x\\le 2"),
        ("x ≤ 2", "x\\le 2"),
        ("x ⩾ 2", "x\\geq 2"),
        ("x>=2", "x\\ge 2"),
        ("x != 2", "x\\neq 2"),
        ("x ≠ 2", "x\\ne 2"),
        ("x \\lt 2", "x<2"),
        ("−4", "-4"),
        ("–4", "-4"),
        ("2×3", "2\\times 3"),
        ("2·3", "2\\cdot 3"),
        ("2*3", "2\\cdot 3"),
        ("6÷2", "6/2"),
        ("6\\div 2", "6/2"),
        ("x**2", "x^2"),
        ("x²", "x^{2}"),
        ("x⁻¹²", "x^{-12}"),
        ("x₁₂", "x_{12}"),
        ("√2", "\\sqrt 2"),
        ("π", "\\pi"),
        ("pi", "\\pi"),
        ("Pi", "\\pi"),
        ("θ", "\\theta"),
        ("λ", "\\lambda"),
        ("Δ", "\\Delta"),
        ("∞", "\\infty"),
        ("infinity", "\\infty"),
        ("inf", "\\infty"),
        ("A ∪ B", "A\\cup B"),
        ("∅", "\\varnothing"),
        ("\\emptyset", "\\varnothing"),
        ("ℝ", "\\mathbb{R}"),
        ("\\mathbb R", "\\mathbb{R}"),
        ("30°", "30^\\circ"),
        ("30^{\\circ}", "30^\\circ"),
        ("30\\degree", "30^\\circ"),
        ("30^°", "30^\\circ"),
        ("30º", "30^\\circ"),
        ("\\left( 1, 2 \\right)", "(1,2)"),
        ("\\bigl[0,1\\bigr)", "[0,1)"),
        ("\\left\\{1\\right\\}", "\\{1\\}"),
        ("\\left.x\\right|", "x|"),
        ("\\lbrack 0\\rbrack", "[0]"),
        ("\\lbrace 1\\rbrace", "\\{1\\}"),
        ("\\displaystyle x", "x"),
        ("x\\quad", "x"),
        ("\\mathbf{x}", "x"),
        ("\\boxed{7}", "7"),
        ("\\(7\\)", "7"),
        ("\\[7\\]", "7"),
        ("$7$", "7"),
        ("$$7$$", "7"),
        ("\\text{$7$}", "7"),
        ("\\mbox{\\boxed{7}}", "7"),
        ("\\textbf{\\text{even}}", "\\text{even}"),
        ("\\text{ even }", "\\text{even}"),
        ("\\mathrm{~cm}", "\\mathrm{cm}"),
        ("\\text{two~words}", "\\text{two words}"),
        ("\\operatorname{sin} x", "\\sin x"),
        ("\\mathrm{ln} x", "\\ln x"),
        ("\\asin x", "\\arcsin x"),
        ("arctan x", "\\arctan x"),
        ("np.sqrt(2)", "\\sqrt(2)"),
        ("math.pi", "\\pi"),
        ("25\\%", "25%"),
        ("25％", "25%"),
        ("\\$5", "\\$ 5"),
        ("５", "5"),
        ("ｘ", "x"),
        ("7\u200b", "7"),
        ("\ufeff7", "7"),
        ("1\u00a0/\u00a02", "1/2"),
        ("7.", "7"),
        ("\\frac12", "\\frac 1 2"),
        ("\\frac123", "\\frac 1 2 3"),
        ("\\frac ab", "\\frac a b"),
        ("\\frac{1}23", "\\frac{1} 2 3"),
        ("\\frac{\\frac12}3", "\\frac{\\frac 1 2} 3"),
        ("\\binom52", "\\binom 5 2"),
        ("1.5E6", "1.5e6"),
        ("\\alpha", "α"),
    ],
)
def test_one_spelling_for_each_thing(one: str, other: str) -> None:
    assert [sign for _, sign in signs(one)] == [sign for _, sign in signs(other)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x^2", "x_2"),
        ("x<2", "x\\le 2"),
        ("<", ">"),
        ("12", "1 2"),
        ("\\text{even}", "\\text{odd}"),
        ("\\{1\\}", "(1)"),
        ("{1}", "\\{1\\}"),
        ("\\%", "\\$"),
        ("\\sin", "\\arcsin"),
        ("ab", "ba"),
        ("\\Delta", "\\delta"),
        ("X", "x"),
        ("x²", "x2"),
        ("\\frac{12}{3}", "\\frac{1}{23}"),
        ("10°", "100"),
        ("\\cup", "\\cap"),
        ("\\pm", "\\mp"),
        ("\\lfloor", "\\lceil"),
        ("€5", "£5"),
    ],
)
def test_different_things_stay_different(one: str, other: str) -> None:
    assert signs(one) != signs(other)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4.5e33", "4.5e33"),
        ("4.5E+33", "4.5e+33"),
        ("1e-9", "1e-9"),
        ("0.1\\overline{6}", "0.1r6"),
        ("0.\\overline{142857}", "0.r142857"),
        ("0.\\overline3", "0.r3"),
        ("0.\\bar{3}", "0.r3"),
        ("0.\\dot{3}", "0.r3"),
        ("0.(3)", "0.r3"),
        ("0.333...", "0.333r3"),
        ("0.333\\ldots", "0.333r3"),
        ("0.333…", "0.333r3"),
        ("0.121212...", "0.121212r12"),
        (".5", ".5"),
        ("007", "007"),
    ],
)
def test_exponents_and_repetends_are_part_of_the_number(text: str, found: str) -> None:
    assert [number.lstrip("0") for number in numbers(text)] == [found.lstrip("0")]


@pytest.mark.parametrize("text", ["2e^x", "2e", "2ex", "2e3x", "2e^{3}", "2 e3"])
def test_the_number_e_is_no_exponent(text: str) -> None:
    assert numbers(text)[0] == "2"


@pytest.mark.parametrize("text", ["0.12...", "3.14159...", "1.41\\ldots"])
def test_a_decimal_that_goes_on_in_a_way_it_does_not_say(text: str) -> None:
    with pytest.raises(Unreadable):
        tokenize(text)


def test_white_space_is_told() -> None:
    assert [token.space for token in tokenize("a b\\,c~d{e}\\quad f")] == [
        False,
        True,
        True,
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_text_is_one_token_and_a_run_of_letters_one_word() -> None:
    assert signs("7 \\text{ blue  marbles} ab x") == [
        ("number", "7"),
        ("text", "blue marbles"),
        ("word", "ab"),
        ("letter", "x"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "7\x00",
        "\u202e7",
        "\u20667\u2069",
        "7\u200f",
        "١٢",
        "٨",
        "①",
        "Ⅷ",
        "x\u0301",
        "🙂",
        "中",
        "@",
        "`7`",
        "7#",
        "\ud800",
    ],
)
def test_a_character_that_has_no_place_in_an_answer(text: str) -> None:
    with pytest.raises(Unreadable):
        tokenize(text)


@pytest.mark.parametrize(
    "text", ["\\text{open", "\\mathbf{x", "\\boxed{{7}", "\\", "7\\", "\\begin{pmatrix", "\\@", "\\1"]
)
def test_what_breaks_off_or_is_no_command(text: str) -> None:
    with pytest.raises(Unreadable):
        tokenize(text)


@pytest.mark.parametrize("command", ["\\text", "\\boxed", "\\mathbf", "\\mbox"])
def test_texts_are_not_read_deeper_than_a_few(command: str) -> None:
    assert signs(f"{command}{{" * 3 + "$7$" + "}" * 3) == [("number", "7")]
    with pytest.raises(Unreadable):
        tokenize(f"{command}{{" * 2000 + "$7$" + "}" * 2000)


def test_a_number_longer_than_any_answer() -> None:
    assert numbers("7" * 300) == ["7" * 300]
    with pytest.raises(Unreadable):
        tokenize("7" * 100_000)


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "\\frac",
                "\\text",
                "{",
                "}",
                "\\{",
                "1",
                "ab",
                " ",
                "$",
                "\\\\",
                "\\overline",
                ".",
                "^",
                ",",
                "e",
                "\\begin",
                "(",
                "\\left",
                "°",
            ]
        ),
        max_size=20,
    ).map("".join)
)
def test_any_text_is_tokens_or_unreadable(text: str) -> None:
    try:
        tokens = tokenize(text)
    except Unreadable:
        return
    assert all(token.text or token.kind == "name" for token in tokens)


@given(st.text(alphabet="0123456789abxyz+-*/^_()[]{}=<>|! ", max_size=30))
def test_layout_around_an_answer_says_nothing(text: str) -> None:
    try:
        plain = signs(text)
    except Unreadable:
        return
    assert signs(f"\\displaystyle {text}") == plain
    assert signs(f"$ {text} $") == plain
    assert signs(f"\\( {text} \\)") == plain
