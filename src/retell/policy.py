"""The policy's folder: found, identified and loaded."""

import json
import logging
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from retell.errors import MissingExtraError, PolicyError, first_line
from retell.hashing import digest, file_digest
from retell.recipe import Policy, located

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_NEEDED = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]
_TWICE = ["consolidated*", "original/*"]
"""The same weights again in another layout."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
_PEEK = 4096
# fmt: off
_INCIDENTAL = frozenset((
    "_name_or_path", "auto_map", "bos_token_id", "dtype", "eos_token_id", "pad_token_id", "torch_dtype",
    "transformers_version", "use_cache",
))
# fmt: on
"""Keys of a configuration that bear on no logit, and that training or another version of transformers may change."""
_DERIVED = "rotary_emb.inv_freq"
"""What some checkpoints store beside their weights, though it follows from the configuration."""


def resolve_policy(policy: Policy) -> Path:
    """The local folder of the policy's model; a hub id is downloaded (safetensors only).

    Raises:
        PolicyError: no model is named, or it is neither a folder nor a hub id that can be had.
    """
    if not policy.model:
        raise PolicyError("no policy named: give --model FOLDER (or a Hugging Face id)")
    name = located(policy.model)
    folder = Path(name)
    if os.path.isdir(folder):  # unlike Path's, never raises
        if not (folder / "config.json").is_file():
            raise PolicyError(f"{folder} is no Hugging Face model folder: it has no config.json")
        return folder
    if folder.is_absolute() or name.count("/") != 1 or name.startswith("."):
        raise PolicyError(f"there is no model folder {name}: check --model")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "local") from error
    try:
        needed = [*_NEEDED, "*.py"] if policy.trust_remote_code else _NEEDED
        return Path(snapshot_download(name, revision=policy.revision, allow_patterns=needed, ignore_patterns=_TWICE))
    except Exception as error:
        raise PolicyError(
            f"cannot get the model {name}: there is no such folder here, and the hub says: {first_line(error)}"
        ) from error


def fingerprint(folder: Path) -> str:
    """Identifies a model folder by content, wherever it lies.

    Configuration, tokenizer and templates count in full; of the weights each file's header and the first 4 KiB of every
    tensor, since training changes every tensor and hashing hundreds of gigabytes at each start would be absurd.
    """
    parts: list[tuple[str, str]] = []
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            parts.append((path.name, _weights_digest(path)))
        elif path.suffix in {".json", ".jinja", ".txt", ".model", ".py"}:
            parts.append((path.name, file_digest(path)))
    return digest("policy", parts)


def _weights_digest(path: Path) -> str:
    with path.open("rb") as file:
        header = _header(file)
        start = file.tell()
        peeks: list[tuple[str, str]] = []
        for name in sorted(header):
            begin, end = header[name]["data_offsets"]
            file.seek(start + begin)
            peeks.append((name, file.read(min(_PEEK, end - begin)).hex()))
    return digest(header, peeks)


def _header(file: BinaryIO) -> dict[str, Any]:
    """The tensors of a safetensors file by name; the file stands where their data begin."""
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    except (struct.error, ValueError, MemoryError, OverflowError) as error:
        raise PolicyError(f"{file.name} is no safetensors file: {first_line(error)}") from error
    header.pop("__metadata__", None)
    return header


def require_same_model(folder: Path, known: Path, trust_remote_code: bool) -> None:
    """Checks that a folder holds another checkpoint of a known model: the same but for the values of its weights.

    Raises:
        PolicyError: its configuration, or a name or a shape of its weights, is another; or it cannot be read.
    """
    parts, wanted = (_parts(one, trust_remote_code) for one in (folder, known))
    for name in sorted(parts.keys() | wanted.keys()):
        if parts.get(name) != wanted.get(name):
            raise PolicyError(
                f"{folder} holds another model than {known}: its {name} is {parts.get(name, 'missing')}, not "
                f"{wanted.get(name, 'missing')}; give a checkpoint of the same model"
            )


def _parts(folder: Path, trust_remote_code: bool) -> dict[str, object]:
    """What makes a model, by name: values of its configuration and shapes of its weights."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).to_dict()
        index = folder / "model.safetensors.index.json"
        single = not index.is_file()
        shards = (
            ["model.safetensors"] if single else json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        )
        shapes: dict[str, object] = {}
        for shard in set(shards):
            with (folder / shard).open("rb") as file:
                shapes |= {name: tensor["shape"] for name, tensor in _header(file).items()}
    except PolicyError:
        raise
    except Exception as error:
        raise PolicyError(f"cannot read the model in {folder}: {first_line(error)}") from error
    if config.get("tie_word_embeddings"):
        shapes.pop("lm_head.weight", None)
    weights = {name: shape for name, shape in shapes.items() if not name.endswith(_DERIVED)}
    return _essential(config) | weights


def _essential(config: dict[str, Any]) -> dict[str, object]:
    return {
        name: _essential(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in _INCIDENTAL
    }


def load_model(folder: Path, dtype: str, device: str, trust_remote_code: bool) -> "PreTrainedModel":
    """Loads the policy for inference or training; safetensors only, the model's own code only if trusted.

    Raises:
        PolicyError: transformers cannot load the folder.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers (with torch)", "local") from error
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
        cast("torch.nn.Module", model).to(device)
        return cast("PreTrainedModel", model)
    except Exception as error:
        raise PolicyError(f"cannot load the model in {folder}: {first_line(error)}") from error


def default_device() -> str:
    """The accelerator if there is one, else the processor."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
