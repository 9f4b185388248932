"""The options, and the model's folder."""

from collections.abc import Iterator

from retell.checks.base import PROBLEM, Finding, Patient, State, installed_version, say, size_of
from retell.checks.installation import PARTS
from retell.engines.named import check_engine, served_model
from retell.errors import PolicyError
from retell.policy import fingerprint, resolve_policy
from retell.tokens import ChatTokenizer


def options(patient: Patient) -> Iterator[Finding]:
    """Whether the engine takes the options."""
    packages = next((packages for what, packages, _ in PARTS if what == f"engine {patient.engine}"), None)
    if packages is None or not all(map(installed_version, packages)):
        return
    if patient.engine == "vllm":
        say("importing vllm")
    check_engine(patient.settings, (PROBLEM,))
    patient.ready = True
    if patient.engine == "server" and not patient.policy.model:
        served_model(patient.settings)
    yield Finding("options", "ok", f"engine {patient.engine} takes them")


def model(patient: Patient) -> Iterator[Finding]:
    """Finds the model's folder and identifies it."""
    if not patient.policy.model:
        return
    say(f"looking for {patient.policy.model}")
    patient.folder = resolve_policy(patient.policy)
    files = patient.weights
    if files:
        yield Finding("model", "ok", f"{patient.folder}: {size_of(files) / 1e6:,.1f} MB in {len(files)} file(s)")
    else:
        state: State = "wrong" if patient.engine in ("transformers", "vllm") else "note"
        says = f"{patient.folder} holds no weights as *.safetensors, and no others are read"
        yield Finding("model", state, says, "download them, or load and save the model with transformers")
    yield Finding("fingerprint", "ok", fingerprint(patient.folder))


def tokenizer(patient: Patient) -> Iterator[Finding]:
    """Loads the tokenizer."""
    if patient.folder is None:
        return
    say("loading the tokenizer")
    patient.tokenizer = ChatTokenizer(patient.folder, patient.policy.trust_remote_code)
    tokenizer = patient.tokenizer.tokenizer
    yield Finding("tokenizer", "ok", f"{type(tokenizer).__name__}, {len(tokenizer)} tokens")


def configuration(patient: Patient) -> Iterator[Finding]:
    """What the model's configuration says, as far as an engine minds."""
    if patient.folder is None or not all(map(installed_version, ("torch", "transformers"))):
        return
    from transformers import AutoConfig

    from retell.engines.transformers import require_full_attention

    trusted = patient.policy.trust_remote_code
    config = AutoConfig.from_pretrained(patient.folder, trust_remote_code=trusted).get_text_config(decoder=True)
    context = getattr(config, "max_position_embeddings", None)
    dtype = str(config.dtype or "unknown precision").removeprefix("torch.")
    room = f"context of {context} tokens" if context else "context not given"
    yield Finding("configuration", "ok", f"{config.model_type}, {room}, {dtype}")
    try:
        require_full_attention(config)
    except PolicyError as error:
        yield Finding("layers", "wrong" if patient.engine == "transformers" else "note", str(error))
