import asyncio
import random

import pytest

from retell.engines import balance
from retell.engines.balance import Balance, Lane, Ticket
from retell.errors import EngineError


async def never(lane: Lane) -> str | None:
    return "still down"


def lanes(n: int, most: int = 256) -> list[Lane]:
    return [Lane(f"http://{name}/v1", most) for name in "abcdef"[:n]]


def down(balance: Balance[Lane], ticket: Ticket[Lane], cause: str = "gone") -> None:
    balance.failed(ticket, cause, overload=False, outage=True, pause=0.0)
    balance.release(ticket)


def busy(balance: Balance[Lane], ticket: Ticket[Lane]) -> None:
    balance.failed(ticket, "429", overload=True, outage=False, pause=0.0)
    balance.release(ticket)


def test_a_window_doubles_with_each_round_trip_up_to_the_most() -> None:
    lane = Lane("http://a/v1", 100)
    for wanted in (64, 100, 100):
        for _ in range(int(lane.window)):
            lane.grow()
        assert lane.window == wanted


def test_a_window_starts_no_wider_than_the_most_and_never_closes() -> None:
    lane = Lane("http://a/v1", 3)
    assert lane.window == 3
    for _ in range(5):
        lane.shrink()
    assert lane.window == 1 and lane.room == 1


def test_a_window_that_was_too_wide_grows_by_one_with_each_round_trip() -> None:
    lane = Lane("http://a/v1", 256)
    lane.shrink()
    for _ in range(16):
        lane.grow()
    assert 16.9 < lane.window < 17


def test_the_least_loaded_lane_is_next() -> None:
    async def run() -> None:
        a, b = lanes(2)
        b.shrink()  # to half the width of a
        one = Balance([a, b], 1.0, never)
        tickets = [await one.acquire() for _ in range(24)]
        assert (a.flying, b.flying) == (16, 8) and one.width == 48
        for ticket in tickets:
            one.release(ticket)
        assert (a.flying, b.flying) == (0, 0)

    asyncio.run(run())


def test_who_waits_longest_is_first_and_whoever_is_cancelled_keeps_no_place() -> None:
    async def run() -> None:
        (a,) = lanes(1, most=1)
        one = Balance([a], 1.0, never)
        held = await one.acquire()
        served: list[int] = []

        async def wait(number: int) -> None:
            ticket = await one.acquire()
            served.append(number)
            one.release(ticket)

        tasks = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        one.release(held)  # gives the place to the second, which is cancelled before it can take it
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [2, 3, 4] and a.flying == 0

    asyncio.run(run())


def test_faults_that_come_together_halve_the_window_once_and_later_ones_again() -> None:
    async def run() -> None:
        (a,) = lanes(1)
        one = Balance([a], 1.0, never)
        for wanted in (16, 8):
            for ticket in [await one.acquire() for _ in range(8)]:
                busy(one, ticket)
            assert a.window == wanted

    asyncio.run(run())


def test_a_lane_that_is_set_aside_gets_nothing_until_a_trial_goes_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(balance, "FIRST_PAUSE", 0.01)
    answers = ["still down", "still down", None]

    async def trial(lane: Lane) -> str | None:
        assert lane is a and a.room == 0
        return answers.pop(0)

    async def run() -> None:
        one = Balance([a, b], 60.0, trial)
        while (ticket := await one.acquire()).lane is not a:
            pass
        before = one.width
        down(one, ticket)
        assert one.width == before - 32
        assert {(await one.acquire()).lane.url for _ in range(20)} == {b.url}
        while not a.up:
            await asyncio.sleep(0.01)
        assert (await one.acquire()).lane is a and not answers
        await one.close()

    a, b = lanes(2)
    asyncio.run(run())
    assert capsys.readouterr().err.splitlines() == [
        "retell: http://a/v1 is set aside and tried again later: gone",
        "retell: http://a/v1 is back",
    ]


def test_pauses_double_up_to_the_longest_and_a_success_ends_that(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    async def run() -> None:
        (a,) = lanes(1)
        tried = iter(["no"] * 6 + [None] + ["no", None])

        async def trial(lane: Lane) -> str | None:
            return next(tried)

        one = Balance([a], 1e6, trial)
        down(one, await one.acquire())
        one.succeeded(ticket := await one.acquire())
        one.failed(ticket, "503", overload=True, outage=True, pause=7.0)
        one.release(ticket)
        await one.acquire()

    monkeypatch.setattr(balance.asyncio, "sleep", note)
    asyncio.run(run())
    assert slept == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 7.0, 7.0]


def test_patience_counts_the_time_in_which_all_are_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(balance.time, "monotonic", lambda: clock)

    async def run() -> None:
        nonlocal clock
        a, b = lanes(2)
        one = Balance([a, b], 900.0, never)
        first, second = await one.acquire(), await one.acquire()
        down(one, first)
        clock += 5000  # the other one is up
        one.release(await one.acquire())
        down(one, second, "refused")
        waiting = asyncio.create_task(one.acquire())
        await asyncio.sleep(0)
        clock += 899
        late = asyncio.create_task(one.acquire())
        await asyncio.sleep(0)
        assert not waiting.done() and not late.done()
        clock += 1
        with pytest.raises(EngineError, match=r"900 s: http://a/v1 \(gone\); http://b/v1 \(refused\): start one again"):
            await one.acquire()
        await asyncio.wait([waiting, late])
        assert all(isinstance(task.exception(), EngineError) for task in (waiting, late))
        await one.close()

    asyncio.run(run())


def test_servers_that_answer_and_fail_in_turns_are_down_for_the_sum_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(balance.time, "monotonic", lambda: clock)
    sleep = asyncio.sleep
    monkeypatch.setattr(balance.asyncio, "sleep", lambda seconds: sleep(0))

    async def trial(lane: Lane) -> str | None:
        nonlocal clock
        clock += 100
        return None

    async def outages(one: Balance[Lane], count: int, *, succeeding: bool) -> None:
        nonlocal clock
        for _ in range(count):
            ticket = await one.acquire()
            clock += 10_000  # up, however long
            if succeeding:
                one.succeeded(ticket)
            down(one, ticket)

    async def run() -> None:
        one = Balance(lanes(1), 900.0, trial)
        await outages(one, 30, succeeding=True)
        with pytest.raises(EngineError, match="no server has answered"):
            await outages(one, 11, succeeding=False)
        await one.close()

    asyncio.run(run())


def test_every_place_is_given_back_whatever_happens() -> None:
    rng = random.Random(0)
    some = lanes(3, most=4)

    async def user(one: Balance[Lane]) -> None:
        for _ in range(20):
            ticket = await one.acquire()
            assert all(0 <= lane.flying <= 4 for lane in some)
            try:
                await asyncio.sleep(0)
                if rng.random() < 0.2:
                    one.failed(ticket, "429", overload=True, outage=False, pause=0.0)
                else:
                    one.succeeded(ticket)
            finally:
                one.release(ticket)

    async def run() -> None:
        one = Balance(some, 60.0, never)
        users = [asyncio.create_task(user(one)) for _ in range(40)]
        for _ in range(25):
            await asyncio.sleep(0)
            rng.choice(users).cancel()
        await asyncio.wait(users)
        assert all(task.cancelled() or task.exception() is None for task in users)
        assert [lane.flying for lane in some] == [0, 0, 0]

    asyncio.run(run())
