"""The records that cross a boundary between two parts: frozen and typed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from retell.hashing import digest

Rung = Literal["self", "guided", "expert"]
Outcome = Literal["correct", "wrong", "undecided"]
Stop = Literal["stop", "length", "error"]
Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with the gold answer to judge by and the expert's solution."""

    id: str
    problem: str
    answer: str
    solution: str
    source: str
    candidates: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """An input row that cannot be used: where it stood, why, and what of it could be read."""

    where: str
    reason: str
    detail: str
    id: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters; always sent to the engine in full, so that no default of its own applies."""

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat prompt: its messages and, where the policy's tokenizer is at hand, the exact token ids."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...] | None

    def digest(self) -> str:
        """Identifies what the policy is really shown."""
        return digest("ids", self.ids) if self.ids is not None else digest("messages", self.messages)


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw. ``key`` names it in the journal; ``seed`` belongs to it alone."""

    key: str
    problem: str
    rung: str
    round: int
    index: int
    prompt: Prompt
    sampling: Sampling
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine returns for a request.

    ``ids`` include the end token that was sampled. ``logprobs`` are those of the distribution that sampled (temperature
    and top_p applied), one per id, or None; never of another distribution. ``usage`` is how many tokens a source that
    gives no ids says it has generated. ``error`` says why nothing was drawn, where ``stop`` is ``error``; it is
    ``lasting`` if it lies in the request, so that another try would meet it again.
    """

    text: str
    ids: tuple[int, ...] | None
    logprobs: tuple[float, ...] | None
    stop: Stop
    error: str | None = None
    usage: int | None = None
    lasting: bool = False

    @property
    def tokens(self) -> int | None:
        """How many tokens were generated, if that is known."""
        return len(self.ids) if self.ids is not None else self.usage


@dataclass(frozen=True, slots=True)
class Sample:
    """A stored completion under its key."""

    key: str
    problem: str
    rung: str
    round: int
    index: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grader's judgement of one response; ``undecided`` is neither silently wrong nor ever correct."""

    outcome: Outcome
    extracted: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sample together with its verdict."""

    sample: Sample
    verdict: Verdict

    @property
    def drawn(self) -> bool:
        """Whether it is a sample at all, and not a request that the engine failed on."""
        return self.sample.completion.stop != "error"

    @property
    def correct(self) -> bool:
        """Whether the response ended by itself and was judged correct."""
        return self.verdict.outcome == "correct" and self.sample.completion.stop == "stop"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of ``rewritten.parquet``; the fields are its columns.

    ``verdict`` is that of the kept response; None where the expert's text was kept, which nobody graded.
    """

    id: str
    source: str
    problem: str
    answer: str
    solution: str
    rung: Rung
    response: str
    messages: Sequence[Message]
    response_token_ids: tuple[int, ...] | None
    behaviour_logprobs: tuple[float, ...] | None
    samples_self: int
    correct_self: int
    samples_guided: int
    correct_guided: int
    verdict: Outcome | None
    policy: str | None
    seed: int


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One training row as token ids; the response ends with the end token.

    ``rung`` says whose text it is; ``behaviour`` has the log-prob of each response token under the distribution that
    drew it, where that is known.
    """

    id: str
    rung: Rung
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    behaviour: tuple[float, ...] | None = None
