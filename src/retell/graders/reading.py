"""An answer, read as one of the kinds there are."""

import re
from collections.abc import Sequence
from fractions import Fraction
from string import ascii_lowercase

from retell.graders.expressions import Call, Number, Parser, Symbol
from retell.graders.forms import (
    Bracket,
    Choice,
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
from retell.graders.pieces import cut, depths, end_of_group, is_mark, outside, source, split
from retell.graders.units import SCALES, is_unit, unit_of
from retell.graders.values import Expression
from retell.graders.wording import DENYING, dated, figures, words_of

_DEEPEST = 60
_LONGEST_REST = 100
"""Tokens beside a choice letter."""
_RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "=", "equiv": "="}
_ARROWS = ("therefore", "implies", "Rightarrow")
_CURRENCY = "$€£¥"
_WORDLIKE = frozenset("aABCDEFGHIJ")
"""Letters that begin a phrase, or choose, rather than stand for a quantity that a unit follows."""
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?(?:answer|solution|value|result)\b"
    r".{0,40}?(?:is|:|=|are)$",
    re.I,
)
_CHOICE = re.compile(r"\(([A-J])\)[.:]?|([A-J])[.:)]?|\(([a-j])\)")


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
    if max(depths(tokens)) > _DEEPEST:
        raise Unreadable("nested too deep")
    plain = _plain(tokens)
    readings: list[Form] = figures(plain)
    choice = _choice(tokens)
    if choice:
        readings.append(choice)
    failure: Exception | None = None
    try:
        readings += _structures(tokens)
    except (Unreadable, Unsupported) as error:
        failure = error
    if [token.kind for token in tokens] == ["number", "letter"] and tokens[1].space and is_unit(tokens[1].text):
        readings.append(_scalar((tokens[0], Token("text", tokens[1].text, True))))  # 5 m may be a length, or 5 times m
    words = words_of(tokens, plain)
    if words and failure is None and any(token.kind == "number" for token in tokens) and not dated(words):
        words = None  # 5 apples is a number
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
    start, end = 0, len(tokens)
    while start < end and (is_mark(tokens[end - 1], ".", ",", ";", ":") or tokens[end - 1].text == "\\"):
        end -= 1
    if len(tokens) - end > 1 and all(is_mark(token, ".") for token in tokens[-2:]):
        raise Unreadable("it goes on in a way it does not say")
    while start < end and (is_mark(tokens[start], ":", "=", ",", ".") or tokens[start].text in _ARROWS):
        start += 1
    tokens = tokens[start:end]
    if tokens and tokens[0].kind == "text":
        if len(tokens) == 1:
            inner = tokenize(tokens[0].text)
            return inner if len(inner) == 1 else _trimmed(inner)
        if _LEAD.match(tokens[0].text) and not _denies(tokens[0].text.rstrip(" :").removesuffix("is")):
            return _trimmed(tokens[1:])
    if (
        len(tokens) > 1
        and tokens[0].kind in ("text", "word")
        and tokens[0].text.lower() in ("option", "choice", "answer")
    ):
        return _trimmed(tokens[1:])  # Option B, and in one text: see above
    return tokens


def _denies(text: str) -> bool:
    """Whether a phrase says something else of what stands beside it, or does sums with it: ``is not``, ``twice``."""
    words = set(re.findall(r"[a-z']+", text.lower().replace("’", "'")))
    return bool(DENYING & words) or any(word.endswith("n't") for word in words) or any(map(str.isdecimal, text))


def _plain(tokens: Sequence[Token]) -> str:
    """The answer as one would type it."""
    return "".join((" " if token.space or token.kind == "text" else "") + str(token) for token in tokens).strip()


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
        if len(rest) > _LONGEST_REST:
            return None
        beside_it = is_mark(rest[0], "(") and is_mark(rest[-1], ")") and rest[0].space
        words = " ".join(token.text for token in rest if token.kind in ("word", "text"))
        if (length == 1 and not beside_it) or rest[0].text.lower() in ("and", "or", ",") or _denies(words):
            return None
        try:
            beside = read(source(rest))[0]
        except (Unreadable, Unsupported):
            return None
        return None if isinstance(beside, Choice) else Choice(letter, beside)
    return None


