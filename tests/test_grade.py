"""Grading what is there already: real files, real processes, killed for real."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gate import shut
from scripts import climb_all, problems

from retell import grade
from retell.cli import main
from retell.graders.base import Case
from retell.graders.qwen import QwenGrader
from retell.recipe import Evaluate, Recipe
from retell.records import Verdict
from retell.regrade import golds_of_evaluation
from retell.runfolder import RunFolder

AHEAD = 36
"""Answers that may have to be judged before the first verdict is written."""
GOOD = {"id": "a", "response": "It is \\boxed{2}.", "gold": "2"}
SLOW = f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from gate import wait_at

GATE = os.environ.get("GATE")

def slow(problem, response, gold):
    if GATE:
        wait_at(pathlib.Path(GATE))
    else:
        with pathlib.Path("calls").open("a") as calls:
            calls.write(response + "\\n")
    time.sleep(float(problem or 0))
    return response == gold

def contrary(problem, response, gold):
    return not slow(problem, response, gold)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with graders of its own: one as slow as a row says, and its contrary.

    They note their calls; but those of a process that is to be killed wait at its gate, and note none: they may outlive
    it by a moment.
    """
    (tmp_path / "mine.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    status = main(["grade", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out) if out else None, err


def calls(place: Path) -> list[str]:
    return (place / "calls").read_text(encoding="utf-8").splitlines() if (place / "calls").exists() else []


# --- A verdict for each row ---


def test_every_row_gives_one_in_its_order(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": number, "problem": str(0.05 * (number % 5 == 0)), "response": str(number), "gold": str(number // 3 * 3)}
        for number in range(40)
    ]
    data = write(place / "in.jsonl", rows)
    status, summary, _ = command(capsys, data, "--out", "out.jsonl", "--grader", "mine:slow", "--grader-workers", 3)
    assert status == 0
    verdicts = read(place / "out.jsonl")
    assert [row["id"] for row in verdicts] == list(range(40))
    assert [row["verdict"] for row in verdicts] == ["wrong" if n % 3 else "correct" for n in range(40)]
    assert {tuple(row) for row in verdicts} == {("id", "verdict", "extracted", "reason", "grader")}
    assert {row["grader"] for row in verdicts} == {summary["grader"]}
    assert [summary[name] for name in ("rows", "correct", "wrong", "undecided", "rejected")] == [40, 14, 26, 0, 0]
    assert not [path for path in place.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize(
    ("line", "id_", "reason"),
    [
        ("{broken", None, "not JSON: "),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), None, "not JSON: "),
        ("[" * 100_000, None, "not JSON: "),
        ("[1]", None, "no object: a list"),
        ("null", None, "no object: a NoneType"),
        ({"response": "\\boxed{2}", "gold": "2"}, None, "no id"),
        ({"id": [1], "response": "\\boxed{2}", "gold": "2"}, None, "id is no text: a list"),
        ({"id": "x", "gold": "2"}, "x", "no response"),
        ({"id": "x", "response": 2, "gold": "2"}, "x", "response is no text: a int"),
        ({"id": 7, "response": "\\boxed{2}"}, 7, "no gold"),
        ({"id": 7, "response": "\\boxed{2}", "gold": None}, 7, "no gold"),
        ({"id": 7, "response": "\\boxed{2}", "gold": " "}, 7, "no gold: it is empty"),
        ({"id": 7, "response": "\\boxed{2}", "gold": True}, 7, "gold is no text: a bool"),
        ({"id": 7, "response": "\\boxed{2}", "gold": float("nan")}, 7, "gold is no text: a float"),
        ({**GOOD, "problem": {}}, "a", "problem is no text: a dict"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: Any, id_: object, reason: str
) -> None:
    data = write(tmp_path / "in.jsonl", [GOOD, line, GOOD])
    status, summary, _ = command(capsys, data, "--out", tmp_path / "out.jsonl")
    assert status == 0
    first, rejected, last = read(tmp_path / "out.jsonl")
    assert first == last
    assert (first["id"], first["verdict"], first["extracted"]) == ("a", "correct", "2")
    assert (rejected["id"], rejected["verdict"], rejected["extracted"]) == (id_, None, None)
    assert rejected["reason"].startswith(reason)
    assert (summary["rows"], summary["correct"], summary["rejected"]) == (3, 2, 1)
    assert summary["reasons"]["rejected"] == {reason.partition(":")[0]: 1}


def test_rows_that_look_odd_and_are_none_the_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        "\ufeff" + json.dumps(GOOD),
        "",
        {**GOOD, "gold": 2},
        {**GOOD, "gold": 2.0, "id": 1.5},
        {**GOOD, "stop": "stop", "problem": None, "finish_reason": None},
        {**GOOD, "stop": "length"},
        {**GOOD, "finish_reason": "length"},
        {**GOOD, "response": ""},
        {"id": "\ud800", "response": "\ud800 \\boxed{\ud800}", "gold": "\ud800"},
    ]
    data = write(tmp_path / "in.jsonl", rows)
    data.write_bytes(data.read_bytes().replace(b"\n", b"\r\n").rstrip())
    assert command(capsys, data, "--out", tmp_path / "out.jsonl")[0] == 0
    verdicts = read(tmp_path / "out.jsonl")
    assert [row["id"] for row in verdicts] == ["a", "a", 1.5, "a", "a", "a", "a", "?"]
    assert [row["verdict"] for row in verdicts] == ["correct"] * 4 + ["wrong"] * 3 + ["correct"]
    assert [row["reason"] for row in verdicts[4:6]] == ["stopped for length"] * 2


def test_a_row_of_any_length_costs_itself_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grade, "_LONGEST", 200)
    long = {**GOOD, "response": "so " * 500 + "\\boxed{2}"}
    data = write(tmp_path / "in.jsonl", [GOOD, long, GOOD])
    assert command(capsys, data, "--out", tmp_path / "out.jsonl")[0] == 0
    assert [row["verdict"] for row in read(tmp_path / "out.jsonl")] == ["correct", None, "correct"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from retell.cli import main; main(['grade', 'in.jsonl', '--out', 'out.jsonl']);"
        "print(next(line for line in Path('/proc/self/status').read_text().splitlines() if 'VmHWM' in line).split()[1])"
    )

    def peak(rows: int) -> int:
        with (tmp_path / "in.jsonl").open("w", encoding="utf-8") as file:
            for number in range(rows):
                file.write(json.dumps({**GOOD, "id": number, "response": "so " * 10_000 + "\\boxed{2}"}) + "\n")
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])

    small, large = peak(10), peak(3000)  # 90 MB
    assert large < small + 15_000
    assert len(read(tmp_path / "out.jsonl")) == 3000


