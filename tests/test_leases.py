import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import problems

from retell.leases import Blocks, Lease, Leases, Report
from retell.meter import Budget
from retell.problemtable import ProblemTable, write_problems

NOTHING = Report({}, None, 0, 0, 0, 0, 0, 0, {})
WORLDS = {
    "n": st.integers(1, 40),
    "size": st.integers(1, 9),
    "workers": st.integers(1, 4),
    "luck": st.integers(0, 2**32).map(random.Random),
}


def lending(n: int, size: int, workers: int = 1, budget: Budget | None = None) -> Leases:
    return Leases(Blocks(problems(n), size), (), budget or Budget(), workers)


def named(lease: Lease | None) -> list[str]:
    return [problem.id for _, problem in lease.items] if lease else []


def lent(leases: Leases, worker: str) -> Lease:
    lease = leases.next(worker)
    assert lease
    return lease


class World:
    """Workers that take leases and finish or lose them in an order that chance decides."""

    def __init__(self, leases: Leases, workers: int, luck: random.Random, poison: set[str]) -> None:
        self.leases = leases
        self.luck = luck
        self.poison = poison
        self.hired = workers
        self.held: dict[str, list[Lease]] = {f"w{number}": [] for number in range(workers)}
        self.done: Counter[str] = Counter()

    def turn(self, crashes: float) -> None:
        worker = self.luck.choice(list(self.held))
        held = self.held[worker]
        if held and self.luck.random() < crashes:
            self.lose(worker)
        elif not held or self.luck.random() < 0.5:
            lease = self.leases.next(worker)
            if lease:
                self.take(worker, lease)
        elif self.poison & {name for lease in held for name in named(lease)}:
            self.lose(worker)
        else:
            lease = held.pop(self.luck.randrange(len(held)))
            self.done.update(named(lease))
            self.leases.done(lease.number, NOTHING)

    def take(self, worker: str, lease: Lease) -> None:
        out = {name for held in self.held.values() for one in held for name in named(one)}
        assert not out & set(named(lease)), "a problem is lent twice at once"
        assert not any(one.alone for one in self.held[worker]), "drawn beside what must be alone"
        assert not (lease.alone and self.held[worker])
        self.held[worker].append(lease)

    def lose(self, worker: str) -> None:
        del self.held[worker]
        self.leases.lost(worker, "it fell over")
        self.held[f"w{self.hired}"] = []
        self.hired += 1

    def run(self, crashes: float) -> None:
        for _ in range(20_000):
            if self.leases.standing().finished or self.leases.standing().broken:
                return
            self.turn(crashes)
        raise AssertionError("it does not end")


@settings(max_examples=150)
@given(**WORLDS, crashes=st.floats(0, 0.3))
def test_every_problem_is_done_once_or_given_up_with_a_reason(
    n: int, size: int, workers: int, luck: random.Random, crashes: float
) -> None:
    world = World(lending(n, size, workers), workers, luck, set())
    world.run(crashes)
    standing = world.leases.standing()
    given_up = {problem for _, problem in standing.failed}
    if standing.broken is None:
        assert set(world.done) | given_up == {problem.id for problem in problems(n)}
        assert standing.done == n
    assert set(world.done.values()) <= {1}
    assert not given_up & set(world.done)
    assert all(why == "2 workers were lost while they drew it alone: it fell over" for why in standing.failed.values())


@settings(max_examples=150)
@given(**WORLDS, bad=st.sets(st.integers(0, 39), max_size=3))
def test_a_problem_that_kills_whoever_draws_it_is_the_only_one_given_up(
    n: int, size: int, workers: int, luck: random.Random, bad: set[int]
) -> None:
    poison = {f"p{number}" for number in bad if number < n}
    world = World(lending(n, size, workers), workers, luck, poison)
    world.run(0)
    standing = world.leases.standing()
    assert standing.broken is None
    assert standing.failed.keys() == {("", name) for name in poison}
    assert world.done == Counter({problem.id: 1 for problem in problems(n) if problem.id not in poison})
    assert (standing.done, standing.finished, standing.waiting) == (n, True, False)


def test_what_is_done_already_is_not_lent() -> None:
    leases = Leases(Blocks(problems(10), 4), {0, 2}, Budget(), 1)
    assert leases.standing().done == 6
    lease = leases.next("a")
    assert named(lease) == ["p4", "p5", "p6", "p7"]
    assert lease and (lease.block, lease.whole, lease.alone) == (1, True, False)
    assert leases.next("a") is None
    leases.done(lease.number, NOTHING)
    assert leases.standing().finished


def test_a_worker_takes_the_next_block_before_it_is_done_with_the_last() -> None:
    leases = lending(40, 4)
    first, second = leases.next("a"), leases.next("a")
    assert (named(first)[0], named(second)[0]) == ("p0", "p4")


