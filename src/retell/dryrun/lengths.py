"""How long prompts and solutions are on average, from some rows of the data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from retell.dryrun.spans import Mean, Range
from retell.prompts import Prompter
from retell.records import Problem
from retell.tokens import ChatTokenizer

LOOKED_AT = 512
"""Most rows that are tokenised."""
CHARACTERS_A_TOKEN = 4.0, 2.0
"""Of English prose about the one with the tokenizers of today's models; of digits and LaTeX it may be the other."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of a prompt and of an expert's solution, and what they rest on."""

    prompt: Mean
    response: Mean
    rests_on: str

    def together(self, prompts: int = 1, responses: int = 1) -> Mean:
        """Mean tokens of so many prompts and responses together."""
        (p, q), (r, s) = self.prompt, self.response
        return prompts * p + responses * r, prompts * q + responses * s


def unknown_lengths(limit: int) -> Lengths:
    """Those of rows of which nothing is known but that prompt and response together have at most ``limit`` tokens."""
    return Lengths((0, 0), (0, limit), f"how long rows are is unknown: at most {limit:,} tokens each")


def some_of(problems: Sequence[Problem]) -> Sequence[Problem]:
    """At most `LOOKED_AT` of the problems, evenly spaced."""
    return problems[:: -(-len(problems) // LOOKED_AT)]


def by_tokens(problems: Sequence[Problem], prompter: Prompter, tokenizer: ChatTokenizer) -> Lengths:
    """Lengths of training rows as the policy's tokenizer makes them.

    Raises:
        DataError: the chat template does not keep a prompt and its response apart.
    """
    pairs = [tokenizer.training_ids(prompter.conversation(one.problem, one.solution)) for one in problems]
    prompt, response = fmean(len(pair[0]) for pair in pairs), fmean(len(pair[1]) for pair in pairs)
    says = (
        f"a prompt has {prompt:,.0f} and an expert's solution {response:,.0f} tokens: the mean of {len(pairs):,} rows, "
        "counted with the policy's tokenizer"
    )
    return Lengths((prompt, prompt), (response, response), says)


def by_characters(problems: Sequence[Problem]) -> Lengths:
    """Lengths where there is no tokenizer, from those of the texts."""
    prompt, response = fmean(len(one.problem) for one in problems), fmean(len(one.solution) for one in problems)
    few, many = CHARACTERS_A_TOKEN
    says = (
        f"a prompt has {prompt:,.0f} and an expert's solution {response:,.0f} characters: the mean of "
        f"{len(problems):,} rows; a token is taken for {many:g} to {few:g}, without the policy's tokenizer"
    )
    return Lengths((prompt / few, prompt / many), (response / few, response / many), says)


def extrapolated(kept: int, looked_at: int, everything: int) -> Range:
    """How many of all are kept: exact where all were looked at, else within two standard errors of the share."""
    if looked_at == everything:
        return kept, kept
    share = kept / looked_at
    error = 2 * math.sqrt(share * (1 - share) / looked_at)
    return math.floor(everything * max(share - error, 0)), math.ceil(everything * min(share + error, 1))
