import os
import signal
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from termios import FIONREAD

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retell.errors import GraderError
from retell.graders.base import Case
from retell.graders.custom import CustomGrader
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.records import Verdict

MODULE = r'''
import os, sys, time
from pathlib import Path
from retell.records import Verdict

def judge(problem, response, gold):
    """Does what the problem says, and tells whether the response is the gold."""
    if "count" in problem:
        with open("judged", "a") as file:
            file.write(response + "\n")
    if "burn" in problem:
        until = time.process_time() + float(problem.split()[-1])
        while time.process_time() < until:
            pass
    if problem.startswith("wait") and not Path(problem.split()[1]).exists():
        Path("pids").write_text(f"{os.getppid()} {os.getpid()}")
        os.rename("pids", "at work")
        time.sleep(1000)
    if problem == "hog":
        blocks = []
        while True:
            blocks.append(bytearray(1 << 26))
    if problem == "swell":
        response = gold = 1_000_000 * response
    if problem == "raise":
        raise KeyError(gold)
    if problem == "exit":
        sys.exit()
    if problem == "quit":
        os._exit(0)
    if problem == "crash":
        os.abort()
    if problem == "print":
        print('["verdict", "wrong", null, "printed"]', flush=True)
        os.system("""echo '["verdict", "wrong", null, "printed"]'""")
        assert sys.stdin.read() == ""
    return Verdict("correct" if response == gold else "wrong", response, str(os.getpid()))
'''

OTHERS = tuple(f"other {number}" for number in range(40))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a grader."""
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mine(seconds: float = 10.0) -> CustomGrader:
    grader = CustomGrader("mine:judge")
    grader.seconds = seconds
    return grader


def all_of(pool: GraderPool) -> dict[str, Verdict]:
    verdicts: list[tuple[str, Verdict]] = []
    while pool.pending:
        verdicts += pool.collect(wait=True)
    assert len(dict(verdicts)) == len(verdicts), "a ticket was answered twice"
    return dict(verdicts)


def outcomes(pool: GraderPool) -> dict[str, str]:
    return {ticket: verdict.outcome for ticket, verdict in all_of(pool).items()}


def submit(pool: GraderPool, *names: str, problem: str = "") -> None:
    """Submits right answers, each under its own name."""
    for name in names:
        pool.submit(name, Case(problem, name, name))


def right(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "correct")


def wait_until(seen: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def children(parent: int) -> list[int]:
    """The grading processes among the children of a process, those that have ended left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, mother = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(mother) == parent and state != "Z" and b"retell.graders.worker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue  # it has just ended
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_children(parent: int, count: int) -> list[int]:
    wait_until(lambda: len(children(parent)) == count, f"there are not {count} children")
    return children(parent)


def wait_for_families(parent: int, count: int) -> dict[int, int]:
    """Keeper and child of every grading process."""
    return {keeper: wait_for_children(keeper, 1)[0] for keeper in wait_for_children(parent, count)}


def wait_for_work() -> tuple[int, int]:
    """Keeper and child that are at a job that waits."""
    note = Path("at work")
    wait_until(note.exists, "nobody is at work")
    keeper, child = map(int, note.read_text().split())
    note.unlink()
    return keeper, child


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "it lives on")


# What comes of a case


def test_every_ticket_gets_its_own_verdict() -> None:
    with GraderPool(mine(), 2) as pool:
        for number in range(3000):
            pool.submit(str(number), Case("", str(number), str(number + number % 2)))
        found = all_of(pool)
    assert len(found) == 3000
    for ticket, verdict in found.items():
        assert verdict.extracted == ticket
        assert verdict.outcome == ("wrong" if int(ticket) % 2 else "correct")


def test_nothing_pending_gives_nothing_at_once() -> None:
    with GraderPool(mine(), 2) as pool:
        assert not pool.pending
        assert pool.collect(wait=True) == []
        assert children(os.getpid()) == []  # none is started before it is needed


def test_what_is_decided_at_once_needs_no_worker() -> None:
    class Quick(CustomGrader):
        def prepare(self, case: Case) -> Verdict | Case:
            return Verdict("wrong", None, "at a glance")

    with GraderPool(Quick("mine:judge"), 1) as pool:
        submit(pool, "a")
        assert pool.pending
        assert pool.collect(wait=True) == [("a", Verdict("wrong", None, "at a glance"))]
        assert children(os.getpid()) == []