def test_no_more_is_read_ahead_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade, "_WINDOW", 10)
    read = given = 0

    class Hesitant:
        """Judges the last that came first, one at a time, and only for somebody who waits."""

        def __init__(self) -> None:
            self.tickets: list[str] = []

        def submit(self, ticket: str, case: Case) -> None:
            self.tickets.append(ticket)

        def collect(self, *, wait: bool) -> list[tuple[str, Verdict]]:
            return [(self.tickets.pop(), Verdict("correct", None, ""))] if wait and self.tickets else []

    def lines() -> Iterator[bytes]:
        nonlocal read
        for read in range(1, 101):
            yield json.dumps({**GOOD, "id": read}).encode()

    for rows in grade._graded(lines(), Hesitant()):  # type: ignore[arg-type]
        assert read - given <= 10
        assert [row.id for row in rows] == list(range(given + 1, given + 1 + len(rows)))
        given += len(rows)
    assert given == 100


def test_people_get_a_table_with_reasons_and_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "in.jsonl", [GOOD, GOOD, {**GOOD, "stop": "length"}, "{"])
    assert main(["grade", str(data), "--out", str(tmp_path / "out.jsonl")]) == 0
    output = capsys.readouterr().out
    for line in (
        ["correct", "2", "50.0%"],
        ["wrong", "1", "25.0%"],
        ["stopped", "for", "length", "1"],
        ["not", "JSON", "1"],
    ):
        assert line in [shown.split() for shown in output.splitlines()]
    assert output.splitlines()[-1] == str(tmp_path / "out.jsonl")


# --- Killed, started again, and never twice ---


def many(place: Path, rows: int = 120) -> Path:
    return write(
        place / "in.jsonl",
        [{"id": n, "problem": "", "response": f"r{n}", "gold": f"r{n - n % 2}"} for n in range(rows)],
    )


def gated(place: Path, after: int, arguments: list[str]) -> subprocess.Popen[str]:
    """Starts a process of its own whose grader judges so many answers and then waits, until the gate is taken away."""
    gate = place / f"gate-{len(list(place.glob('gate-*')))}"
    shut(gate, after)
    return subprocess.Popen(
        [sys.executable, "-m", "retell", *arguments, "--grader-workers", "1"],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"GATE": gate.name},
    )  # fmt: skip


