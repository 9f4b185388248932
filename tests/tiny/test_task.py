import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.tiny.task import (
    AUTHORS,
    EQUATIONS,
    LEAPING,
    MAX_STEPS,
    MODULUS,
    OPERATORS,
    VERBAL,
    Author,
    Problem,
    Step,
    UnreadableProblemError,
    check_steps,
    draw_problem,
    parse_problem,
    write_solution,
)

PROBLEM = Problem(47, (Step("+", 8), Step("*", 3), Step("-", 9)))  # 47 -> 55 -> 165 = 65 -> 56
TEXT = "Work modulo 100. Start with 47. (a) add 8. (b) multiply by 3. (c) subtract 9. What is the result?"

# One right solution in each style, written by hand.
BY_HAND = {
    "equations": "(a) 47 + 8 = 55\n(b) 55 * 3 = 65\n(c) 65 - 9 = 56\nAnswer: \\boxed{56}",
    "verbal": "(a) add 8 to get 55\n(b) multiply by 3 to get 65\n(c) subtract 9 to get 56\nAnswer: \\boxed{56}",
    "results": "(a) 55\n(b) 65\n(c) 56\nAnswer: \\boxed{56}",
    "bare": "Answer: \\boxed{56}",
    "backwards": (
        "(a) 55 because 47 + 8.\n(b) 65 because 55 * 3.\n(c) 56 because 65 - 9.\nSo the answer is \\boxed{56}."
    ),
    "leaping": "(a) 47 + 8, (b) * 3 = 65.\n(c) 65 - 9 = 56.\nSo the answer is \\boxed{56}.",
    "verbose": (
        "(a) we take 47 and add 8, giving 55.\n(b) we take 55 and multiply by 3, giving 65.\n"
        "(c) we take 65 and subtract 9, giving 56.\nSo the answer is \\boxed{56}."
    ),
}

seeds = st.integers(0, 2**32)
lengths = st.integers(1, MAX_STEPS)


def test_values_wrap_around():
    assert Step("+", 8).apply(95) == 3
    assert Step("-", 9).apply(2) == 93
    assert Step("*", 3).apply(55) == 65
    assert PROBLEM.answer == 56


def test_problem_reads_as_english():
    assert PROBLEM.text == TEXT


@given(seeds, lengths)
def test_problems_are_read_back(seed: int, length: int):
    problem = draw_problem(random.Random(seed), length)
    assert parse_problem(problem.text) == problem
    assert len(problem.steps) == length


def test_drawing_reaches_every_operation_and_start():
    rng = random.Random(0)
    problems = [draw_problem(rng, MAX_STEPS) for _ in range(2000)]
    assert {problem.start for problem in problems} == set(range(MODULUS))
    drawn = {(step.operator, step.number) for problem in problems for step in problem.steps}
    additive = {(operator, number) for operator in "+-" for number in range(1, 10)}
    assert drawn == additive | {("*", 2), ("*", 3)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is 2 + 2?",
        TEXT + " ",
        TEXT.replace("(b)", "(c)"),
        TEXT.replace("47", "047"),
        TEXT.replace("add 8", "add eight"),
        "Work modulo 100. Start with 47.  What is the result?",
    ],
)
def test_other_texts_are_refused(text: str):
    with pytest.raises(UnreadableProblemError):
        parse_problem(text)
    with pytest.raises(UnreadableProblemError):
        check_steps(text, "Answer: \\boxed{4}")


@pytest.mark.parametrize("author", AUTHORS, ids=lambda author: author.name)
def test_right_solution_written_by_hand_passes(author: Author):
    assert check_steps(TEXT, BY_HAND[author.name])


@pytest.mark.parametrize("author", AUTHORS, ids=lambda author: author.name)
def test_author_writes_as_expected(author: Author):
    # The one who merges does so at random: some seed must give the solution written by hand.
    written = {write_solution(PROBLEM, author, random.Random(seed)) for seed in range(50)}
    assert BY_HAND[author.name] in written
    assert author is LEAPING or len(written) == 1


