from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.charts import POINTS, Counts, Curve, Dots, Part, averaged, curves, dots, histogram, plain, stacked, thinned
from retell.document import Chart


def traces(chart: Chart) -> list[dict[str, Any]]:
    return list(chart.figure["data"])


def test_a_histogram_has_a_step_for_each_bin_and_ends_at_both_sides() -> None:
    (trace,) = traces(histogram("t", [Counts("a", "self", [-2.0, -1.0, 0.0], [3, 4])], "x", "rows", "alt"))
    assert trace["x"] == [-2.5, -1.5, -0.5, 0.5]
    assert trace["y"] == [0, 3, 4, 0]
    assert trace["customdata"][1:3] == ["−2 to −1", "−1 to 0"]


def test_a_share_of_nothing_has_no_logarithm() -> None:
    chart = histogram("t", [Counts("a", "self", [0.0, 0.5, 1.0], [0.0, 1.0])], "x", "tokens", "alt", share_from=0.02)
    assert traces(chart)[0]["y"] == [None, None, 1.0, 1.0]
    assert chart.figure["layout"]["yaxis"]["range"] == [-2, 0]


@given(st.integers(1, 3000), st.integers(2, 50))
def test_thinning_keeps_the_ends_and_the_order(count: int, most: int) -> None:
    chosen = thinned(count, most)
    assert chosen == sorted(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, count - 1)
    assert len(chosen) == min(count, most)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=1500))
def test_a_long_curve_is_drawn_by_means_of_neighbours(values: list[float]) -> None:
    steps = list(range(1, len(values) + 1))
    (trace,) = traces(curves("t", [Curve("a", "sft", steps, values)], "update", "nats", "alt"))
    size = averaged(len(values))
    assert len(trace["x"]) == len(trace["y"]) <= POINTS
    assert trace["x"][-1] == len(values)
    assert trace["y"][0] == pytest.approx(fmean(values[:size]), rel=1e-4, abs=1e-6)
    assert size == 1 or len(values) > POINTS


def test_a_short_curve_is_drawn_as_it_is_and_a_negative_loss_is_seen() -> None:
    chart = curves("t", [Curve("a", "sft", [1, 2], [0.5, -0.25])], "update", "nats", "alt")
    assert traces(chart)[0]["y"] == [0.5, -0.25]
    assert chart.figure["layout"]["yaxis"]["rangemode"] == "normal"


def test_dots_have_their_intervals_and_what_is_unknown_is_not_drawn() -> None:
    mine = Dots("DFT", "dft", [40.0, None, 60.0], [(38.0, 43.0), None, None])
    theirs = Dots("DFT, paper", "dft", [41.0, 50.0, None], hollow=True)
    own, paper = traces(dots("t", ["a", "b", "c"], [mine, theirs], "%", "alt"))
    assert own["x"] == [40.0, 60.0]
    assert own["error_x"]["array"] == [3.0, 0.0] and own["error_x"]["arrayminus"] == [2.0, 0.0]
    assert own["customdata"][0] == ["DFT", "a", "40.00, 38.00 to 43.00"]
    assert own["customdata"][1] == ["DFT", "c", "60.00"]
    assert paper["y"][0] == own["y"][0], "the paper's value stands on the same line"
    assert paper["marker"]["symbol"] == own["marker"]["symbol"] + "-open"


def test_a_model_has_one_look_in_all_charts() -> None:
    one = Dots("DR + DFT", "dr-dft", [1.0])
    alone, beside = dots("t", ["a"], [one], "", ""), dots("t", ["a"], [Dots("SFT", "sft", [1.0]), one], "", "")
    assert traces(alone)[0]["marker"] == traces(beside)[1]["marker"] != traces(beside)[0]["marker"]


def test_dots_of_different_things_do_not_cover_one_another() -> None:
    shown = [Dots(str(number), "ink", [1.0, 1.0]) for number in range(7)]
    heights = [y for trace in traces(dots("t", ["a", "b"], shown, "%", "alt")) for y in trace["y"]]
    assert len(set(heights)) == 14
    assert max(heights) < dots("t", ["a", "b"], shown, "%", "alt").figure["layout"]["yaxis"]["range"][0]


def test_the_parts_of_a_bar_are_those_of_its_row() -> None:
    chart = stacked(
        "t", ["one", "two"], [Part("self", "self", [60.0, 50.0]), Part("expert", "expert", [40, 50])], "", ""
    )
    assert [trace["x"] for trace in traces(chart)] == [[60.0, 50.0], [40.0, 50.0]]
    assert chart.figure["layout"]["barmode"] == "stack"


@given(st.text())
def test_names_are_no_markup_to_plotly(text: str) -> None:
    assert not set("<>") & set(plain(text))
    shown = [Dots(text, "ink", [1.0])]
    assert "<b" not in str(dots("t", [f"<b>{text}"], shown, "%", "alt").figure)


def test_a_long_name_is_cut_in_the_chart_and_whole_in_what_the_pointer_shows() -> None:
    name = "a very long name " * 9
    figure = dots("t", [name], [Dots("DFT", "dft", [1.0])], "%", "alt").figure
    assert len(figure["layout"]["annotations"][0]["text"]) <= 60
    assert figure["data"][0]["customdata"][0][1] == name
