"""vLLM in this process: its asynchronous engine, fed one request for each sample.

The policy is the folder and the distribution is the request's: what vLLM would add of its own, from the model's
generation_config.json to penalties, is switched off.
"""

import asyncio
import contextlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import ValidationError

from retell.engines.base import Batches, Take, room
from retell.engines.warden import Warden
from retell.engines.window import drive
from retell.errors import EngineError, MissingExtraError, PolicyError, RecipeError, first_line
from retell.policy import require_same_model
from retell.records import Completion, Request
from retell.tokens import ChatTokenizer

_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would copy retell's threads and locks, and the warden's leash
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
_CPU_CACHE_BYTES = 4 << 30
"""Room for keys and values on a CPU, where vLLM would take nearly all memory."""
# fmt: off
_RETELLS = frozenset((
    # which policy is sampled, and what for
    "model", "model_weights", "tokenizer", "tokenizer_mode", "hf_config_path", "hf_overrides", "model_class_overrides",
    "revision", "code_revision", "tokenizer_revision", "trust_remote_code", "runner", "convert", "served_model_name",
    # what it is sampled from, and what of that is reported
    "generation_config", "override_generation_config", "logits_processors", "logprobs_mode", "max_logprobs", "seed",
    "watermark_config", "diffusion_config", "enable_trace_replay", "speculative_config", "spec_method", "spec_model",
    "spec_tokens",
    # how it is asked, and what else it answers
    "skip_tokenizer_init", "enable_prompt_embeds", "tokens_only", "stream_interval", "shutdown_timeout",
    "max_num_queued_reqs", "max_num_queued_tokens", "max_num_scheduled_tokens", "io_processor_plugin", "pooler_config",
    "return_sampling_mask", "enable_return_routed_experts",
    # where it tells of itself
    "disable_log_stats", "enable_log_requests", "aggregate_engine_logging", "log_level", "log_config_file",
    "logging_config",
))
"""Arguments of vLLM's engine that retell sets itself, or leaves out because a sample would not be the policy's own."""
# fmt: on


