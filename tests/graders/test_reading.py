import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.forms import (
    Based,
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
    infinite,
    variable,
)
from retell.graders.latex import Unreadable, Unsupported
from retell.graders.reading import read, spelled
from retell.graders.units import unit_of


def first(text: str) -> Form:
    return read(text)[0]


def shown(form: Form) -> str:
    """A form in a word or two."""
    match form:
        case Scalar():
            exact = form.expression.exact if form.expression else None
            value = str(exact) if exact is not None else form.text.replace(" ", "")
            return value + ("%" if form.percent else "")
        case Group():
            return f"{form.opening}{', '.join(map(shown, form.items))}{form.closing}"
        case Matrix():
            return "|".join(" ".join(map(shown, row)) for row in form.rows)
        case Relation():
            text = shown(form.members[0])
            for operator, member in zip(form.operators, form.members[1:], strict=True):
                text += f" {operator} {shown(member)}"
            return text
        case Operation():
            return f" {form.operator} ".join(map(shown, form.parts))
        case Numbers():
            return f"Numbers {form.name}"
        case Words():
            return " ".join(form.words)
        case Choice():
            return f"Choice {form.letter}" + (f": {shown(form.rest)}" if form.rest else "")
        case Based():
            return f"{form.digits} base {form.base}"
        case Clock():
            return f"{form.seconds} s {form.half}".strip()
        case Ratio():
            return " : ".join(map(shown, form.parts))


