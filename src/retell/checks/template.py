"""The chat template: the prompt, its boundary, and what ends a response."""

import json
from collections.abc import Iterator
from pathlib import Path

from retell.checks.base import PROBLEM, Finding, Patient, token_name
from retell.errors import DataError
from retell.prompts import Prompter
from retell.tokens import ChatTokenizer


def prompt(patient: Patient) -> Iterator[Finding]:
    """Makes the prompt of a plain problem."""
    if patient.engine is None or (patient.policy.model and not patient.tokenizer):
        return
    prompter = Prompter(patient.policy, patient.tokenizer, patient.settings.guided_template)
    patient.prompt = prompter.solve(PROBLEM.problem)
    made = f"template {patient.policy.template}, below:"
    if patient.tokenizer and patient.prompt.ids:
        patient.rendered = patient.tokenizer.render(patient.prompt.messages, prompt=True)
        yield Finding("prompt", "ok", f"{made} {len(patient.prompt.ids)} tokens")
    else:
        yield Finding("prompt", "note", f"{made} messages, whose tokens are unknown", "give --model for exact prompts")


def template(patient: Patient) -> Iterator[Finding]:
    """Whether the prompt stays a prefix of its conversation."""
    if not patient.tokenizer or not patient.prompt:
        return
    conversation = (*patient.prompt.messages, {"role": "assistant", "content": PROBLEM.solution})
    try:
        _, response = patient.tokenizer.training_ids(conversation)
    except DataError as error:
        remedy = "retell rewrite would reject every row: mend chat_template.jinja, or set policy.system"
        yield Finding("chat template", "wrong", str(error), remedy)
        return
    yield Finding("chat template", "ok", "a prompt stays a prefix of its conversation")
    text = patient.tokenizer.decode(response[:-1])
    if text != PROBLEM.solution:
        says = f"a response that was not sampled is trained on as {text!r} where its text is {PROBLEM.solution!r}"
        yield Finding("chat template", "note", says)


def ends(patient: Patient) -> Iterator[Finding]:
    """Which tokens end a response, and whether the files and the chat template agree."""
    if not patient.tokenizer or not patient.folder:
        return
    named = _named_ends(patient.tokenizer, patient.folder)
    shown = [
        f"{token_name(patient.tokenizer, token)} by {', '.join(file for file, ends in named.items() if token in ends)}"
        for token in sorted({token for ends in named.values() for token in ends})
    ]
    yield Finding("end tokens", "ok" if shown else "note", "; ".join(shown) or "the model's files name none")
    closing = patient.tokenizer.turn_end
    if closing is None:
        end = token_name(patient.tokenizer, patient.tokenizer.training_end)
        says = f"the chat template closes a turn with no control token: training rows end with {end}"
        yield Finding("end of turn", "note", says)
    elif any(closing in ends for ends in named.values()):
        says = f"the chat template closes a turn with {token_name(patient.tokenizer, closing)}, which is one of them"
        yield Finding("end of turn", "ok", says)
    else:
        says = (
            f"the chat template closes a turn with {token_name(patient.tokenizer, closing)}, which is none of them: "
            "whoever follows the model's files goes on sampling past the end of the answer. retell stops there, and "
            "trains it"
        )
        remedy = "add it to eos_token_id in generation_config.json of what you serve"
        yield Finding("end of turn", "note", says, remedy)


def _named_ends(tokenizer: ChatTokenizer, folder: Path) -> dict[str, set[int]]:
    """The end tokens that the model's files name, by file."""
    end = tokenizer.tokenizer.eos_token_id
    named = {"the tokenizer": set() if end is None else {int(end)}}
    for file in ("generation_config.json", "config.json"):
        listed = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).is_file() else {}
        ends = listed.get("eos_token_id")
        named[file] = set(ends if isinstance(ends, list) else [ends]) - {None}
    return named
