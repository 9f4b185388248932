from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.expressions import Parser
from retell.graders.latex import tokenize
from retell.graders.rounding import is_rounding
from retell.graders.values import Expression


def rounds(answer: str, gold: str) -> bool:
    sides = []
    for text in (gold, answer):
        parser = Parser(tokenize(text))
        sides.append(Expression(parser.sum(), text))
        assert not parser.rest
    return is_rounding(*sides)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\frac{1}{3}", "0.333"),
        ("\\frac{2}{3}", "0.667"),
        ("-\\frac{2}{3}", "-0.667"),
        ("\\sqrt{2}", "1.41"),
        ("\\sqrt{2}", "1.4142"),
        ("\\pi", "3.14"),
        ("100\\pi", "314.159"),
        ("\\ln 2", "0.693"),
        ("4.504e33", "4.50e33"),
        ("4.504\\times 10^{33}", "4.50e33"),
        ("4.504e33", "4.50\\times 10^{33}"),
        ("1.2345e-5", "1.23e-5"),
        ("1.2345\\times 10^{-5}", "1.23 \\cdot 10^{-5}"),
        ("-1.2345e-5", "-1.23e-5"),
        ("299792458", "3.00e8"),
    ],
)
def test_the_gold_is_a_rounding(answer: str, gold: str) -> None:
    assert rounds(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.333", "\\frac{1}{3}"),  # only the gold may be rounded
        ("3.14", "\\pi"),
        ("1.414", "\\sqrt{2}"),
        ("\\frac{1}{3}", "0.334"),
        ("\\frac{1}{3}", "0.3"),  # too few digits to be sure
        ("\\frac{1}{3}", "0.33"),
        ("\\sqrt{2}", "1.4"),
        ("\\sqrt{2}", "1.415"),
        ("\\sqrt{2}", "1.42"),
        ("2.4999", "2.5"),
        ("2.4999", "2.50"),
        ("3.7499", "3.75"),  # decimals that are given are exact
        ("0.3333", "0.333"),
        ("1.234", "1.23"),
        ("\\frac{1}{8}", "0.130"),
        ("\\frac{1}{8}", "0.13"),
        ("\\frac{1000}{3}", "333"),  # an integer is exact
        ("\\pi", "3"),
        ("100\\pi", "314"),
        ("\\pi", "3.140"),
        ("\\pi", "-3.14"),
        ("-\\pi", "3.14"),
        ("\\pi i", "3.14"),
        ("x", "3.14"),
        ("\\frac{1}{3}", "0.33\\overline{3}"),
        ("4.506e33", "4.50e33"),
        ("4.504e34", "4.50e33"),
        ("4.504e33", "4.5e33"),
        ("4.55e33", "4.50e33"),
        ("6.03\\times 10^{23}", "6.02\\times 10^{23}"),
        ("\\frac{1}{3}", "0.111\\cdot 3"),
        ("\\pi", "6.28/2"),
        ("1.004e400", "1.00e400"),
    ],
)
def test_the_gold_is_no_rounding(answer: str, gold: str) -> None:
    assert not rounds(answer, gold)


@given(st.fractions(min_value=-100, max_value=100).filter(lambda f: f.denominator % 7 == 0), st.integers(3, 8))
def test_what_has_no_decimal_is_rounded_to_the_digits_of_the_gold(value: Fraction, places: int) -> None:
    scaled = round(value * 10**places)
    answer = f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"

    def gold(digits: int) -> str:
        text = str(abs(digits)).zfill(places + 1)
        return f"{'-' if digits < 0 else ''}{text[:-places]}.{text[-places:]}"

    if scaled % 10 and abs(scaled) >= 100:
        assert rounds(answer, gold(scaled))
    for other in (scaled - 1, scaled + 1, -scaled - 1):
        assert not rounds(answer, gold(other))


@given(st.integers(100, 999_999), st.integers(-40, 40))
def test_a_mantissa_one_percent_off_is_no_rounding(mantissa: int, power: int) -> None:
    text = str(mantissa)
    gold = f"{text[0]}.{text[1:]}e{power}"
    assert not rounds(f"{mantissa * 101}e{power - len(text) - 1}", gold)
    assert not rounds(f"{mantissa * 99}e{power - len(text) - 1}", gold)