def test_a_case_is_judged_once_however_many_ask_for_it(home: Path) -> None:
    with GraderPool(mine(), 2) as pool:
        for ticket in "abc":
            pool.submit(ticket, Case("count", "1", "1"))
        pool.submit("other", Case("count", "2", "1"))
        assert outcomes(pool) == right(*"abc") | {"other": "wrong"}
        pool.submit("later", Case("count", "1", "1"))
        assert [ticket for ticket, _ in pool.collect(wait=False)] == ["later"]
    assert sorted((home / "judged").read_text().split()) == ["1", "2"]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        ("raise", "the grader failed: KeyError"),
        ("exit", "the grader failed: SystemExit"),
        ("quit", "the grader died (status 0)"),
        ("crash", f"the grader died (status {-signal.SIGABRT})"),
        ("hog", "too much memory"),
        ("burn 100", "too much processor time"),
    ],
)
def test_what_goes_wrong_costs_its_own_verdict_only(problem: str, reason: str) -> None:
    with GraderPool(mine(0.2 if problem.startswith("burn") else 10), 1) as pool:
        submit(pool, "before")
        submit(pool, "bad", problem=problem)
        submit(pool, *OTHERS)
        found = all_of(pool)
    assert found.pop("bad") == Verdict("undecided", None, reason)
    assert {ticket: verdict.outcome for ticket, verdict in found.items()} == right("before", *OTHERS)


def test_what_a_grader_prints_is_not_taken_for_a_verdict() -> None:
    with GraderPool(mine(), 1) as pool:
        submit(pool, *"abc", problem="print")
        assert outcomes(pool) == right(*"abc")


def test_slow_ones_among_quick_ones() -> None:
    with GraderPool(mine(0.05), 2) as pool:
        for number in range(1000):
            submit(pool, str(number), problem="burn 100" if number % 64 == 0 else "")
        found = outcomes(pool)
    assert found == {str(number): "undecided" if number % 64 == 0 else "correct" for number in range(1000)}


def test_a_few_do_not_wait_behind_a_slow_one() -> None:
    with GraderPool(mine(), 2) as pool:
        submit(pool, "long", problem="wait ever")
        submit(pool, *"abcdef")
        found: dict[str, Verdict] = {}
        while len(found) < 6:
            found |= pool.collect(wait=True)
        assert found.keys() == set("abcdef")
        assert pool.pending


def test_large_cases_and_large_verdicts_do_not_block_each_other() -> None:
    texts = {str(number): f"{number}" * 5_000_000 for number in range(4)}
    with GraderPool(mine(), 1) as pool:
        for ticket, text in texts.items():
            pool.submit(ticket, Case("", text, text))
        submit(pool, *OTHERS)
        found = all_of(pool)
    assert {ticket: verdict.outcome for ticket, verdict in found.items()} == right(*texts, *OTHERS)
    assert all(found[ticket].extracted == text for ticket, text in texts.items())


# Who dies


def test_a_death_gives_a_second_try_with_twice_the_time(home: Path) -> None:
    with GraderPool(mine(0.4), 1) as pool:
        submit(pool, "slow", problem="count, then burn 0.6")
        assert outcomes(pool) == right("slow")
    assert (home / "judged").read_text().split() == ["slow", "slow"]


@pytest.mark.parametrize("victim", ["keeper", "child"])
def test_who_is_killed_at_work_is_replaced_and_the_job_tried_again(home: Path, victim: str) -> None:
    with GraderPool(mine(), 1) as pool:
        submit(pool, "victim", problem="wait forgiven")
        submit(pool, *OTHERS)
        keeper, child = wait_for_work()
        (home / "forgiven").touch()
        kill(keeper if victim == "keeper" else child)
        wait_until(lambda: not alive(child), "the child lives on")
        assert outcomes(pool) == right("victim", *OTHERS)
        assert (victim == "child") == (children(os.getpid()) == [keeper])  # the child costs no new interpreter


def test_a_job_whose_worker_is_killed_twice_is_undecided() -> None:
    with GraderPool(mine(), 1) as pool:
        submit(pool, "victim", problem="wait ever")
        submit(pool, *OTHERS)
        kill(wait_for_work()[1])
        found: dict[str, Verdict] = {}
        while not Path("at work").exists():
            found |= pool.collect(wait=False)
        kill(wait_for_work()[1])
        found |= all_of(pool)
    assert found.pop("victim") == Verdict("undecided", None, "killed")
    assert {ticket: verdict.outcome for ticket, verdict in found.items()} == right(*OTHERS)


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("victim", ["keepers", "children"])
def test_who_is_killed_while_idle_costs_nothing(home: Path, limit: int, victim: str) -> None:
    with GraderPool(mine(), limit) as pool:
        submit(pool, *"ab")
        assert outcomes(pool) == right(*"ab")
        families = wait_for_families(os.getpid(), limit)
        for pid in families if victim == "keepers" else families.values():
            kill(pid)
        submit(pool, *"cdef", problem="count")
        assert outcomes(pool) == right(*"cdef")
        assert (victim == "children") == (set(children(os.getpid())) == set(families))
    assert Counter((home / "judged").read_text().split()) == Counter("cdef")  # once each


