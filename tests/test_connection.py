import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retell.connection import Team, connected, fate, team
from retell.drawing import Task
from retell.errors import MissingExtraError, PolicyError, RecipeError
from retell.recipe import Policy, Recipe, Rewrite

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray warns of much


@pytest.fixture
def listening() -> Iterator[str]:
    """An address where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine that is in no cluster; what Ray finds in the environment is put back."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def refusal(address: str) -> str:
    with pytest.raises(RecipeError) as refused, connected(address):
        pass
    said = str(refused.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "somewhere", ":6379", "127.0.0.1:", "http://a:1", "a:b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    assert f"{address!r} (of --ray or RAY_ADDRESS) is no address of a cluster, which is HOST:PORT" in refusal(address)


def test_an_address_where_nobody_listens_is_refused_at_once(listening: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"127.0.0.1:{server.getsockname()[1]}"
    says = f"no Ray cluster answers at {dead}: Connection refused; is `ray start --head` running there?"
    assert says in refusal(dead)
    assert "no Ray cluster answers at nowhere.invalid:6379" in refusal("nowhere.invalid:6379")


def test_a_bare_ray_takes_the_cluster_that_is_named_or_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("started.invalid:1\n")
    assert "no Ray cluster answers at started.invalid:1" in refusal("auto")
    monkeypatch.setenv("RAY_ADDRESS", "named.invalid:2")
    assert "no Ray cluster answers at named.invalid:2" in refusal("auto")
    assert "no Ray cluster answers at given.invalid:3" in refusal("given.invalid:3")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert "no Ray cluster answers at started.invalid:1" in refusal("auto")


def test_a_cluster_of_another_version_is_refused_with_both_versions(
    listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from ray._private.utils import check_version_info

    def init(*_: object, **__: object) -> None:
        check_version_info({"ray_version": "2.9.3", "python_version": "3.10.1"}, "node 10.0.0.7")

    monkeypatch.setattr(ray, "init", init)
    says = refusal(listening)
    assert says.startswith(f"cannot use the Ray cluster {listening}: Version mismatch: The cluster was started with: ")
    assert "Ray: 2.9.3 Python: 3.10.1" in says
    assert f"Ray: {ray.__version__}" in says
    assert says.endswith(": install the same versions on every machine")


def test_what_ray_cannot_do_is_said_in_a_line_with_its_version(listening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    def init(*_: object, **__: object) -> None:
        raise ConnectionError("Failed to connect\nTraceback and so on")

    monkeypatch.setattr(ray, "init", init)
    says = refusal(listening)
    assert f"{listening}: Failed to connect; is `ray start --head` running there, with Ray {ray.__version__}" in says


def test_ray_that_does_not_start_here_says_why(tmp_path: Path) -> None:
    """Where its sockets would have longer names than there can be. In a process of its own: Ray changes its own."""
    pytest.importorskip("ray")
    deep = tmp_path / ("a" * 100)
    deep.mkdir()
    code = "from retell.connection import connected\nwith connected('auto'): pass"
    environment = os.environ | {"RAY_TMPDIR": str(deep), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines()[-1]
    assert "RecipeError: Ray does not start on this machine: validate_socket_filename failed" in said


def test_what_ray_takes_for_itself_is_given_back(
    listening: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM, and standard output, where it would tell of its machines."""
    ray = pytest.importorskip("ray")

    def init(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    with connected(listening) as found:
        assert found is ray
        assert signal.getsignal(signal.SIGTERM) is before
        print("(raylet) a worker died")
    print("a result")
    assert capsys.readouterr().out == "a result\n"


def test_ray_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch, listening: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"retell\[ray\]"), connected(listening):
        pass


def machines(*resources: dict[str, float]) -> Any:
    nodes = [{"Alive": True, "Resources": one} for one in resources]
    return SimpleNamespace(nodes=lambda: [*nodes, {"Alive": False, "Resources": {"GPU": 64.0, "CPU": 64.0}}])


