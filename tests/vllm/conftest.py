"""An engine for the tests of this folder, which are skipped where vLLM is not installed."""

import gc
import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedModel

import retell
from retell.engines.vllm import VllmEngine
from retell.policy import load_model
from retell.tokens import ChatTokenizer

HERE = Path(__file__).parent
TINY = Path(retell.__file__).parent / "tiny"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    spec = find_spec("vllm")
    installed = spec is not None and spec.origin is not None  # this folder is no vllm, though it has its name
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # vLLM and what it imports warn of much
            if not installed:
                item.add_marker(pytest.mark.skip(reason="vllm is not installed: make test-vllm"))


@pytest.fixture(scope="session", autouse=True)
def _tidy() -> Iterator[None]:
    """vLLM leaves contexts of sockets to the garbage collector, which warns of each; here nobody listens yet."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(TINY / "policy")


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny policy with room for prompts that are longer than what vLLM reads in a step by default."""
    folder = tmp_path_factory.mktemp("policy")
    shutil.copytree(TINY / "policy", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 6000}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def engine(policy: Path, tokenizer: ChatTokenizer) -> Iterator[VllmEngine]:
    engine = VllmEngine(
        policy, tokenizer, window=100, max_num_seqs=50, kv_cache_memory_bytes=1 << 28, enforce_eager=True
    )
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def model(policy: Path) -> PreTrainedModel:
    return load_model(policy, "auto", "cpu", trust_remote_code=False).eval()
