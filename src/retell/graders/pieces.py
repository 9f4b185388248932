"""Tokens cut into pieces where brackets allow it."""

from collections.abc import Sequence
from itertools import pairwise

from retell.graders.latex import Token

_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_OPENERS, _CLOSERS = ("{", "langle", "lfloor", "lceil"), ("}", "rangle", "rfloor", "rceil")


def is_mark(token: Token, *marks: str) -> bool:
    """Whether a token is one of these marks, and not a name that is spelled like it."""
    return token.kind == "mark" and token.text in marks


def depths(tokens: Sequence[Token]) -> list[int]:
    """How deep in brackets each token stands; a bracket stands outside. Half-open intervals close with the other."""
    depth = 0
    found = []
    for token in tokens:
        depth -= _closes(token)
        found.append(depth)
        depth += _opens(token)
    return found


def outside(tokens: Sequence[Token]) -> list[int]:
    """The places of the tokens outside all brackets, brackets left out."""
    return [
        place
        for place, depth in enumerate(depths(tokens))
        if depth == 0 and not _opens(tokens[place]) and not _closes(tokens[place])
    ]


def split(tokens: Sequence[Token], separator: str, kind: str = "mark") -> list[Sequence[Token]]:
    """The parts of a list between separators outside all brackets."""
    return cut(tokens, [p for p in outside(tokens) if tokens[p].kind == kind and tokens[p].text == separator])


def cut(tokens: Sequence[Token], places: Sequence[int]) -> list[Sequence[Token]]:
    """What stands before, between and behind the tokens at these places."""
    return [tokens[start + 1 : end] for start, end in pairwise([-1, *places, len(tokens)])]


def end_of_group(tokens: Sequence[Token], start: int) -> int:
    """Where the group in braces that begins at ``start``, or else the single token there, ends."""
    if start < len(tokens) and is_mark(tokens[start], "{"):
        depth = 0
        for place in range(start, len(tokens)):
            depth += is_mark(tokens[place], "{") - is_mark(tokens[place], "}")
            if not depth:
                return place + 1
    return start + 1


def source(tokens: Sequence[Token]) -> str:
    """LaTeX of the tokens, for the algebra and as a key."""
    return "".join(map(_source, tokens)).strip()


def _source(token: Token) -> str:
    if token.kind == "text":
        return f"\\text{{{token.text}}}"
    if token.kind == "name":
        head, _, environment = token.text.partition(" ")
        return f"\\{head}{{{environment}}}" if environment else f"\\{head}" + " " * head.isalpha()
    return " " * token.space + token.text


def _opens(token: Token) -> bool:
    return is_mark(token, *_OPENING) or (
        token.kind == "name" and (token.text in _OPENERS or token.text.startswith("begin "))
    )


def _closes(token: Token) -> bool:
    return is_mark(token, *_CLOSING) or (
        token.kind == "name" and (token.text in _CLOSERS or token.text.startswith("end "))
    )
