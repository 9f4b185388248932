"""What kinds of answers there are."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from retell.graders.expressions import CONSTANTS, INFINITY, Call, Node, Symbol
from retell.graders.units import Unit
from retell.graders.values import Expression

Bracket = Literal["(", "[", "{", "<", ""]


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number or an expression, with its unit; ``expression`` is None where only the algebra may read ``text``."""

    expression: Expression | None
    text: str
    unit: Unit | None = None
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    r"""A bracketed list: a tuple, an interval, a set ``{…}`` or a vector ``<…>``; or a bare list, without brackets."""

    opening: Bracket
    closing: str
    items: tuple["Form", ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    rows: tuple[tuple["Form", ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain such as ``y = 2x + 3``, ``2 < x <= 5`` or ``x in S``; ``name`` is what the left side names, if it does.

    A name is a variable, a quantity (``AB``, ``m_{max}``) or a function applied to its variables.
    """

    operators: tuple[str, ...]
    members: tuple["Form", ...]
    name: str | None


@dataclass(frozen=True, slots=True)
class Operation:
    r"""Sets joined: ``cup``, ``cap`` or ``backslash``; or conditions joined: ``and``, ``or``."""

    operator: str
    parts: tuple["Form", ...]


@dataclass(frozen=True, slots=True)
class Numbers:
    r"""A set with a name of its own: ``R``, ``Z`` …, or ``empty``."""

    name: str


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words, in lower case and without articles."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice letter, and what stood beside it."""

    letter: str
    rest: "Form | None"


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a base."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Clock:
    """A time of day in seconds; ``half`` is ``am``, ``pm`` or empty."""

    seconds: int
    half: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """Proportions ``3 : 4``."""

    parts: tuple["Form", ...]


Form: TypeAlias = Scalar | Group | Matrix | Relation | Operation | Numbers | Words | Choice | Based | Clock | Ratio


def node_of(form: Form) -> Node | None:
    """The expression of a scalar, where it has one."""
    return form.expression.node if isinstance(form, Scalar) and form.expression else None


def infinite(form: Form) -> int:
    """1 for infinity, -1 for minus infinity, else 0."""
    node = node_of(form)
    if node == INFINITY:
        return 1
    return -1 if isinstance(node, Call) and node.name == "neg" and node.arguments == (INFINITY,) else 0


def variable(form: Form) -> str | None:
    """The name of a scalar that is one variable."""
    node = node_of(form)
    return node.name if isinstance(node, Symbol) and node not in CONSTANTS else None
