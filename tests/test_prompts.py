from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.errors import RecipeError
from retell.prompts import Prompter, Template, fill, load_template
from retell.recipe import Policy
from retell.records import Message, Problem

PROBLEM = Problem("p", "What is {x}, or {solution}?", "2", "It is {problem} \\boxed{2}.", "test")
PIECES = st.lists(st.sampled_from(["{problem}", "{solution}", "{", "}", "{}", "\\1", "\\g<0>", "x"])).map("".join)


class Letters:
    """The one method of a tokenizer that prompts need."""

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(map(ord, "".join(f"<{message['role']}>{message['content']}" for message in messages)))


@given(PIECES | st.text(), PIECES | st.text())
def test_what_is_filled_in_is_never_read_as_a_template(problem: str, solution: str) -> None:
    assert fill("{problem}|{solution}|{other}{}", problem, solution) == f"{problem}|{solution}|{{other}}{{}}"
    assert fill("{solution}{problem}", problem, solution) == solution + problem


def test_packaged_templates_say_what_they_are_for() -> None:
    assert load_template("plain", needs=("problem",)) == Template("{problem}")
    boxed = load_template("boxed", needs=("problem",))
    assert boxed.user.startswith("{problem}\n") and boxed.system is None
    assert "\\boxed{}" in boxed.user
    assert load_template("qwen-boxed", needs=("problem",)) == Template(boxed.user, "You are a helpful assistant.")
    guided = load_template("guided", needs=("problem", "solution")).user
    assert guided.index("{problem}") < guided.index("{solution}")


def test_a_file_is_a_template_and_its_last_line_end_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("Q: {problem}\n\n", encoding="utf-8")
    assert load_template(str(path), needs=("problem",)) == Template("Q: {problem}\n")
    assert load_template("retell:templates/plain.txt", needs=("problem",)) == Template("{problem}")


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("[system]\nBe brief.\nAlways.\n[user]\n{problem}\n", Template("{problem}", "Be brief.\nAlways.")),
        ("[system]\n\n[user]\n{problem}", Template("{problem}", "")),
        ("[system]\n[user]\n{problem}", Template("{problem}", "")),
        ("[system]\na\n[user]\n{problem}\n[user]\nb", Template("{problem}\n[user]\nb", "a")),
        ("\ufeff[system]\na\n[user]\n{problem}", Template("{problem}", "a")),
        ("[user]\n{problem}", Template("[user]\n{problem}")),
        ("Solve [system]\nx\n[user]\n{problem}", Template("Solve [system]\nx\n[user]\n{problem}")),
    ],
)
def test_a_template_may_have_a_system_message(tmp_path: Path, text: str, template: Template) -> None:
    path = tmp_path / "own.txt"
    path.write_text(text, encoding="utf-8")
    assert load_template(str(path), needs=("problem",)) == template
    path.write_text(template.text, encoding="utf-8")
    assert load_template(str(path), needs=("problem",)) == template
    prompt = Prompter(Policy(template=str(path)), None).solve("1 + 1?")
    wanted = [] if template.system is None else [("system", template.system)]
    assert [(m["role"], m["content"]) for m in prompt.messages[:-1]] == wanted


def test_a_placeholder_in_the_system_message_alone_is_none(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("[system]\n{problem}\n[user]\nSolve it.", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"lacks \{problem\}"):
        load_template(str(path), needs=("problem",))


def test_two_system_messages_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"policy\.system = 'x' and the template qwen-boxed has a system message too"):
        Prompter(Policy(system="x", template="qwen-boxed"), None)


def test_a_guided_template_s_own_system_message_is_for_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "guided.txt"
    path.write_text("[system]\nRetell.\n[user]\n{problem}{solution}", encoding="utf-8")
    prompter = Prompter(Policy(system="s"), None, str(path))
    assert [m["content"] for m in prompter.guided(PROBLEM).messages][:-1] == ["Retell."]
    assert [m["content"] for m in prompter.solve("1 + 1?").messages] == ["s", "1 + 1?"]


@pytest.mark.parametrize("name", ["plane", "", ".", "/nowhere/at/all.txt", "../guided", "a" * 300, "a\0b"])
def test_a_template_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(RecipeError, match="there is no template") as caught:
        load_template(name, needs=())
    assert repr(name) in str(caught.value)