class VllmEngine:
    """Continuous batching with a seed per request; the window of requests in flight is wider than what runs at once.

    Args:
        folder: the policy's model folder.
        tokenizer: the policy's tokenizer.
        trust_remote_code: whether code that comes with the model may run.
        window: requests in flight; twice what the engine runs at once by default, so that its queue never runs dry.
        arguments: arguments of vLLM's engine, see `known_arguments`.

    Raises:
        MissingExtraError: vLLM is not installed.
        RecipeError: an argument has a bad value.
        PolicyError: vLLM cannot run this model.
        EngineError: the engine does not start.
    """

    draws = True

    def __init__(
        self,
        folder: Path,
        tokenizer: ChatTokenizer,
        trust_remote_code: bool = False,
        *,
        window: int | None = None,
        **arguments: Any,
    ) -> None:
        if window is not None and (type(window) is not int or window < 1):
            raise RecipeError(f"engine_args.window = {window!r}: it is a number of requests, at least 1")
        self.faults: Counter[str] = Counter()
        self._folder = folder
        self._tokenizer = tokenizer
        self._trust_remote_code = trust_remote_code
        self._arguments = arguments
        self._failed = False
        self._numbers = count()
        self._held = contextlib.ExitStack()
        try:
            self._warden = Warden("vllm")
            self._held.callback(lambda: self._warden.close(keep=self._failed))
            self._loop = asyncio.new_event_loop()
            self._held.callback(self._loop.close)
            self._open(folder)
            self._held.enter_context(_logging_to(self._warden.log))
            self._held.callback(self._stop)
        except BaseException:
            self.close()
            raise
        self.context: int | None = self._config.model_config.max_model_len
        at_once = self._config.scheduler_config.max_num_seqs * self._config.parallel_config.data_parallel_size
        self._window = window or 2 * at_once
        # What goes wrong in tasks that nobody waits for any more is for the log.
        self._loop.set_exception_handler(lambda _, context: logging.getLogger("vllm").error("%s", context))

    def sample(self, take: Take) -> Batches:
        """Keeps the window full and yields completions as they finish."""
        return drive(take, self._complete, lambda: self._window, self._loop)

    def load(self, folder: Path) -> None:
        """Has vLLM reload its weights in place, or, where it would not reload all of them, starts it anew.

        Started anew are quantised models, of which a reload is untried here; and on a CPU models with tied embeddings:
        vLLM has packed these for the head, and a reload leaves the packed copy as it was.

        Raises:
            PolicyError: the folder holds another model, or cannot be read; nothing has changed then.
            EngineError: vLLM failed at it, and is stopped.
        """
        require_same_model(folder, self._folder, self._trust_remote_code)
        if _reloads(self._config.model_config):
            self._loop.run_until_complete(self._reload(folder))
        else:
            self._stop()
            self._open(folder)
        self._folder = folder

    def close(self) -> None:
        """Ends the engine's processes and waits until they are gone."""
        self._held.close()

    def _open(self, folder: Path) -> None:
        with _environment(), self._warden.capturing():
            self._config = _configure(folder, self._trust_remote_code, self._arguments)
            self._llm = self._start(self._config)

    def _start(self, config: Any) -> Any:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            return AsyncLLM.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=True)
        except Exception as error:
            raise self._failure("vllm does not start", self._warden.cause() or first_line(error)) from error

    async def _reload(self, folder: Path) -> None:
        try:
            await self._llm.pause_generation(mode="abort", clear_cache=True)
            await self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            await self._llm.resume_generation()
        except Exception as error:
            self._llm.shutdown()  # nobody knows which weights it has
            cause = self._warden.cause() or first_line(error)
            raise self._failure(f"vllm has not taken over the weights in {folder}", cause) from error

    def _stop(self) -> None:
        """Shuts vLLM down, if it runs, and lets its tasks end in their loop."""
        if self._llm is not None:
            self._llm.shutdown()
        self._llm = None  # its destructor must not find a Python that is half gone
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.wait(left) if left else asyncio.sleep(0))

    async def _complete(self, request: Request) -> Completion:
        from vllm.inputs import tokens_input

        if not request.prompt.ids:
            raise EngineError(f"the prompt of {request.problem} has no token ids: it was built without a tokenizer")
        parameters = self._parameters(request)
        prompt = tokens_input(list(request.prompt.ids))
        try:
            (answer,) = [part async for part in self._llm.generate(prompt, parameters, str(next(self._numbers)))]
        except Exception as error:
            if not self._llm.errored:
                return self._refused("refused", first_line(error))
            cause = self._warden.cause() or "one of its processes was killed, as happens when memory runs out"
            cause = f"{cause.rstrip('.')}; what was drawn is stored: start again"
            raise self._failure("vllm has stopped", cause) from error
        output = answer.outputs[0]
        if output.finish_reason not in ("stop", "length"):
            return self._refused("unfinished", f"vllm gave it up: {output.finish_reason}")
        return self._completion(request, tuple(output.token_ids), tuple(output.logprobs.logprobs))

    def _parameters(self, request: Request) -> Any:
        """Every parameter that bears on the distribution, so that no default counts."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        try:
            parameters = SamplingParams(
                n=1,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,
                min_p=0.0,
                presence_penalty=0.0,
                frequency_penalty=0.0,
                repetition_penalty=1.0,
                seed=request.seed,
                max_tokens=room(request, self.context),
                min_tokens=0,
                # A response ends where the tokenizer's turn ends, whatever vLLM takes for the end of a sequence.
                stop_token_ids=sorted(self._tokenizer.end_ids),
                ignore_eos=True,
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
        except Exception as error:
            raise RecipeError(f"vllm cannot sample so: {first_line(error)}") from error
        if parameters.temperature != sampling.temperature:
            raise RecipeError(
                f"temperature = {sampling.temperature}: vllm would take {parameters.temperature}; use that, or 0"
            )
        return parameters

    def _completion(self, request: Request, ids: tuple[int, ...], logprobs: tuple[float, ...]) -> Completion:
        if not all(map(math.isfinite, logprobs)):
            raise EngineError("the logits are not finite: use engine_args.dtype = 'bfloat16' or 'float32'")
        if request.sampling.temperature == 0:
            # Greedy decoding draws from a point mass; vLLM reports the log-probs that the token has at temperature 1.
            logprobs = (0.0,) * len(ids)
        ended = ids[-1] in self._tokenizer.end_ids
        return Completion(self._tokenizer.decode(ids), ids, logprobs, "stop" if ended else "length")

    def _refused(self, fault: str, cause: str) -> Completion:
        self.faults[fault] += 1
        return Completion("", None, None, "error", cause, lasting=fault == "refused")

    def _failure(self, what: str, cause: str) -> EngineError:
        self._failed = True
        return EngineError(f"{what}: {cause} (its log: {self._warden.log})")


def known_arguments() -> frozenset[str]:
    """Names of the arguments that `VllmEngine` takes by keyword: its own, and those of vLLM's engine that are free.

    Raises:
        MissingExtraError: vLLM is not installed.
        EngineError: it cannot be imported.
    """
    warden = Warden("vllm")
    try:
        with _environment(), warden.capturing():
            arguments = _engine_arguments()
    finally:
        warden.close(keep=False)
    names = {field.name for field in fields(arguments) if not field.name.startswith("_")}
    return frozenset(names - _RETELLS | {"window"})


def _engine_arguments() -> Any:
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:  # a mere folder of that name has no origin
        raise MissingExtraError("vllm", "vllm")
    try:
        from vllm import AsyncEngineArgs
    except Exception as error:
        raise EngineError(f"vllm cannot be imported: {first_line(error)}; install it anew") from error
    return AsyncEngineArgs


def _configure(folder: Path, trust_remote_code: bool, arguments: Mapping[str, Any]) -> Any:
    """vLLM's configuration for this policy.

    Raises:
        RecipeError: an argument has a bad value.
        PolicyError: vLLM cannot run this model, or not so.
    """
    engine_arguments = _engine_arguments()
    _check_kinds(engine_arguments, arguments)
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    chosen: dict[str, Any] = {"load_format": "safetensors", **arguments}
    if chosen.get("dtype", "auto") == "auto":
        chosen["dtype"] = _stored_dtype(folder)
    if current_platform.is_cpu():
        chosen |= _on_cpu(arguments)
    try:
        return engine_arguments(
            model=str(folder),
            trust_remote_code=trust_remote_code,
            generation_config="vllm",  # of nobody: what the model's own file says is not read
            logprobs_mode="processed_logprobs",  # of the distribution that sampled
            disable_log_stats=True,
            **chosen,
        ).create_engine_config(UsageContext.LLM_CLASS)
    except ValidationError as error:
        first = error.errors()[0]
        names = [str(part) for part in first["loc"] if part in arguments]
        if names:
            raise RecipeError(f"engine_args.{names[0]} = {arguments[names[0]]!r}: {first['msg']}") from error
        raise PolicyError(f"vllm cannot run {folder}: {first['msg'].removeprefix('Value error, ')}") from error
    except Exception as error:
        raise PolicyError(f"vllm cannot run {folder}: {first_line(error)}") from error


def _reloads(model_config: Any) -> bool:
    """Whether vLLM's reload in place can be relied on for this model; see `VllmEngine.load`."""
    from vllm.platforms import current_platform

    configs = (model_config.hf_config, model_config.hf_text_config)
    tied = any(getattr(config, "tie_word_embeddings", False) for config in configs)
    return model_config.quantization is None and not (tied and current_platform.is_cpu())


