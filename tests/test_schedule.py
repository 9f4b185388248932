from hypothesis import given
from hypothesis import strategies as st

from retell.schedule import Schedule, held_out

IDS = st.lists(st.text(max_size=4), unique=True, min_size=1, max_size=30)
SIZES = st.integers(1, 12)
EPOCHS = st.integers(1, 4)
ROUNDS = st.integers(1, 6)
MANY = [f"row {number}" for number in range(4000)]


def all_updates(schedule: Schedule) -> list[list[str]]:
    return [schedule.ids(update) for update in range(schedule.updates)]


@given(IDS, SIZES, EPOCHS)
def test_every_id_comes_once_an_epoch_in_updates_of_the_size(ids: list[str], size: int, epochs: int) -> None:
    updates = all_updates(Schedule(ids, size, epochs, seed=3))
    an_epoch = len(updates) // epochs
    for epoch in range(epochs):
        these = updates[epoch * an_epoch : (epoch + 1) * an_epoch]
        assert sorted(id for update in these for id in update) == sorted(ids)
        assert all(len(update) == size for update in these[:-1])
        assert 0 < len(these[-1]) <= size
    assert an_epoch * epochs == len(updates)


@given(IDS, SIZES, EPOCHS, st.randoms())
def test_the_order_in_which_ids_are_given_does_not_matter(
    ids: list[str], size: int, epochs: int, random: object
) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert all_updates(Schedule(shuffled, size, epochs, 3)) == all_updates(Schedule(ids, size, epochs, 3))


@given(IDS, SIZES, EPOCHS)
def test_updates_can_be_asked_for_in_any_order(ids: list[str], size: int, epochs: int) -> None:
    schedule = Schedule(ids, size, epochs, 3)
    backwards = [schedule.ids(update) for update in reversed(range(schedule.updates))]
    assert backwards[::-1] == all_updates(Schedule(ids, size, epochs, 3))


@given(IDS, SIZES, EPOCHS, ROUNDS)
def test_rounds_divide_the_updates_evenly_and_change_none(ids: list[str], size: int, epochs: int, rounds: int) -> None:
    schedule = Schedule(ids, size, epochs, 3, rounds)
    assert all_updates(schedule) == all_updates(Schedule(ids, size, epochs, 3))
    spans = [schedule.span(round) for round in range(rounds)]
    assert [update for span in spans for update in span] == list(range(schedule.updates))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1
    assert all(schedule.round(update) == round for round, span in enumerate(spans) for update in span)


def test_epochs_and_seeds_differ_in_order() -> None:
    ids = MANY[:50]
    first, second = all_updates(Schedule(ids, 50, 2, seed=0))
    (other,) = all_updates(Schedule(ids, 50, 1, seed=1))
    assert len({tuple(order) for order in (first, second, other, sorted(ids))}) == 4


def test_no_id_makes_no_update() -> None:
    assert Schedule([], 8, 2, 0).updates == 0


def test_about_the_share_is_held_out() -> None:
    assert not any(held_out(id, 0.0, 0) for id in MANY)
    assert all(held_out(id, 1.0, 0) for id in MANY)
    for share in (0.02, 0.3, 0.8):
        number = sum(held_out(id, share, 0) for id in MANY)
        assert abs(number - share * len(MANY)) < 4 * (len(MANY) * share * (1 - share)) ** 0.5


@given(st.text(), st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_who_is_held_out_at_a_share_is_so_at_a_larger_one(id: str, seed: int, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    assert held_out(id, smaller, seed) <= held_out(id, larger, seed)


def test_another_seed_holds_out_others_and_does_not_follow_the_order_of_training() -> None:
    chosen = {seed: {id for id in MANY if held_out(id, 0.5, seed)} for seed in (0, 1)}
    in_both = len(chosen[0] & chosen[1])
    assert abs(in_both - len(MANY) / 4) < 4 * (len(MANY) * 3 / 16) ** 0.5
    (order,) = all_updates(Schedule(MANY, len(MANY), 1, seed=0))
    early = sum(held_out(id, 0.5, 0) for id in order[:2000])
    assert abs(early - 1000) < 4 * (2000 / 4) ** 0.5
