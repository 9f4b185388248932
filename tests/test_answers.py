import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.answers import extract_answer, gold_of_solution, last_boxed

PIECES = ["\\boxed{", "\\boxed {", "\\fbox{", "{", "}", "}", "\\{", "\\}", "\\\\", "\\boxed", "7", "a ", "\n"]
LONG = 200_000


def closing(text: str, start: int) -> int | None:
    """Where the brace opened at ``start`` closes, character by character."""
    depth, place = 0, start
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] in "{}":
            depth += 1 if text[place] == "{" else -1
            if depth == 0:
                return place
        place += 1
    return None


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_the_last_box_that_closes_is_found(text: str) -> None:
    expected = None
    for opening in re.finditer(r"\\boxed\s*\{|\\fbox\s*\{", text):
        start = opening.end() - 1
        end = closing(text, start)
        if end is not None:
            expected = text[start + 1 : end].strip()
    assert last_boxed(text) == expected


@given(st.integers(1, 60), st.integers(0, 5))
def test_boxes_of_any_depth_are_read_whole(depth: int, unclosed: int) -> None:
    inner = "{" * depth + "x" + "}" * depth
    assert last_boxed("\\boxed{wrong} and " + f"\\boxed{{\\frac{inner}}}" + "\\boxed{" * unclosed) == f"\\frac{inner}"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{1}, no, \\boxed{2}.", "2"),
        ("so \\boxed{ \\frac{1}{2} }", "\\frac{1}{2}"),
        ("so \\fbox{7}", "7"),
        ("sets: \\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{1} and then \\boxed{2", "1"),
        ("16 - 3 = 13\nA: 13", "13"),
        ("16 - 3 = 13\n#### 13\n\n", "13"),
        ("We add.\nAnswer: 3 apples  ", "3 apples"),
        ("The answer is 5.", "5"),
        ("The answer is 5. No, the\nFinal answer is: $6$.", "$6$"),
        ("\\boxed{}\nA: 4", "4"),
        # without braces
        ("so \\boxed 7", "7"),
        ("so \\boxed\\frac{1}{2}.", "\\frac{1}{2}"),
        ("so $\\boxed 7$.", "7"),
        ("\\boxed 7 and then \\boxed{8}", "8"),
        ("so \\boxed {7}", "7"),
        ("so \\boxed{\\boxed{7}}", "7"),
        # the answer called so
        ("**Answer:** 8", "8"),
        ("**Answer**: 8", "8"),
        ("**Final Answer:** $8$", "$8$"),
        ("**Answer:** **8**", "8"),
        ("Answer: $x = 7$", "$x = 7$"),
        ("answer: 7", "7"),
        ("## Answer\n\n7", "7"),
        ("### Final Answer\n7 apples", "7 apples"),
        ("**Answer**\n\n$7$", "$7$"),
        ("**The answer:**\n7", "7"),
        ("Answer\n7", None),
        ("The answer must be 7.", "7"),
        ("The answer should be 7, I think.", "7, I think"),
        ("the answer = 7", "7"),
        ("The correct option is B.", "B"),
        ("so the choice must be (B)", "(B)"),
        ("The answer is\n$$\n7\n$$", "7"),
        ("The answer is 7, not 8.", "7"),
        ("The answer is 7 because 3 + 4 is.", "7"),
        # and denied, supposed or asked
        ("The answer is 4. I doubt the answer is 5.", "4"),
        ("If the answer is 5, it is odd.", None),
        ("Suppose the answer is 5.", None),
        ("It is not true that the answer is 5.", None),
        ("I don't think the answer is 5.", None),
        ("The answer is 4.\nHe says the answer is 5.", "4"),
        ("The answer is 4. So the answer is 5?", "4"),
        ("If x > 3, the answer is 5.", "5"),
        ("The answer is 4. " + "Perhaps the answer is 5? " * 19, "4"),
        ("The answer is 4. " + "Perhaps the answer is 5? " * 20, None),
        ("Adding them up, we obtain 42. The answer is: 42", "42"),
        ("The answer is **42**.", "42"),
        ("Final Answer: The final answer is $15$. I hope it is correct.", "$15$"),
        ("The final answer is $\\frac{3}{4}$. I hope it is correct.", "$\\frac{3}{4}$"),
        ("The final answer is 2.5. I hope it is correct.", "2.5"),
        ("The answer is 1. Wait.\n\nThe answer is 2.", "2"),
        ("The answer is 5.\nThat was easy.", "5"),
        ("The answer is 1. \\boxed{2}", "2"),
        ("\\boxed{2}. The answer is 1.", "2"),
        ("She sells 9 eggs at $2.\n#### 18", "18"),
        ("#### 1\n#### 2", "2"),
        ("A: 13.", "13"),
        # thinking
        ("<think>maybe \\boxed{5}? no.</think>\nThe answer is \\boxed{7}.", "7"),
        ("<think>So \\boxed{4}?</think>\n\nThe answer is 5.", "5"),
        ("<think>So \\boxed{5}. Wait, let me check by", None),
        ("<think>The answer is 5.", None),
        ("<think>\\boxed{5}</think>", None),
        ("<think>\\boxed{5}</think> I am sure.", None),
        ("<think>a</think>\\boxed{1}<think>\\boxed{2}", None),
        ("<think>a</think>\\boxed{1}<think>b</think>\\boxed{2}", "2"),
        ("\\boxed{5}</think>\\boxed{7}", "7"),
        ("<thinking>\\boxed{5}</thinking>\\boxed{7}", "7"),
        ("<thinking>\\boxed{5}", None),
        ("\\boxed{7} <think>", None),
        # no answer
        ("Therefore, the answer is", None),
        ("Therefore the answer is \\boxed{\\frac{1}{2", None),
        ("The answer is \\boxed{12", None),
        ("I gave the answer as 7", None),
        ("An answer issue 7", None),
        ("1. 2. 3. 4.", None),
        ("\\boxed{}", None),
        ("A triangle has sides", None),
        ("A: ", None),
        ("#### ", None),
        ("A: 4\nThat was easy.", None),
        ("There are 12 eggs and 4 are eaten, so 8", None),
        ("the answer is ...", None),
        ("the answer is \\boxed{12", None),
        ("A: \\boxed{\\frac{1}{2", None),
        ("", None),
    ],
)
def test_where_an_answer_stands(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        ("48 / 2 = 24\n#### 72", "72"),
        ("#### 1\nno:\n#### 1,200 \n", "1,200"),
        ("\\boxed{3} is right\n#### 4", "3"),
        ("\\boxed{}\n#### 4", "4"),
        ("\\boxed{}", None),
        ("#### ", None),
        ("The answer is 5.", None),
    ],
)
def test_the_gold_of_a_solution(solution: str, gold: str | None) -> None:
    assert gold_of_solution(solution) == gold


@given(st.text() | st.lists(st.sampled_from([*PIECES, "A:", "####", "answer is", " ", "."]), max_size=30).map("".join))
def test_an_answer_is_a_trimmed_part_of_the_text_or_none(text: str) -> None:
    for found in (extract_answer(text), gold_of_solution(text)):
        assert found is None or (found and found in text and found == found.strip())


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * LONG,
        "\\boxed{" * LONG + "}" * LONG,
        "\\boxed" + " " * LONG,
        "\\" * LONG,
        "}" * LONG + "\\boxed{1}",
        "answer is" + " " * LONG,
        "answer is " * LONG,
        "answer" + " \n" * LONG,
        "A:" + " " * LONG + "\n.",
        "#" * LONG,
        "<think>" * LONG,
        "</think>" * LONG + "\\boxed{1}",
        "\\boxed 7 " * LONG,
        "**Answer:** " * LONG,
        "The answer is not 7? " * LONG,
        "*" * LONG + "answer:",
        "the answer is $$ " * LONG,
        "####" + "\r" * LONG,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_reading_takes_time_linear_in_the_length(text: str) -> None:
    extract_answer(text)  # quadratic steps would take minutes
    gold_of_solution(text)
