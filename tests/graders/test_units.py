from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.latex import Unreadable
from retell.graders.units import Unit, is_unit, same_thing, unit_of


def unit(text: str) -> Unit:
    found = unit_of(text)
    assert found
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m", "meters"),
        ("meter", "metres"),
        ("cm", "centimeters"),
        ("inches", "inch"),
        ("in.", "inches"),
        ("feet", "ft"),
        ("sec", "seconds"),
        ("hrs", "hours"),
        ("minutes", "min"),
        ("cm^2", "square centimeters"),
        ("cm^{2}", "cm^2"),
        ("cm squared", "cm^2"),
        ("sq ft", "ft^2"),
        ("cu. in.", "in^3"),
        ("cubic meters", "m^3"),
        ("km/h", "kilometers per hour"),
        ("mph", "miles per hour"),
        ("mph", "mi/h"),
        ("m/s^2", "meters per second squared"),
        ("m s^{-1}", "m/s"),
        ("$", "dollars"),
        ("USD", "$"),
        ("€", "euros"),
        ("°", "degrees"),
        ("apples", "apple"),
        ("Apples", "apple"),
        ("berries", "berry"),
        ("boxes", "box"),
        ("the marbles", "marbles"),
        ("more marbles", "marbles"),
        ("° C", "celsius"),
        ("°F", "Fahrenheit"),
        ("kg*m", "kg m"),
    ],
)
def test_spellings_of_one_unit(one: str, other: str) -> None:
    assert unit(one).dimensions == unit(other).dimensions
    assert unit(one).size == unit(other).size


@pytest.mark.parametrize(
    ("large", "times", "small"),
    [
        ("m", "100", "cm"),
        ("km", "1000", "m"),
        ("ft", "12", "in"),
        ("mile", "5280", "ft"),
        ("yd", "3", "ft"),
        ("m^2", "10000", "cm^2"),
        ("m^3", "1000000", "cm^3"),
        ("hour", "3600", "s"),
        ("day", "24", "h"),
        ("week", "7", "days"),
        ("year", "12", "months"),
        ("decade", "10", "years"),
        ("kg", "1000", "g"),
        ("lb", "16", "oz"),
        ("L", "1000", "mL"),
        ("dollars", "100", "cents"),
        ("m/s", "3.6", "km/h"),
        ("km/h", "1000", "m/h"),
        ("kJ", "1000", "J"),
        ("MHz", "1000", "kHz"),
        ("MW", "1e9", "mW"),
        ("Å", "0.1", "nm"),
    ],
)
def test_what_converts_into_what(large: str, times: str, small: str) -> None:
    one, other = unit(large), unit(small)
    assert one.dimensions == other.dimensions
    assert one.size == other.size * Fraction(times)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m", "m^2"),
        ("m", "s"),
        ("m/s", "m*s"),
        ("m/s", "m/s^2"),
        ("m/s", "s/m"),
        ("kg", "m"),
        ("$", "€"),
        ("£", "¥"),
        ("°", "m"),
        ("K", "°"),
        ("°C", "°F"),
        ("°C", "K"),
        ("°C", "°"),
        ("apples", "oranges"),
        ("apples", "m"),
        ("J", "N"),
        ("L", "m"),
    ],
)
def test_what_does_not_convert(one: str, other: str) -> None:
    assert unit(one).dimensions != unit(other).dimensions


@pytest.mark.parametrize("text", ["", "units", "in total", "unit", "approximately", "."])
def test_what_says_no_unit(text: str) -> None:
    assert unit_of(text) is None


@pytest.mark.parametrize("text", ["m+s", "5 cm", "cm + 1", "m=s", "(m", "m < s", "cm^x", "m\\frac"])
def test_what_is_no_unit(text: str) -> None:
    if text == "(m":
        assert unit(text) == unit("m")  # a bracket that was left over says nothing
        return
    with pytest.raises(Unreadable):
        unit_of(text)


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("cm", True),
        ("meters", True),
        ("mph", True),
        ("s", True),
        ("xy", False),
        ("apples", False),
        ("ms", True),
        ("as", False),
        ("ab", False),
    ],
)
def test_known_units(word: str, known: bool) -> None:
    assert is_unit(word) is known


def test_more_of_nothing_is_no_unit_of_an_answer() -> None:
    assert unit("more").odd
    assert not unit("more marbles").odd


def test_counted_things_may_be_described() -> None:
    assert unit("blue marbles").counted
    assert not unit("cm").counted
    assert same_thing(unit("marbles"), unit("blue marbles"))
    assert same_thing(unit("blue marbles"), unit("marbles"))
    assert not same_thing(unit("red marbles"), unit("blue marbles"))
    assert not same_thing(unit("apples"), unit("oranges"))


@given(st.sampled_from(["m", "cm", "km", "ft", "s", "hour", "kg", "J"]), st.integers(1, 4))
def test_a_power_is_a_repeated_product(name: str, power: int) -> None:
    assert unit(f"{name}^{power}") == unit(" ".join([name] * power))


@given(st.text(max_size=30))
def test_any_text_is_a_unit_or_none_or_unreadable(text: str) -> None:
    try:
        found = unit_of(text)
    except Unreadable:
        return
    assert found is None or (found.dimensions and found.size > 0)