def readings(text: str) -> list[tuple[str, str]]:
    return [(type(form).__name__, shown(form)) for form in read(text)]


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        # numbers and expressions
        ("42", Scalar, "42"),
        ("-7.", Scalar, "-7"),
        ("1{,}234", Scalar, "1234"),
        ("1,234,567.5", Scalar, "2469135/2"),
        ("-1,234", Scalar, "-1234"),
        ("25\\%", Scalar, "25%"),
        ("25 percent", Scalar, "25%"),
        ("50\\text{ percent}", Scalar, "50%"),
        ("2x+1", Scalar, "2x+1"),
        ("f(x)", Scalar, "f(x)"),
        ("\\text{12}", Scalar, "12"),
        ("\\textbf{8}", Scalar, "8"),
        ("\\text{four}", Scalar, "4"),
        ("\\text{one hundred and twenty-five}", Scalar, "125"),
        ("two thousand three hundred", Scalar, "2300"),
        ("3 million", Scalar, "3000000"),
        ("\\text{The answer is } 7", Scalar, "7"),
        ("\\boxed{7}", Scalar, "7"),
        ("= 7", Scalar, "7"),
        ("\\therefore 7", Scalar, "7"),
        ("$7$.", Scalar, "7"),
        # groups
        ("(2,5)", Group, "(2, 5)"),
        ("[2,5)", Group, "[2, 5)"),
        ("\\left(1, 2, 3\\right)", Group, "(1, 2, 3)"),
        ("\\{1,2\\}", Group, "{1, 2}"),
        ("\\langle 1,2 \\rangle", Group, "<1, 2>"),
        ("1,2,3", Group, "1, 2, 3"),
        ("2 \\text{ and } 3", Group, "2, 3"),
        ("2 and 3", Group, "2, 3"),
        ("2 \\text{ or } 3", Group, "2, 3"),
        ("1; 2", Group, "1, 2"),
        ("1, 2, \\text{ and } 3", Group, "1, 2, 3"),
        ("\\pm 2", Group, "2, -2"),
        ("(1,2),(3,4)", Group, "(1, 2), (3, 4)"),
        ("\\{(1,2),(3,4)\\}", Group, "{(1, 2), (3, 4)}"),
        ("1,234, 5,678", Group, "1234, 5678"),
        ("x=2, y=3", Group, "x = 2, y = 3"),
        ("((1,2),3)", Group, "((1, 2), 3)"),
        # matrices
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", Matrix, "1 2|3 4"),
        ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", Matrix, "1|2"),
        ("\\left(\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right)", Matrix, "1 2|3 4"),
        ("\\begin{pmatrix}1&2\\\\3&4\\\\\\end{pmatrix}", Matrix, "1 2|3 4"),
        # relations
        ("x=3", Relation, "x = 3"),
        ("y=2x+3", Relation, "y = 2x+3"),
        ("n = 4+3 = 7", Relation, "n = 7 = 7"),
        ("2 < x \\le 5", Relation, "2 < x <= 5"),
        ("x \\ne 0", Relation, "x != 0"),
        ("x \\in [1,2]", Relation, "x in [1, 2]"),
        ("x \\approx 3.1", Relation, "x = 31/10"),
        ("\\{x \\mid x > 3\\}", Relation, "x > 3"),
        ("\\{x : x > 3\\}", Relation, "x > 3"),
        ("\\begin{cases} x &= 1 \\\\ y &= 2 \\end{cases}", Group, "x = 1, y = 2"),
        # sets
        ("(0,1)\\cup[2,3]", Operation, "(0, 1) cup [2, 3]"),
        ("\\mathbb{R}\\setminus\\{0\\}", Operation, "Numbers R backslash {0}"),
        ("x<1 \\text{ or } x>2", Operation, "x < 1 or x > 2"),
        ("\\mathbb{Z}", Numbers, "Numbers Z"),
        ("\\emptyset", Numbers, "Numbers empty"),
        ("\\{\\}", Numbers, "Numbers empty"),
        ("\\text{no solution}", Numbers, "Numbers empty"),
        ("\\text{all real numbers}", Numbers, "Numbers R"),
        # words
        ("\\text{even}", Words, "even"),
        ("odd", Words, "odd"),
        ("\\text{An Ellipse}", Words, "ellipse"),
        ("\\text{June 20}", Words, "20 jun"),
        ("\\text{20th June}", Words, "20 jun"),
        ("\\text{Monday}", Words, "monday"),
        # others
        ("C", Choice, "Choice C"),
        ("(C)", Choice, "Choice C"),
        ("\\text{(C)}", Choice, "Choice C"),
        ("\\textbf{(D)}\\ 12", Choice, "Choice D: 12"),
        ("D. 12", Choice, "Choice D: 12"),
        ("3:4", Ratio, "3 : 4"),
        ("1:2:3", Ratio, "1 : 2 : 3"),
        ("3 to 1", Ratio, "3 : 1"),
        ("3:30", Clock, "12600 s"),
        ("3:30\\text{ p.m.}", Clock, "12600 s pm"),
        ("3 PM", Clock, "10800 s pm"),
        ("1:02:03", Clock, "3723 s"),
        ("2516_8", Based, "2516 base 8"),
        ("101_{2}", Based, "101 base 2"),
        ("AB_{16}", Based, "AB base 16"),
        ("101_{\\text{two}}", Based, "101 base 2"),
        ("0101_2", Based, "101 base 2"),
        ("1011 \\text{ base } 2", Based, "1011 base 2"),
    ],
)  # fmt: skip
def test_each_kind_is_read_as_what_it_is(text: str, kind: type[Form], what: str) -> None:
    assert (kind.__name__, what) in readings(text)
    if kind in (Group, Clock, Based):
        assert readings(text)[0] == (kind.__name__, what)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("\\text{A bicycle}", Choice),
        ("\\text{A or B}", Choice),
        ("A \\text{ and } B", Choice),
        ("AB", Choice),
        ("A+1", Choice),
        ("K", Choice),
        ("x", Choice),
        ("3:04.5", Clock),
        ("129_8", Based),
        ("101_1", Based),
        ("x_2", Based),
        ("-xy", Words),
        ("a/bc", Words),
        ("xy!", Words),
        ("2x", Words),
        ("(a-b)cd", Words),
        ("(1,234)", Scalar),
        ("1,23", Scalar),
        ("1,2345", Scalar),
        ("1, 234", Scalar),
        ("3 million", Group),
        ("\\text{C. is wrong}", Choice),
        ("\\text{C. not red}", Choice),
    ],
)
def test_what_is_not_of_a_kind(text: str, kind: type[Form]) -> None:
    try:
        found = read(text)
    except (Unreadable, Unsupported):
        return
    assert not any(isinstance(form, kind) for form in found)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("5\\text{ cm}", "5", "cm"),
        ("5 \\mathrm{~cm}^2", "5", "cm^2"),
        ("24\\text{ cm}^2", "24", "cm^2"),
        ("80 \\text{ km/h}", "80", "km/h"),
        ("9.8 \\mathrm{~m}/\\mathrm{s}^2", "49/5", "m/s^2"),
        ("5 cm", "5", "cm"),
        ("5cm", "5", "cm"),
        ("3 cats", "3", "cats"),
        ("3 red balls", "3", "red balls"),
        ("7 \\text{ apples}", "7", "apples"),
        ("7 apples", "7", "apples"),
        ("\\$18", "18", "$"),
        ("-\\$18", "-18", "$"),
        ("\\$1,500", "1500", "$"),
        ("12.50 \\text{ dollars}", "25/2", "$"),
        ("€20", "20", "€"),
        ("30^\\circ", "30", "°"),
        ("75°", "75", "°"),
        ("45\\text{ degrees}", "45", "°"),
        ("20°C", "20", "°C"),
        ("20^\\circ \\mathrm{F}", "20", "°F"),
        ("5 more apples", "5", "apples"),
        ("\\text{9 units}", "9", ""),
        ("\\frac{1}{2} \\text{ mile}", "1/2", "mile"),
        ("3\\text{ square inches}", "3", "in^2"),
    ],
)
def test_a_value_and_its_unit(text: str, value: str, unit: str) -> None:
    form = first(text)
    assert isinstance(form, Scalar)
    assert shown(form) == value
    assert form.unit == (unit_of(unit) if unit else None)


