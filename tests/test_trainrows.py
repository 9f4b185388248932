import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.errors import RequestError
from retell.records import TrainRow
from retell.trainrows import TrainRows

IDS = st.lists(st.integers(0, 300_000), max_size=6).map(tuple)


@st.composite
def rows(draw: st.DrawFn) -> list[TrainRow]:
    made = []
    for number in range(draw(st.integers(0, 8))):
        response = draw(IDS)
        logprobs = st.lists(st.floats(-9, 0, width=32), min_size=len(response), max_size=len(response)).map(tuple)
        rung = draw(st.sampled_from(["self", "guided", "expert"]))
        made.append(TrainRow(f"row {number}", rung, draw(IDS), response, draw(st.none() | logprobs)))
    return made


@given(rows())
def test_rows_come_back_as_they_were_and_in_their_order(given: list[TrainRow]) -> None:
    held = TrainRows(given)
    assert list(held.values()) == given
    assert [held[row.id] for row in reversed(given)] == given[::-1]
    assert len(held) == len(given)


def test_two_rows_of_one_id_are_refused() -> None:
    row = TrainRow("twice", "self", (1,), (2,))
    with pytest.raises(RequestError, match="two rows to train on have the id twice"):
        TrainRows([row, row])


def test_a_row_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        TrainRows([])["missing"]