def _structures(tokens: Sequence[Token]) -> list[Form]:
    separated = _separated(tokens)
    if separated is None:
        number = _grouped_number(tokens)
        if number is not None:
            return [_piece(number), Group("", "", tuple(_items(split(tokens, ","))))]
        parts = split(tokens, ",")
        if len(parts) > 1:
            return [Group("", "", tuple(_items(_grouped_parts(tokens, parts))))]
        items = _items([tokens])
        return items if len(items) == 1 else [Group("", "", tuple(items))]
    operator, parts = separated
    forms = _items([piece for part in parts for piece in split(part, ",")])
    if not forms:
        raise Unsupported("a list of nothing")
    if operator and all(isinstance(form, Relation) and form.operators != ("=",) for form in forms):
        return [Operation(operator, tuple(forms))]
    return [Group("", "", tuple(forms))]


def _separated(tokens: Sequence[Token]) -> tuple[str, list[Sequence[Token]]] | None:
    """The parts between ``and``, ``or`` and semicolons, if there are any."""
    found = {place: operator for place in outside(tokens) if (operator := _operator(tokens[place])) is not None}
    if not found:
        return None
    parts = [_bare(part) for part in cut(tokens, list(found))]
    operators = set(found.values())
    return (operators.pop() if len(operators) == 1 else ""), [part for part in parts if part]


def _operator(token: Token) -> str | None:
    """How a token joins what it stands between; a semicolon does not say how, and most tokens do not join."""
    for operator, name in (("and", "land"), ("or", "lor")):
        if _says(token, operator) or (token.kind == "name" and token.text == name):
            return operator
    return "" if is_mark(token, ";") else None


def _bare(tokens: Sequence[Token]) -> Sequence[Token]:
    """Without commas at the ends."""
    while tokens and is_mark(tokens[0], ","):
        tokens = tokens[1:]
    while tokens and is_mark(tokens[-1], ","):
        tokens = tokens[:-1]
    return tokens


def _grouped_number(tokens: Sequence[Token]) -> Sequence[Token] | None:
    """``1,234.5`` as one number, perhaps with a sign, a currency or a unit around it; None if the commas are others."""
    start = 0
    while start < len(tokens) and is_mark(tokens[start], "-", "+", *_CURRENCY):
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
        if "." in text or end >= len(tokens) or not is_mark(tokens[end], ",") or tokens[end].space:
            break
        end += 1
    if end - start < 3 or any(is_mark(token, ",") for token in tokens[end:]) or tokens[end - 1].kind != "number":
        return None
    return (*tokens[:start], Token("number", digits, tokens[start].space), *tokens[end:])


def _grouped_parts(tokens: Sequence[Token], parts: list[Sequence[Token]]) -> list[Sequence[Token]]:
    """The parts of a list; where its separators have spaces, commas without one group thousands: ``1,234, 5,678``."""
    commas = [place for place in outside(tokens) if is_mark(tokens[place], ",")]
    wide = [place for place in commas if place + 1 < len(tokens) and tokens[place + 1].space]
    if not wide or len(wide) == len(commas):
        return parts
    grouped = [_grouped_number(piece) if len(split(piece, ",")) > 1 else piece for piece in cut(tokens, wide)]
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
    if not tokens:
        raise Unreadable("an empty part")
    relations = [place for place in outside(tokens) if _relation(tokens[place])]
    if relations:
        return _related(tokens, relations)
    for operator in ("cup", "cap", "backslash"):
        parts = split(tokens, operator, kind="name")
        if len(parts) > 1:
            return Operation(operator, tuple(_piece(part) for part in parts))
    if len(tokens) == 1:
        alone = _alone(tokens[0])
        if alone:
            return alone
    said = [Token("mark", ":", False) if _says(token, "to") else token for token in tokens]
    ratio = split(said, ":")
    if len(ratio) > 1:
        return Ratio(tuple(_scalar(part) for part in ratio))
    return _bracketed(tokens) or _matrix(tokens) or _scalar(tokens)


def _says(token: Token, word: str) -> bool:
    return token.kind in ("text", "word") and token.text.lower() == word


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
    parts = cut(tokens, places)
    if not parts[-1]:
        raise Unreadable("a relation that breaks off")
    name = _name(parts[0])
    if name is None and set(operators) == {"="} and _name(parts[-1]):  # 3 = x
        parts.reverse()
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
            items = _items(split(part, ","))
            members.append(items[0] if len(items) == 1 else Group("", "", tuple(items)))
    return Relation(operators, tuple(members), name)