@pytest.mark.parametrize("text", ["\\sin 30^\\circ", "2\\cos 60°", "\\tan 45^\\circ + 1"])
def test_degrees_within_a_function_are_no_unit(text: str) -> None:
    form = first(text)
    assert isinstance(form, Scalar)
    assert form.unit is None
    assert form.expression


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("x=3", "x"),
        ("f(x)=x^2", "f(x)"),
        ("AB=5", "AB"),
        ("m_{max}=5", "m_max"),
        ("y'=5", "y'"),
        ("\\text{area}=5", "area"),
        ("(x,y)=(1,2)", "(x,y)"),
        ("(y,x)=(1,2)", None),
        ("(m,b)=(1,2)", "(m,b)"),
        ("\\text{the area}=5", "the area"),
        ("\\text{twice the area}=5", None),
        ("\\text{not the area}=5", None),
        ("\\text{2 areas}=5", None),
        ("f^{-1}(x)=5", "f^-1(x)"),
        ("a_n(x)=5", "a_n(x)"),
        ("|AB|=5", "|AB|"),
        ("|a|=5", None),
        ("\\sin A=5", "sinA"),
        ("\\angle ABC = 30", "angleABC"),
        ("xy=5", None),
        ("2x=5", None),
        ("x^2=5", None),
        ("x+y=5", None),
        ("3=x", "x"),
        ("\\frac{x}{2}=5", None),
    ],
)
def test_what_the_left_side_of_a_relation_names(text: str, name: str | None) -> None:
    form = first(text)
    assert isinstance(form, Relation)
    assert form.name == name


@pytest.mark.parametrize(
    "lead", ["The answer is", "The final answer is:", "the final answer:", "So the value of x is", "Thus, the result ="]
)
def test_what_leads_to_an_answer_is_left_out(lead: str) -> None:
    assert readings(f"\\text{{{lead} }} 7") == [("Scalar", "7")]