def _check_kinds(engine_arguments: Any, arguments: Mapping[str, Any]) -> None:
    """vLLM checks most values itself, but some only where it comes to use them.

    Raises:
        RecipeError: an argument is no number, or not true or false, where it can be nothing else.
    """
    for field in fields(engine_arguments):
        kinds = set(get_args(field.type) or (field.type,)) - {NoneType}
        given = arguments.get(field.name)
        if (
            given is not None
            and kinds <= _KINDS.keys()
            and type(given) not in kinds | ({int} if float in kinds else set())
        ):
            wanted = " or ".join(_KINDS[kind] for kind in _KINDS if kind in kinds)
            raise RecipeError(f"engine_args.{field.name} = {given!r}: it is {wanted}")


def _stored_dtype(folder: Path) -> str:
    """``auto`` means as stored, here as elsewhere; vLLM's own would round a model that is stored in float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    dtypes = {part.get(name) for part in (config, text) for name in ("dtype", "torch_dtype")}
    return "float32" if "float32" in dtypes else "auto"


def _on_cpu(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What differs on a CPU.

    A generator there cannot be wound back, as vLLM's runner does with the number it draws after each piece of a prompt
    but the last. So a prompt is read in one piece: it waits for a step with room, and a step has room for the longest;
    also where its sequence was set aside for want of memory and is read again.
    """
    for name in ("enable_chunked_prefill", "long_prefill_token_threshold"):
        if arguments.get(name):
            raise RecipeError(
                f"engine_args.{name} = {arguments[name]!r}: on a CPU vllm cannot read a prompt in pieces and keep to a "
                "sample's seed; leave it out"
            )
    special: dict[str, Any] = {"enable_chunked_prefill": False}
    sized = "kv_cache_memory_bytes" in arguments or "gpu_memory_utilization" in arguments
    if not sized and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        special["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    return special


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What vLLM is to find in the environment when it starts, where the user has not said otherwise.

    Afterwards the environment is as it was: what vLLM leaves there, such as LD_PRELOAD and LOCAL_WORLD_SIZE, is not
    meant for graders and training.
    """
    before = dict(os.environ)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _logging_to(log: Path) -> Iterator[None]:
    """What vLLM's part in this process has to say goes where its processes write."""
    logger, handler = logging.getLogger("vllm"), logging.FileHandler(log, encoding="utf-8")
    logger.handlers = [handler]
    try:
        yield
    finally:
        logger.handlers = [logging.NullHandler()]  # tasks that are collected later still complain
        handler.close()