def test_until_all_have_come_no_worker_holds_more_than_its_share() -> None:
    """One whose engine could take all that there is leaves half of it to the other, who opens later."""
    leases = lending(64, 8, workers=2)
    greedy = []
    while lease := leases.next("greedy"):
        greedy.append(lease)
    late = []
    while lease := leases.next("late"):
        late.append(lease)
    assert [len(greedy), len(late)] == [4, 4]


def test_when_all_have_come_each_gets_what_its_engine_has_room_for() -> None:
    """Blocks that are nearly done are held for long: they say nothing of how busy an engine is."""
    leases = lending(64, 8, workers=2)
    for worker in ("one", "other", "one", "one", "one", "one", "one"):
        assert leases.next(worker)


def test_a_worker_that_is_by_itself_gets_everything_in_the_end() -> None:
    leases, rounds = lending(64, 8, workers=4), 0
    while not leases.standing().finished:
        taken = []
        while lease := leases.next("only"):
            taken.append(lease)
        assert taken
        for lease in taken:
            leases.done(lease.number, NOTHING)
        rounds += 1
    assert rounds <= 8


def test_a_worker_thought_lost_gets_nothing_more_and_counts_for_nothing() -> None:
    leases = lending(8, 4, workers=1)
    mine = leases.next("a")
    assert mine
    for _ in range(50):
        leases.lost("a", "no answer")
    assert leases.next("a") is None
    leases.done(mine.number, replace(NOTHING, failed={"k": "x"}, drawn=9, file="000000.parquet"))
    assert leases.standing().done == 0
    again, fresh = leases.next("b"), None
    assert again and again.again and not again.alone and again.number != mine.number and named(again) == named(mine)
    leases.done(again.number, NOTHING)
    leases.done(again.number, NOTHING)
    fresh = leases.next("b")
    assert fresh and not fresh.again
    leases.done(fresh.number, replace(NOTHING, drawn=2))
    standing = leases.standing()
    assert (standing.done, standing.meter.drawn, standing.failed, standing.files) == (8, 2, {}, [])


def test_what_one_lost_worker_had_is_drawn_as_if_nothing_had_happened() -> None:
    """Beside other things, by one worker or several: only what costs a second one is suspected."""
    leases = lending(24, 4)
    for _ in range(3):
        assert lent(leases, "a")
    leases.lost("a", "its machine is gone")
    held = [lent(leases, "b") for _ in range(4)]
    assert {name for lease in held[:3] for name in named(lease)} == {f"p{number}" for number in range(12)}
    assert [(lease.alone, lease.again) for lease in held] == [(False, True)] * 3 + [(False, False)]
    leases.lost("b", "its machine is gone")
    first, second = lent(leases, "c"), leases.next("c")
    assert (first.alone, second) == (True, None)
    leases.done(first.number, NOTHING)
    for _ in range(2):
        leases.done(lent(leases, "c").number, NOTHING)
    last = lent(leases, "c")
    assert (named(last), last.alone, last.again) == (named(held[3]), False, True)


def test_one_bad_problem_costs_a_block_of_32_nine_workers() -> None:
    leases, lost = lending(32, 32), 0
    while not leases.standing().finished:
        lease = leases.next(f"w{lost}")
        assert lease
        if "p17" in named(lease):
            leases.lost(f"w{lost}", "boom")
            lost += 1
        else:
            leases.done(lease.number, NOTHING)
    assert lost == 9


def test_a_block_that_is_drawn_in_pieces_is_not_whole() -> None:
    leases = lending(4, 4)
    wholes = []
    for number in range(4):
        lease = leases.next(f"w{number}")
        assert lease
        wholes.append((lease.whole, len(lease.items)))
        leases.lost(f"w{number}", "boom")
    assert wholes == [(True, 4), (True, 4), (True, 4), (False, 2)]


def test_where_one_worker_after_the_other_is_lost_nothing_is_lent_any_more() -> None:
    leases = lending(400, 4, workers=3)
    for number in range(19):
        assert leases.next(f"w{number}")
        leases.lost(f"w{number}", f"reason {number}")
    assert leases.standing().broken is None
    leases.lost("w19", "reason 19")
    assert leases.standing().broken == "reason 19"
    assert leases.next("w20") is None


def test_whoever_finishes_something_ends_a_row_of_losses() -> None:
    leases = lending(400, 4, workers=3)
    for number in range(60):
        lease = leases.next("steady")
        assert lease
        leases.done(lease.number, NOTHING)
        leases.lost(f"w{number}", "boom")
    assert leases.standing().broken is None