def test_an_idle_worker_that_dies_while_another_works_is_no_matter(home: Path) -> None:
    with GraderPool(mine(), 2) as pool:
        submit(pool, *"ab")
        assert outcomes(pool) == right(*"ab")
        keepers = wait_for_families(os.getpid(), 2)
        submit(pool, "long", problem="wait forgiven")
        busy, _ = wait_for_work()
        kill(next(keeper for keeper in keepers if keeper != busy))
        assert pool.collect(wait=False) == []
        (home / "forgiven").touch()
        kill(busy)
        submit(pool, "c")
        assert outcomes(pool) == right("long", "c")


def test_a_child_killed_amid_the_bytes_of_a_job_costs_that_job_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retell.graders.pool._TRIES", 1)
    large, write = "x" * 300_000, os.write
    with GraderPool(mine(), 1) as pool:
        submit(pool, "a")
        assert outcomes(pool) == right("a")
        [(_, child)] = wait_for_families(os.getpid(), 1).items()

        def read() -> int:
            return int(Path(f"/proc/{child}/io").read_text().split()[1])

        before = read()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: write(file, data[:100]))  # a narrow pipe
            pool.submit("large", Case("", large, large))
            submit(pool, *OTHERS)
        wait_until(lambda: read() > before, "the child does not read")
        kill(child)
        assert outcomes(pool) == {"large": "undecided"} | right(*OTHERS)


def test_a_child_killed_amid_the_bytes_of_a_verdict() -> None:
    with GraderPool(mine(), 1) as pool:
        submit(pool, "a")
        assert outcomes(pool) == right("a")
        [(_, child)] = wait_for_families(os.getpid(), 1).items()
        submit(pool, "large", problem="swell")
        submit(pool, *OTHERS)
        out = pool._workers[0].out
        said = array("i", [0])
        wait_until(lambda: ioctl(out, FIONREAD, said) == 0 and said[0] >= 1 << 16, "the child does not write")
        kill(child)
        found = all_of(pool)
    assert found["large"].extracted == 1_000_000 * "large"
    assert {ticket: verdict.outcome for ticket, verdict in found.items()} == right("large", *OTHERS)


def test_one_that_waits_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retell.graders.pool._WALL_SECONDS", 0.5)
    with GraderPool(mine(), 1) as pool:
        submit(pool, "waits", problem="wait ever")
        submit(pool, *OTHERS)
        found = all_of(pool)
    assert found.pop("waits") == Verdict("undecided", None, "no answer")
    assert {ticket: verdict.outcome for ticket, verdict in found.items()} == right(*OTHERS)


def test_children_recycle_themselves_and_lose_nothing() -> None:
    names = [str(number) for number in range(5000)]
    with GraderPool(mine(), 1) as pool:
        submit(pool, *names)
        found = all_of(pool)
        assert len(children(os.getpid())) == 1
    assert {ticket: verdict.outcome for ticket, verdict in found.items()} == right(*names)
    served = Counter(verdict.reason for verdict in found.values())  # by the child's process number
    assert sorted(served.values()) == [1000, 2000, 2000]


# Who lives


def test_ctrl_c_is_for_the_parent() -> None:
    with GraderPool(mine(), 1) as pool:
        submit(pool, "a")
        [(keeper, child)] = wait_for_families(os.getpid(), 1).items()
        assert os.getsid(keeper) == os.getsid(child) == keeper


@pytest.mark.parametrize("problem", ["burn 100", "wait ever"])
def test_no_worker_outlives_its_pool(problem: str) -> None:
    with GraderPool(mine(), 2) as pool:
        submit(pool, "long", problem=problem)
        submit(pool, "short")
        families = wait_for_families(os.getpid(), 2)
    assert children(os.getpid()) == []
    wait_until(lambda: not any(map(alive, families.values())), "a child lives on")


