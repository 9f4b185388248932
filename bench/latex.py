"""A small reader, writer and evaluator of LaTeX scalars, so that the examiner does not lean on what it examines.

It reads only what is unambiguous and raises `UnclearError` on everything else: a pair made from a gold that it cannot
read would not be worth much.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

import mpmath as mp

_SPACING = r"\\[,;:!\s]|~|\\q?quad\b|\\(?:displaystyle|limits)\b|\s"
_TOKEN = re.compile(r"\d+\.\d+|\d+\.?(?!\d)|\.\d+|\\[A-Za-z]+|\\[{}]|\S")
_GREEK = set(
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega hbar "
    "Delta Omega Gamma Phi Psi varphi ell".split()
)
_FUNCTIONS = set("sin cos tan cot sec csc arcsin arccos arctan ln log exp".split())
_OPEN = {"(": ")", "[": "]", "{": "}"}
_DIGITS = 40


class UnclearError(Exception):
    """The text is no scalar that can be read in one way only."""


@dataclass(frozen=True, slots=True)
class Node:
    """An expression: ``op`` with its arguments; numbers and symbols keep their text."""

    op: str
    args: tuple["Node", ...] = ()
    text: str = ""


def num(text: str | int) -> Node:
    """A number; negative ones as a negation."""
    text = str(text)
    return Node("neg", (num(text[1:]),)) if text.startswith("-") else Node("num", (), text)


def sym(name: str) -> Node:
    """A symbol or constant."""
    return Node("sym", (), name)


def op(name: str, *args: Node) -> Node:
    """The operation ``name`` on its arguments; sums and products of one argument are that argument."""
    return args[0] if name in ("add", "mul") and len(args) == 1 else Node(name, args)


class _Reader:
    def __init__(self, text: str) -> None:
        text = re.sub(r"\\(?:left|right|bigl?|bigr?)\b", "", text)
        text = re.sub(r"\\[dt]frac", r"\\frac", text)
        self.tokens = _TOKEN.findall(re.sub(_SPACING, " ", text))
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.next
        if not token or (wanted and token != wanted):
            raise UnclearError(f"{wanted or 'more'} expected at token {self.at} of {self.tokens}")
        self.at += 1
        return token

    def sum(self) -> Node:
        terms = []
        sign = self.take() if self.next in ("+", "-") else "+"
        while True:
            term = self.product()
            terms.append(op("neg", term) if sign == "-" else term)
            if self.next not in ("+", "-"):
                return op("add", *terms)
            sign = self.take()

    def product(self) -> Node:
        factors = [self.factor()]
        divided = False
        while True:
            if self.next in ("*", "\\cdot", "\\times"):
                if divided:
                    raise UnclearError("a / b * c")
                self.take()
                factors.append(self.factor())
            elif self.next == "/":
                self.take()
                factors = [op("frac", op("mul", *factors), self.factor())]
                divided = True
            elif self.starts_factor():
                if divided:
                    raise UnclearError("a / b c")
                factors.append(self.beside(factors))
                if factors[-1].op == "mixed":
                    factors[-2:] = factors[-1:]
            else:
                return op("mul", *factors)

    def beside(self, factors: list[Node]) -> Node:
        """The factor that stands right beside the last one."""
        last, is_number = factors[-1], self.next[0].isdigit()
        if is_number:
            raise UnclearError("a number beside a factor")
        mixed = last.op == "num" and self.next == "\\frac"
        call = last.op == "sym" and self.next == "(" and self.tokens[self.at + 2 : self.at + 3] == [")"]
        if call:
            raise UnclearError("f(x)")
        factor = self.factor()
        if mixed and all(arg.op == "num" for arg in factor.args):
            if len(factors) > 1 or self.starts_factor() or "." in last.text:
                raise UnclearError("a mixed number in a product")
            return op("mixed", last, *factor.args)
        return factor

    def starts_factor(self) -> bool:
        token = self.next
        return bool(token) and (
            token[0].isalnum()
            or token in ("(", "[", "{", "\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil", "\\pi")
            or token[1:] in _GREEK | _FUNCTIONS
        )

    def group(self) -> Node:
        """{…} or a single token."""
        if self.next == "{":
            return self.enclosed()
        token = self.next
        if token[:1].isdigit() and len(token) > 1:  # \frac43: one digit each
            if not token.isdigit():
                raise UnclearError(token)
            self.tokens[self.at : self.at + 1] = list(token)
        return self.atom()

    def enclosed(self) -> Node:
        closing = _OPEN[self.take()]
        inner = self.sum()
        self.take(closing)
        return inner

    def factor(self) -> Node:
        base = self.atom()
        while self.next in ("^", "!"):
            if self.take() == "!":
                base = op("fact", base)
            elif base.op == "pow":
                raise UnclearError("a power of a power")
            else:
                base = op("pow", base, self.group())
        return base

    def atom(self) -> Node:
        token = self.next
        if token in _OPEN:
            return self.enclosed()
        self.take()
        if token[0].isdigit() or token[0] == ".":
            return num(token)
        if token == "\\frac":
            return op("frac", self.group(), self.group())
        if token == "\\binom":
            return op("binom", self.group(), self.group())
        if token == "\\sqrt":
            index = self.enclosed() if self.next == "[" else num(2)
            return op("root", index, self.group())
        if token in ("\\lfloor", "\\lceil"):
            inner = self.sum()
            self.take("\\r" + token[2:])
            return op(token[2:], inner)
        if token[1:] in _FUNCTIONS and token[0] == "\\":
            return self.function(token[1:])
        if (token.isalpha() and token.isascii()) or token == "\\pi" or token[1:] in _GREEK:
            return sym(token + (self.subscript() if self.next == "_" else ""))
        raise UnclearError(token)

    def subscript(self) -> str:
        self.take("_")
        if self.next != "{":
            return "_{" + self.take() + "}"
        taken = [self.take()]
        while taken.count("{") > taken.count("}"):
            taken.append(self.take())
        if not re.fullmatch(r"\{(?:\w+|\\\w+|\\text\{\w+\})\}", name := "".join(taken)):
            raise UnclearError(name)
        return "_" + name

    def function(self, name: str) -> Node:
        power = None
        base: tuple[Node, ...] = ()
        if name == "log" and self.next == "_":
            self.take()
            base = (self.group(),)
        if self.next == "^":
            self.take()
            power = self.group()
            if power.op != "num":
                raise UnclearError("an inverse function or a power")
        if self.next in ("(", "{"):
            argument = self.enclosed()
            if self.next == "^":
                raise UnclearError("the power of a function's value, or of its argument")
        else:
            factors = [self.factor()]
            while self.starts_factor() and self.next[1:] not in _FUNCTIONS and self.next != "(":
                factors.append(self.beside(factors))
            argument = op("mul", *factors)
        called = Node("fn", (argument, *base), name)
        return op("pow", called, power) if power else called


def read(text: str) -> Node:
    """The scalar that ``text`` is; raises `UnclearError`."""
    reader = _Reader(text)
    node = reader.sum()
    if reader.next:
        raise UnclearError(f"{reader.next} after the expression")
    return node


@dataclass(frozen=True, slots=True)
class Style:
    """How an expression is written."""

    frac: str = "\\frac"
    """\\frac, \\dfrac, \\tfrac, / or \\over"""
    times: str = ""
    """what stands between factors; empty for juxtaposition where that is clear"""
    bare: bool = False
    """single characters without braces"""
    left: bool = False
    """\\left( and \\right)"""
    exp: bool = False
    """\\exp(x) for e^{x}"""


_PRECEDENCE = {"add": 1, "neg": 1, "mul": 2, "fact": 4, "pow": 4}


def write(node: Node, style: Style | None = None) -> str:
    """LaTeX of an expression."""
    return _Writer(style or Style()).text(node)


class _Writer:
    def __init__(self, style: Style) -> None:
        self.style = style

    def paren(self, inner: str) -> str:
        return rf"\left({inner}\right)" if self.style.left else f"({inner})"

    def braced(self, node: Node) -> str:
        inner = self.text(node)
        return inner if self.style.bare and len(inner) == 1 else "{" + inner + "}"

    def above(self, node: Node, level: int) -> str:
        inline = node.op == "frac" and self.style.frac == "/"
        precedence = 2 if inline else _PRECEDENCE.get(node.op, 5)
        if node.op in ("frac", "mixed", "root", "fn") and level == 4 and node.op != "root":
            precedence = 3
        return self.text(node) if precedence > level else self.paren(self.text(node))

    def text(self, node: Node) -> str:
        args, style = node.args, self.style
        match node.op:
            case "num" | "sym":
                return node.text
            case "neg":
                return "-" + self.above(args[0], 1)
            case "add":
                out = self.above(args[0], 0) if args[0].op == "neg" else self.above(args[0], 1)
                for term in args[1:]:
                    out += " - " + self.above(term.args[0], 1) if term.op == "neg" else " + " + self.above(term, 1)
                return out
            case "mul":
                return self.product(args)
            case "frac" if style.frac == "/":
                return f"{self.above(args[0], 2 if args[0].op != 'mul' else 1)}/{self.above(args[1], 2)}"
            case "frac" if style.frac == "\\over":
                return "{" + self.text(args[0]) + " \\over " + self.text(args[1]) + "}"
            case "frac":
                upper, lower = self.braced(args[0]), self.braced(args[1])
                gap = " " if not upper.startswith("{") else ""
                return f"{style.frac}{gap}{upper}{lower}"
            case "mixed":
                return f"{args[0].text}\\frac{{{args[1].text}}}{{{args[2].text}}}"
            case "pow" if style.exp and args[0] == sym("e"):
                return f"\\exp{self.paren(self.text(args[1]))}"
            case "pow" if args[0].op == "fn":
                name, _, rest = self.text(args[0]).partition("(" if not style.left else "\\left(")
                return f"{name}^{self.braced(args[1])}" + ("(" if not style.left else "\\left(") + rest
            case "pow":
                return f"{self.above(args[0], 4)}^{self.braced(args[1])}"
            case "root":
                index = "" if args[0] == num(2) else f"[{self.text(args[0])}]"
                inner = self.braced(args[1])
                return f"\\sqrt{index}{'' if inner.startswith('{') or index else ' '}{inner}"
            case "fn":
                base = f"_{self.braced(args[1])}" if len(args) > 1 else ""
                return f"\\{node.text}{base}{self.paren(self.text(args[0]))}"
            case "fact":
                return self.above(args[0], 4) + "!"
            case "binom":
                return f"\\binom{{{self.text(args[0])}}}{{{self.text(args[1])}}}"
            case "floor" | "ceil":
                return f"\\l{node.op} {self.text(args[0])} \\r{node.op}"
        raise AssertionError(node.op)

    def product(self, factors: tuple[Node, ...]) -> str:
        out = ""
        for i, factor in enumerate(factors):
            piece = self.above(factor, 1 if factor.op == "mul" else 2)
            if i == 0:
                out = piece
                continue
            before = factors[i - 1]
            unclear = (
                piece[0] in "0123456789."
                or (before.op == "num" and factor.op in ("frac", "mixed"))
                or (self.style.frac == "/" and "frac" in (before.op, factor.op))
                or (before.op == "sym" and piece.startswith(("(", "\\left(")))
                or before.op == "mixed"
            )
            times = self.style.times or ("\\cdot" if unclear else "")
            out += f" {times} {piece}" if times else f" {piece}"
        return out


@dataclass(frozen=True, slots=True)
class Rebuild:
    """Puts another node at one place of an expression."""

    root: Node
    path: tuple[int, ...] = ()

    def __call__(self, new: Node) -> Node:
        """The whole with ``new`` in that place."""
        return self._put(self.root, self.path, new)

    def _put(self, node: Node, path: tuple[int, ...], new: Node) -> Node:
        if not path:
            return new
        args = list(node.args)
        args[path[0]] = self._put(args[path[0]], path[1:], new)
        return replace(node, args=tuple(args))


def places(node: Node) -> Iterator[tuple[Node, Rebuild]]:
    """Every part of an expression, the whole first, and what puts another in its place."""

    def walk(part: Node, path: tuple[int, ...]) -> Iterator[tuple[Node, Rebuild]]:
        yield part, Rebuild(node, path)
        for i, arg in enumerate(part.args):
            yield from walk(arg, (*path, i))

    return walk(node, ())


def symbols(node: Node) -> set[str]:
    """The free symbols: π, e and i are constants."""
    return {part.text for part, _ in places(node) if part.op == "sym"} - {"\\pi", "e", "i"}


def value(node: Node, seed: int = 0) -> mp.mpc:
    """The value where each symbol has a value of its own, drawn from ``seed`` and its name; raises `UnclearError`."""
    with mp.workdps(_DIGITS):
        try:
            result = mp.mpmathify(_value(node, seed))
        except (ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
            raise UnclearError(str(error)) from error
        if not mp.isfinite(result):
            raise UnclearError("no finite value")
        return result


def _value(node: Node, seed: int) -> mp.mpc:
    if node.op == "num":
        return mp.mpf(node.text)
    if node.op == "sym":
        constants = {"\\pi": mp.pi, "e": mp.e, "i": mp.mpc(0, 1)}
        name = re.sub(r"[{} ]|\\text", "", node.text)
        return constants[node.text] if node.text in constants else mp.mpf(Random(f"{name}{seed}").uniform(1.2, 3.7))
    args = [_value(arg, seed) for arg in node.args]
    match node.op:
        case "add":
            return mp.fsum(args)
        case "mul":
            return mp.fprod(args)
        case "neg":
            return -args[0]
        case "frac":
            return args[0] / args[1]
        case "mixed":
            return args[0] + args[1] / args[2]
        case "pow":
            if abs(args[1]) * mp.log(abs(args[0]) + 2) > 10_000:
                raise UnclearError("too large")
            return mp.power(args[0], args[1])
        case "root":
            return mp.power(args[1], 1 / args[0]) if args[0] != 2 else mp.sqrt(args[1])
        case "fact":
            if abs(args[0]) > 3000:
                raise UnclearError("too large")
            return mp.factorial(args[0])
        case "binom":
            return mp.binomial(args[0], args[1])
        case "floor":
            return mp.floor(args[0])
        case "ceil":
            return mp.ceil(args[0])
    if node.text == "ln":
        return mp.log(args[0])
    if node.text == "log":
        return mp.log(args[0], args[1] if len(args) > 1 else 10)
    functions = {name: getattr(mp, name.replace("arc", "a")) for name in _FUNCTIONS - {"ln", "log"}}
    return functions[node.text](args[0])


def same(one: Node, other: Node) -> bool:
    """Whether two expressions have the same value at three points; raises `UnclearError` where that is not clear."""
    verdicts = set()
    for seed in range(3):
        a, b = value(one, seed), value(other, seed)
        difference = abs(a - b) / (1 if a == 0 else abs(a))
        if 1e-30 < difference < 1e-12:
            raise UnclearError("neither clearly equal nor clearly different")
        verdicts.add(bool(difference <= 1e-30))
    return verdicts == {True}