def start(place: Path, lines: int) -> subprocess.Popen[str]:
    """Starts grading, and returns once so many lines are added; few more can be."""
    part = place / ".out.jsonl.part"
    before = part.read_bytes().count(b"\n") if part.exists() else 0
    process = gated(place, lines + AHEAD, ["grade", "in.jsonl", "--out", "out.jsonl", "--grader", "mine:slow"])
    deadline = time.monotonic() + 60
    while not part.exists() or part.read_bytes().count(b"\n") < before + lines:
        assert process.poll() is None, "it was done before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_was_stopped_goes_on_and_ends_as_if_undisturbed(
    place: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    many(place)
    assert command(capsys, "in.jsonl", "--out", "undisturbed.jsonl", "--grader", "mine:slow")[0] == 0
    for _ in range(2):
        process = start(place, 20)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == (130 if number == signal.SIGINT else -9)
        assert "Traceback" not in errors
        assert not (place / "out.jsonl").exists()
    part = place / ".out.jsonl.part"
    written = part.read_bytes().count(b"\n")
    with part.open("ab") as torn:
        torn.write(b'{"id": 61, "verd')
    (place / "calls").unlink()
    status, summary, _ = command(capsys, "in.jsonl", "--out", "out.jsonl", "--grader", "mine:slow")
    assert status == 0
    assert (place / "out.jsonl").read_bytes() == (place / "undisturbed.jsonl").read_bytes()
    assert [summary[name] for name in ("rows", "correct", "wrong")] == [120, 60, 60]
    assert sorted(calls(place)) == sorted(f"r{n}" for n in range(written, 120))


def test_a_line_that_lacks_its_end_only_is_written_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many(place)
    process = start(place, 20)
    process.kill()
    process.communicate()
    part = place / ".out.jsonl.part"
    lines = part.read_bytes().splitlines(keepends=True)[:20]
    part.write_bytes(b"".join(lines).removesuffix(b"\n"))
    status, summary, _ = command(capsys, "in.jsonl", "--out", "out.jsonl", "--grader", "mine:slow")
    assert (status, summary["rows"]) == (0, 120)
    assert [row["id"] for row in read(place / "out.jsonl")] == list(range(120))
    assert sorted(calls(place)) == sorted(f"r{n}" for n in range(19, 120))


def test_a_file_that_is_there_and_not_ours_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write(tmp_path / "in.jsonl", [GOOD]), tmp_path / "out.jsonl"
    out.write_text("mine", encoding="utf-8")
    status, _, err = command(capsys, data, "--out", out)
    assert (status, out.read_text(encoding="utf-8")) == (2, "mine")
    assert "is not what retell wrote" in err
    out.unlink()
    assert command(capsys, data, "--out", out)[0] == 0


def test_what_is_done_is_not_done_again_and_what_changed_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write(place / "in.jsonl", [GOOD] * 3), place / "out.jsonl"

    def again(grader: str = "math") -> tuple[Any, str]:
        status, summary, err = command(capsys, data, "--out", out, "--grader", grader)
        assert status == 0
        return summary, err

    first, _ = again()
    before = out.stat()
    same, err = again()
    assert same == first
    assert "nothing to do" in err
    assert out.stat() == before
    other, err = again("qwen")
    assert other["grader"] == QwenGrader.name
    assert "nothing to do" not in err
    out.write_text("mine", encoding="utf-8")
    status, _, err = command(capsys, data, "--out", out, "--grader", "qwen")
    assert (status, out.read_text(encoding="utf-8")) == (2, "mine")  # what is not ours is not replaced
    assert "choose another --out" in err
    out.unlink()
    write(data, [GOOD] * 4)
    assert again("qwen")[0]["rows"] == len(read(out)) == 4