@pytest.mark.parametrize("problem", ["", "wait ever"])
def test_no_worker_outlives_a_killed_process(problem: str) -> None:
    code = f"""
import time
from retell.graders.base import Case
from retell.graders.custom import CustomGrader
from retell.graders.pool import GraderPool
with GraderPool(CustomGrader("mine:judge"), 1) as pool:
    pool.submit("a", Case("", "1", "1"))
    print(pool.collect(wait=True), flush=True)
    pool.submit("b", Case({problem!r}, "2", "2"))
    time.sleep(100)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert b"correct" in process.stdout.readline()
        [(keeper, child)] = wait_for_families(process.pid, 1).items()
        if problem:
            assert wait_for_work() == (keeper, child)
        process.kill()
    wait_until(lambda: not alive(keeper) and not alive(child), "one lives on")


# Who does not start


def test_modules_in_the_working_directory_do_not_shadow_the_graders(home: Path) -> None:
    class Straight(MathGrader):
        def prepare(self, case: Case) -> Verdict | Case:
            return Case("", "x+1", "2x")

    (home / "random.py").write_text("raise SystemExit('shadowed')", encoding="utf-8")
    with GraderPool(Straight(), 1) as pool:
        submit(pool, "a")
        assert outcomes(pool) == {"a": "wrong"}


def test_graders_that_cannot_start_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with GraderPool(mine(), 1) as pool:
        submit(pool, "a")
        with pytest.raises(GraderError, match="does not start"):
            pool.collect(wait=True)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with GraderPool(mine(), 1) as pool, pytest.raises(GraderError, match=r"does not start: .*/no/such/python"):
        submit(pool, "a")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "mine:judge cannot be used: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def judge(:", "SyntaxError"),
        ("raise SystemExit('not today')", "SystemExit: not today"),
        ("judges = 1", "mine.py has no function 'judge'"),
        ("judge = 1", "mine.py has no function 'judge'"),
    ],
)
def test_a_grader_that_cannot_be_loaded_says_why(home: Path, code: str, reason: str) -> None:
    (home / "mine.py").write_text(code, encoding="utf-8")
    with GraderPool(mine(), 1) as pool:
        submit(pool, *"abc")
        with pytest.raises(GraderError, match=reason) as found:
            pool.collect(wait=True)
    assert "\n" not in str(found.value)


# What people and models write


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[GraderPool]:
    with GraderPool(MathGrader(), 2) as pool:
        yield pool


def test_an_answer_without_end_is_not_correct_and_others_are_served(shared_pool: GraderPool) -> None:
    shared_pool.submit("endless", Case("", "\\boxed{9^{9^{9^{9}}}}", "3.5"))
    for number in range(5):
        shared_pool.submit(str(number), Case("", f"\\boxed{{\\frac{{{number}}}{{4}}}}", str(number / 4)))
    found = outcomes(shared_pool)
    assert found.pop("endless") != "correct"
    assert found == right(*"01234")


@pytest.mark.parametrize("as_gold", [False, True])
def test_an_answer_that_is_code_is_not_run(tmp_path: Path, shared_pool: GraderPool, as_gold: bool) -> None:
    marker = tmp_path / "marker"
    command = f"touch {marker}"
    codes = [
        f"__import__('os').system('{command}')",
        f'__import__("os").system("{command}")',
        f"$__import__('os').system('{command}')$",
        f"1+__import__('os').system('{command}')",
        f"eval(\"__import__('os').system('{command}')\")",
        f"open('{marker}', 'w')",
        f"(lambda: open('{marker}', 'w'))()",
        f"[c for c in ().__class__.__base__.__subclasses__()] or open('{marker}','w')",
        f"\\immediate\\write18{{{command}}}",
        f"\\text{{`{command}`}}",
        f"$({command})",
        f"'; {command}; '",
        f"x=__import__('os').system('{command}')",
        f"\\frac{{__import__('os').system('{command}')}}{{1}}",
    ]
    for number, code in enumerate(codes):
        answer, gold = ("\\frac{1}{2}", code) if as_gold else (code, "5x")
        shared_pool.submit(str(number), Case("", f"\\boxed{{{answer}}}", gold))
    assert "correct" not in outcomes(shared_pool).values()
    assert not marker.exists()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(st.text(alphabet=st.characters(), max_size=12), max_size=5), gold=st.text(max_size=8))
def test_any_text_gets_a_verdict(shared_pool: GraderPool, answers: list[str], gold: str) -> None:
    for number, answer in enumerate(answers):
        shared_pool.submit(str(number), Case("", f"A: {answer}", gold))
    assert all_of(shared_pool).keys() == {str(number) for number in range(len(answers))}