def _name(tokens: Sequence[Token]) -> str | None:
    """What the left side of a relation names, or None if it is an expression: ``x``, ``f(x)``, ``AB``, ``area``."""
    return "".join(token.text for token in tokens if token.text not in "{}") if _is_name(tokens) else None


def _is_name(tokens: Sequence[Token]) -> bool:
    bare = [token for token in tokens if not (token.kind == "name" and token.text in ("angle", "triangle"))]
    if not bare:
        return False
    if _is_symbol(tokens):
        return True
    first, inner, last = bare[0], bare[1:-1], bare[-1]
    if is_mark(first, "|") and is_mark(last, "|") and "".join(token.text for token in inner).isupper():
        return True
    if is_mark(first, "(") and is_mark(last, ")"):
        names = [_name(part) for part in split(inner, ",")]
        alphabetical = sorted(map(str, names))
        turned = names != alphabetical and "".join(alphabetical) in ascii_lowercase  # (y, x) = (2, 3)
        return len(names) > 1 and all(names) and not turned
    if first.kind == "text" or (first.kind == "word" and len(first.text) > 4):
        worded = all(token.kind in ("text", "word", "letter") for token in bare[1:])
        return worded and not _denies(" ".join(token.text for token in bare))
    if first.kind == "word" and not (first.text.isupper() or len(bare) < len(tokens)):
        return False  # xy = 5 is an equation; AB = 5 says how long AB is
    return _is_quantity(bare)


def _is_symbol(tokens: Sequence[Token]) -> bool:
    """A variable, with its subscript, or an angle by one of its functions."""
    parser = Parser(tokens)
    try:
        node = parser.sum()
    except (Unreadable, Unsupported):
        return False
    angle = isinstance(node, Call) and node.name in _ANGLES and isinstance(node.arguments[0], Symbol)
    return not parser.rest and (isinstance(node, Symbol) or angle)


def _is_quantity(tokens: Sequence[Token]) -> bool:
    """Points or a function, perhaps inverse, with subscript, primes and arguments: ``AB``, ``f^{-1}(x)``."""
    first, others = tokens[0], tokens[1:]
    if first.kind not in ("letter", "word", "name") or (first.kind == "name" and first.text in ("frac", "sqrt")):
        return False
    place = 0
    if others and is_mark(others[0], "_"):
        place = end_of_group(others, 1)
    if "".join(token.text for token in others[place : place + 5]) == "^{-1}":
        place += 5
    while place < len(others) and is_mark(others[place], "'"):
        place += 1
    if place > len(others):
        raise Unreadable("a subscript that breaks off")
    if place == len(others) or (is_mark(others[place], "(") and is_mark(others[-1], ")")):
        return True
    return all(token.kind == "letter" and token.text.isupper() for token in tokens)


def _bracketed(tokens: Sequence[Token]) -> Form | None:
    """A group in brackets that span the whole piece, if it is one."""
    first, last = tokens[0], tokens[-1]
    if first.kind == "name" and first.text == "langle" and last.text == "rangle":
        return Group("<", ">", tuple(_items(split(tokens[1:-1], ","))))
    if first.kind == "name" and first.text == "{" and last.kind == "name" and last.text == "}":
        inner = tokens[1:-1]
        if not inner:
            return Numbers("empty")
        for place in outside(inner):
            if is_mark(inner[place], "|", ":") or inner[place].text == "mid":
                return _condition(inner[place + 1 :])
        return Group("{", "}", tuple(_items(_grouped_parts(inner, split(inner, ",")))))
    if not (is_mark(first, "(", "[", "{") and is_mark(last, ")", "]", "}")):
        return None
    inner = tokens[1:-1]
    if is_mark(first, "{") and not inner:
        return Numbers("empty")
    if not inner or any(depth < 1 for depth in depths(tokens)[1:-1]):
        return None
    parts = split(inner, ",")
    if len(parts) > 1:
        return Group("(" if is_mark(first, "{") else _bracket(first.text), last.text, tuple(_items(parts)))
    semicolons = split(inner, ";")
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
    if environment in ("cases", "aligned", "gathered"):
        lines = [_unaligned(row) for row in split(tokens[1:-1], "\\", kind="name")]
        return Group("", "", tuple(_items([_bare(line) for line in lines if line])))
    if environment not in ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"):
        raise Unsupported(environment)
    inner = tokens[1:-1]
    if environment == "array" and inner and is_mark(inner[0], "{"):
        inner = inner[end_of_group(inner, 0) :]
    rows = [split(row, "&") for row in split(inner, "\\", kind="name") if row]
    return Matrix(tuple(tuple(_scalar(entry) for entry in row) for row in rows))


