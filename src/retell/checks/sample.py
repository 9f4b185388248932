"""One short sample, and whether its log-probs are those of the policy."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing

from retell.checks.base import PROBLEM, Finding, Patient, guarded, installed_version, say, size_of, token_name
from retell.engines.base import Engine
from retell.engines.named import open_engine
from retell.errors import EngineError
from retell.hashing import seed_of
from retell.policy import default_device, load_model
from retell.recipe import Rewrite
from retell.records import Completion, Prompt, Request, Sampling

LONGEST = 64
"""Most tokens of the sample that is drawn."""
PATIENCE_SECONDS = 120.0
"""How long an engine that is busy with nothing else may take for it."""
LARGE = 2e9
"""Bytes of weights that are not loaded a second time on a processor."""
CLOSE, FAR = 0.1, 0.5
"""Mean distance of log-probs per token: 16-bit arithmetic stays below the one, another model is beyond the other."""


def sample(patient: Patient) -> Iterator[Finding]:
    """Draws one short sample as asked, and one plain one where that differs."""
    if patient.prompt is None or not patient.ready:
        return
    if patient.engine == "recorded":
        yield Finding("sample", "ok", "none is drawn: the engine recorded hands out what the rows hold")
    elif patient.engine == "server":
        for url in patient.servers:
            settings = patient.settings.model_copy(update={"base_url": (url,)})
            yield from guarded("sample", _sample_of(patient, settings, f"{url}: "))
    elif patient.tokenizer is None:
        yield Finding("sample", "note", "none is drawn without a model", "give --model")
    else:
        yield from _sample_of(patient, patient.settings, "")


def _sample_of(patient: Patient, settings: Rewrite, source: str) -> Iterator[Finding]:
    """Draws as asked, and once more at temperature 1, where log-probs can be compared with a forward pass."""
    assert patient.prompt
    say(f"opening the engine {settings.engine}")
    opened = open_engine(settings, patient.folder, patient.tokenizer, (), patient.policy.trust_remote_code)
    with closing(opened) as engine:
        room = LONGEST if engine.context is None else engine.context - len(patient.prompt.ids or ())
        if room < 1:
            yield Finding("sample", "wrong", f"{source}the prompt alone fills the context of {engine.context} tokens")
            return
        longest = min(LONGEST, settings.max_tokens, room)
        asked, plain = Sampling(settings.temperature, settings.top_p, longest), Sampling(1.0, 1.0, longest)
        replies = _draw(engine, patient.prompt, list(dict.fromkeys((asked, plain))), settings.seed)
        faults = _faults(engine)
    if faults:
        yield Finding("sample", "note", f"{source}faults on the way: {faults}")
    if replies[0].stop == "error":
        yield Finding("sample", "wrong", f"{source}{replies[0].error}")
        return
    patient.reply = patient.reply or replies[0]
    if replies[-1].ids and replies[-1].logprobs:
        patient.plain.append((source, replies[-1]))
    yield from _judge(patient, source, replies[0])


def _draw(engine: Engine, prompt: Prompt, samplings: Sequence[Sampling], seed: int) -> list[Completion]:
    """One completion for each of the samplings."""
    requests = [
        Request(f"doctor-{index}", PROBLEM.id, "self", 0, index, prompt, sampling, seed_of("doctor", seed))
        for index, sampling in enumerate(samplings)
    ]
    queue = deque(requests)
    drawn: dict[str, Completion] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS

    def take(room: int, idle: bool) -> list[Request]:
        return [queue.popleft() for _ in range(min(room, len(queue)))]

    # Closed before the engine is, so that what is in flight is called off.
    with closing(engine.sample(take)) as batches:
        for batch in batches:
            drawn |= {request.key: completion for request, completion in batch}
            if time.monotonic() > deadline:
                break
    if len(drawn) < len(requests):
        raise EngineError(f"no sample within {PATIENCE_SECONDS:g} s; faults on the way: {_faults(engine) or 'none'}")
    return [drawn[request.key] for request in requests]


def _faults(engine: Engine) -> str:
    return ", ".join(f"{name} ({n})" for name, n in engine.faults.items())


def _judge(patient: Patient, source: str, reply: Completion) -> Iterator[Finding]:
    """What a reply shows of the source it is from."""
    counted = source + ("a text" if reply.tokens is None else f"{reply.tokens} tokens")
    if reply.stop == "stop":
        end = end_of(patient, reply)
        yield Finding("sample", "ok", f"{counted}, ended by itself{f' with {end}' if end else ''}")
    else:
        remedy = (
            "a response that retell rewrite cuts for its length is never correct: see the end tokens and max_tokens"
        )
        yield Finding("sample", "note", f"{counted}, cut here for its length", remedy)
    if reply.ids is None:
        says = f"{source}gives none, and no log-probs: nothing but the text is known"
        yield Finding("token ids", "note", says, "a vLLM server gives them, if --model names the policy")
        return
    yield Finding("token ids", "ok", f"{source}as they were sampled")
    if reply.logprobs:
        yield Finding("log-probs", "ok", f"{source}of the distribution that is sampled")
    else:
        how = f"temperature {patient.settings.temperature:g} and top_p {patient.settings.top_p:g}"
        says = f"{source}gives none of the distribution that is sampled at {how}"
        yield Finding("log-probs", "note", says, "start vLLM with --logprobs-mode processed_logprobs")


def end_of(patient: Patient, reply: Completion) -> str | None:
    """The token that ended a reply, where it is known."""
    last = reply.ids[-1] if reply.ids else None
    tokenizer = patient.tokenizer
    return token_name(tokenizer, last) if tokenizer and last is not None and last in tokenizer.end_ids else None


def logprobs(patient: Patient) -> Iterator[Finding]:
    """Compares the samples' log-probs with those of the policy's own forward pass."""
    if not (patient.plain and patient.folder and patient.prompt and patient.weights and installed_version("torch")):
        return
    if size_of(patient.weights) > LARGE and default_device() == "cpu":
        says = "not compared with a forward pass: the model is large, and there is no accelerator"
        yield Finding("log-probs", "note", says)
        return
    say("comparing log-probs with a forward pass")
    from retell.logprobs import row_logprobs

    model = load_model(patient.folder, "auto", default_device(), patient.policy.trust_remote_code).eval()
    pairs = [(patient.prompt.ids or (), reply.ids or ()) for _, reply in patient.plain]
    for number, own in row_logprobs(model, pairs):
        source, reply = patient.plain[number]
        apart = [abs(one - other) for one, other in zip(own, reply.logprobs or (), strict=True)]
        yield _compared(source, sum(apart) / len(apart), max(apart))


def _compared(source: str, mean: float, most: float) -> Finding:
    says = f"{source}at temperature 1 {mean:.1g} per token, {most:.1g} at most, from a forward pass of --model"
    if mean <= CLOSE:
        return Finding("log-probs", "ok", says)
    if mean <= FAR:
        return Finding(
            "log-probs", "note", says, "is it another precision or quantisation, or are these other weights?"
        )
    return Finding("log-probs", "wrong", says, "another model is sampled: correct --model, or what is served")
