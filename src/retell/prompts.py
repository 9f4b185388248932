"""Solve and guided prompts from readable template files."""

import re
from importlib import resources
from pathlib import Path

from retell.errors import DataError, RecipeError
from retell.recipe import Policy, located
from retell.records import Message, Problem, Prompt
from retell.tokens import ChatTokenizer

_PLACEHOLDER = re.compile(r"\{(problem|solution)\}")


def load_template(name: str, *, needs: tuple[str, ...]) -> str:
    """Text of a packaged template (`plain`, `boxed`, `guided`) or of a file.

    Raises:
        RecipeError: there is no such template, or a placeholder is missing from it.
    """
    packaged = resources.files("retell") / "templates" / f"{name}.txt"
    try:
        text = (
            packaged.read_text(encoding="utf-8")
            if re.fullmatch(r"\w+", name) and packaged.is_file()
            else Path(located(name)).read_text(encoding="utf-8")
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"there is no template {name!r}: use plain, boxed, guided or a text file") from error
    for placeholder in needs:
        if f"{{{placeholder}}}" not in text:
            raise RecipeError(f"the template {name} lacks {{{placeholder}}}")
    return text.removesuffix("\n")


def fill(template: str, problem: str, solution: str = "") -> str:
    """Replaces the placeholders; braces anywhere else, in template or text, are left alone."""
    values = {"problem": problem, "solution": solution}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


class Prompter:
    """Builds the prompts of one policy: the training prompt, which is also the self prompt, and the guided one."""

    def __init__(self, policy: Policy, tokenizer: ChatTokenizer | None, guided_template: str | None = None) -> None:
        self.solve_template = load_template(policy.template, needs=("problem",))
        self.guided_template = load_template(guided_template, needs=("problem", "solution")) if guided_template else ""
        self._system = policy.system
        self._tokenizer = tokenizer

    def solve(self, problem: str) -> Prompt:
        """The prompt the policy is trained on; it never contains a reference."""
        return self._prompt(fill(self.solve_template, problem))

    def guided(self, problem: Problem) -> Prompt:
        """The prompt that shows the expert's solution and asks to retell it."""
        return self._prompt(fill(self.guided_template, problem.problem, problem.solution))

    def conversation(self, problem: str, response: str) -> tuple[Message, ...]:
        """The training conversation: solve prompt, then the response."""
        return (*self._messages(fill(self.solve_template, problem)), {"role": "assistant", "content": response})

    def training_length(self, problem: str, response: str) -> int | None:
        """Tokens of the training row; None where the chat template cannot make one of this response."""
        assert self._tokenizer
        try:
            prompt, ids = self._tokenizer.training_ids(self.conversation(problem, response))
        except DataError:
            return None
        return len(prompt) + len(ids)

    def _messages(self, text: str) -> tuple[Message, ...]:
        system: list[Message] = [{"role": "system", "content": self._system}] if self._system is not None else []
        return (*system, {"role": "user", "content": text})

    def _prompt(self, text: str) -> Prompt:
        messages = self._messages(text)
        return Prompt(messages, self._tokenizer.prompt_ids(messages) if self._tokenizer else None)
