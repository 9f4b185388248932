"""Expressions: a reader of mathematical LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from retell.graders.latex import FUNCTIONS, GREEK, Token, Unreadable, Unsupported


@dataclass(frozen=True, slots=True)
class Number:
    """A literal; ``text`` is as it was written, so that its digits can be counted."""

    value: Fraction
    text: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable or a constant."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation or a function: ``add mul div neg pow root fact binom abs …``, or ``name()`` for an unknown one."""

    name: str
    arguments: tuple["Node", ...]


Node: TypeAlias = Number | Symbol | Call

PI, E, IMAGINARY, INFINITY = Symbol("\\pi"), Symbol("e"), Symbol("i"), Symbol("\\infty")
CONSTANTS = (PI, E, IMAGINARY, INFINITY)
_DEEPEST = 60
_ACCENTS = frozenset("dot ddot hat bar vec tilde overline underline widehat widetilde overrightarrow overset".split())
_LETTERS = GREEK | frozenset(
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar odot mho nabla aleph Alpha Beta square circ "
    "perp prime star dagger".split()
)
_ADVANCED = frozenset(
    "sum prod int iint iiint oint lim limsup liminf sup det bmod pmod mod partial bigcup bigcap arg gcf deg dim ker Pr "
    "cases asec arccsc sgn cis Re Im".split()
)
_NO_PRODUCTS = frozenset("and are but for has not odd the was yes".split())


def number(text: str) -> Number:
    """A literal, perhaps with an exponent (``4.5e33``) or digits that repeat (``0.1r6`` is 1/6)."""
    decimal, _, repetend = text.partition("r")
    value = Fraction(decimal.rstrip(".") if decimal.endswith(".") else decimal)
    if repetend:
        scale = 10 ** len(decimal.partition(".")[2])
        value += Fraction(int(repetend), (10 ** len(repetend) - 1) * scale)
    return Number(value, text)


