import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.graders.latex import Token, tokenize
from retell.graders.pieces import cut, depths, end_of_group, is_mark, outside, source, split


def shown(parts: list[list[Token]]) -> list[str]:
    return ["".join(map(str, part)) for part in parts]


def parts(text: str, separator: str = ",", kind: str = "mark") -> list[str]:
    return shown([list(part) for part in split(tokenize(text), separator, kind)])


def test_a_name_that_is_spelled_like_a_mark_is_none() -> None:
    assert [is_mark(token, "{", "}") for token in tokenize("{1}")] == [True, False, True]
    assert [is_mark(token, "{", "}") for token in tokenize("\\{1\\}")] == [False, False, False]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,2", [0, 0, 0]),
        ("(1,2)", [0, 1, 1, 1, 0]),
        ("(1,(2))", [0, 1, 1, 1, 2, 1, 0]),
        ("[1,2)", [0, 1, 1, 1, 0]),
        ("\\{1\\}", [0, 1, 0]),
        ("\\langle 1\\rangle", [0, 1, 0]),
        ("\\lfloor 1\\rfloor", [0, 1, 0]),
        ("\\begin{pmatrix}1\\end{pmatrix}", [0, 1, 0]),
        ("1)2", [0, -1, -1]),
    ],
)
def test_how_deep_each_token_stands(text: str, found: list[int]) -> None:
    assert depths(tokenize(text)) == found


def test_the_places_outside_brackets() -> None:
    assert outside(tokenize("(1),2,[3]")) == [3, 4, 5]
    assert outside(tokenize("1)2")) == [0]  # what closes too early hides what follows


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [""]),
        ("1", ["1"]),
        ("1,2", ["1", "2"]),
        ("1,,2,", ["1", "", "2", ""]),
        ("(1,2),3", ["(1,2)", "3"]),
        ("f(1,2)", ["f(1,2)"]),
        ("\\{1,2\\},[3,4)", ["\\{1,2\\}", "[3,4)"]),
        ("\\begin{pmatrix}1,2\\end{pmatrix},3", ["\\begin pmatrix1,2\\end pmatrix", "3"]),
    ],
)
def test_lists_are_split_outside_brackets(text: str, found: list[str]) -> None:
    assert parts(text) == found


def test_a_separator_may_be_a_name_and_not_its_text() -> None:
    assert parts("1\\cup 2\\cup(3\\cup 4)", "cup", "name") == ["1", "2", "(3\\cup4)"]
    assert parts("1\\cup 2", "cup") == ["1\\cup2"]
    assert parts("1\\text{,}2") == ["1", "2"]


@given(st.lists(st.booleans(), max_size=12))
def test_what_is_cut_is_all_there(marked: list[bool]) -> None:
    tokens = [Token("number", str(number), False) for number in range(len(marked))]
    places = [place for place, mark in enumerate(marked) if mark]
    found = cut(tokens, places)
    assert len(found) == len(places) + 1
    whole = list(found[0])
    for place, part in zip(places, found[1:], strict=True):
        whole += [tokens[place], *part]
    assert whole == tokens


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("{1+2}3", 0, 5), ("{{1}2}3", 0, 6), ("1{2}", 0, 1), ("1{2}", 1, 4), ("{1", 0, 1), ("1", 5, 6)],
)
def test_where_a_group_in_braces_ends(text: str, start: int, end: int) -> None:
    assert end_of_group(tokenize(text), start) == end


@pytest.mark.parametrize(
    "text",
    [
        "\\frac{1}{2}+x^2",
        "5\\text{ cm}",
        "\\{1,2\\}\\cup[3,\\infty)",
        "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "2 \\cdot 3",
        "\\sin x",
        "\\pi\\mathbf{r}",
        "ab cd",
        "50\\%",
        "x\\le 3",
        "0.1\\overline{6} ab",
    ],
)
def test_the_source_says_what_the_tokens_say(text: str) -> None:
    tokens = tokenize(text)
    again = tokenize(source(tokens).replace("r6", "\\overline{6}"))
    assert [(token.kind, token.text) for token in again] == [(token.kind, token.text) for token in tokens]