def _unaligned(row: Sequence[Token]) -> list[Token]:
    """A line of equations without the marks that align it at a relation; elsewhere they part a value from its case."""
    for place, token in enumerate(row):
        beside = [*row[max(0, place - 1) : place], *row[place + 1 : place + 2]]
        if is_mark(token, "&") and len(beside) == 2 and not any(map(_relation, beside)):
            raise Unsupported("cases")
    return [token for token in row if not is_mark(token, "&")]


def _scalar(tokens: Sequence[Token]) -> Scalar:
    """A number or an expression with a currency before it, or a unit or a percent sign after it."""
    whole = source(tokens)
    front: list[str] = []
    while tokens and (
        is_mark(tokens[0], *_CURRENCY)
        or (is_mark(tokens[0], "-") and len(tokens) > 1 and is_mark(tokens[1], *_CURRENCY))
    ):
        front.append(tokens[0].text)
        tokens = tokens[1:]
    money = "".join(front).strip("-")
    if tokens and "-" in front:
        tokens = (Token("mark", "-", False), *tokens)
    cut = _end_of_value(tokens)
    value, after = tokens[:cut], tokens[cut:]
    if not value:
        raise Unreadable(f"no value in {whole[:40]!r}")
    percent = bool(after) and (is_mark(after[0], "%") or after[0].text in ("%", "percent", "percentage", "percents"))
    if percent:
        after = after[1:]
    said = (money + " " + _plain(after)).split()
    scale = next((SCALES[word] for word in said if word in SCALES), 1)
    unit = unit_of(" ".join(word for word in said if word not in SCALES))
    numeric = any(token.kind == "number" for token in value)
    if after and not numeric and (value[0].text in _WORDLIKE or (unit and unit.odd)):
        raise Unreadable(f"{whole[:40]!r} counts nothing")  # A circle
    try:
        parser = Parser(value)
        node = parser.sum()
    except Unsupported:
        return Scalar(None, source(value), unit, percent)
    if parser.rest:
        raise Unreadable(f"{_plain(parser.rest)[:40]!r} after an expression")
    text = source(value)
    if scale > 1:
        node, text = Call("mul", (Number(Fraction(scale), str(scale)), node)), f"{scale}({text})"
    return Scalar(Expression(node, text), text, unit, percent)


def _end_of_value(tokens: Sequence[Token]) -> int:
    """Where the value ends and a percent sign or a unit begins."""
    for place in outside(tokens):
        token = tokens[place]
        if is_mark(token, "%", "°", *_CURRENCY) or (token.kind == "name" and token.text == "%"):
            # sin 30° + 1 goes on after the degrees; 30°, 30° F and 20 % do not.
            angle = any(t.kind == "name" and t.text in _ANGLES for t in tokens[:place])
            if (place + 1 == len(tokens) or tokens[-1].text in ("C", "F")) and not angle:
                return place
            continue
        after_value = place > 0 and not is_mark(tokens[place - 1], "_", "^", "+", "-", "*", "/", "=")
        if after_value and (token.kind == "text" or (token.kind == "word" and _begins_unit(tokens, place))):
            return place
    return len(tokens)


def _begins_unit(tokens: Sequence[Token], place: int) -> bool:
    """Whether a word after a value says what it is of, and is no product of symbols: ``5 xyz``."""
    word, apart, counted = tokens[place].text, tokens[place].space, tokens[place - 1].kind == "number"
    if word in ("percent", "units", "unit"):
        return True
    if is_unit(word):
        return apart or counted
    return apart and (len(word) > 4 or (counted and (len(word) > 3 or place + 1 < len(tokens))))


_ANGLES = frozenset("sin cos tan cot sec csc".split())