def test_a_template_without_its_placeholder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("{problem} { solution } {{solution}", encoding="utf-8")
    load_template(str(path), needs=("problem", "solution"))
    path.write_text("{problem} { solution }", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"own\.txt lacks \{solution\}"):
        load_template(str(path), needs=("problem", "solution"))
    with pytest.raises(RecipeError, match=r"plain lacks \{solution\}"):
        Prompter(Policy(), None, "plain")
    path.write_bytes(b"\xff{problem}")
    with pytest.raises(RecipeError, match=r"own\.txt"):
        load_template(str(path), needs=("problem",))


def test_the_training_prompt_shows_the_problem_only() -> None:
    prompter = Prompter(Policy(template="boxed"), None, "guided")
    prompt = prompter.solve(PROBLEM.problem)
    assert [message["role"] for message in prompt.messages] == ["user"]
    assert prompt.messages[0]["content"].startswith(PROBLEM.problem + "\n")
    assert PROBLEM.solution not in prompt.messages[0]["content"]
    assert prompt.ids is None
    [plain] = Prompter(Policy(), None, "guided").solve(PROBLEM.problem).messages
    assert plain == {"role": "user", "content": PROBLEM.problem}


def test_the_guided_prompt_shows_problem_and_solution() -> None:
    content = Prompter(Policy(), None, "guided").guided(PROBLEM).messages[-1]["content"]
    assert content.count(PROBLEM.problem) == 1
    assert content.count(PROBLEM.solution) == 1


def test_a_conversation_is_the_training_prompt_and_the_response() -> None:
    prompter = Prompter(Policy(system="Be brief."), None, "guided")
    *prompt, last = prompter.conversation("1 + 1?", "2")
    assert tuple(prompt) == prompter.solve("1 + 1?").messages
    assert last == {"role": "assistant", "content": "2"}
    assert PROBLEM.solution not in str(prompter.conversation(PROBLEM.problem, "2"))


@pytest.mark.parametrize(("system", "roles"), [(None, ["user"]), ("", ["system", "user"]), ("x", ["system", "user"])])
def test_a_system_message_stands_first_where_there_is_one(system: str | None, roles: list[str]) -> None:
    prompter = Prompter(Policy(system=system), None, "guided")
    for prompt in (prompter.solve("1 + 1?"), prompter.guided(PROBLEM)):
        assert [message["role"] for message in prompt.messages] == roles
        assert prompt.messages[0]["content"] == system or system is None


def test_the_tokenizer_sees_the_messages_of_the_prompt() -> None:
    letters = Letters()
    prompter = Prompter(Policy(system="s"), letters, "guided")  # type: ignore[arg-type]
    for prompt in (prompter.solve("1 + 1?"), prompter.guided(PROBLEM)):
        assert prompt.ids == letters.prompt_ids(prompt.messages)


def test_a_prompt_is_identified_by_what_the_policy_is_shown() -> None:
    def digests(policy: Policy, tokenizer: Letters | None) -> list[str]:
        prompter = Prompter(policy, tokenizer, "guided")  # type: ignore[arg-type]
        return [prompter.solve("1 + 1?").digest(), prompter.solve("1 + 2?").digest(), prompter.guided(PROBLEM).digest()]

    for tokenizer in (None, Letters()):
        found = digests(Policy(), tokenizer) + digests(Policy(system="s"), tokenizer)
        found += digests(Policy(template="boxed"), tokenizer)[:2]
        assert len(set(found)) == 8
        assert digests(Policy(), tokenizer) == found[:3]


@pytest.mark.parametrize(
    "text", ["[system]\n{problem}", "[system] \nx\n[user]\n{problem}", "[system]x\n[user]\n{problem}"]
)
def test_a_system_message_without_the_users_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.txt").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"begins with \[system\] and has no line \[user\]"):
        load_template(str(tmp_path / "own.txt"), needs=("problem",))


def test_no_training_prompt_shows_the_solution() -> None:
    with pytest.raises(RecipeError, match=r"guided shows \{solution\}"):
        Prompter(Policy(template="guided"), None)