def task(**settings: Any) -> Task:
    return Task("rewrite", Recipe(rewrite=Rewrite(ray="auto", **settings)), Policy(), "me")


EIGHT, FOUR, PLAIN = {"CPU": 64.0, "GPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 16.0}
THREES = ({"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 3.0})


@pytest.mark.parametrize(
    ("there", "settings", "wanted"),
    [
        ((PLAIN,), {}, Team(1, 1, 0)),
        ((PLAIN, PLAIN, {}), {}, Team(2, 1, 0)),
        ((PLAIN,), {"workers": 16}, Team(16, 1, 0)),
        ((EIGHT, FOUR, PLAIN), {}, Team(12, 1, 1)),
        ((EIGHT, FOUR), {"workers": 5}, Team(5, 1, 1)),
        ((EIGHT, FOUR), {"engine": "vllm", "engine_args": {"tensor_parallel_size": 4}}, Team(3, 1, 4)),
        (THREES, {"engine": "vllm", "engine_args": {"tensor_parallel_size": 2}}, Team(2, 1, 2)),
        (
            (EIGHT,),
            {"engine": "vllm", "engine_args": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}},
            Team(2, 1, 4),
        ),
        (({"CPU": 2.0, "GPU": 8.0},), {}, Team(2, 1, 1)),
        ((EIGHT, EIGHT), {"engine": "server", "base_url": ("http://a/v1",)}, Team(2, 1, 0)),
    ],
)
def test_there_is_a_worker_for_each_gpu_or_machine(there: Any, settings: dict[str, Any], wanted: Team) -> None:
    assert team(machines(*there), task(**settings)) == wanted


@pytest.mark.parametrize(
    ("there", "settings", "says"),
    [
        (
            (FOUR, FOUR),
            {"engine": "vllm", "engine_args": {"tensor_parallel_size": 8}},
            "an engine takes 8 GPUs (tensor_parallel_size, pipeline_parallel_size, data_parallel_size), and no machine "
            "of the cluster has more than 4",
        ),
        ((EIGHT,), {"workers": 9}, "the cluster has room for 8 workers of 1 CPU and 1 GPU each, and there are to be 9"),
        ((PLAIN,), {"workers": 17}, "the cluster has room for 16 workers of 1 CPU each, and there are to be 17"),
        (({},), {}, "the cluster has room for 0 workers of 1 CPU each"),
    ],
)
def test_what_a_cluster_has_no_room_for_is_refused(there: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError) as refused:
        team(machines(*there), task(**settings))
    assert says in str(refused.value)


DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: _Actor\n\tip: 192.0.2.2\nThe actor is dead "
    "because its {} Worker exit type: SYSTEM_ERROR the process was killed by the OOM killer, see the node's logs"
)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError(DIED.format("worker process has died.")), "its process died, as happens when memory runs out"),
        (RuntimeError(DIED.format("node has died. Node Id: 3f")), "its machine is gone"),
        (RuntimeError("The actor 75eb is unavailable: RpcError: Socket closed"), "it cannot be reached any more"),
        (RuntimeError("Task was killed due to the node running low on memory."), "its machine ran out of memory"),
        (RuntimeError("The actor died because of an error raised in its creation task\n  x\nModuleNotFoundError: a"),
         "ModuleNotFoundError: a"),
        (RuntimeError("something else\nand more"), "something else"),
    ],
)  # fmt: skip
def test_what_became_of_a_worker_is_said_in_a_line(error: Exception, says: str) -> None:
    assert fate(error) == says


def test_what_a_worker_raised_is_said_by_its_name() -> None:
    error = RuntimeError("ray::_Actor.run() and a long traceback")
    error.cause = KeyError("p7")  # type: ignore[attr-defined]
    assert fate(error) == "KeyError: 'p7'"


@pytest.mark.parametrize("error", [MissingExtraError("vllm", "vllm"), PolicyError("another model")])
def test_errors_come_whole_from_other_machines(error: Exception) -> None:
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), str(sent)) == (type(error), str(error))
