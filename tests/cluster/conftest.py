"""A Ray cluster for the tests of this folder, which are skipped where Ray is not installed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SMALL: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # Ray warns of much
            if find_spec("ray") is None:
                item.add_marker(pytest.mark.skip(reason="ray is not installed: pip install 'retell[ray]'"))


class Machines:
    """A cluster of one machine with room for two workers, and others for a while. They are started somewhere else than
    where the tests run.
    """

    def __init__(self, somewhere: Path) -> None:
        self._somewhere = somewhere
        with self._elsewhere():
            from ray.cluster_utils import Cluster

            self._cluster = Cluster(initialize_head=True, head_node_args=SMALL)
        self.address: str = self._cluster.address

    def add(self) -> Any:
        """Another machine, with room for one worker."""
        with self._elsewhere():
            return self._cluster.add_node(num_cpus=1, object_store_memory=SMALL["object_store_memory"])

    def lose(self, machine: Any) -> None:
        """Ends a machine as a power cut would."""
        self._cluster.remove_node(machine, allow_graceful=False)

    def end(self) -> None:
        """Ends all of them."""
        self._cluster.shutdown()

    @contextmanager
    def _elsewhere(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), *filter(None, sys.path)]))
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.chdir(self._somewhere)
            yield


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("elsewhere"))
    yield machines
    machines.end()
