"""The patient, a finding, and what the checks share.

A check looks at the patient, notes on it what later ones need, and yields findings. One that fails is a finding itself
and keeps no other from being made; a check that lacks what an earlier one did not find has nothing to say.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from retell.errors import RetellError, first_line
from retell.recipe import Policy, Rewrite
from retell.records import Completion, Problem, Prompt
from retell.tokens import ChatTokenizer

State = Literal["ok", "note", "wrong"]
PROBLEM = Problem("doctor", "What is 3 + 4?", "7", "3 + 4 = 7. The answer is \\boxed{7}.", "doctor", ("\\boxed{7}",))


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do, where there is something to do."""

    what: str
    state: State
    says: str
    remedy: str = ""


@dataclass(slots=True)
class Patient:
    """What is examined, and what the checks have learnt of it."""

    policy: Policy
    settings: Rewrite
    folder: Path | None = None
    tokenizer: ChatTokenizer | None = None
    prompt: Prompt | None = None
    rendered: str | None = None
    ready: bool = False
    """Whether the engine can be opened with these options, as far as they tell."""
    servers: list[str] = field(default_factory=list)
    """Those that answer."""
    reply: Completion | None = None
    plain: list[tuple[str, Completion]] = field(default_factory=list)
    """Samples at temperature 1 and top_p 1, by what they are of."""

    @property
    def engine(self) -> str | None:
        """The engine that is asked for, by name or by naming what only an engine wants."""
        named = self.settings.model_fields_set & {"engine", "engine_args", "base_url"}
        return self.settings.engine if named or self.policy.model else None

    @property
    def weights(self) -> list[Path]:
        """The model's safetensors files."""
        return sorted(self.folder.glob("*.safetensors")) if self.folder else []


Check = Callable[[Patient], Iterator[Finding]]
"""A generator of findings; later checks see what it noted on the patient."""


def guarded(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings, the last of which says why there are no more, if that is an error."""
    try:
        yield from findings
    except RetellError as error:
        yield Finding(what, "wrong", str(error))
    except Exception as error:
        yield Finding(what, "wrong", f"{type(error).__name__}: {first_line(error)}")


def say(line: str) -> None:
    """Tells what takes a while."""
    print(f"retell: {line} …", file=sys.stderr, flush=True)


def installed_version(package: str) -> str:
    """Name and version of an installed package, or of its build for CPUs; empty if there is none."""
    for name in (package, f"{package}-cpu"):
        with suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    return ""


def size_of(files: Sequence[Path]) -> int:
    """Bytes of some files."""
    return sum(file.stat().st_size for file in files)


def token_name(tokenizer: ChatTokenizer, token: int) -> str:
    """A token as it is spelled, and its id."""
    return f"{tokenizer.tokenizer.convert_ids_to_tokens(token)!r} ({token})"
