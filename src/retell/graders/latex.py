"""Answers as tokens: one spelling for each thing, whatever of LaTeX, Unicode or plain text it was written in."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, NoReturn

Kind = Literal["number", "letter", "word", "name", "text", "mark"]


class Unreadable(Exception):
    """The text is no answer that could be compared: it says nothing, or nothing that we know to read."""


class Unsupported(Exception):
    """Mathematics that is beyond the reader, and may be within the algebra."""


@dataclass(frozen=True, slots=True)
class Token:
    r"""A number, a letter, a word of several letters, a name (``\name`` or a function), a text or a mark.

    ``space`` says whether white space stood before it.
    """

    kind: Kind
    text: str
    space: bool

    def __str__(self) -> str:
        return "\\" + self.text if self.kind == "name" else self.text


FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth asin acos atan exp ln log lg sqrt abs "
    "floor ceil gcd lcm min max binom".split()
)
_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le",
    "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "varnothing": "emptyset", "infin": "infty",
    "thickapprox": "approx", "simeq": "approx", "doteq": "approx", "wedge": "land", "vee": "lor", "colon": ":",
    "lbrace": "{", "rbrace": "}", "lvert": "|", "rvert": "|", "vert": "|", "lbrack": "[", "rbrack": "]",
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "degree": "°", "lt": "<", "gt": ">", "setminus": "backslash",
    "euro": "€", "pounds": "£", "cdots": "ldots", "dots": "ldots", "dotsc": "ldots", "dotsb": "ldots",
    "arcsec": "asec", "varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta", "bold": "mathbf",
}  # fmt: skip
_LETTERS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "infinity": "infty", "inf": "infty", "oo": "infty"}
_LAYOUT = frozenset(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle limits "
    "nolimits quad qquad thinspace medspace enspace nobreak hfill bf rm it sf tt mathstrut strut scriptstyle "
    "allowbreak noindent large Large".split()
)
_TEXTS = frozenset("text textbf textit textrm textsf texttt textnormal mbox mathrm operatorname hbox emph".split())
_FONTS = frozenset("mathbf boldsymbol mathit mathcal mathfrak mathsf mathscr bm".split())
_LONGEST_NUMBER = 4000
_DEEPEST = 10
"""Commands around a text: bold within a box within a text."""
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
    "chi psi omega".split()
)
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*", "÷": "/",
    "⁄": "/", "∕": "/", "√": "\\sqrt ", "∞": "\\infty ", "≤": "\\le ", "⩽": "\\le ", "≥": "\\ge ", "⩾": "\\ge ",
    "≠": "\\ne ", "≈": "\\approx ", "±": "\\pm ", "∓": "\\mp ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ",
    "∅": "\\emptyset ", "ø": "\\emptyset ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}", "ℂ": "\\mathbb{C}", "⟨": "\\langle ", "⟩": "\\rangle ", "⌊": "\\lfloor ", "⌋": "\\rfloor ",
    "⌈": "\\lceil ", "⌉": "\\rceil ", "′": "'", "’": "'", "‘": "'", "…": "\\ldots ", "º": "°", "µ": "\\mu ",
    "½": "\\frac{1}{2}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}", "¾": "\\frac{3}{4}",
    "⅕": "\\frac{1}{5}", "⅖": "\\frac{2}{5}", "⅗": "\\frac{3}{5}", "⅘": "\\frac{4}{5}", "⅙": "\\frac{1}{6}",
    "⅚": "\\frac{5}{6}", "⅛": "\\frac{1}{8}", "⅜": "\\frac{3}{8}", "⅝": "\\frac{5}{8}", "⅞": "\\frac{7}{8}",
    "∖": "\\backslash ", "∧": "\\land ", "∨": "\\lor ", "“": "", "”": "", '"': "", "∠": "\\angle ", "∂": "\\partial ",
    "△": "\\triangle ", "→": "\\to ", "％": "%", "ℏ": "\\hbar ",
}  # fmt: skip
_DROPPED = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), "")
_SPACE = re.compile(r"(?:\s|\\[,;:!> ]|~|\\hspace\*?\{[^{}]{0,20}\})+")
_SEPARATOR = re.compile(r"(?:,\\!\s*|\\!,(?:\\!)?|,\\,|\{,\}|\\,|\\!|\\;|\\:|\\ |~|(?<=\d) (?=\d))\s*")
_GROUP = re.compile(r"\d{3}(?![\d])")
_NUMBER = re.compile(r"\d+\.\d+|\.\d+|\d+\.(?![\w.])|\d+")
_FRACTION = re.compile(r"\.\d+")
_EXPONENT = re.compile(r"[eE][+-]?\d{1,4}(?![\w^]|\.\d)")
_REPETEND = re.compile(r"\\(?:overline|bar|dot)\s*(?:\{(\d+)\}|(\d))|\((\d+)\)|(?:\\[lc]?dots|\.\.\.)")
_JOINED = re.compile(r"(?<![\w-])(and|or)(?![\w-])", re.IGNORECASE)
_ROW_GAP = re.compile(r"\s*\[-?[\d.]+\s*(?:pt|em|ex|mm|cm)\]")
_RUN = re.compile(r"[A-Za-z]+")
_COMMAND = re.compile(r"\\(?:([A-Za-z]+)\*?|(.))", re.DOTALL)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z])|°)")
_MODULE = re.compile(r"\b(?:np|numpy|math|sympy|sp)\.(?=[a-z])")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPTS = re.compile("[₀-₉]+")
_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉", "0123456789+-n0123456789")


def tokenize(text: str, depth: int = 0) -> tuple[Token, ...]:
    """The tokens of an answer, or of a text ``depth`` commands deep in one.

    Raises:
        Unreadable: a character or a command that has no place in an answer.
    """
    return tuple(_arguments_apart(_Tokenizer(_spelled(text), depth).run()))


def _spelled(text: str) -> str:
    """With LaTeX for the mathematical characters of Unicode."""
    if not text.isascii():
        text = text.translate(_DROPPED)
        text = _SUPERSCRIPTS.sub(lambda match: "^{" + match[0].translate(_PLAIN) + "}", text)
        text = _SUBSCRIPTS.sub(lambda match: "_{" + match[0].translate(_PLAIN) + "}", text)
        text = "".join(map(_ascii, text))
    return _MODULE.sub("", _DEGREE.sub("°", text.replace("**", "^").replace("\\$", "\\dollar ").replace("{:}", ":")))


def _ascii(character: str) -> str:
    if character in _UNICODE:
        return _UNICODE[character]
    if "α" <= character <= "ω" or "Α" <= character <= "Ω":
        name = unicodedata.name(character).split()
        letter = name[-1].lower().replace("lamda", "lambda")
        return "\\" + (letter if name[1] == "SMALL" else letter.capitalize()) + " "
    if "！" <= character <= "～":  # full-width ASCII
        return chr(ord(character) - 0xFEE0)
    return " " if character.isspace() else character


def _arguments_apart(tokens: list[Token]) -> list[Token]:
    r"""The digits of ``\frac12`` and the letters of ``\frac ab`` as tokens of their own."""
    apart: list[Token] = []
    wanted = [0]
    """How many arguments are still wanted, for each group that is open."""
    for token in tokens:
        while wanted[-1] and token.kind in ("number", "word") and len(token.text) > 1 and token.text.isalnum():
            kind: Kind = "number" if token.kind == "number" else "letter"
            apart.append(Token(kind, token.text[0], token.space))
            wanted[-1] -= 1
            others = token.text[1:]
            token = Token(token.kind if len(others) > 1 else kind, others, True)
        apart.append(token)
        if token.kind == "mark" and token.text == "}":
            wanted[1:] = wanted[1:-1]
            continue
        wanted[-1] = max(wanted[-1] - 1, 0)
        if token.kind == "mark" and token.text == "{":
            wanted.append(0)
        elif token.kind == "name" and token.text in ("frac", "binom"):
            wanted[-1] += 2
    return apart


class _Tokenizer:
    def __init__(self, text: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise Unreadable("nested too deep")
        self._depth = depth
        self._text = text
        self._place = 0
        self._tokens: list[Token] = []
        self._space = False

    def run(self) -> list[Token]:
        text = self._text
        while self._place < len(text):
            space = _SPACE.match(text, self._place)
            if space:
                self._place, self._space = space.end(), True
                continue
            character = text[self._place]
            if character == "\\":
                self._command()
            elif "0" <= character <= "9" or (character == "." and text[self._place + 1 : self._place + 2].isdecimal()):
                self._number()
            elif character.isascii() and character.isalpha():
                self._letters()
            elif character == "$":
                self._place, self._space = self._place + 1, True
            elif character in "+-*/^_()[]{},;:=<>!|&'%°.€£¥¢?":
                self._place += 1
                self._two_marks(character)
            else:
                raise Unreadable(f"the character {character!r}")
        return self._tokens

    def _add(self, kind: Kind, text: str) -> None:
        self._tokens.append(Token(kind, text, self._space))
        self._space = False

    def _two_marks(self, character: str) -> None:
        pair = character + self._text[self._place : self._place + 1]
        name = {"<=": "le", ">=": "ge", "!=": "ne"}.get(pair)
        if name:
            self._place += 1
            self._add("name", name)
        else:
            self._add("mark", character)

    def _number(self) -> None:
        """A number, with its thousands separators, exponent or repetend."""
        text = self._text
        match = _NUMBER.match(text, self._place)
        if match is None:  # 1.2.3 or 3.x
            self._fail()
        digits, self._place = match[0], match.end()
        if len(digits) > _LONGEST_NUMBER:
            raise Unreadable(f"a number of {len(digits)} digits")
        if digits.endswith(".") and not text[self._place :].strip():
            digits = digits[:-1]  # a full stop
        while "." not in digits and len(digits.partition("~")[0]) <= 3:
            separator = _SEPARATOR.match(text, self._place)
            group = _GROUP.match(text, separator.end()) if separator else None
            if not group:
                break
            digits, self._place = f"{digits}~{group[0]}", group.end()
        if "~" in digits:
            digits = digits.replace("~", "")
            fraction = _FRACTION.match(text, self._place)
            if fraction:
                digits, self._place = digits + fraction[0], fraction.end()
        exponent = _EXPONENT.match(text, self._place)
        if exponent:
            digits, self._place = digits + exponent[0].lower(), exponent.end()
        elif "." in digits or text.startswith(("...", "\\"), self._place):
            digits += self._repetend(digits)
        self._add("number", digits)

    def _repetend(self, digits: str) -> str:
        """The part of a decimal that repeats, after an r: ``0.1r6`` is 1/6."""
        match = _REPETEND.match(self._text, self._place)
        if not match or "." not in digits:
            return ""
        self._place = match.end()
        repetend = match[1] or match[2] or match[3]
        if repetend:
            return "r" + repetend
        # 0.333… says what repeats by saying it at least three times.
        again = re.search(r"(\d{1,6}?)\1\1+$", digits.partition(".")[2])
        if not again:
            raise Unreadable("a decimal that goes on in a way it does not say")
        return "r" + again[1]

    def _letters(self) -> None:
        match = _RUN.match(self._text, self._place)
        assert match
        run, self._place = match[0], match.end()
        if run.lower() in FUNCTIONS or run.lower() in _LETTERS:
            self._add("name", _LETTERS.get(run.lower(), run.lower()))
        elif run in GREEK or run.lower() in ("pi", "theta"):
            self._add("name", run.lower())
        else:
            self._add("letter" if len(run) == 1 else "word", run)

    def _command(self) -> None:
        match = _COMMAND.match(self._text, self._place)
        if not match:
            self._fail()
        self._place = match.end()
        name = match[1] or match[2]
        name = _SYNONYMS.get(name, name)
        if match[2] is not None and name not in ("{", "}", "%", "\\", "|", "_", "&", "#"):
            if name in "()[]":  # \( … \) and \[ … \] set mathematics apart
                self._space = True
                return
            raise Unreadable(f"the command \\{name}")
        if name in _LAYOUT:
            self._space = True
            if self._text.startswith(".", self._place) and match[1] in ("left", "right"):
                self._place += 1
        elif name in _TEXTS:
            self._words(self._braced())
        elif name in _FONTS:
            inner = tokenize(self._braced(), self._depth + 1)
            self._tokens += inner
        elif name == "mathbb":
            self._add("name", "mathbb" + self._braced().strip())
        elif name in ("boxed", "fbox"):
            self._tokens += tokenize(self._braced(), self._depth + 1)
        elif name in ("begin", "end"):
            self._add("name", f"{name} {self._braced().strip().rstrip('*')}")
        elif name in "*/°<>|[]:%€£" or name == "dollar":
            self._add("mark", "$" if name == "dollar" else name)
        elif match[2]:
            self._add("name", name)
            gap = _ROW_GAP.match(self._text, self._place) if name == "\\" else None
            self._place = gap.end() if gap else self._place
        elif name in ("color", "textcolor"):
            self._braced()
        elif name in ("sp", "space", "checkmark"):
            self._space = True
        else:
            self._add("name", _LETTERS.get(name, name))

    def _words(self, content: str) -> None:
        r"""The content of ``\text{…}``: a function's name, mathematics between dollars, or words."""
        stripped = content.strip().strip("~").strip()
        if stripped in FUNCTIONS:
            self._add("name", stripped)
        elif stripped in (":", ",", ";", "="):
            self._add("mark", stripped)
        elif "$" in stripped or "\\" in stripped.replace("\\ ", " ").replace("\\,", " "):
            self._tokens += tokenize(stripped, self._depth + 1)
        elif stripped:
            self._space = self._space or content[0].isspace()
            words = " ".join(stripped.replace("\\ ", " ").replace("\\,", " ").replace("~", " ").split())
            for part in _JOINED.split(words):  # 5 or more is no 5
                if part.strip(" ,"):
                    self._add("text", part.strip())

    def _braced(self) -> str:
        """The group that follows, without its braces; or the one character."""
        text = self._text
        while text[self._place : self._place + 1].isspace():
            self._place += 1
        if not text.startswith("{", self._place):
            self._place += 1
            return text[self._place - 1 : self._place]
        depth = 0
        for match in _BRACE.finditer(text, self._place):
            depth += {"{": 1, "}": -1}.get(match[0], 0)
            if depth == 0:
                content = text[self._place + 1 : match.start()]
                self._place = match.end()
                return content
        raise Unreadable("a brace that does not close")

    def _fail(self) -> NoReturn:
        raise Unreadable(f"what stands at {self._text[self._place : self._place + 12]!r}")