def test_what_was_begun_with_another_grader_is_begun_anew(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many(place)
    process = start(place, 5)
    process.kill()
    process.communicate()
    status, summary, err = command(capsys, "in.jsonl", "--out", "out.jsonl", "--grader", "qwen")
    assert status == 0
    assert "begun anew" in err
    assert {row["grader"] for row in read(place / "out.jsonl")} == {QwenGrader.name}
    assert summary["rows"] == 120


def test_two_at_once_do_not_write_the_same_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many(place)
    process = start(place, 1)
    status, _, err = command(capsys, "in.jsonl", "--out", "out.jsonl", "--grader", "mine:slow")
    assert status == 2
    assert "another retell is writing out.jsonl" in err
    (place / "gate-0").unlink()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [row["id"] for row in read(place / "out.jsonl")] == list(range(120))


def test_a_full_disk_keeps_what_was_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        data = write(tmp_path / "in.jsonl", [{**GOOD, "id": n} for n in range(2000)])
        status, _, err = command(capsys, data, "--out", disk / "out.jsonl")
        assert status == 1
        assert "make room and start again" in err
        assert err.count("\n") == 1
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        status, summary, _ = command(capsys, data, "--out", disk / "out.jsonl")
        assert (status, summary["correct"]) == (0, 2000)
        assert [row["id"] for row in read(disk / "out.jsonl")] == list(range(2000))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- What cannot be done is refused in one line ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jsonl", "--out", "o.jsonl"], "there is no file or run folder nowhere.jsonl"),
        (["a" * 300, "--out", "o.jsonl"], "there is no file"),
        (["in.jsonl"], "--out"),
        (["in.jsonl", "--out", "in.jsonl"], "is the file that is to be graded"),
        (["in.jsonl", "--out", "link.jsonl"], "is the file that is to be graded"),
        (["in.jsonl", "--out", "folder"], "folder is there and is no file"),
        (["in.jsonl", "--out", "/dev/null"], "is no file"),
        (["in.jsonl", "--out", "in.jsonl/o.jsonl"], "in.jsonl/o.jsonl"),
        (["in.jsonl", "--out", "/proc/o.jsonl"], "/proc/o.jsonl"),
        (["in.jsonl", "--out", "b" * 300], "too long"),
        (["in.jsonl", "--out", "o.jsonl", "--grader", "maths"], "maths"),
        (["in.jsonl", "--out", "o.jsonl", "--grader-workers", "0"], "grader_workers"),
        (["empty.jsonl", "--out", "o.jsonl"], "is empty"),
        (["list.json", "--out", "o.jsonl"], "no row of list.json can be graded: 3 not JSON, 1 no object"),
        (["data.parquet", "--out", "o.jsonl"], "not JSON"),
        (["/dev/null", "--out", "o.jsonl"], "is no file"),
        (["folder", "--out", "o.jsonl"], "leave out --out"),
        (["folder"], "folder is no run folder"),
    ],
)
def test_a_request_that_is_wrong(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    write(place / "in.jsonl", [GOOD])
    (place / "link.jsonl").symlink_to("in.jsonl")
    (place / "folder").mkdir()
    write(place / "empty.jsonl", ["", " "])
    write(place / "list.json", ["[", "1,", "2", "]"])
    pq.write_table(pa.table({"id": [1]}), place / "data.parquet")
    before = {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    status, summary, err = command(capsys, *arguments)
    assert (status, summary) == (2, None)
    assert err.startswith("retell: ")
    assert err.count("\n") == 1
    assert says in err
    assert {path: path.read_bytes() for path in place.iterdir() if path.is_file()} == before


# --- A run's samples again ---


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run on recorded responses, rewritten with the grader of its working directory."""
    rows = [
        {"id": f"p{n}", "problem": "0.001", "solution": f"\\boxed{{{n}}}", "candidates": [str(n - n % 3), f"no {n}"]}
        for n in range(30)
    ]
    data = write(place / "data.jsonl", rows)
    assert main([*rewriting(place, "mine:slow"), "--data", str(data)]) == 0
    assert sorted(calls(place)) == sorted(candidate for row in rows for candidate in row["candidates"])
    capsys.readouterr()
    (place / "calls").unlink()
    return place / "run"


def rewriting(place: Path, grader: str) -> list[str]:
    return ["rewrite", "--engine", "recorded", "--grader", grader, "--out", str(place / "run"), "--json"]


def verdicts(run: Path) -> dict[tuple[str, str], str]:
    with closing(sqlite3.connect(run / "journal.sqlite")) as db:
        return {
            (key, grader): outcome
            for key, grader, outcome in db.execute("SELECT sample, grader, outcome FROM verdicts")
        }


def test_a_run_is_graded_again_and_a_stage_finds_the_verdicts(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = verdicts(run)
    status, same, _ = command(capsys, run)
    assert status == 0
    assert same["rungs"]["self"] == {
        "samples": 60, "no_gold": 0, "compared": 60, "correct_before": 10, "correct": 10, "changed": 0, "undecided": 0,
        "undecided_reasons": {},
    }  # fmt: skip
    assert (verdicts(run), calls(place)) == (before, [])

    table = pq.read_table(run / "rewritten.parquet")
    status, other, _ = command(capsys, run, "--grader", "mine:contrary")
    again = other["rungs"]["self"]
    assert [again[name] for name in ("compared", "correct_before", "correct", "changed")] == [60, 10, 50, 60]
    assert len(calls(place)) == 60
    after = verdicts(run)
    assert before.items() < after.items()
    assert len(after) == 120
    assert pq.read_table(run / "rewritten.parquet").equals(table)

    assert main(rewriting(place, "mine:contrary")) == 0
    assert json.loads(capsys.readouterr().out)["rungs"] == {"self": 30, "guided": 0, "expert": 0}
    assert len(calls(place)) == 60
    assert verdicts(run) == after


def test_a_run_without_its_tables_is_graded_from_its_data(
    place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "rewritten.parquet").unlink()
    status, summary, _ = command(capsys, run, "--grader", "mine:contrary")
    assert (status, summary["rungs"]["self"]["correct"]) == (0, 50)
    rows = read(place / "data.jsonl")
    write(place / "data.jsonl", rows[:10])
    _, summary, _ = command(capsys, run, "--grader", "math")
    assert [summary["rungs"]["self"][name] for name in ("samples", "no_gold", "compared")] == [60, 40, 20]
    (place / "data.jsonl").unlink()
    status, summary, _ = command(capsys, run, "--grader", "qwen")
    assert (status, summary["rungs"]["self"]["no_gold"]) == (0, 60)


def test_a_killed_grading_of_a_run_goes_on(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(verdicts(run))
    process = gated(place, 10 + AHEAD, ["grade", "run", "--grader", "mine:contrary"])
    while len(verdicts(run)) < before + 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    kept = verdicts(run)
    assert before + 10 <= len(kept) < before + 60
    assert calls(place) == []
    status, summary, _ = command(capsys, run, "--grader", "mine:contrary")
    assert (status, summary["rungs"]["self"]["correct"]) == (0, 50)
    assert len(calls(place)) == before + 60 - len(kept)
    assert kept.items() < verdicts(run).items()


def test_a_response_that_was_cut_off_is_wrong_whoever_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    climb_all(tmp_path / "run", problems(20), k=4)
    with RunFolder(tmp_path / "run") as folder:
        folder.store_recipe(Recipe())
    _, before, _ = command(capsys, tmp_path / "run")
    status, after, _ = command(capsys, tmp_path / "run", "--grader", "qwen")
    assert status == 0
    assert after["rungs"].keys() == {"self", "guided"}
    for rung, one in after["rungs"].items():
        assert one["correct"] == one["correct_before"] == before["rungs"][rung]["correct"] > 0
        assert one["compared"] == one["samples"]
        assert one["changed"] == 0
    query = "SELECT reason, COUNT(*) FROM verdicts JOIN samples ON sample = key WHERE stop = 'length' GROUP BY reason"
    with closing(sqlite3.connect(tmp_path / "run" / "journal.sqlite")) as db:
        assert [reason for reason, n in db.execute(query)] == ["stopped for length"]


def test_people_get_a_table_of_what_changed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", str(run), "--grader", "mine:contrary"]) == 0
    output = capsys.readouterr().out
    assert ["self", "60", "10", "50", "60", "0", "0"] in [line.split() for line in output.splitlines()]
    assert output.splitlines()[-1] == str(run / "journal.sqlite")


def test_golds_of_an_evaluation_come_from_its_benchmark_else_from_its_responses(tmp_path: Path) -> None:
    bench = write(tmp_path / "one.jsonl", [{"id": "x", "problem": "1 + 1?", "answer": "2"}])
    (tmp_path / "eval").mkdir()
    written = [{"benchmark": b, "id": "x", "answer": "3"} for b in ("one", "two")]
    pq.write_table(pa.Table.from_pylist(written), tmp_path / "eval" / "base.parquet")
    settings = Evaluate(benchmark=(str(bench), str(tmp_path / "gone.jsonl")))
    golds = golds_of_evaluation(settings, tmp_path, with_texts=False)
    assert golds == {("one", "x"): ("1 + 1?", "2"), ("two", "x"): ("", "3")}
    assert golds_of_evaluation(settings, tmp_path, with_texts=True) == {("one", "x"): ("1 + 1?", "2")}


def test_rewriting_with_a_grader_made_for_scores_is_refused_unless_forced(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(place / "data.jsonl", [{"problem": "1%?", "solution": "\\boxed{1\\%}", "candidates": ["\\boxed{1}"]}])
    command = ["rewrite", "--engine", "recorded", "--data", str(data), "--grader", "qwen", "--out", "run", "--json"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "--force-grader" in message
    assert "'math'" in message
    assert not (place / "run").exists()
    assert main([*command, "--force-grader"]) == 0
    assert json.loads(capsys.readouterr().out)["grader"] == QwenGrader.name
