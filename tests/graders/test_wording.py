from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.forms import Based, Clock, Form, Numbers, Scalar, Words
from retell.graders.latex import tokenize
from retell.graders.units import unit_of
from retell.graders.wording import dated, figures, words_of

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()


def worded(text: str) -> Form | None:
    return words_of(tokenize(f"\\text{{{text}}}"), text)


def value(text: str) -> Fraction | None:
    """The number a text says, in words."""
    form = worded(text)
    return form.expression.exact if isinstance(form, Scalar) and form.expression else None


def said(n: int, link: str = " ") -> str:
    """A number below a billion in words, its hundreds joined by ``link``."""
    for scale, word in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= scale:
            rest = n % scale
            return f"{said(n // scale, link)} {word}" + ((link if scale == 100 else " ") + said(rest, link)) * bool(
                rest
            )
    return SMALL[n] if n < 20 else TENS[n // 10] + f"-{SMALL[n % 10]}" * bool(n % 10)


@given(st.integers(0, 10**9 - 1), st.sampled_from([" ", " and "]))
def test_numbers_in_words(n: int, link: str) -> None:
    assert value(said(n, link)) == n


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("half", "1/2"),
        ("one half", "1/2"),
        ("two thirds", "2/3"),
        ("three quarters", "3/4"),
        ("five eighths", "5/8"),
        ("hundred", "100"),
        ("Twenty Five", "25"),
        ("a hundred", "100"),
        ("the four", "4"),
    ],
)
def test_shares_and_other_ways_to_say_a_number(text: str, number: str) -> None:
    assert value(text) == Fraction(number)


@pytest.mark.parametrize(
    "text",
    ["five six", "twenty thirty", "twenty eleven", "hundred hundred", "two and three", "five and",
     "two hundred and thousand", "thousand million", "million million", "seven million billion", "one, two",
     "twenty, five"],
)  # fmt: skip
def test_words_for_numbers_that_say_no_number(text: str) -> None:
    assert value(text) is None


def test_what_is_counted_is_its_unit() -> None:
    form = worded("twenty five apples")
    assert isinstance(form, Scalar)
    assert form.unit == unit_of("apples")
    assert isinstance(worded("four sided"), Words)  # and not four


@pytest.mark.parametrize(
    ("text", "seconds", "half"),
    [
        ("3:30", 12600, ""),
        ("03:30", 12600, ""),
        ("3:30 pm", 12600, "pm"),
        ("3:30 P.M.", 12600, "pm"),
        ("3:30pm", 12600, "pm"),
        ("3 a.m.", 10800, "am"),
        ("1:02:03", 3723, ""),
        ("5:00 o'clock", 18000, ""),
    ],
)
def test_times_of_day(text: str, seconds: int, half: str) -> None:
    assert figures(text) == [Clock(seconds, half)]


def test_what_looks_like_a_time_and_is_none_is_no_other_time() -> None:
    assert figures("4:60") != figures("5:00")
    assert figures("3:4") == figures("3:30:4") == figures("13") == []


@pytest.mark.parametrize(
    ("text", "digits", "base"),
    [
        ("101_2", "101", 2),
        ("101_{2}", "101", 2),
        ("101_{(2)}", "101", 2),
        ("(101)_2", "101", 2),
        ("101 base 2", "101", 2),
        ("101 (base 2)", "101", 2),
        ("101_{two}", "101", 2),
        ("0101_2", "101", 2),
        ("000_2", "0", 2),
        ("ab_16", "AB", 16),
        ("AB_{sixteen}", "AB", 16),
    ],
)
def test_digits_in_a_base(text: str, digits: str, base: int) -> None:
    assert figures(text) == [Based(digits, base)]


@pytest.mark.parametrize("text", ["102_2", "8_8", "101_1", "101_0", "x_2", "101_{three hundred}", "1.1_2", "-1_2"])
def test_what_is_no_number_in_a_base(text: str) -> None:
    assert figures(text) == []


@pytest.mark.parametrize("text", ["June 20", "20 June", "june 20th", "the 20th of June", "Jun 20"])
def test_dates_are_told_in_any_order(text: str) -> None:
    form = worded(text)
    assert form == worded("June 20")
    assert form != worded("July 20")
    assert form
    assert dated(form)


@pytest.mark.parametrize("text", ["Monday", "four", "20 apples", "marching 5", "all reals"])
def test_what_is_no_date(text: str) -> None:
    form = worded(text)
    assert form
    assert not dated(form)


def test_sets_in_words() -> None:
    assert worded("No solution.") == worded("none") == worded("the empty set") == Numbers("empty")
    assert worded("all real numbers") == worded("All reals") == Numbers("R")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The ellipse", ("ellipse",)),
        ("an even number", ("even", "number")),
        ("page 1.5", ("page", "1.5")),
        ("not even", ("not", "even")),
    ],
)
def test_words_are_compared_without_case_and_articles(text: str, words: tuple[str, ...]) -> None:
    assert worded(text) == Words(words)


@pytest.mark.parametrize(
    "text", ["5", "x", "-xy", "RC", "xy!", "a/bc", "even + 1", "even RC", "\\sqrt{even}", "x = even"]
)
def test_what_is_no_answer_in_words(text: str) -> None:
    assert words_of(tokenize(text), text) is None