class Watch:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_worker_of_which_nothing_is_heard_for_long_is_told_of() -> None:
    clock = Watch()
    leases = Leases(Blocks(problems(16), 4), (), Budget(), 2, patience=60.0, clock=clock)
    first = lent(leases, "one")
    lent(leases, "one")
    clock.now = 6 * 60.0
    assert leases.standing().silent == {}, "nobody knows yet how long things take"
    clock.now += 1
    assert leases.standing().silent == {"one": 361.0}
    leases.heard("one")
    assert leases.standing().silent == {}
    clock.now = 400.0
    leases.done(first.number, NOTHING)  # after 400 seconds, the longest
    lent(leases, "other")
    clock.now += 1200.0
    leases.heard("other")
    assert leases.standing().silent == {}
    clock.now += 1.0
    assert leases.standing().silent == {"one": 1201.0}
    leases.lost("one", "it hangs")
    assert leases.standing().silent == {}
    assert leases.standing().waiting


def test_nothing_is_expected_of_a_worker_that_has_nothing_and_of_none_within_its_patience() -> None:
    clock = Watch()
    leases = Leases(Blocks(problems(8), 4), (), Budget(), 2, patience=60.0, clock=clock)
    leases.done(lent(leases, "one").number, NOTHING)  # in no time
    clock.now = 1.0
    leases.done(lent(leases, "other").number, NOTHING)
    clock.now = 1e6
    assert leases.next("one") is None
    assert leases.standing().silent == {}
    leases = Leases(Blocks(problems(8), 4), (), Budget(), 2, patience=60.0, clock=clock)
    first = lent(leases, "one")
    clock.now += 1.0
    leases.done(first.number, NOTHING)
    lent(leases, "one")
    clock.now += 60.0
    assert leases.standing().silent == {}
    clock.now += 1.0
    assert leases.standing().silent == {"one": 61.0}


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (replace(NOTHING, tokens=50), "max_tokens_total = 50 is reached with 50 tokens"),
        (replace(NOTHING, uncounted=1), "does not say how many tokens"),
    ],
)
def test_a_budget_that_is_used_up_ends_lending(report: Report, says: str) -> None:
    leases = lending(8, 4, workers=1, budget=Budget(tokens=50))
    leases.begin()
    lease = leases.next("a")
    assert lease
    assert leases.standing().waiting
    leases.done(lease.number, report)
    standing = leases.standing()
    assert standing.spent and says in standing.spent
    assert not standing.waiting and not standing.finished
    assert leases.next("a") is None


def test_hours_count_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("retell.meter.time.monotonic", lambda: now[0])
    leases = lending(8, 4, budget=Budget(hours=1))
    now[0] += 5000
    leases.begin()
    assert leases.next("a")
    now[0] += 3601
    assert leases.next("b") is None
    assert "max_hours = 1" in (leases.standing().spent or "")


def test_counts_and_failures_of_all_leases_are_told_together() -> None:
    leases = Leases(Blocks(problems(6), 2), {1}, Budget(), 1)
    leases.begin()
    for number in range(2):
        lease = leases.next("a")
        assert lease
        leases.done(lease.number, Report({f"k{number}": "no"}, f"f{number}", 5, 1, 70, 0, 2, 1, {"timeout": 2}))
        assert bool(leases.standing().failed) == leases.standing().finished
    standing = leases.standing()
    assert standing.failed == {"k0": "no", "k1": "no"}
    assert standing.files == ["f0", "f1"]
    assert standing.faults == {"timeout": 4}
    meter = standing.meter
    assert (meter.drawn, meter.found, meter.tokens, meter.undecided, meter.truncated) == (10, 2, 140, 4, 2)
    assert meter.failed == 2


def test_a_problem_given_up_is_known_by_its_benchmark() -> None:
    leases = Leases(Blocks(problems(1) * 2, 1, ["one", "two"]), (), Budget(), 1)
    for worker in "ab":
        leases.next("steady" + worker)
    leases.lost("steadya", "boom")  # it had that of the first
    for worker in "cde":
        lease = leases.next(worker)
        assert lease and lease.items[0][0] == "one"
        leases.lost(worker, "boom")
    leases.done(2, NOTHING)
    assert leases.standing().failed.keys() == {("one", "p0")}


@pytest.mark.parametrize("keep", [lambda _: True, lambda number: number % 3 != 1])
def test_blocks_of_a_table_are_those_of_its_rows(tmp_path: Path, keep: Any) -> None:
    rows = problems(2100)
    write_problems(tmp_path / "p.parquet", rows)
    here = [keep(number) for number in range(len(rows))]
    table = ProblemTable(tmp_path / "p.parquet").where(here)
    stays = [row for row, kept in zip(rows, here, strict=True) if kept]
    blocks, plain = Blocks(table, 32), Blocks(stays, 32)
    assert len(blocks) == len(plain) == -(-len(stays) // 32)
    for number in (0, 31, 32, len(plain) - 1):
        assert blocks.items(number) == plain.items(number)
    assert [problem for number in range(len(plain)) for _, problem in plain.items(number)] == stays