class Parser:
    """Reads an expression from the front of ``tokens``; `rest` is what follows it."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = list(tokens)
        self._place = 0
        self._depth = 0
        self._bars = 0
        self._within_function = False

    @property
    def rest(self) -> Sequence[Token]:
        """The tokens that are not read yet."""
        return self._tokens[self._place :]

    def sum(self) -> Node:
        """A sum of products, as far as it goes."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Unreadable("nested too deep")
        terms = [self._signed()]
        while self._is("+", "-"):
            terms.append(self._signed())
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Call("add", tuple(terms))

    def _signed(self) -> Node:
        negative = False
        while self._is("+", "-"):
            negative ^= self._next().text == "-"
        term = self._product()
        return Call("neg", (term,)) if negative else term

    def _product(self) -> Node:
        product = self._factor()
        while True:
            if self._is("*"):
                self._next()
                product = Call("mul", (product, self._signed_factor()))
            elif self._is("/"):
                self._next()
                product = Call("div", (product, self._signed_factor()))
            elif self._starts_factor():
                product = self._times(product)
            else:
                return product

    def _signed_factor(self) -> Node:
        if self._is("+", "-"):
            return Call("neg", (self._factor(),)) if self._next().text == "-" else self._factor()
        return self._factor()

    def _times(self, left: Node) -> Node:
        """Juxtaposition: a product, or a mixed number."""
        start = self._place
        right = self._factor()
        whole = isinstance(left, Number) and left.text.isdecimal()
        if self._tokens[start].kind == "number" and isinstance(right, Number):
            if whole and self._is("/") and right.text.isdecimal():
                self._next()
                below = self._factor()
                if isinstance(below, Number) and right.value < below.value:
                    return Call("add", (left, Call("div", (right, below))))
            if isinstance(left, Number) or not (self._tokens[start].space or self._tokens[start - 1].text in ")}"):
                raise Unreadable("two numbers side by side")
        if whole and self._tokens[start].text == "frac" and isinstance(right, Call) and right.name == "div":
            above, below = right.arguments
            if isinstance(above, Number) and isinstance(below, Number) and 0 < above.value < below.value:
                return Call("add", (left, right))
        return Call("mul", (left, right))

    def _starts_factor(self) -> bool:
        token = self._peek()
        if token is None:
            return False
        if token.kind == "mark":
            return token.text in "({[" or (token.text == "|" and not self._bars)
        if token.kind == "name":
            return token.text not in _CLOSING
        if token.kind == "word":
            return _is_product(token)
        return token.kind in ("number", "letter")

    def _factor(self) -> Node:
        base = self._postfixed(self._primary())
        if self._is("^"):
            self._next()
            if self._decoration():
                if not isinstance(base, Symbol):
                    raise Unsupported("a prime on an expression")
                return self._symbol(f"{base.name}'")
            return self._postfixed(Call("pow", (base, self._script())))
        return base

    def _decoration(self) -> bool:
        r"""Whether a prime or a star follows as a superscript: ``^{\prime}``; it is read."""
        for length in (1, 3):
            texts = [token.text for token in self._tokens[self._place : self._place + length]]
            if texts in ([mark] if length == 1 else ["{", mark, "}"] for mark in ("prime", "*", "'")):
                self._place += length
                return True
        return False

    def _postfixed(self, node: Node) -> Node:
        while True:
            if self._is("!"):
                self._next()
                double = self._is("!")
                if double:
                    self._next()
                if self._is("!"):
                    raise Unreadable("a third factorial sign")
                node = Call("fact2" if double else "fact", (node,))
            elif self._is("°") and (self._within_function or (self._depth > 1 and len(self.rest) > 1)):
                self._next()
                node = Call("deg", (node,))
            else:
                return node

    def _script(self) -> Node:
        """The argument of ``^``."""
        if self._is("{"):
            return self._group()
        if self._is("-", "+"):
            return Call("neg", (self._script(),)) if self._next().text == "-" else self._script()
        return self._postfixed(self._primary())

    def _primary(self) -> Node:
        r"""A single thing or a group, which is what an argument of ``\frac`` and its like is, too."""
        token = self._next()
        if token.kind == "number":
            if self._is("_"):
                raise Unreadable("a number with a subscript")
            return number(token.text)
        if token.kind == "letter":
            return self._symbol(token.text)
        if token.kind == "word":
            if not _is_product(token):
                raise Unreadable(f"the word {token.text!r}")
            # A word of symbols is its letters, so that a power belongs to the last: ab^2.
            letters = [Token("letter", letter, False) for letter in token.text]
            self._tokens[self._place - 1 : self._place] = letters
            return self._symbol(token.text[0])
        if token.kind == "name":
            return self._named(token)
        if token.kind == "mark":
            if token.text in "([":
                return self._closed(")" if token.text == "(" else "]")
            if token.text == "{":
                self._place -= 1
                return self._group()
            if token.text == "|":
                return self._absolute()
        raise Unreadable(f"{token.text[:20]!r} in an expression")

    def _closed(self, mark: str) -> Node:
        bars, self._bars = self._bars, 0
        inner = self.sum()
        self._expect(mark)
        self._bars = bars
        return inner

    def _absolute(self) -> Node:
        self._bars += 1
        inner = self.sum()
        self._bars -= 1
        self._expect("|")
        return Call("abs", (inner,))

    def _group(self) -> Node:
        self._expect("{")
        bars, self._bars = self._bars, 0
        inner = self.sum()
        token = self._peek()
        if token and token.kind == "name" and token.text in ("over", "choose"):
            self._next()
            inner = Call("div" if token.text == "over" else "binom", (inner, self.sum()))
        self._expect("}")
        self._bars = bars
        return inner

    def _named(self, token: Token) -> Node:
        name = token.text
        if name in ("pi", "infty"):
            return PI if name == "pi" else INFINITY
        if name == "frac":
            return self._derivative() or Call("div", (self._primary(), self._primary()))
        if name == "binom":
            return Call("binom", (self._primary(), self._primary()))
        if name == "sqrt":
            index: Node = number("2")
            if self._is("["):
                self._next()
                index = self._closed("]")
            return Call("root", (self._primary(), index))
        if name in ("lfloor", "lceil"):
            inner = self.sum()
            self._expect("rfloor" if name == "lfloor" else "rceil")
            return Call("floor" if name == "lfloor" else "ceil", (inner,))
        if name in ("|", "lVert"):
            raise Unsupported("a norm")
        if name in FUNCTIONS:
            return self._function(name)
        if name in _ACCENTS:
            return self._symbol(f"{name} {self._raw()}")
        if name in ("angle", "triangle"):
            letters = ""
            while (token_ := self._peek()) and token_.kind in ("letter", "word"):
                letters += self._next().text
            return self._symbol(f"{name} {letters}")
        if name in _LETTERS:
            return self._symbol("\\" + name)
        if name in _ADVANCED or name.startswith(("begin", "mathbb")):
            raise Unsupported(f"\\{name}")
        raise Unreadable(f"the command \\{name[:20]}")

    def _derivative(self) -> Node | None:
        r"""A derivative such as ``\frac{d^2 v}{d t^2}`` as one symbol, or None if this is a fraction."""
        start = self._place
        try:
            parts = [self._differential(), self._differential()]
        except Unreadable:
            parts = [None]
        if None not in parts:
            return self._symbol(f"{parts[0]}/{parts[1]}")
        self._place = start
        return None

    def _differential(self) -> str | None:
        """What an argument says, if it begins with a d; None if it does not."""
        first = self._tokens[self._place + self._is("{")] if self._place + 1 < len(self._tokens) else None
        text = self._raw()
        if first is None or first.kind == "number" or (first.kind == "name" and first.text != "partial"):
            return None
        return text if text.startswith(("d", "partial")) else None

    def _raw(self) -> str:
        """What a group or the next token says, as text."""
        if not self._is("{"):
            return self._next().text
        depth, text = 0, ""
        while True:
            token = self._next()
            depth += {"{": 1, "}": -1}.get(token.text, 0) if token.kind == "mark" else 0
            text += "" if token.text in "{}" else token.text
            if depth == 0:
                return text

    def _function(self, name: str) -> Node:
        power: Node | None = None
        base: Node | None = None
        while self._is("^", "_"):
            if self._next().text == "^":
                power = self._script()
            else:
                base = self._script()
        if isinstance(power, Call) and power.name == "neg" and power.arguments == (number("1"),):
            name, power = f"arc{name}", None
        arguments = self._arguments(name)
        if name == "log" and base:
            arguments = (*arguments, base)
            name = "logb"
        node: Node = Call(name, arguments)
        return Call("pow", (node, power)) if power else node

    def _arguments(self, name: str) -> tuple[Node, ...]:
        within, self._within_function = self._within_function, True
        try:
            if self._is("("):
                bars, self._bars = self._bars, 0
                arguments = self._listed()
                self._expect(")")
                self._bars = bars
                return arguments
            if self._is("{") or name in ("sqrt", "abs"):
                return (self._postfixed(self._primary()),)
            argument = self._signed_factor()
            while self._starts_factor() and not self._at_function():
                argument = self._times(argument)
            return (argument,)
        finally:
            self._within_function = within

    def _listed(self) -> tuple[Node, ...]:
        """The arguments after an opening parenthesis, up to the closing one."""
        self._next()
        arguments = [self.sum()]
        while self._is(","):
            self._next()
            arguments.append(self.sum())
        return tuple(arguments)

    def _at_function(self) -> bool:
        token = self._peek()
        return token is not None and ((token.kind == "name" and token.text in FUNCTIONS) or token.text in "([{")

    def _symbol(self, name: str) -> Node:
        """A symbol with its subscript and primes, perhaps applied to arguments."""
        if self._is("_"):
            self._next()
            name += f"_{self._raw()}"
        while self._is("'"):
            self._next()
            name += "'"
        return self._application(name) or Symbol(name)

    def _application(self, name: str) -> Node | None:
        """``f(x)`` or ``I(0)``: a symbol before parentheses that hold a list, or one symbol or number."""
        if not self._is("("):
            return None
        start = self._place
        inner = self._tokens[start + 1 : start + 3]
        single = len(inner) == 2 and inner[0].kind in ("number", "letter", "name") and inner[1].text in "),"
        if not single and name not in ("f", "g", "h", "F", "G", "H", "P", "\\Gamma", "\\phi", "\\delta"):
            return None
        arguments = self._listed()
        if not self._is(")"):
            self._place = start
            return None
        self._next()
        return Call(f"{name}()", arguments)

    def _peek(self) -> Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _is(self, *marks: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == "mark" and token.text in marks

    def _next(self) -> Token:
        token = self._peek()
        if token is None:
            raise Unreadable("it breaks off")
        self._place += 1
        return token

    def _expect(self, text: str) -> None:
        if self._next().text != text:
            raise Unreadable(f"a missing {text}")


_CLOSING = frozenset(
    "} rfloor rceil rangle over choose le ge ne in to cup cap backslash pm mp approx equiv mid lor land iff implies "
    "Rightarrow rightarrow ldots \\ % emptyset { langle cong sim propto subset subseteq notin quad text".split()
)


def _is_product(token: Token) -> bool:
    """Whether a run of letters may be a product of symbols: ``RC``, ``xyz``; not a word of a language."""
    return len(token.text) <= 4 and (
        token.text.isupper() or (len(token.text) <= 3 and token.text.lower() not in _NO_PRODUCTS)
    )
