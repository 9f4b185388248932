"""An answer, read as one of the kinds there are."""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from retell.graders.expressions import Number, Parser
from retell.graders.forms import (
    Based,
    Bracket,
    Choice,
    Clock,
    Form,
    Group,
    Matrix,
    Numbers,
    Operation,
    Ratio,
    Relation,
    Scalar,
    Words,
)
from retell.graders.latex import Token, Unreadable, Unsupported, tokenize
from retell.graders.units import is_unit, unit_of
from retell.graders.values import Expression

_DEEPEST = 60
_RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "=", "equiv": "="}
_CURRENCY = "$€£¥"
_ARTICLES = frozenset("the a an".split())
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
)
_ONES = {word: value for value, word in enumerate((_UNITS + "eighteen nineteen").split())}
_TENS = {
    word: 10 * value for value, word in enumerate("- - twenty thirty forty fifty sixty seventy eighty ninety".split())
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_MONTHS = "january february march april may june july august september october november december".split()
_EMPTY = frozenset("none|no solution|no solutions|no real solution|no real solutions|empty set|empty|∅".split("|"))
_REALS = frozenset("all real numbers|all reals|real numbers|all real|reals".split("|"))
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?(?:answer|solution|value|result)\b"
    r".{0,40}?(?:is|:|=|are)$",
    re.I,
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?(?: ?([ap])\.? ?m\.?)?(?: o'?clock)?", re.I)
_HOUR = re.compile(r"(\d{1,2}) ?([ap])\.? ?m\.?", re.I)
_CHOICE = re.compile(r"\(([A-J])\)[.:]?|([A-J])[.:)]?|\(([a-j])\)")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_BASED = re.compile(
    r"\(?([0-9A-Za-z]+)\)?(?:_\{?(?:\(?(\d{1,2})\)?|(two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen))\}?"
    r"| ?\(?base (\d{1,2})\)?)"
)
_WORD = re.compile(r"[a-z]+|\d+")


def read(text: str) -> tuple[Form, ...]:
    """The readings of an answer, the likeliest first.

    ``(2,5)`` has one (what it is, an interval or a pair, depends on what it is compared with); ``1,234`` has two.

    Raises:
        Unreadable: it is no answer that could be compared.
        Unsupported: it is mathematics, and of a kind that only the algebra may read.
    """
    tokens = _trimmed(tokenize(text))
    if not tokens:
        raise Unreadable("nothing")
    if max(_depths(tokens)) > _DEEPEST:
        raise Unreadable("nested too deep")
    plain = _plain(tokens)
    readings: list[Form] = [*_special(tokens, plain)]
    failure: Exception | None = None
    try:
        readings += _structures(tokens)
    except (Unreadable, Unsupported) as error:
        failure = error
    words = _words(tokens, plain) if failure or not any(token.kind == "number" for token in tokens) else None
    if words:
        readings.append(words)
    if not readings:
        assert failure is not None
        raise failure
    return tuple(readings)


def spelled(text: str) -> list[str]:
    """The answer sign by sign, to compare what cannot be read."""
    return [token.text for token in _trimmed(tokenize(text))]


def _trimmed(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """Without what leads to the answer and the full stop after it; a text that is the whole answer is read itself."""
    while tokens and (_is(tokens[-1], ".", ",", ";", ":") or tokens[-1].text in ("\\", "ldots")):
        tokens = tokens[:-1]
    while tokens and (_is(tokens[0], ":", "=", ",", ".") or tokens[0].text in ("therefore", "implies", "Rightarrow")):
        tokens = tokens[1:]
    if tokens and tokens[0].kind == "text":
        if len(tokens) == 1:
            inner = tokenize(tokens[0].text)
            return inner if len(inner) == 1 and inner[0].kind != "word" else _trimmed_text(inner)
        if _LEAD.match(tokens[0].text):
            return _trimmed(tokens[1:])
    return tokens


def _trimmed_text(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    return tokens[:-1] if tokens and _is(tokens[-1], ".") else tokens


def _plain(tokens: Sequence[Token]) -> str:
    """The answer as one would type it."""
    return "".join((" " if token.space or token.kind == "text" else "") + str(token) for token in tokens).strip()


def _special(tokens: Sequence[Token], plain: str) -> list[Form]:
    """Readings by their looks: times, choices, numbers in a base."""
    found: list[Form] = []
    clock = _CLOCK.fullmatch(plain)
    hour = None if clock else _HOUR.fullmatch(plain)
    if clock and int(clock[2]) < 60:
        half = f"{clock[4].lower()}m" if clock[4] else ""
        found.append(Clock(int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3] or 0), half))
    elif hour:
        found.append(Clock(int(hour[1]) * 3600, f"{hour[2].lower()}m"))
    based = _BASED.fullmatch(plain)
    if based:
        base = int(based[2] or based[4] or 0) or _ONES[based[3]]
        if base >= 2 and all(_digit(digit) < base for digit in based[1]):
            found.append(Based(based[1].upper().lstrip("0") or "0", base))
    choice = _choice(tokens)
    if choice:
        found.append(choice)
    return found


def _digit(character: str) -> int:
    return int(character, 36)


def _choice(tokens: Sequence[Token]) -> Choice | None:
    """``C``, ``(C)``, ``C. 12`` or ``(C) 12``; a letter that begins a sentence is none."""
    flat = [part for token in tokens[:2] for part in (tokenize(token.text) if token.kind == "text" else (token,))]
    flat += tokens[2:]
    for length in (3, 4, 2, 1):
        match = _CHOICE.fullmatch("".join(token.text for token in flat[:length]))
        if not match or len(flat) < length:
            continue
        letter = (match[1] or match[2] or match[3]).upper()
        rest = flat[length:]
        if not rest:
            return Choice(letter, None)
        if length == 1 or rest[0].text.lower() in ("and", "or", "not", ","):
            return None
        try:
            beside = read(_source(rest))[0]
        except (Unreadable, Unsupported):
            return None
        return None if isinstance(beside, Choice) else Choice(letter, beside)
    return None


def _words(tokens: Sequence[Token], plain: str) -> Form | None:
    """An answer in words, if it is one: letters, digits and hyphens only, with a word or a text among them."""
    if not any(token.kind in ("word", "text") for token in tokens):
        return None
    if any(token.kind == "name" or (token.kind == "mark" and token.text not in ",.-'():&%/!?") for token in tokens):
        return None
    lowered = _ORDINAL.sub(r"\1", plain.lower())
    words = tuple(word for word in _WORD.findall(lowered) if word not in _ARTICLES)
    joined = " ".join(words)
    if joined in _EMPTY:
        return Numbers("empty")
    if joined in _REALS:
        return Numbers("R")
    value = _number_of(words)
    if value is not None:
        text = str(value)
        return Scalar(Expression(Number(Fraction(value), text), text), text)
    months = [word for word in words if word in _MONTHS or word in {month[:3] for month in _MONTHS}]
    if months and any(word.isdecimal() for word in words):
        return Words(tuple(sorted(word[:3] if word in months else word for word in words)))
    return Words(words) if words else None


def _number_of(words: tuple[str, ...]) -> int | None:
    """The number that words say: ``one hundred and twenty five``."""
    total = current = 0
    said = [word for word in words if word != "and"]
    if not said or words[0] == "and":
        return None
    for word in said:
        if word in _ONES or word in _TENS:
            current += _ONES.get(word, 0) + _TENS.get(word, 0)
        elif word == "hundred":
            current = (current or 1) * 100
        elif word in _SCALES:
            total, current = total + (current or 1) * _SCALES[word], 0
        else:
            return None
    return total + current


def _structures(tokens: Sequence[Token]) -> list[Form]:
    separated = _separated(tokens)
    if separated is None:
        number = _grouped_number(tokens)
        if number is not None:
            return [_piece(number), Group("", "", tuple(_items(_split(tokens, ","))))]
        parts = _split(tokens, ",")
        if len(parts) > 1:
            return [Group("", "", tuple(_items(_grouped_parts(tokens, parts))))]
        items = _items([tokens])
        return items if len(items) == 1 else [Group("", "", tuple(items))]
    operator, parts = separated
    forms = _items([piece for part in parts for piece in _split(part, ",")])
    if operator and all(isinstance(form, Relation) and form.operators != ("=",) for form in forms):
        return [Operation(operator, tuple(forms))]
    return [Group("", "", tuple(forms))]


def _separated(tokens: Sequence[Token]) -> tuple[str, list[Sequence[Token]]] | None:
    """The parts between ``and``, ``or`` and semicolons, if there are any."""
    cuts, operators = [], set()
    for place in _top(tokens):
        token = tokens[place]
        said = token.text.lower().strip(" ,") if token.kind in ("text", "word") else token.text
        if (token.kind in ("text", "word") and said in ("and", "or")) or (
            token.kind == "name" and said in ("land", "lor")
        ):
            operators.add("or" if said in ("or", "lor") else "and")
            cuts.append(place)
        elif _is(token, ";"):
            operators.add("")
            cuts.append(place)
    if not cuts:
        return None
    edges = [-1, *cuts, len(tokens)]
    parts = [_bare(tokens[start + 1 : end]) for start, end in pairwise(edges)]
    return (operators.pop() if len(operators) == 1 else ""), [part for part in parts if part]


def _bare(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without commas at the ends."""
    while tokens and _is(tokens[0], ","):
        tokens = tokens[1:]
    while tokens and _is(tokens[-1], ","):
        tokens = tokens[:-1]
    return tokens


def _grouped_number(tokens: Sequence[Token]) -> Sequence[Token] | None:
    """``1,234.5`` as one number, perhaps with a sign, a currency or a unit around it; None if the commas are others."""
    start = 0
    while start < len(tokens) and _is(tokens[start], "$", "-", "+", "€", "£", "¥"):
        start += 1
    end = start
    digits = ""
    while end < len(tokens) and tokens[end].kind == "number":
        text = tokens[end].text
        whole = text.partition(".")[0]
        if (digits and (len(whole) != 3 or tokens[end].space)) or (not digits and not 1 <= len(whole) <= 3):
            return None
        digits += text
        end += 1
        if "." in text or end >= len(tokens) or not _is(tokens[end], ",") or tokens[end].space:
            break
        end += 1
    if end - start < 3 or any(_is(token, ",") for token in tokens[end:]) or tokens[end - 1].kind != "number":
        return None
    return (*tokens[:start], Token("number", digits, tokens[start].space), *tokens[end:])


def _grouped_parts(tokens: Sequence[Token], parts: list[Sequence[Token]]) -> list[Sequence[Token]]:
    """The parts of a list; where its separators have spaces, commas without one group thousands: ``1,234, 5,678``."""
    commas = [place for place in _top(tokens) if _is(tokens[place], ",")]
    wide = [place for place in commas if place + 1 < len(tokens) and tokens[place + 1].space]
    if not wide or len(wide) == len(commas):
        return parts
    edges = [-1, *wide, len(tokens)]
    pieces = [tokens[start + 1 : end] for start, end in pairwise(edges)]
    grouped = [_grouped_number(piece) if len(_split(piece, ",")) > 1 else piece for piece in pieces]
    return parts if any(piece is None for piece in grouped) else [piece for piece in grouped if piece is not None]


def _items(parts: Sequence[Sequence[Token]]) -> list[Form]:
    r"""The parts of a list, read; a part with ``\pm`` counts as two."""
    forms: list[Form] = []
    for part in parts:
        if not part:
            raise Unreadable("an empty item")
        whole_set = part[0].kind == "name" and part[0].text == "{"
        if not whole_set and any(token.kind == "name" and token.text in ("pm", "mp") for token in part):
            forms += [_piece(_with_sign(part, upper)) for upper in (True, False)]
        else:
            forms.append(_piece(part))
    return forms


def _with_sign(tokens: Sequence[Token], upper: bool) -> Sequence[Token]:
    signs = {"pm": "+" if upper else "-", "mp": "-" if upper else "+"}
    return [
        Token("mark", signs[token.text], token.space) if token.kind == "name" and token.text in signs else token
        for token in tokens
    ]


def _piece(tokens: Sequence[Token]) -> Form:
    """One item: a relation, a joined set, a group, a matrix or a scalar."""
    relations = [place for place in _top(tokens) if _relation(tokens[place])]
    if relations:
        return _related(tokens, relations)
    for operator in ("cup", "cap", "backslash"):
        parts = _split(tokens, operator, kind="name")
        if len(parts) > 1:
            return Operation(operator, tuple(_piece(part) for part in parts))
    if len(tokens) == 1:
        alone = _alone(tokens[0])
        if alone:
            return alone
    ratio = _split(tokens, ":")
    if len(ratio) > 1:
        return Ratio(tuple(_scalar(part) for part in ratio))
    return _bracketed(tokens) or _matrix(tokens) or _scalar(tokens)


def _alone(token: Token) -> Form | None:
    if token.kind == "name" and token.text == "emptyset":
        return Numbers("empty")
    if token.kind == "name" and token.text.startswith("mathbb"):
        return Numbers(token.text.removeprefix("mathbb"))
    if token.kind == "text":
        return read(token.text)[0]
    return None


def _relation(token: Token) -> str | None:
    return _RELATIONS.get(token.text) if token.kind in ("mark", "name") else None


def _related(tokens: Sequence[Token], places: list[int]) -> Form:
    operators = tuple(_RELATIONS[tokens[place].text] for place in places)
    edges = [-1, *places, len(tokens)]
    parts = [tokens[start + 1 : end] for start, end in pairwise(edges)]
    if not parts[-1]:
        raise Unreadable("a relation that breaks off")
    name = _name(parts[0])
    if not parts[0]:
        raise Unreadable("a relation without a left side")
    members: list[Form] = []
    for number, part in enumerate(parts):
        if number == 0 and name is not None:
            try:
                members.append(_piece(part))
            except (Unreadable, Unsupported):
                members.append(Words((name,)))
        else:
            items = _items(_split(part, ","))
            members.append(items[0] if len(items) == 1 else Group("", "", tuple(items)))
    return Relation(operators, tuple(members), name)


def _name(tokens: Sequence[Token]) -> str | None:
    """What the left side of a relation names, or None if it is an expression: ``x``, ``f(x)``, ``AB``, ``area``."""
    bare = [token for token in tokens if not (token.kind == "name" and token.text in ("angle", "triangle", "overline"))]
    text = "".join(token.text for token in tokens if token.text not in "{}")
    if not bare:
        return None
    first, others = bare[0], bare[1:]
    if _is(first, "(") and _is(bare[-1], ")"):
        names = [_name(part) for part in _split(bare[1:-1], ",")]
        return text if len(names) > 1 and all(names) else None
    if first.kind == "text" or (first.kind == "word" and len(first.text) > 4):
        return text if all(token.kind in ("text", "word", "letter") for token in others) else None
    if first.kind not in ("letter", "word", "name") or (first.kind == "name" and first.text in ("frac", "sqrt")):
        return None
    if first.kind == "word" and not (first.text.isupper() or len(bare) < len(tokens)):
        return None  # xy = 5 is an equation; AB = 5 says how long AB is
    place = 0
    if others and _is(others[0], "_"):
        place = _end_of_group(others, 1)
    while place < len(others) and _is(others[place], "'"):
        place += 1
    if place == len(others):
        return text
    if _is(others[place], "(") and _is(others[-1], ")"):
        return text
    if all(token.kind == "letter" and token.text.isupper() for token in bare):
        return text
    return None


def _end_of_group(tokens: Sequence[Token], start: int) -> int:
    if start < len(tokens) and _is(tokens[start], "{"):
        depth = 0
        for place in range(start, len(tokens)):
            depth += _is(tokens[place], "{") - _is(tokens[place], "}")
            if not depth:
                return place + 1
    return start + 1


def _bracketed(tokens: Sequence[Token]) -> Form | None:
    """A group in brackets that span the whole piece, if it is one."""
    first, last = tokens[0], tokens[-1]
    if first.kind == "name" and first.text == "langle" and last.text == "rangle":
        return Group("<", ">", tuple(_items(_split(tokens[1:-1], ","))))
    if first.kind == "name" and first.text == "{" and last.kind == "name" and last.text == "}":
        inner = tokens[1:-1]
        if not inner:
            return Numbers("empty")
        for place in _top(inner):
            if _is(inner[place], "|", ":") or inner[place].text == "mid":
                return _condition(inner[place + 1 :])
        return Group("{", "}", tuple(_items(_grouped_parts(inner, _split(inner, ",")))))
    if not (_is(first, "(", "[", "{") and _is(last, ")", "]", "}")):
        return None
    inner = tokens[1:-1]
    if _is(first, "{") and not inner:
        return Numbers("empty")
    if not inner or any(depth < 1 for depth in _depths(tokens)[1:-1]):
        return None
    parts = _split(inner, ",")
    if len(parts) > 1:
        return Group("(" if _is(first, "{") else _bracket(first.text), last.text, tuple(_items(parts)))
    semicolons = _split(inner, ";")
    if len(semicolons) > 1:
        return Group(_bracket(first.text), last.text, tuple(_items(semicolons)))
    try:
        inside = _piece(inner)  # (x, y) = (1, 2) in parentheses, or a matrix in those of an array
    except Unreadable:
        return None
    return None if isinstance(inside, Scalar) else inside


def _bracket(text: str) -> Bracket:
    return "[" if text == "[" else "("


def _condition(tokens: Sequence[Token]) -> Form:
    """The condition of a set: ``x > 3``."""
    forms = _structures(tokens)
    if isinstance(forms[0], Relation | Operation):
        return forms[0]
    raise Unsupported("a set by description")


def _matrix(tokens: Sequence[Token]) -> Form | None:
    """A matrix environment that spans the piece."""
    first = tokens[0]
    if (
        first.kind != "name"
        or not first.text.startswith("begin ")
        or tokens[-1].text != first.text.replace("begin", "end")
    ):
        return None
    environment = first.text.removeprefix("begin ")
    if environment not in ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"):
        raise Unsupported(environment)
    inner = tokens[1:-1]
    if environment == "array" and inner and _is(inner[0], "{"):
        inner = inner[_end_of_group(inner, 0) :]
    rows = [_split(row, "&") for row in _split(inner, "\\", kind="name") if row]
    return Matrix(tuple(tuple(_scalar(entry) for entry in row) for row in rows))


def _scalar(tokens: Sequence[Token]) -> Scalar:
    """A number or an expression with a currency before it, or a unit or a percent sign after it."""
    source = _source(tokens)
    front: list[str] = []
    while tokens and (
        _is(tokens[0], *_CURRENCY) or (_is(tokens[0], "-") and len(tokens) > 1 and _is(tokens[1], *_CURRENCY))
    ):
        front.append(tokens[0].text)
        tokens = tokens[1:]
    money = "".join(front).strip("-")
    if tokens and "-" in front:
        tokens = (Token("mark", "-", False), *tokens)
    cut = _end_of_value(tokens)
    value, after = tokens[:cut], tokens[cut:]
    if not value:
        raise Unreadable(f"no value in {source[:40]!r}")
    percent = bool(after) and (_is(after[0], "%") or after[0].text in ("%", "percent", "percentage", "percents"))
    if percent:
        after = after[1:]
    unit = unit_of(money + " " + _plain(after)) if after or money else None
    try:
        parser = Parser(value)
        node = parser.sum()
    except Unsupported:
        return Scalar(None, _source(value), unit, percent)
    if parser.rest:
        raise Unreadable(f"{_plain(parser.rest)[:40]!r} after an expression")
    return Scalar(Expression(node, _source(value)), _source(value), unit, percent)


def _end_of_value(tokens: Sequence[Token]) -> int:
    """Where the value ends and a percent sign or a unit begins."""
    for place in _top(tokens):
        token = tokens[place]
        if _is(token, "%", "°", *_CURRENCY) or (token.kind == "name" and token.text == "%"):
            # sin 30° + 1 goes on after the degrees; 30° and 20 % do not.
            if place + 1 == len(tokens) and not any(t.kind == "name" and t.text in _ANGLES for t in tokens[:place]):
                return place
            continue
        after_value = place > 0 and not _is(tokens[place - 1], "_", "^", "+", "-", "*", "/", "=")
        if after_value and token.kind == "text":
            return place
        if after_value and token.kind == "word" and token.space and (is_unit(token.text) or len(token.text) > 4):
            return place
        if after_value and token.kind == "word" and is_unit(token.text) and tokens[place - 1].kind == "number":
            return place
        if after_value and token.kind == "word" and token.text in ("percent", "units", "unit"):
            return place
        counted = after_value and token.kind == "word" and tokens[place - 1].kind == "number" and token.space
        if counted and (len(token.text) > 3 or place + 1 < len(tokens)):
            return place
    return len(tokens)


_ANGLES = frozenset("sin cos tan cot sec csc".split())


def _source(tokens: Sequence[Token]) -> str:
    """LaTeX of the tokens, for the algebra and as a key."""
    parts = []
    for token in tokens:
        if token.kind == "text":
            parts.append(f"\\text{{{token.text}}}")
        elif token.kind == "name":
            head, _, environment = token.text.partition(" ")
            parts.append(
                f"\\{head}{{{environment}}}" if environment else f"\\{token.text}" + " " * token.text.isalpha()
            )
        else:
            parts.append(" " * token.space + token.text)
    return "".join(parts).strip()


def _is(token: Token, *marks: str) -> bool:
    return token.kind == "mark" and token.text in marks


def _depths(tokens: Sequence[Token]) -> list[int]:
    """How deep in brackets each token stands; half-open intervals close with the other bracket."""
    depth, depths = 0, []
    for token in tokens:
        opens = _is(token, "(", "[", "{") or (
            token.kind == "name" and (token.text in _OPENERS or token.text[:6] == "begin ")
        )
        closes = _is(token, ")", "]", "}") or (
            token.kind == "name" and (token.text in _CLOSERS or token.text[:4] == "end ")
        )
        if closes:
            depth -= 1
        depths.append(depth)
        if opens:
            depth += 1
    return depths


_OPENERS, _CLOSERS = ("{", "langle", "lfloor", "lceil"), ("}", "rangle", "rfloor", "rceil")


def _top(tokens: Sequence[Token]) -> list[int]:
    """The places of the tokens outside all brackets."""
    return [place for place, depth in enumerate(_depths(tokens)) if depth == 0 and not _opens(tokens[place])]


def _opens(token: Token) -> bool:
    return _is(token, "(", "[", "{", ")", "]", "}") or (
        token.kind == "name" and (token.text in (*_OPENERS, *_CLOSERS) or token.text[:4] in ("begi", "end "))
    )


def _split(tokens: Sequence[Token], separator: str, kind: str = "mark") -> list[Sequence[Token]]:
    """The parts of a list between separators outside all brackets."""
    cuts = [place for place in _top(tokens) if tokens[place].kind == kind and tokens[place].text == separator]
    edges = [-1, *cuts, len(tokens)]
    return [tokens[start + 1 : end] for start, end in pairwise(edges)]
