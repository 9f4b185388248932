"""Units of measurement, money and counted things: one spelling for each, and what converts into what."""

import re
from dataclasses import dataclass
from fractions import Fraction

from retell.graders.latex import Unreadable

_KNOWN: dict[str, tuple[str, Fraction]] = {}
"""Each spelling with its dimension and its size in the dimension's own unit."""


def _define(dimension: str, sizes: dict[str, str | int]) -> None:
    for spellings, size in sizes.items():
        for spelling in spellings.split():
            _KNOWN[spelling] = (dimension, Fraction(size))


_define("length", {
    "m meter metre": 1, "cm centimeter centimetre": "0.01", "mm millimeter millimetre": "0.001",
    "km kilometer kilometre": 1000, "dm decimeter decimetre": "0.1", "nm nanometer nanometre": "1e-9",
    "μm micrometer micron": "1e-6", "in inch": "0.0254", "ft foot feet": "0.3048", "yd yard": "0.9144",
    "mi mile": "1609.344", "Å angstrom": "1e-10",
})  # fmt: skip
_define("mass", {
    "kg kilogram": 1000, "g gram": 1, "mg milligram": "0.001", "lb lbs pound": "453.59237", "oz ounce": "28.349523125",
    "tonne": 1000000,
})  # fmt: skip
_define("time", {
    "s sec second": 1, "ms millisecond": "0.001", "min minute": 60, "h hr hrs hour": 3600, "day": 86400,
    "week": 604800, "ns nanosecond": "1e-9",
})  # fmt: skip
_define("year", {"yr year": 1, "month": "1/12", "decade": 10, "century": 100})
_define("volume", {"L l liter litre": 1, "mL ml milliliter millilitre": "0.001"})
_define("money", {"dollar usd USD $ buck": 1, "cent ¢": "0.01"})
_define("euro", {"€ euro EUR": 1})
_define("pound sterling", {"£": 1})
_define("yen", {"¥ yen": 1})
_define("angle", {"° degree deg": 1})
_define("force", {"N newton": 1, "kN": 1000})
_define("energy", {"J joule": 1, "kJ kilojoule": 1000, "MJ": 1000000, "eV": "1.602176634e-19"})
_define("power", {"W watt": 1, "kW kilowatt": 1000, "MW": 1000000, "mW": "0.001"})
_define("voltage", {"V volt": 1, "mV": "0.001", "kV": 1000})
_define("current", {"A amp ampere": 1, "mA": "0.001"})
_define("temperature", {"K kelvin": 1})
_define("frequency", {"Hz hertz": 1, "kHz": 1000, "MHz": 1000000, "GHz": 1000000000})
_define("pressure", {"Pa pascal": 1, "kPa": 1000, "MPa": 1000000})
_define("amount", {"mol mole": 1})
_define("memory", {"byte": 1, "kB KB": 1000, "MB": 1000000, "GB": 1000000000})

_COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "fps": "ft/s", "rpm": "revolution/min"}
_NEUTRAL = frozenset(
    "unit units in total approximately about only exactly of a an the number rad radian radians".split()
)
"""Words beside a number that say nothing of what is counted."""
_PART = re.compile(r"[A-Za-zμÅ]+\.?|[°$€£¥]|\^\{?-?\d\}?|[/*]|-")


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of dimensions, and the size of this unit in them."""

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction

    @property
    def counted(self) -> bool:
        """Whether it only names a thing that is counted: ``apples``."""
        return any(dimension.startswith("#") for dimension, _ in self.dimensions)


def unit_of(text: str) -> Unit | None:
    """The unit that a text such as ``km/h``, ``square inches`` or ``apples`` says; None where it says none.

    Raises:
        Unreadable: something in it is no unit.
    """
    powers: dict[str, int] = {}
    size = Fraction(1)
    sign, factor = 1, 1
    nouns: list[str] = []
    last: tuple[str, Fraction, int] | None = None
    place = 0
    for match in _PART.finditer(text):
        if text[place : match.start()].strip(" .,()"):
            raise Unreadable(f"the unit {text[:40]!r}")
        place = match.end()
        part = match[0]
        if part in ("/", "per"):
            sign = -1
        elif part in ("*", "-"):
            continue
        elif part.startswith("^") or part in ("squared", "cubed"):
            if last:
                power = {"squared": 2, "cubed": 3}.get(part) or int(part.strip("^{}"))
                name, each, exponent = last
                powers[name] += exponent * (power - 1)
                size *= each ** (exponent * (power - 1))
        elif part in ("square", "sq", "sq."):
            factor = 2
        elif part in ("cubic", "cu", "cu."):
            factor = 3
        else:
            word = _COMPOUND.get(part, part)
            if "/" in word:
                above, _, below = word.partition("/")
                return _product(unit_of(above), unit_of(below))
            known = _known(part)
            if known:
                name, each = known
                exponent = sign * factor
                powers[name] = powers.get(name, 0) + exponent
                size *= each**exponent
                last = (name, each, exponent)
                sign, factor = (sign if "/" not in text else 1), 1
            elif part.lower().rstrip(".") not in _NEUTRAL:
                nouns.append(_singular(part.lower().rstrip(".")))
    if text[place:].strip(" .,()"):
        raise Unreadable(f"the unit {text[:40]!r}")
    if nouns:
        powers["#" + " ".join(nouns)] = 1
    left = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(left, size) if left else None


def _product(above: Unit | None, below: Unit | None) -> Unit | None:
    if above is None or below is None:
        return above
    inverse = tuple((name, -power) for name, power in below.dimensions)
    return Unit(tuple(sorted(above.dimensions + inverse)), above.size / below.size)


def _known(word: str) -> tuple[str, Fraction] | None:
    for spelling in (word, word.rstrip("."), word.lower().rstrip(".")):
        for form in (spelling, _singular(spelling)):
            if form in _KNOWN and (len(form) > 2 or form == word.rstrip(".") or form == word.rstrip("s.")):
                return _KNOWN[form]
    return None


def is_unit(word: str) -> bool:
    """Whether a run of letters is the name or the sign of a unit."""
    return word in _COMPOUND or _known(word) is not None


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word


def same_thing(one: Unit, other: Unit) -> bool:
    """Whether two counted things may be the same: ``marbles`` and ``blue marbles``."""
    words = [{word for name, _ in unit.dimensions for word in name.strip("#").split()} for unit in (one, other)]
    return words[0] <= words[1] or words[1] <= words[0]