@pytest.mark.parametrize(
    "lead",
    [
        "The answer is not",
        "The answer plus one is",
        "Twice the answer is",
        "The answer if x > 3 is",
        "It is not",
        "It can't be",
        "The answer isn’t:",
    ],
)
def test_what_denies_or_changes_the_answer_is_no_lead(lead: str) -> None:
    try:
        found = readings(f"\\text{{{lead} }} 7")
    except Unreadable:
        return
    assert ("Scalar", "7") not in found


@pytest.mark.parametrize(
    "text", ["\\begin{cases} 1 & x>0 \\\\ 2 & x<0 \\end{cases}", "\\begin{cases} 1 & 2 \\end{cases}"]
)
def test_a_function_by_cases_is_no_list_of_its_values(text: str) -> None:
    with pytest.raises(Unsupported):
        read(text)


@pytest.mark.parametrize("text", ["and", "\\text{or}"])
def test_a_mere_separator_is_a_word_and_no_list(text: str) -> None:
    assert [type(form).__name__ for form in read(text)] == ["Words"]


def test_thousands_or_a_list() -> None:
    assert [shown(form) for form in read("1,234")] == ["1234", "1, 234"]
    assert shown(first("\\$1,234")) == "1234"
    assert [shown(form) for form in read("12,34")] == ["12, 34"]


def test_infinity_and_variables() -> None:
    assert [infinite(first(text)) for text in ("\\infty", "-\\infty", "+\\infty", "5", "x", "(1,2)")] == [
        1,
        -1,
        1,
        0,
        0,
        0,
    ]
    assert [variable(first(text)) for text in ("x", "x_1", "2x", "\\pi", "5")] == ["x", "x_1", None, None, None]


@pytest.mark.parametrize(
    "text",
    ["", " ", ".", "$", "?", "1+", "(1", "1,,2", "2,4,6,...", "2,4,6..", "2, 4, 6, \\ldots",
     "x=", "=", "\\{1,", "\\frac{1}{2", "3 4", "2^3^2", "\\le 3",
     "@", "\x00 8", "\u202e7",
     "\\unknowncommand", "\\cup", "(,)", "&", "_2", "1..2", "0_0", "A_<0"],
)  # fmt: skip
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(Unreadable):
        read(text)


@pytest.mark.parametrize("text", ["\\int_0^1 x dx", "\\sum_{k=1}^n k", "\\lim_{x\\to 0} x"])
def test_what_only_the_algebra_reads_is_a_scalar_without_expression(text: str) -> None:
    form = first(text)
    assert isinstance(form, Scalar)
    assert form.expression is None


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("(", ")"),
        ("{", "}"),
        ("\\{", "\\}"),
        ("[", ")"),
        ("\\langle ", "\\rangle "),
        ("(1,", ")"),
        ("\\frac{1}{", "}"),
        ("\\begin{pmatrix}", "\\end{pmatrix}"),
        ("\\lfloor ", "\\rfloor "),
    ],
)
def test_nesting_has_a_limit(opening: str, closing: str) -> None:
    with pytest.raises((Unreadable, Unsupported)):
        read(opening * 10_000 + "1" + closing * 10_000)


def test_the_answer_sign_by_sign() -> None:
    assert spelled("\\dfrac{1}{2}.") == spelled("\\frac{1}{2}")
    assert spelled("x \\le 2") == spelled("x<=2")
    assert spelled("x<2") != spelled("x\\le 2")


@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                "1",
                "x",
                ",",
                "(",
                ")",
                "[",
                "]",
                "\\{",
                "\\}",
                "=",
                "<",
                "\\cup ",
                "\\pm ",
                "\\text{and}",
                "A",
                ".",
                ":",
                " ",
                "%",
                "\\$",
                "°",
                "cm",
                "and",
                "\\mathbb{R}",
                "\\begin{pmatrix}",
                "&",
                "\\\\",
                "\\end{pmatrix}",
                "_",
                "2",
                "\\infty",
                "|",
                "\\langle",
                ";",
                "pm",
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read(text)
    except (Unreadable, Unsupported):
        return
    assert found
    assert read(text) == found
    hash(found)
