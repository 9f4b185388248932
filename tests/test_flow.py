import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from retell.document import Branch, Flow
from retell.flow import drawn

COUNTS = st.integers(0, 10**6)


def flow(own: int, guided: int, expert: int, rejected: int) -> str:
    branches = [
        Branch(name, rows, name, "why") for name, rows in (("self", own), ("guided", guided), ("expert", expert))
    ]
    if rejected:
        branches.append(Branch("rejected", rejected, "rejected", "why", aside=True))
    return drawn(Flow("rows", branches, "Says <it>"))


def bars(picture: str, colour: str) -> list[tuple[float, float]]:
    found = re.findall(rf'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*var\(--{colour}\)', picture)
    return [(float(left), float(width)) for left, width in found]


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_branches_are_as_wide_as_they_have_rows_and_do_not_overlap(a: int, b: int, c: int, d: int) -> None:
    picture, total = flow(a, b, c, d), a + b + c + d
    if not total:
        assert picture == ""
        return
    scale = (1000 - 14 * (2 + bool(d))) / total
    ends = []
    for name, rows in (("self", a), ("guided", b), ("expert", c), ("rejected", d)):
        assert len(bars(picture, name)) == bool(rows)
        for left, width in bars(picture, name):
            assert abs(width - max(rows * scale, 1)) < 0.02
            ends.append((left, width))
    for (left, width), (right, _) in pairwise(ends):
        assert left + width <= right + 1.02
    assert all(left >= 0 and left + width <= 1001.02 for left, width in ends)


def test_what_is_left_after_each_step_is_said() -> None:
    picture = flow(70, 20, 10, 25)
    assert re.findall(r'class="at"[^>]*>([^<]*)<', picture) == ["125 rows", "30 left", "10 left"]
    assert "<strong>guided</strong> 20 (16.0%)" in picture
    assert 'aria-label="Says &lt;it&gt;"' in picture


def test_rows_that_all_take_one_way_have_one_band() -> None:
    assert flow(5, 0, 0, 0).count("<path") == 1
