"""The engines by name: what each needs, which arguments it takes, and how it is opened."""

import inspect
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retell.engines.base import Engine
from retell.engines.recorded import RecordedEngine
from retell.errors import DataError, MissingExtraError, PolicyError, RecipeError
from retell.policy import DTYPES
from retell.recipe import Evaluate, Rewrite
from retell.records import Problem
from retell.tokens import ChatTokenizer

PRECISION = ("dtype", "quantization", "kv_cache_dtype")
"""Engine arguments that change the distribution which is sampled."""
_SHOWN = 12
"""Names of arguments in an error: vLLM's engine takes some two hundred."""


def check_engine(settings: Rewrite | Evaluate, problems: Sequence[Problem] = ()) -> None:
    """Checks what can be checked of an engine and its arguments without opening it; ``problems`` are those to draw for.

    Raises:
        RequestError: it is not installed, something it needs is missing, or an argument is unknown or has a bad value.
    """
    _check_cluster(settings)
    if settings.base_url and settings.engine != "server":
        raise RecipeError(f"base_url is for engine = 'server', and engine = {settings.engine!r}: leave one out")
    if settings.engine == "recorded" and settings.engine_args:
        raise RecipeError(f"engine = 'recorded' takes no engine_args: leave out {', '.join(settings.engine_args)}")
    if settings.engine == "recorded" and not any(problem.candidates for problem in problems):
        raise DataError("engine = 'recorded' needs rows with candidates, and no row has any: use transformers")
    if settings.engine == "server" and not settings.base_url:
        raise RecipeError("engine = 'server' needs to know where: --base-url http://127.0.0.1:8000/v1")
    _check_arguments(settings.engine_args, _arguments_of(settings.engine))
    dtype, rows = settings.engine_args.get("dtype", "auto"), settings.engine_args.get("batch_size", 1)
    if settings.engine == "transformers" and dtype not in DTYPES:
        raise RecipeError(f"engine_args.dtype = {dtype!r}: use one of {', '.join(DTYPES)}")
    if type(rows) is not int or rows < 1:
        raise RecipeError(f"engine_args.batch_size = {rows!r}: it is a number of rows, at least 1")


def _check_cluster(settings: Rewrite | Evaluate) -> None:
    if settings.ray is None:
        if settings.workers is not None:
            raise RecipeError(f"workers = {settings.workers} are those of a cluster: give --ray, or leave them out")
        return
    if settings.engine == "recorded":
        raise RecipeError("engine = 'recorded' draws nothing that a cluster could draw: leave out --ray")
    if find_spec("ray") is None:
        raise MissingExtraError("ray", "ray")


def served_model(settings: Rewrite | Evaluate) -> str:
    """What a policy is called that nothing but a server knows: it answers chats, and its tokens are unknown.

    Raises:
        PolicyError: it has no name.
    """
    name = settings.engine_args.get("served_model")
    if not name:
        raise PolicyError(
            "no policy named: give --model FOLDER, whose tokenizer makes exact prompts, or to sample by chat alone "
            "--engine-args.served-model NAME"
        )
    return f"served:{name}"


def open_engine(
    settings: Rewrite | Evaluate,
    folder: Path | None,
    tokenizer: ChatTokenizer | None,
    problems: Sequence[Problem],
    trust_remote_code: bool,
) -> Engine:
    """The engine a section names, with its own arguments; ``problems`` are those with recorded candidates.

    Raises:
        RequestError: it cannot be opened as asked.
        EngineError: it does not start.
    """
    arguments: dict[str, Any] = dict(settings.engine_args)
    if settings.engine == "recorded":
        return RecordedEngine(problems)
    if settings.engine == "server":
        from retell.engines.server import ServerEngine

        return ServerEngine(settings.base_url, tokenizer, **arguments)
    assert folder and tokenizer
    if settings.engine == "vllm":
        from retell.engines.vllm import VllmEngine

        return VllmEngine(folder, tokenizer, trust_remote_code, **arguments)
    from retell.engines.transformers import TransformersEngine

    return TransformersEngine(folder, tokenizer, trust_remote_code, **arguments)


def _arguments_of(engine: str) -> Iterable[str]:
    if engine == "vllm":
        from retell.engines.vllm import known_arguments

        return known_arguments()
    if engine == "server":
        if find_spec("openai") is None:
            raise MissingExtraError("openai", "server")
        from retell.engines.server import ServerEngine

        return _keywords(ServerEngine)
    if engine == "transformers":
        if find_spec("torch") is None or find_spec("transformers") is None:
            raise MissingExtraError("transformers (with torch)", "local")
        from retell.engines.transformers import TransformersEngine

        return _keywords(TransformersEngine)
    return ()


def _keywords(engine: type) -> list[str]:
    return [name for name, p in inspect.signature(engine).parameters.items() if p.kind is p.KEYWORD_ONLY]


def _check_arguments(given: Iterable[str], known: Iterable[str]) -> None:
    names = sorted(known)
    for name in given:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            some = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
            hint = f"did you mean {near[0]}?" if near else f"known are {some}"
            raise RecipeError(f"unknown key engine_args.{name}: {hint}")
