"""The Hugging Face hub without a network: what is in its caches is found, and nothing is asked for."""

import contextlib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keeps the hub's libraries off the network while the block runs, whatever the environment says."""
    # Each reads HF_HUB_OFFLINE once, when it is imported, and `datasets` copies what it finds there.
    modules = [
        import_module(f"{library}.{module}")
        for library, module in (("huggingface_hub", "constants"), ("datasets", "config"))
        if find_spec(library)
    ]
    before = [vars(module)["HF_HUB_OFFLINE"] for module in modules]
    try:
        for module in modules:
            vars(module)["HF_HUB_OFFLINE"] = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            vars(module)["HF_HUB_OFFLINE"] = value


def wants_network(error: BaseException | None) -> bool:
    """Whether an error comes of a connection that was not to be had."""
    while error is not None:
        if isinstance(error, ConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False