@given(seeds, lengths, st.sampled_from(AUTHORS))
def test_solutions_without_slips_pass(seed: int, length: int, author: Author):
    rng = random.Random(seed)
    problem = draw_problem(rng, length)
    assert check_steps(problem.text, write_solution(problem, author, rng))


@given(seeds, lengths, st.sampled_from(AUTHORS), st.data())
def test_any_changed_number_fails(seed: int, length: int, author: Author, data: st.DataObject):
    rng = random.Random(seed)
    problem = draw_problem(rng, length)
    solution = write_solution(problem, author, rng)
    numbers = list(re.finditer(r"\d+", solution))
    number = data.draw(st.sampled_from(numbers))
    other = data.draw(st.integers(0, MODULUS - 1).filter(lambda value: value != int(number[0])))
    assert not check_steps(problem.text, f"{solution[: number.start()]}{other}{solution[number.end() :]}")


@given(seeds, lengths, st.sampled_from([author for author in AUTHORS if author.line]))
def test_a_slip_in_every_line_fails(seed: int, length: int, author: Author):
    rng = random.Random(seed)
    problem = draw_problem(rng, length)
    assert not check_steps(problem.text, write_solution(problem, author, rng, slip=1.0))


def test_slips_are_as_frequent_as_asked():
    rng = random.Random(0)
    problem = Problem(0, (Step("+", 1),))
    right = sum(check_steps(problem.text, write_solution(problem, EQUATIONS, rng, slip=0.1)) for _ in range(5000))
    # Ten standard deviations: 0.1 of 5000 is 500, give or take 21.
    assert abs(5000 - right - 500) < 210


def test_a_slip_is_carried_on():
    solution = write_solution(PROBLEM, EQUATIONS, random.Random(0), slip=1.0)
    stated = re.findall(r"= (\d+)\n", solution)
    continued = re.findall(r"\) (\d+) ", solution)
    assert continued[1:] == stated[:-1]
    assert f"\\boxed{{{stated[-1]}}}" in solution


@pytest.mark.parametrize(
    "response",
    [
        "",
        "56",
        "\\boxed{56}",
        "Answer: \\boxed{56",
        "Answer: \\boxed{056}",
        "Answer: \\boxed{56} or \\boxed{57}",
        "(a) 55\n(b) 65\nAnswer: \\boxed{56}",  # a step is missing
        "(b) 65\n(c) 56\nAnswer: \\boxed{56}",
        "(a) 55\n(b) 65\n(c) 56\n(d) 56\nAnswer: \\boxed{56}",  # a step too many
        "(a) 55\n(a) 55\n(b) 65\n(c) 56\nAnswer: \\boxed{56}",
        "(a) 55\n(c) 56\n(b) 65\nAnswer: \\boxed{56}",
        "(a) 55\n\n(b) 65\n(c) 56\nAnswer: \\boxed{56}",
        "(a) 55\n(b) 65\n(c) 56",  # no answer
        "(a) add 8 to get 55\n(b) add 10 to get 65\n(c) subtract 9 to get 56\nAnswer: \\boxed{56}",
        "(a) 47 + 8, (b) * 3, (c) - 9 = 56.\nSo the answer is \\boxed{56}.",  # nobody merges three
        "I feel lucky.\nAnswer: \\boxed{56}",
    ],
)
def test_right_answer_is_not_enough(response: str):
    assert not check_steps(TEXT, response)


def test_styles_may_be_mixed():
    assert check_steps(TEXT, "(a) 55\n(b) 55 * 3, (c) - 9 = 56.\nAnswer: \\boxed{56}")


def test_outer_white_space_is_ignored():
    assert check_steps(TEXT, f"\n {BY_HAND['verbal']} \n")


def test_only_the_leaping_expert_merges():
    rng = random.Random(0)
    problem = Problem(0, tuple(Step(OPERATORS[index % 3], 2) for index in range(10)))
    for author in AUTHORS:
        lines = [write_solution(problem, author, rng).count("\n") for _ in range(20)]
        if author is LEAPING:
            assert min(lines) < 10
        elif author.line:
            assert set(lines) == {10}


def test_verbal_repeats_the_problem():
    assert "multiply by 3" in write_solution(PROBLEM, VERBAL, random.Random(0))
