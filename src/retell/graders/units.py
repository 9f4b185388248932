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
    "pc parsec": "3.0856775814913673e16", "kpc": "3.0856775814913673e19", "Mpc": "3.0856775814913673e22",
    "ly": "9.4607304725808e15", "au AU": "149597870700",
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
_define("volume", {
    "L l liter litre": 1, "mL ml milliliter millilitre": "0.001", "gallon gal": "3.785411784", "quart": "0.946352946",
    "pint": "0.473176473", "cup": "0.2365882365", "tablespoon tbsp": "0.01478676478125",
    "teaspoon tsp": "0.00492892159375",
})  # fmt: skip
_define("money", {"dollar usd USD $ buck": 1, "cent ¢": "0.01"})
_define("euro", {"€ euro EUR": 1})
_define("pound sterling", {"£": 1})
_define("yen", {"¥ yen": 1})
_define("angle", {"° degree deg": 1, "arcmin arcminute": "1/60", "arcsec arcsecond": "1/3600"})
_define("radian", {"rad radian": 1})
_define("force", {"N newton": 1, "kN": 1000})
_define("energy", {"J joule": 1, "kJ kilojoule": 1000, "MJ": 1000000, "kWh": 3600000})
_define("electronvolts", {"eV": 1, "meV": "0.001", "keV": 1000, "MeV": 10**6, "GeV": 10**9})
_define("power", {"W watt": 1, "kW kilowatt": 1000, "MW": 1000000, "mW": "0.001"})
_define("voltage", {"V volt": 1, "mV": "0.001", "kV": 1000})
_define("current", {"A amp ampere": 1, "mA": "0.001"})
_define("temperature", {"K kelvin": 1})
_define("frequency", {"Hz hertz": 1, "kHz": 1000, "MHz": 1000000, "GHz": 1000000000})
_define("pressure", {"Pa pascal": 1, "kPa": 1000, "MPa": 1000000})
_define("amount", {"mol mole": 1})
_define("memory", {"byte": 1, "kB KB": 1000, "MB": 1000000, "GB": 1000000000})

_define("celsius", {"°C celsius Celsius": 1})
_define("fahrenheit", {"°F fahrenheit Fahrenheit": 1})
_define("resistance", {"Ω ohm": 1, "kΩ": 1000})

_COMPOUND = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "fps": "ft/s"}
SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NEUTRAL = frozenset(
    "unit units in total altogether approximately about only exactly of a an the number long tall "
    "high wide deep old away apart each apiece left over remaining later late ago them".split()
)
"""Words beside a number that say nothing of what is counted."""
_PLURALS = frozenset("people men women children feet teeth mice geese fish sheep dice data vertices".split())
_THS = frozenset("months paths lengths widths depths moths baths births deaths booths myths strengths".split())
_CHANGING = frozenset(
    "is does fails lots or and to not than plus minus less more below above off thirds fourths fifths sixths "
    "sevenths eighths ninths tenths hundredths thousandths halves quarters tens ones dozens hundreds thousands "
    "millions billions trillions others".split()
)
"""Words that make another number of the number, or another thing of the answer."""
_PART = re.compile(r"°\s*[CF]\b|[A-Za-zμÅΩ]+\.?|[°$€£¥¢]|\^\{?-?\d\}?|[/*]|-")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_RAISED = {"squared": 2, "cubed": 3}


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of dimensions, and the size of this unit in them.

    A thing that is counted (``apples``) is a dimension of its own, with a # before it. ``odd`` words beside a number
    are neither: they may be the unit of a gold, and then that of the answer, but an answer may not just add them.
    """

    dimensions: tuple[tuple[str, int], ...]
    size: Fraction
    odd: bool = False

    @property
    def counted(self) -> bool:
        """Whether things are counted."""
        return any(dimension.startswith("#") for dimension, _ in self.dimensions)


def unit_of(text: str) -> Unit | None:
    """The unit that a text such as ``km/h``, ``square inches`` or ``apples`` says; None where it says none.

    Raises:
        Unreadable: something in it is no word and no sign of a unit.
    """
    text = re.sub(r"\bin (?:total|all)\b", "", text)  # no inches
    reader = _Reader()
    place = 0
    for match in _PART.finditer(text):
        if text[place : match.start()].strip(" .,()"):
            break
        place = match.end()
        reader.add(match[0])
    if text[place:].strip(" .,()"):
        raise Unreadable(f"the unit {text[:40]!r}")
    return reader.unit()


class _Reader:
    def __init__(self) -> None:
        self._powers: dict[str, int] = {}
        self._size = Fraction(1)
        self._below = False
        self._power = 1
        self._last: tuple[str, Fraction, int] | None = None
        self._nouns: list[str] = []
        self._odd = False
        self._plural = False
        self._beside = False
        """Whether it goes on with what the things are of, or in: of carpet."""
        self._more = False

    def add(self, part: str) -> None:
        """Takes the next word or sign."""
        word = part.rstrip(".").replace(" ", "")
        if part in ("/", "per"):
            self._below = True
        elif word in _POWERS:
            self._power = _POWERS[word]
        elif part.startswith("^") or word in _RAISED:
            self._raise(_RAISED.get(word) or int(part.strip("^{}")))
        elif word in _COMPOUND:
            above, _, below = _COMPOUND[word].partition("/")
            for each in (above, "/", below):
                self.add(each)
        elif known := _known(word):
            self._multiply(*known, (-1 if self._below else 1) * self._power)
            self._power = 1
        elif word in ("of", "in") and (self._powers or self._plural):
            self._beside = True
        elif word == "more":
            self._more = True
        elif word.lower() not in _NEUTRAL and part not in "*-":
            self._noun(word)

    def _raise(self, power: int) -> None:
        if self._last is None:
            self._odd = True
        else:
            name, size, exponent = self._last
            self._multiply(name, size, exponent * (power - 1))

    def _multiply(self, name: str, size: Fraction, exponent: int) -> None:
        self._powers[name] = self._powers.get(name, 0) + exponent
        self._size *= size**exponent
        self._last = (name, size, exponent)

    def _noun(self, word: str) -> None:
        plural = word.lower() in _PLURALS or (len(word) > 3 and word.endswith("s") and not word.endswith("ss"))
        self._plural |= plural
        # Hundredths and sixteenths are shares, months and lengths are things.
        if word.lower() in _CHANGING or (word.endswith("ths") and word not in _THS):
            raise Unreadable(f"{word!r} beside a value")
        self._odd |= bool(self._powers) and not self._below and not self._beside
        if self._beside:
            return
        if self._below:
            self._multiply(f"#{_singular(word.lower())}", Fraction(1), -1)
        else:
            self._nouns.append(_singular(word.lower()) if plural else word)

    def unit(self) -> Unit | None:
        """What all parts said."""
        if self._nouns:
            self._odd |= not self._plural or ("time" in self._nouns and len(self._nouns) > 1)  # times pi
            self._powers["#" + " ".join(self._nouns)] = 1
        self._odd |= self._more and not self._powers  # 5 more apples are five; 5 more is no five
        left = tuple(sorted((name, power) for name, power in self._powers.items() if power))
        return Unit(left, self._size, self._odd) if left or self._odd else None


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
