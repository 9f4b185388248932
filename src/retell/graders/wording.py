"""Answers in words and in figures that are no mathematics: times, dates, numbers in a base, words."""

import re
from collections.abc import Sequence
from fractions import Fraction

from retell.graders.expressions import Number
from retell.graders.forms import Based, Clock, Form, Numbers, Scalar, Words
from retell.graders.latex import Token, Unreadable
from retell.graders.units import SCALES, unit_of
from retell.graders.values import Expression

_ARTICLES = frozenset("the a an".split())
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
)
_ONES = {word: value for value, word in enumerate((_UNITS + "eighteen nineteen").split())}
_TENS = {
    word: 10 * value for value, word in enumerate("- - twenty thirty forty fifty sixty seventy eighty ninety".split())
}
_SHARES = {
    "half": 2,
    "halve": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "eighth": 8,
    "tenth": 10,
}
_SCALES = {word: SCALES[word] for word in ("thousand", "million", "billion")}
_MONTHS = {
    month[:3]: month
    for month in "january february march april may june july august september october november december".split()
}
_EMPTY = frozenset("none|no solution|no solutions|no real solution|no real solutions|empty set|empty|∅".split("|"))
_REALS = frozenset("all real numbers|all reals|real numbers|all real|reals".split("|"))
DENYING = frozenset(
    "not no never neither nor cannot wrong incorrect false impossible if unless assume assuming suppose except "
    "twice half double times minus plus less more than is are was".split()
)
"""Words that turn what stands beside them into something else."""
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?: ?([ap])\.? ?m\.?)?(?: o'?clock)?", re.I)
_HOUR = re.compile(r"(\d{1,2}) ?([ap])\.? ?m\.?", re.I)
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_BASED = re.compile(
    r"\(?([0-9A-Za-z]+)\)?(?:_\{? ?(?:\(?(\d{1,2})\)?|(two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen))\}?"
    r"| ?\(?base (\d{1,2})\)?)"
)
_WORD = re.compile(r"[a-z]+|-?\d+(?:\.\d+)?")


def figures(plain: str) -> list[Form]:
    """Readings by their looks alone: a time of day, digits in a base."""
    found: list[Form] = []
    clock = _CLOCK.fullmatch(plain)
    hour = None if clock else _HOUR.fullmatch(plain)
    if clock:
        half = f"{clock[4].lower()}m" if clock[4] else ""
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3] or 0)
        # 4:60 looks like a time and is none; it must not be taken for 5:00.
        found.append(Clock(seconds if int(clock[2]) < 60 else -seconds, half))
    elif hour:
        found.append(Clock(int(hour[1]) * 3600, f"{hour[2].lower()}m"))
    based = _BASED.fullmatch(plain)
    if based:
        base = _ONES[based[3]] if based[3] else int(based[2] or based[4])
        if base >= 2 and all(int(digit, 36) < base for digit in based[1]):
            found.append(Based(based[1].upper().lstrip("0") or "0", base))
    return found


def words_of(tokens: Sequence[Token], plain: str) -> Form | None:
    """An answer in words, if it is one: letters, digits and hyphens only, with a word or a text among them."""
    if not any(_is_word(token) for token in tokens) or tokens[0].kind == "mark":
        return None
    if not all(map(_within_words, tokens, (*tokens[1:], None))):
        return None
    lowered = _ORDINAL.sub(r"\1", plain.lower())
    words = tuple(word for word in _WORD.findall(lowered) if word not in _ARTICLES)
    joined = " ".join(words)
    if joined in _EMPTY:
        return Numbers("empty")
    if joined in _REALS:
        return Numbers("R")
    counted = None if "," in plain else _counted(words)
    if counted:
        return counted
    months = [word for word in words if word[:3] in _MONTHS and word in (word[:3], _MONTHS[word[:3]])]
    if months and any(word.isdecimal() for word in words):
        return Words(tuple(sorted(word[:3] if word in months else word for word in words if word != "of")))
    return Words(words) if words else None


def dated(form: Form) -> bool:
    """Whether it is a date: a month with a number."""
    return isinstance(form, Words) and any(word in _MONTHS for word in form.words)


def _is_word(token: Token) -> bool:
    """Whether it is a word, and no product of symbols such as RC or xy."""
    vowels = any(letter in "aeiouy" for letter in token.text.lower())
    return token.kind == "text" or (
        token.kind == "word" and (len(token.text) > 4 or (vowels and not token.text.isupper()))
    )


def _within_words(token: Token, after: Token | None) -> bool:
    """Whether a token, seen with the next one, may stand in an answer in words."""
    if token.kind == "mark":
        joins = after is not None and after.kind in ("word", "letter", "text", "number") and not token.space
        return token.text in ",.?" or (token.text in "-'" and joins and after is not None and not after.space)
    return token.kind != "name" and (token.kind != "word" or _is_word(token) or token.text in ("st", "nd", "rd", "th"))


def _counted(words: tuple[str, ...]) -> Scalar | None:
    """A number in words, perhaps with what is counted: ``four``, ``two thirds``, ``twenty five apples``."""
    for end in range(len(words), 0, -1):
        value = _number_of(words[:end])
        if value is not None:
            text = str(value)
            try:
                unit = unit_of(" ".join(words[end:]))
            except Unreadable:
                return None
            return None if unit and unit.odd else Scalar(Expression(Number(value, text), text), text, unit)
    return None


def _number_of(words: tuple[str, ...]) -> Fraction | None:
    """The number that words say: ``one hundred and twenty five``, ``three quarters``."""
    share = _SHARES.get(words[-1].removesuffix("s")) or _SHARES.get(words[-1])
    if share:
        parts = _number_of(words[:-1]) if words[:-1] else Fraction(1)
        return None if parts is None else parts / share
    total = current = 0
    before = "scale"
    for word in words:
        if word in _ONES and (before in ("scale", "hundred", "and") or (before == "tens" and 0 < _ONES[word] < 10)):
            current, before = current + _ONES[word], "ones"
        elif word in _TENS and before in ("scale", "hundred", "and"):
            current, before = current + _TENS[word], "tens"
        elif word == "hundred" and current < 100 and (before == "ones" or not current):
            current, before = (current or 1) * 100, "hundred"
        elif word in _SCALES and before != "and" and (not total or total >= _SCALES[word] * 1000):
            total, current, before = total + (current or 1) * _SCALES[word], 0, "scale"
        elif word == "and" and total + current and before in ("scale", "hundred"):
            before = "and"
        else:
            return None
    return None if before == "and" else Fraction(total + current)
