import hashlib
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import retell
from retell.browse import MARKUP, Embedded, sampled_rows, scripts, styles
from retell.rewrite import SCHEMA
from retell.rows import Opened
from retell.runfolder import RunFolder
from retell.shell import json_block, page

VENDORED = Path(retell.__file__).parent / "page" / "vendor"


def row(number: int, text: str = "a solution") -> dict[str, Any]:
    rung = ("self", "guided", "expert")[number % 3]
    counts = {"samples_self": 1, "correct_self": 1, "samples_guided": 0, "correct_guided": 0}
    texts = {"id": f"r{number}", "source": "s", "problem": "p", "answer": "1", "solution": text, "response": text}
    return {**texts, **counts, "rung": rung, "messages": [], "verdict": "correct", "seed": 0}


def write(path: Path, rows: list[dict[str, Any]]) -> RunFolder:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path / "rewritten.parquet", row_group_size=64)
    return RunFolder(path)


def sample(folder: RunFolder, *limits: int) -> Embedded:
    return sampled_rows(folder, Opened(None), *limits)


def test_a_small_run_is_shown_whole_and_in_its_order(tmp_path: Path) -> None:
    found = sample(write(tmp_path, [row(n) for n in range(20)]))
    assert [one["id"] for one in found.rows] == [f"r{n}" for n in range(20)]
    assert (found.shown, found.total, found.notes[0]) == (20, 20, "All 20 rows.")


def test_of_a_large_run_the_same_random_rows_are_shown_whatever_their_order(tmp_path: Path) -> None:
    rows = [row(n) for n in range(2000)]
    found = sample(write(tmp_path, rows))
    assert (found.shown, found.total) == (300, 2000)
    assert found.notes[0] == f"300 of 2,000 rows, chosen at random; `retell view {tmp_path}` shows all."
    places = [one["row"] for one in found.rows]
    assert places == sorted(places)
    assert all(700 < sum(places[part::3]) / 100 < 1300 for part in range(3)), "they should lie all over the run"
    again = sample(write(tmp_path, rows[::-1]))
    assert {one["id"] for one in again.rows} == {one["id"] for one in found.rows}
    more = sample(write(tmp_path, rows), 400)
    assert {one["id"] for one in more.rows} > {one["id"] for one in found.rows}


def test_fewer_rows_are_shown_where_they_are_large_and_that_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path, [row(n, "<" * 1000) for n in range(50)])
    whole = sample(folder)
    few = sample(folder, 300, 100_000)
    assert 0 < few.shown < 50
    assert len(json_block("browse", few.rows).encode()) < 101_000
    largest = max(len(json_block("", one).encode()) for one in whole.rows)
    assert few.shown >= 100_000 // largest
    assert few.notes[0] == (
        f"{few.shown} of 50 rows, chosen at random; 50 would be too large for this page; `retell view {tmp_path}` "
        "shows all."
    )
    assert sample(folder, 300, 10).rows == []


def test_the_parts_fit_into_a_page_and_ask_for_nothing() -> None:
    whole = page("t", MARKUP, styles=styles(), scripts=scripts())
    assert len(whole) < 1_000_000
    assert not re.findall(r"""url\((?!["']?data:)""", whole), "a font would be fetched"
    assert len(re.findall(r"url\(data:font/woff2;base64,", whole)) == len(list(VENDORED.rglob("*.woff2"))) == 20


@pytest.mark.parametrize("name", ["katex.min.js", "katex.min.css"])
def test_what_is_vendored_is_unmodified(name: str) -> None:
    sums = dict(line.split()[::-1] for line in (VENDORED / "katex.sha256").read_text(encoding="utf-8").splitlines())
    assert hashlib.sha256((VENDORED / "katex" / name).read_bytes()).hexdigest() == sums[f"katex/{name}"]
    assert {f"katex/{path.relative_to(VENDORED / 'katex')}" for path in (VENDORED / "katex").rglob("*.*")} | {
        "katex/LICENSE"
    } == set(sums)
