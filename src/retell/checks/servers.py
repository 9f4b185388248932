"""The servers: what each serves, and how it reads a prompt."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from retell.checks.base import Finding, Patient, guarded
from retell.errors import EngineError

if TYPE_CHECKING:
    from retell.engines.endpoint import Key
    from retell.engines.replies import Reply

ANSWER_SECONDS = 30.0


def servers(patient: Patient) -> Iterator[Finding]:
    """Asks each server."""
    if patient.engine == "server" and patient.ready:
        for url in patient.settings.base_url:
            yield from guarded("server", _server(patient, url))


def _server(patient: Patient, url: str) -> Iterator[Finding]:
    from retell.engines.endpoint import Key, address
    from retell.engines.replies import Fault, read_models

    at = address(url)
    key = Key(str(patient.settings.engine_args.get("api_key_env", "OPENAI_API_KEY")))
    wanted = patient.settings.engine_args.get("served_model")
    try:
        models = read_models(_ask(at, key, "/models"))
    except Fault as fault:
        if not fault.name.startswith("4"):
            says = f"{at} does not answer: {key.plain(str(fault))}"
            yield Finding("server", "wrong", says, "start it, or correct --base-url")
            return
        models = {}
    patient.servers.append(at)
    if not models:
        yield Finding("server", "note", f"{at} answers, and does not list its models")
    else:
        listed = ", ".join(f"{name} (context of {length or 'unknown'} tokens)" for name, length in models.items())
        yield Finding("server", "ok", f"{at} serves {key.plain(listed)}")
    model = str(wanted) if wanted else next(iter(models)) if len(models) == 1 else None
    if model and patient.rendered:
        yield _tokenisation(patient, at, key, model)


def _tokenisation(patient: Patient, at: str, key: "Key", model: str) -> Finding:
    """Compares the prompt's token ids with those that the server makes of the same text, if it can be asked."""
    from retell.engines.replies import Fault

    assert patient.prompt and patient.prompt.ids
    posted: dict[str, object] = {"model": model, "prompt": patient.rendered, "add_special_tokens": False}
    try:
        ids = _ask(at, key, at.removesuffix("/v1") + "/tokenize", posted).get("tokens")
    except (Fault, EngineError):
        ids = None
    if not isinstance(ids, list) or not ids:
        return Finding("tokenisation", "note", f"{at} does not tell which token ids it makes of a prompt")
    if ids == list(patient.prompt.ids):
        return Finding("tokenisation", "ok", f"{at} makes the same {len(ids)} token ids of the prompt")
    says = f"{at} makes {len(ids)} token ids of the prompt, which are not the {len(patient.prompt.ids)} of --model"
    return Finding("tokenisation", "wrong", says, "serve the model that --model names, or name the one that is served")


def _ask(at: str, key: "Key", path: str, posted: dict[str, object] | None = None) -> "Reply":
    """What a server answers to one call.

    Raises:
        Fault: nothing that can be used.
        EngineError: the API key is refused.
    """
    from retell.engines.endpoint import Endpoint
    from retell.engines.replies import Fault

    async def ask() -> "Reply":
        endpoint = Endpoint(at, 1, key)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await endpoint.call(path, posted)
        except TimeoutError:
            raise Fault("timeout", f"no reply within {ANSWER_SECONDS:g} s") from None
        finally:
            await endpoint.close()

    return asyncio.run(ask())
