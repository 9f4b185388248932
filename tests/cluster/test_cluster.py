import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from gate import shut
from team import BLOCK, Scripted, alone, gate_of, noted, on_cluster, plan_of, task_of, until

from retell.errors import BudgetError, EngineError, StorageError
from retell.shards import Shards, blocks_done, shard_path

N = 40


def rows(folder: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / "rewritten.parquet").to_pylist()
    return table


def drawn(notes: Path) -> list[str]:
    return [key for keys in noted(notes).values() for key in keys]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one machine."""
    folder = tmp_path_factory.mktemp("single")
    alone(folder / "run", Scripted(folder / "notes"), N)
    return folder / "run"


def held(
    notes: Path, after: int, come: Callable[[], bool], act: Callable[[], None] = lambda: None
) -> Callable[[], None]:
    """Lets workers draw little more than so many; once what is waited for has come about, acts, and lets them go on."""
    shut(gate_of(notes), after)

    def work() -> None:
        until(come)
        act()
        gate_of(notes).unlink()

    return work


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Does something beside the block, and fails if that fails."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if failed:
        raise failed[0]


def test_rows_are_those_of_one_machine(cluster: Any, tmp_path: Path, single: Path) -> None:
    with meanwhile(held(tmp_path / "notes", 16, lambda: len(noted(tmp_path / "notes")) == 2)):
        summary = on_cluster(tmp_path / "run", Scripted(tmp_path / "notes"), N, 2, address=cluster.address)
    assert rows(tmp_path / "run") == rows(single)
    assert (summary["problems"], summary["failed"], summary["rejected"]) == (N, 0, {})
    assert len(noted(tmp_path / "notes")) == 2, "one worker has drawn all"
    assert Counter(drawn(tmp_path / "notes")).most_common(1)[0][1] == 1, "something is drawn twice"


def test_a_worker_that_hangs_is_replaced_and_nothing_is_lost(
    cluster: Any, tmp_path: Path, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retell.cluster.SILENT_SECONDS", 3.0)
    scripted, said, hanging = Scripted(tmp_path / "notes", delay=0.01), list[str](), list[int]()

    def hang() -> None:
        hanging.append(next(iter(noted(tmp_path / "notes"))))
        os.kill(hanging[0], signal.SIGSTOP)

    with meanwhile(held(scripted.notes, 40, lambda: len(drawn(scripted.notes)) > 30, hang)):
        on_cluster(tmp_path / "run", scripted, N, 2, address=cluster.address, note=said.append)
    assert rows(tmp_path / "run") == rows(single)
    assert said
    assert all(" is lost: nothing was heard of it for " in line for line in said)
    until(lambda: not psutil.pid_exists(hanging[0]))


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(cluster: Any, tmp_path: Path, single: Path) -> None:
    scripted, said = Scripted(tmp_path / "notes", delay=0.01), list[str]()

    def kill() -> None:
        os.kill(next(iter(noted(scripted.notes))), signal.SIGKILL)
        until(lambda: len(noted(scripted.notes)) == 3)  # the new one has begun

    with meanwhile(held(scripted.notes, 40, lambda: len(drawn(scripted.notes)) > 30, kill)):
        on_cluster(tmp_path / "run", scripted, N, 2, address=cluster.address, note=said.append)
    assert rows(tmp_path / "run") == rows(single)
    assert said == ["worker 1 is lost: its process died, as happens when memory runs out"] or "worker 2" in said[0]
    again = [key for key, n in Counter(drawn(tmp_path / "notes")).items() if n > 1]
    assert len(again) < 2 * BLOCK * 8, "more is drawn again than it held"


def test_a_problem_that_kills_its_workers_is_the_only_reject_and_the_next_start_draws_it(
    cluster: Any, tmp_path: Path, single: Path
) -> None:
    said: list[str] = []
    poisoned = Scripted(tmp_path / "notes", poison="p13")
    summary = on_cluster(tmp_path / "run", poisoned, N, 2, address=cluster.address, note=said.append)
    (reject,) = map(json.loads, (tmp_path / "run" / "rejected.jsonl").read_text().splitlines())
    assert (reject["id"], reject["reason"]) == ("p13", "engine_failed")
    assert reject["detail"].startswith(
        "the engine failed: 2 workers were lost while they drew it alone: its process died"
    )
    assert (summary["failed"], summary["rejected"]) == (1, {"engine_failed": 1})
    assert rows(tmp_path / "run") == [row for row in rows(single) if row["id"] != "p13"]
    assert len(said) == 7, "its block is drawn once more, alone, and halved until it is alone, twice"
    before = drawn(tmp_path / "notes")
    summary = on_cluster(tmp_path / "run", Scripted(tmp_path / "notes"), N, 2, address=cluster.address)
    assert rows(tmp_path / "run") == rows(single)
    assert summary["failed"] == 0
    assert len(drawn(tmp_path / "notes")) - len(before) < 9, "more than what was missing is drawn"


def test_a_block_whose_requests_all_fail_is_counted_and_drawn_by_the_next_start(
    cluster: Any, tmp_path: Path, single: Path
) -> None:
    failing = [f"p{number}" for number in range(BLOCK, 2 * BLOCK)]
    scripted = Scripted(tmp_path / "notes", failing=failing, lasting=False)
    summary = on_cluster(tmp_path / "run", scripted, N, 2, address=cluster.address)
    assert summary["rejected"] == {"engine_failed": BLOCK}
    assert rows(tmp_path / "run") == [row for row in rows(single) if row["id"] not in failing]
    details = {json.loads(line)["detail"] for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()}
    assert details == {"the engine failed: it cannot be drawn"}
    plan = plan_of(task_of())
    assert blocks_done(tmp_path / "run" / "samples", plan) == {0, 2, 3, 4}
    on_cluster(tmp_path / "run", Scripted(tmp_path / "more"), N, 1, address=cluster.address)
    assert rows(tmp_path / "run") == rows(single)
    assert not set(drawn(tmp_path / "more")) & set(drawn(tmp_path / "notes"))


def test_a_command_that_is_killed_goes_on_where_it_was(cluster: Any, tmp_path: Path, single: Path) -> None:
    run, notes = tmp_path / "run", tmp_path / "run.notes"
    options = {"n": N, "workers": 2, "address": cluster.address, "delay": 0.01}
    command = [sys.executable, str(Path(__file__).parent.parent / "team.py"), str(run), json.dumps(options)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    shut(gate_of(notes), 140)  # of 190: two of the five blocks are done by then
    with subprocess.Popen(command, env=environment) as driver:
        until(lambda: len(blocks_done(run / "samples", plan_of(task_of()))) >= 2 or driver.poll() is not None)
        assert driver.poll() is None, "it has ended before it could be killed"
        driver.kill()
    first = noted(notes)
    until(lambda: not any(map(psutil.pid_exists, first)), 60)  # nobody draws for a command that is gone
    gate_of(notes).unlink()
    done = blocks_done(run / "samples", plan_of(task_of()))
    kept = {sample.key for page in Shards(run / "samples").pages(["self", "guided"]) for sample in page}
    on_cluster(run, Scripted(notes), N, 2, address=cluster.address)
    assert rows(run) == rows(single)
    again = {key for pid, keys in noted(notes).items() if pid not in first for key in keys}
    assert again
    assert not kept & again, "what was stored is drawn again"
    assert done


def test_a_machine_that_is_lost_costs_its_blocks_only(cluster: Any, tmp_path: Path, single: Path) -> None:
    machine, said, scripted = cluster.add(), list[str](), Scripted(tmp_path / "notes", delay=0.01)

    def spread() -> bool:
        return len(noted(scripted.notes)) == 3 and len(drawn(scripted.notes)) > 40

    def lose() -> None:
        cluster.lose(machine)
        until(lambda: not all(map(psutil.pid_exists, noted(scripted.notes))))

    with meanwhile(held(scripted.notes, 45, spread, lose)):
        on_cluster(tmp_path / "run", scripted, N, 3, address=cluster.address, note=said.append)
    assert rows(tmp_path / "run") == rows(single)
    (line,) = said
    assert line.split(": ")[1] in ("its machine is gone", "it cannot be reached any more")


def test_a_run_goes_on_with_and_without_a_cluster_and_draws_what_a_larger_k_lacks(cluster: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    alone(run, Scripted(tmp_path / "a", failing=[f"p{number}" for number in range(12, 60)]), N, k=1)
    on_cluster(run, Scripted(tmp_path / "b"), N, 2, address=cluster.address, k=2)
    alone(run, Scripted(tmp_path / "c"), N, k=3)
    on_cluster(run, Scripted(tmp_path / "d"), N, 1, address=cluster.address, k=4)
    every = [key for name in "abcd" for key in drawn(tmp_path / name)]
    assert all(drawn(tmp_path / name) for name in "abcd")
    assert len(every) == len(set(every)), "something is drawn twice"
    alone(tmp_path / "once", Scripted(tmp_path / "e"), N, k=4)
    assert rows(run) == rows(tmp_path / "once")
    assert set(drawn(tmp_path / "e")) <= set(every)


def test_a_budget_ends_a_start_and_the_next_goes_on(cluster: Any, tmp_path: Path, single: Path) -> None:
    scripted = Scripted(tmp_path / "notes", delay=0.05)
    with pytest.raises(BudgetError, match=r"max_hours = .* is reached; what was drawn is stored"):
        on_cluster(tmp_path / "run", scripted, N, 1, address=cluster.address, max_hours=1e-4)
    stored = sum(Shards(tmp_path / "run" / "samples").rungs().values())
    assert 0 < stored == len(drawn(tmp_path / "notes"))
    on_cluster(tmp_path / "run", scripted, N, 1, address=cluster.address)
    assert rows(tmp_path / "run") == rows(single)
    assert Counter(drawn(tmp_path / "notes")).most_common(1)[0][1] == 1


def test_storage_that_fills_up_stops_the_run_and_room_lets_it_go_on(cluster: Any, tmp_path: Path, single: Path) -> None:
    disk, scripted = tmp_path / "disk", Scripted(tmp_path / "notes")
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(StorageError, match=str(disk)):
            on_cluster(disk / "run", scripted, N, 2, address=cluster.address)
        kept = {path: path.stat().st_size for path in disk.rglob("*.parquet")}
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        on_cluster(disk / "run", scripted, N, 2, address=cluster.address)
        assert rows(disk / "run") == rows(single)
        assert kept.items() <= {path: path.stat().st_size for path in disk.rglob("*.parquet")}.items()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("dead", "says"),
    [
        ("there is no memory left", "on machine .*: there is no memory left"),
        ("killed", "no worker opens: its process died"),
    ],
)
def test_workers_that_cannot_be_opened_end_the_run(cluster: Any, tmp_path: Path, dead: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        on_cluster(tmp_path / "run", Scripted(tmp_path / "notes", dead=dead), N, 1, address=cluster.address)


def test_a_cluster_without_room_is_waited_for_and_said_to_be(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has all of its processors."""
    code = f"""
import ray, sys
ray.init({cluster.address!r}, logging_level="ERROR")
@ray.remote(num_cpus=2)
class Busy:
    def ready(self): pass
busy = Busy.remote()
ray.get(busy.ready.remote())
print("busy", flush=True)
sys.stdin.read()
"""
    monkeypatch.setattr("retell.cluster._PATIENCE_SECONDS", 1.0)
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as somebody:
        assert somebody.stdout and somebody.stdin
        assert somebody.stdout.readline() == b"busy\n"

        def note(line: str) -> None:
            said.append(line)
            assert somebody.stdin
            somebody.stdin.close()

        on_cluster(tmp_path / "run", Scripted(tmp_path / "notes"), BLOCK, 2, address=cluster.address, note=note)
    assert said[0] == (
        "no worker is open yet of 2: 2 of them wait for room in the cluster, 1 CPU each; it has 0 CPU and 0 GPU free"
    )
    assert len(rows(tmp_path / "run")) == BLOCK


def test_a_shard_that_was_removed_is_drawn_again(cluster: Any, tmp_path: Path, single: Path) -> None:
    """That of an earlier plan, on which what is done rests: the first start finds it out, and the next mends it."""
    run = tmp_path / "run"
    on_cluster(run, Scripted(tmp_path / "a"), N, 1, address=cluster.address, k=2)
    on_cluster(run, Scripted(tmp_path / "b"), N, 1, address=cluster.address, k=4)
    shard_path(run / "samples", plan_of(task_of(k=2)), 1).unlink()
    summary = on_cluster(run, Scripted(tmp_path / "c"), N, 1, address=cluster.address, k=4)
    assert drawn(tmp_path / "c") == []
    assert summary["failed"] == BLOCK
    on_cluster(run, Scripted(tmp_path / "d"), N, 1, address=cluster.address, k=4)
    assert rows(run) == rows(single)
