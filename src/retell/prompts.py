"""Solve and guided prompts from readable template files."""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from retell.errors import DataError, RecipeError
from retell.recipe import Policy, located
from retell.records import Message, Problem, Prompt
from retell.tokens import ChatTokenizer

_PLACEHOLDER = re.compile(r"\{(problem|solution)\}")
_TURNS = re.compile(r"\[system\]\n(?:(.*?)\n)?\[user\]\n(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Template:
    """What a prompt is made from: the user's message with placeholders, and perhaps a system message."""

    user: str
    system: str | None = None

    @property
    def text(self) -> str:
        """As it stands in a file."""
        return self.user if self.system is None else f"[system]\n{self.system}\n[user]\n{self.user}"


def load_template(name: str, *, needs: tuple[str, ...]) -> Template:
    """A packaged template (`plain`, `boxed`, `qwen-boxed`, `guided`) or a file.

    The text is the user's message; where it begins with a line ``[system]``, that is what follows a line ``[user]``.

    Raises:
        RecipeError: there is no such template, or a placeholder is missing from it.
    """
    packaged = resources.files("retell") / "templates" / f"{name}.txt"
    try:
        text = (
            packaged.read_text(encoding="utf-8")
            if re.fullmatch(r"[\w-]+", name) and packaged.is_file()
            else Path(located(name)).read_text(encoding="utf-8-sig")
        )
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"there is no template {name!r}: use plain, boxed, qwen-boxed, guided or a text file"
        ) from error
    text = text.removesuffix("\n")
    turns = _TURNS.fullmatch(text)
    if text.startswith("[system]") and not turns:
        raise RecipeError(f"the template {name} begins with [system] and has no line [user]: put one before the user's")
    template = Template(turns[2], turns[1] or "") if turns else Template(text)
    for placeholder in needs:
        if f"{{{placeholder}}}" not in template.user:
            raise RecipeError(f"the template {name} lacks {{{placeholder}}}")
    return template


def fill(template: str, problem: str, solution: str = "") -> str:
    """Replaces the placeholders; braces anywhere else, in template or text, are left alone."""
    values = {"problem": problem, "solution": solution}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


class Prompter:
    """Builds the prompts of one policy: the training prompt, which is also the self prompt, and the guided one."""

    def __init__(self, policy: Policy, tokenizer: ChatTokenizer | None, guided_template: str | None = None) -> None:
        self.solve_template = load_template(policy.template, needs=("problem",))
        if "{solution}" in self.solve_template.user:
            raise RecipeError(f"the template {policy.template} shows {{solution}}, which no training prompt may")
        self.guided_template = (
            load_template(guided_template, needs=("problem", "solution")) if guided_template else None
        )
        if policy.system is not None and self.solve_template.system is not None:
            raise RecipeError(
                f"policy.system = {policy.system!r} and the template {policy.template} has a system message too: leave "
                "one out"
            )
        self.system = policy.system if policy.system is not None else self.solve_template.system
        self._tokenizer = tokenizer

    def solve(self, problem: str) -> Prompt:
        """The prompt the policy is trained on; it never contains a reference."""
        return self._prompt(self._messages(self.solve_template, problem))

    def guided(self, problem: Problem) -> Prompt:
        """The prompt that shows the expert's solution and asks to retell it."""
        assert self.guided_template
        return self._prompt(self._messages(self.guided_template, problem.problem, problem.solution))

    def conversation(self, problem: str, response: str) -> tuple[Message, ...]:
        """The training conversation: solve prompt, then the response."""
        return (*self._messages(self.solve_template, problem), {"role": "assistant", "content": response})

    def training_length(self, problem: str, response: str) -> int | None:
        """Tokens of the training row; None where the chat template cannot make one of this response."""
        assert self._tokenizer
        try:
            prompt, ids = self._tokenizer.training_ids(self.conversation(problem, response))
        except DataError:
            return None
        return len(prompt) + len(ids)

    def _messages(self, template: Template, problem: str, solution: str = "") -> tuple[Message, ...]:
        said = self.system if template.system is None else template.system
        system: list[Message] = [{"role": "system", "content": said}] if said is not None else []
        return (*system, {"role": "user", "content": fill(template.user, problem, solution)})

    def _prompt(self, messages: tuple[Message, ...]) -> Prompt:
        return Prompt(messages, self._tokenizer.prompt_ids(messages) if self._tokenizer else None)
