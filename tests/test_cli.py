import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gate import shut
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import retell as package
from retell import commands
from retell.cli import _again, _complete, main
from retell.recipe import Section, load_recipe
from retell.runfolder import RunFolder

HERE = Path(__file__).parent
COMMANDS = "demo run rewrite gap train evaluate grade report compare view export doctor".split()
ROWS = [
    {"problem": "1 + 1?", "solution": "It is \\boxed{2}.", "candidates": ["\\boxed{3}", "\\boxed{2}"]},
    {"problem": "2 + 1?", "solution": "It is \\boxed{3}.", "candidates": ["It is 3."]},
    {"problem": "no gold", "solution": "None."},
]
MANY = 2000


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data.jsonl", ROWS)


def rewriting(data: object, out: object, *more: str) -> list[str]:
    return ["rewrite", "--engine", "recorded", "--data", str(data), "--out", str(out), *more]


def retell(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "retell", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)


def one_line(errors: str) -> str:
    """The message of a refused command: a single line, and no traceback."""
    assert errors.startswith("retell: ")
    assert errors.endswith("\n")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert "pydantic" not in errors
    return errors


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a request that is wrong."""
    status = main(arguments)
    output = capsys.readouterr()
    assert status == 2, output.err
    assert output.out == ""
    return one_line(output.err)


def rewritten(folder: Path) -> pa.Table:
    return pq.read_table(folder / "rewritten.parquet")


def summary_of(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "rewrite.json").read_text(encoding="utf-8"))
    return {key: value for key, value in summary.items() if key != "seconds"}


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    assert rewritten(folder).equals(rewritten(undisturbed))
    assert (folder / "rejected.jsonl").read_bytes() == (undisturbed / "rejected.jsonl").read_bytes()
    assert summary_of(folder) == summary_of(undisturbed)


def stored(folder: Path) -> dict[str, tuple[Any, ...]]:
    """The samples in a journal that may be in use."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
            return {row[0]: row for row in journal.execute("SELECT * FROM samples")}
    except sqlite3.OperationalError:
        return {}  # it is not there yet


# --- What is asked for is done ---


def test_help_is_there_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command} " in page
        assert main([command, "--help"]) == 0
        assert "--" in capsys.readouterr().out
    finished = retell("--help")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "rewrite" in finished.stdout


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert " rewrite " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["rewrite", "--ray"], ["rewrite", "--ray=auto"]),
        (["rewrite", "--ray", "--workers", "2"], ["rewrite", "--ray=auto", "--workers", "2"]),
        (["rewrite", "--ray", "a:1"], ["rewrite", "--ray", "a:1"]),
        (["rewrite", "--ray=a:1", "--k", "2"], ["rewrite", "--ray=a:1", "--k", "2"]),
        (["run", "a", "--rewrite.ray", "--evaluate.ray"], ["run", "a", "--rewrite.ray=auto", "--evaluate.ray=auto"]),
        ([], []),
    ],
)  # fmt: skip
def test_a_bare_ray_stands_for_the_cluster_that_is_there(given: list[str], meant: list[str]) -> None:
    assert _complete(given) == meant


def test_what_no_cluster_can_draw_is_refused(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "leave out --ray" in refused(capsys, *rewriting(data, tmp_path / "run", "--ray"))
    assert "workers = 2 are those of a cluster" in refused(capsys, *rewriting(data, tmp_path / "run", "--workers", "2"))
    assert "leave out --ray" in refused(capsys, *rewriting(data, tmp_path / "run", "--ray", "a:1"))
    assert not (tmp_path / "run").exists()


def test_people_get_a_table_and_a_path(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(rewriting(data, tmp_path / "run")) == 0
    output = capsys.readouterr()
    words = output.out.split()
    assert words[-1] == str(tmp_path / "run" / "rewritten.parquet")
    for expected in (["self", "1", "50.0%"], ["expert", "1", "50.0%"], ["rejected:", "no_gold", "1"]):
        place = words.index(expected[0])
        assert words[place : place + 3] == expected


def test_json_is_one_object_and_nothing_else(tmp_path: Path, data: Path) -> None:
    first = retell(*rewriting(data, tmp_path / "run", "--json"))
    again = retell(*rewriting(data, tmp_path / "run", "--json"))
    for finished in (first, again):
        assert finished.returncode == 0
        assert finished.stdout.count("\n") == 1
        assert json.loads(finished.stdout)["rungs"] == {"self": 1, "guided": 0, "expert": 1}
    assert json.loads(first.stdout) == json.loads(again.stdout)
    assert "nothing to do" in again.stderr


def test_recorded_responses_of_real_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "RETELL_TEST_DATA" not in os.environ:
        pytest.skip("RETELL_TEST_DATA names no folder of data")
    source = Path(os.environ["RETELL_TEST_DATA"]) / "recorded" / "gsm8k_candidates.jsonl"
    given_rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    assert main(rewriting(source, tmp_path / "run", "--json")) == 0
    summary = json.loads(capsys.readouterr().out)

    def number(text: str) -> Decimal | None:
        digits = text.strip().replace(",", "")
        return Decimal(digits) if digits.replace(".", "", 1).removeprefix("-").isdigit() else None

    def right(row: dict[str, Any], response: str) -> bool:
        last = response.rstrip().split("\n")[-1]
        return last.startswith("A:") and number(last.removeprefix("A:")) == number(row["answer"])

    rows = rewritten(tmp_path / "run").to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in given_rows]
    assert len(rows) == summary["problems"] == 1319
    for row, source_row in zip(rows, given_rows, strict=True):
        good = [response.strip() for response in source_row["candidates"] if right(source_row, response)]
        assert row["correct_self"] == len(good)
        assert row["samples_self"] == 4
        assert row["rung"] == ("self" if good else "expert")
        assert (row["response"].strip() in good) if good else (row["response"] == source_row["solution"].strip())
        assert row["verdict"] == ("correct" if good else None)
        assert row["response_token_ids"] is None
        assert row["behaviour_logprobs"] is None
        assert row["policy"] is None
        assert [message["content"] for message in row["messages"]] == [row["problem"], row["response"]]
        assert row["problem"] == source_row["problem"].strip()
    on_self = sum(row["rung"] == "self" for row in rows)
    assert summary["rungs"] == {"self": on_self, "guided": 0, "expert": 1319 - on_self}
    assert 0 < on_self < 1319
    assert summary["undecided"] == 0
    assert summary["samples"] == {"self": 5276, "guided": 0}


# --- What cannot be done is refused in one line with status 2 ---


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "there is no file"),
        ("missing.parquet", None, "there is no file"),
        ("empty.jsonl", b"", "is empty"),
        ("garbage.jsonl", b"\xff\xfe\x00\n\x80", "broken_line"),
        ("garbage.parquet", b"PAR1 but no more", "Parquet"),
        ("torn.jsonl", b'{"problem": "1', "no row of"),
        ("unusable.jsonl", b'{"problem": "1 + 1?", "solution": "Two."}', "1 no_gold"),
        ("nothing.jsonl", b'{"problem": "1 + 1?", "solution": "\\\\boxed{2}"}', "no row has any"),
        ("data.txt", b"hello", "data.txt: data files end in .jsonl or .parquet"),
    ],
)
def test_data_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = refused(capsys, *rewriting(tmp_path / name, tmp_path / "run"))
    assert says in message
    assert name in message or "candidates" in message


def test_a_folder_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").mkdir()
    assert "x.jsonl" in refused(capsys, *rewriting(tmp_path / "x.jsonl", tmp_path / "run"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(name=st.text(st.characters(exclude_characters="\0"), max_size=300))
def test_any_name_of_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    refused(capsys, *rewriting(f"{name}.jsonl", tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--k", "0"], ["k", "0"]),
        (["--k", "many"], ["k", "many"]),
        (["--k", "1.5"], ["k", "1.5"]),
        (["--temperature", "-1"], ["temperature", "-1"]),
        (["--temperature", "nan"], ["temperature", "nan"]),
        (["--top-p", "1.1"], ["top", "1.1"]),
        (["--seed", "9223372036854775808"], ["seed", "9223372036854775808"]),
        (["--limit", "0"], ["limit", "0"]),
        (["--temprature", "1"], ["--temprature", "--temperature"]),
        (["--template", "plane"], ["plane", "plain"]),
        (["--guided-template", "plain"], ["plain", "{solution}"]),
        (["--k"], ["--k"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_a_bad_option_is_named(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    message = refused(capsys, *rewriting(data, tmp_path / "run", *arguments))
    for word in named:
        assert word in message


def test_a_request_that_lacks_something(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--out" in refused(capsys, "rewrite", "--data", str(data))
    assert "--data" in refused(capsys, "rewrite", "--engine", "recorded", "--out", str(tmp_path / "a"))
    assert "--model" in refused(capsys, "rewrite", "--data", str(data), "--out", str(tmp_path / "b"))
    assert "rewirte" in refused(capsys, "rewirte")
    message = refused(capsys, "rewrite", "--engine", "recorder", "--out", str(tmp_path / "c"))
    assert "'recorder'" in message
    assert "'recorded'" in message
    assert "--loss" in refused(capsys, "train", str(tmp_path), "--data", "expert")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[rewrite]\ntemprature = 1", "unknown key rewrite.temprature: did you mean temperature?"),
        ("[rewritten]\nk = 1", "unknown key rewritten: did you mean rewrite?"),
        ("[rewrite]\nk = 0", "rewrite.k = 0"),
        ("[train]\nruns = ['dr-sf']", "dr-sf"),
        ("[[[", "is not TOML"),
        (None, "cannot read the recipe"),
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, says: str) -> None:
    path = tmp_path / "recipe.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert says in refused(capsys, "run", str(path), "--out", str(tmp_path / "run"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(content=st.binary(max_size=60))
def test_any_bytes_as_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "recipe.toml").write_bytes(content)
    refused(capsys, "run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rewrite", "--k", "3"], "`retell rewrite` needs --out: see `retell rewrite --help`"),
        (["export", "runs/one"], "`retell export` needs --format"),
        (["report"], "`retell report` needs FOLDER"),
        (["rewrite", "--out"], "--out requires an argument"),
        (
            ["rewrite", "--out", "run", "--engine-args", "x=3"],
            "'x=3' is no table: give keys and values, `--engine",
        ),
    ],
)
def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert says in refused(capsys, *arguments)


@pytest.mark.parametrize("command", ["gap", "report"])
def test_a_stage_without_its_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "there is no run folder" in refused(capsys, command, str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    assert "is no run folder" in refused(capsys, command, str(tmp_path))


@pytest.mark.parametrize("place", ["file/run", "file", "/proc/run", "/dev/null/run"])
def test_a_run_folder_that_cannot_be(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    out = tmp_path / place  # an absolute place stays as it is
    assert str(out) in refused(capsys, *rewriting(data, out))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_run_of_something_else_is_not_touched(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(rewriting(data, out, "--json")) == 0
    before = json.loads(capsys.readouterr().out)
    other = write(tmp_path / "other.jsonl", [{**row, "problem": f"{row['problem']}!"} for row in ROWS])
    boxed = refused(capsys, *rewriting(data, out, "--template", "boxed"))
    assert "prompt template" in boxed
    message = refused(capsys, *rewriting(data, out, "--temperature", "0.5"))
    assert "temperature" in message
    assert "1.0" in message
    assert "0.5" in message
    assert "--restart" in message
    assert "another data" in refused(capsys, *rewriting(other, out))
    assert main(rewriting(data, out, "--json")) == 0
    assert json.loads(capsys.readouterr().out) == before
    assert main(rewriting(other, out, "--restart", "--json")) == 0
    assert rewritten(out)["problem"].to_pylist() == ["1 + 1?!", "2 + 1?!"]


def test_a_folder_in_use_is_refused(tmp_path: Path, data: Path) -> None:
    with RunFolder(tmp_path / "run"):
        finished = retell(*rewriting(data, tmp_path / "run"))
    assert finished.returncode == 2
    assert "another retell is running" in one_line(finished.stderr)
    assert str(tmp_path / "run") in finished.stderr
    assert finished.stdout == ""
    assert retell(*rewriting(data, tmp_path / "run")).returncode == 0


def test_a_process_of_its_own_refuses_the_same_way(tmp_path: Path, data: Path) -> None:
    for arguments in (
        rewriting(tmp_path / "missing.jsonl", tmp_path / "run"),
        rewriting(data, tmp_path / "run", "--k", "0"),
        rewriting(data, "/proc/run"),
    ):
        finished = retell(*arguments)
        assert finished.returncode == 2
        assert finished.stdout == ""
        one_line(finished.stderr)


def test_bytes_that_are_no_text(tmp_path: Path, data: Path) -> None:
    os.link(data, tmp_path / "data\udcff.jsonl")
    for arguments in (rewriting(tmp_path / "data\udcff.jsonl", tmp_path / "run"), rewriting(data, tmp_path / "\udcff")):
        finished = retell(*arguments)
        assert finished.returncode == 2
        assert "UTF-8" in one_line(finished.stderr)


def model_folder(path: Path, *, config: bool, tokenizer: bool) -> Path:
    path.mkdir()
    if config:
        (path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    if tokenizer:
        Tokenizer(WordLevel({"a": 0, "<unk>": 1, "</s>": 2}, unk_token="<unk>")).save(str(path / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
        (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("config", "tokenizer", "says"),
    [(False, True, "no config.json"), (True, False, "no tokenizer"), (True, True, "no chat template")],
)
def test_a_model_that_cannot_be_a_policy(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], config: bool, tokenizer: bool, says: str
) -> None:
    model = model_folder(tmp_path / "model", config=config, tokenizer=tokenizer)
    out = str(tmp_path / "run")
    message = refused(capsys, "rewrite", "--model", str(model), "--data", str(data), "--out", out)
    assert says in message
    assert str(model) in message


@pytest.mark.parametrize("model", ["/nowhere/model", "./model", "a" * 300, "~nobody-at-all/deep/model"])
def test_a_model_that_is_not_there(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], model: str) -> None:
    message = refused(capsys, "rewrite", "--model", model, "--data", str(data), "--out", str(tmp_path / "run"))
    assert "there is no model folder" in message
    assert Path(model).name in message


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_training_runs_in_several_processes(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    given = {"rewrite": rewriting(data, tmp_path / "run"), "demo": ["demo"], "gap": ["gap", str(tmp_path)]}
    for command, arguments in given.items():
        assert main(arguments) == 2
        output = capsys.readouterr()
        assert output.out == ""
        if rank == "0":
            assert f"`retell {command}` runs in one process, and WORLD_SIZE is 2" in one_line(output.err)
        else:
            assert output.err == ""  # it is said once
    assert not (tmp_path / "run").exists()


def test_one_process_of_a_launcher_runs_everything(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert main(rewriting(data, tmp_path / "run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["rungs"] == {"self": 1, "guided": 0, "expert": 1}


# --- What goes wrong on the way costs nothing that was stored ---


@contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_read_only_disk_is_refused(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tmpfs(tmp_path / "disk", "size=1m,ro") as disk:
        assert "Read-only file system" in refused(capsys, *rewriting(data, disk))
        assert str(disk / "run") in refused(capsys, *rewriting(data, disk / "run"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes seconds: most answers are integers, some need algebra, some rows are rejected."""

    def row(number: int) -> dict[str, Any]:
        wrong = f"Adding gives {number}.\nA: {number}"
        right = f"Adding gives {number + 1}.\nA: " + (f"\\frac{{{2 * number + 2}}}{{2}}" if number % 50 == 0 else "")
        solution = f"It is \\boxed{{{number + 1}}}." if number % 100 else "None."
        candidates = [wrong, right if number % 50 == 0 else right + str(number + 1)][:: 1 if number % 2 else -1]
        if number % 3 == 0:
            candidates = [wrong, wrong]
        return {"problem": f"{number} + 1?", "solution": solution, "candidates": candidates}

    return write(tmp_path_factory.mktemp("many") / "many.jsonl", [row(number) for number in range(MANY)])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, many: Path) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = retell(*rewriting(many, folder))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert 0 < summary_of(folder)["rungs"]["self"] < summary_of(folder)["problems"]
    assert summary_of(folder)["problems"] + summary_of(folder)["rejected"]["no_gold"] == MANY
    return folder


GATED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
from gate import wait_at
from retell.cli import main
from retell.journal import Journal
store, gate = Journal.add_samples, Path(sys.argv.pop(1))
def add_samples(journal, samples):
    samples = list(samples)
    for _ in samples:
        wait_at(gate)
    store(journal, samples)
Journal.add_samples = add_samples
sys.exit(main())
"""
"""The command, whose samples pass a gate before they are stored."""


def interrupt(many: Path, folder: Path, after: int, number: signal.Signals) -> subprocess.Popen[str]:
    """Starts rewriting and sends a signal, to the whole group as a terminal does, once so many samples are stored."""
    held = folder.with_name("gate")
    shut(held, after - len(stored(folder)) + 300)  # they are stored 256 at a time
    command = [sys.executable, "-c", GATED, str(HERE), str(held), *rewriting(many, folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and len(stored(folder)) < after:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, number)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_rewriting_says_how_to_go_on_and_goes_on_where_it_was(
    tmp_path: Path, many: Path, undisturbed: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    process = interrupt(many, folder, 500, number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == ""
    assert "interrupted" in one_line(errors)
    assert errors.endswith(f"to go on: retell {' '.join(rewriting(many, folder))}\n")
    kept = stored(folder)
    assert 500 <= len(kept) < len(stored(undisturbed))
    assert not (folder / "rewritten.parquet").exists()
    assert retell(*rewriting(many, folder)).returncode == 0
    assert_same_run(folder, undisturbed)
    assert kept.items() <= stored(folder).items()


def test_what_is_to_be_typed_after_an_interrupted_restart_discards_nothing() -> None:
    assert _again(["rewrite", "--out", "a run", "--restart", "--k", "4"]) == "retell rewrite --out 'a run' --k 4"
    assert _again(["rewrite", "--restart=true", "--k", "4"]) == "retell rewrite --k 4"


def test_a_budget_ends_a_start_as_an_interruption_does(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = rewriting(data, tmp_path / "run")
    assert main([*arguments, "--restart", "--max-hours", "1e-12"]) == 130
    said = capsys.readouterr().err
    assert f"to go on: retell {' '.join(arguments)} --max-hours 1e-12" in said
    assert main(arguments) == 0  # the budget was that start's


def test_a_restart_does_all_again_though_nothing_has_changed(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = rewriting(data, tmp_path / "run")
    assert main(arguments) == 0
    (tmp_path / "run" / "journal.sqlite").unlink()
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*arguments, "--restart"]) == 0
    assert "nothing to do" not in capsys.readouterr().err
    assert (tmp_path / "run" / "journal.sqlite").exists()


def test_a_restart_that_cannot_start_discards_nothing(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(rewriting(data, folder)) == 0
    before = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".json", ".toml")
    }
    dead = ["--engine", "server", "--base-url", "http://127.0.0.1:9/v1", "--engine-args.served-model", "m"]
    assert main(["rewrite", "--data", str(data), "--out", str(folder), "--restart", *dead]) == 1
    assert "no server answers" in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert (folder / "journal.sqlite").exists()


def test_a_rewriting_killed_again_and_again_ends_as_if_undisturbed(
    tmp_path: Path, many: Path, undisturbed: Path
) -> None:
    folder, kept = tmp_path / "run", dict[str, tuple[Any, ...]]()
    total = len(stored(undisturbed))
    moments = random.Random().sample(range(1, total * 2 // 3), 3)
    print("killed after", sorted(moments))  # shown where the test fails
    for moment in sorted(moments):
        process = interrupt(many, folder, max(moment, len(kept) + 1), signal.SIGKILL)
        process.communicate()
        assert kept.items() <= stored(folder).items()
        kept = stored(folder)
    assert retell(*rewriting(many, folder)).returncode == 0
    assert kept.items() <= stored(folder).items()
    assert len(stored(folder)) == total
    assert_same_run(folder, undisturbed)


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(tmp_path: Path, many: Path, undisturbed: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=4k") as disk:
        folder, kept, failures = disk / "run", dict[str, tuple[Any, ...]](), 0
        for size in ("4k", "16k", "64k", "256k", "1m", "64m"):
            subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
            finished = retell(*rewriting(many, folder))
            if finished.returncode == 0:
                break
            failures += 1
            assert finished.returncode == 1
            assert finished.stdout == ""
            assert str(folder) in one_line(finished.stderr)
            assert kept.items() <= stored(folder).items()
            kept = stored(folder)
        assert failures >= 3
        assert kept
        assert_same_run(folder, undisturbed)


def test_the_tables_of_a_run_are_printed_and_nothing_is_written(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(rewriting(data, out)) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert main(["report", str(out), "--tables"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("## Table 1") and "paper, Qwen2.5-Math-7B" in printed
    assert main(["report", str(out), "--tables", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"] + "\n" == printed
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


# --- A dry run ---

TINY = Path(package.__file__).parent / "tiny"


def dry(tmp_path: Path, *more: str, data: object = TINY / "data/train.jsonl", k: int = 3) -> list[str]:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"[policy]\nmodel = '{TINY}/policy'\n[data]\npath = '{data}'\nlimit = 20\n[rewrite]\nk = {k}\n"
        "[train]\nruns = ['dft']\n",
        encoding="utf-8",
    )
    return ["run", str(recipe), *more]


def test_a_dry_run_shows_steps_what_they_rest_on_and_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(dry(tmp_path, "--dry-run", "--training-rate", "1", "--out", str(tmp_path / "run"))) == 0
    output = capsys.readouterr()
    assert output.err == ""
    lines = [" ".join(line.split()) for line in output.out.splitlines()]
    assert any(line.startswith("rewrite 20–120 samples") and line.endswith("?") for line in lines)
    assert any(line.startswith("train dft 20 rows, 1 updates") and line.endswith("0.4") for line in lines)
    assert any(line.startswith("all 20–120 samples") for line in lines)
    assert any(line.startswith("- 20 problems were counted in") for line in lines)
    assert "- train: 1 tokens/s, as given" in lines
    assert any(line.startswith("ok data 20 problems") for line in lines)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_in_json_is_one_object_also_where_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(dry(tmp_path, "--dry-run", "--json")) == 0
    output = capsys.readouterr()
    assert output.out.count("\n") == 1
    assert json.loads(output.out).keys() == {"steps", "total", "rates", "checks", "wrong", "unknown"}
    assert main(dry(tmp_path, "--dry-run", "--json", "--rewrite.grader", "maths", data="nowhere.jsonl")) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["wrong"] == 2
    assert "checks are wrong: data, rewrite grader" in one_line(output.err)


def test_flags_of_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--generation-rate", "--training-rate"):
        assert f"{flag} has no effect without --dry-run" in refused(capsys, *dry(tmp_path, flag, "3"))
        for rate in ("0", "-1", "nan", "inf"):
            assert f"{flag} {rate}" in refused(capsys, *dry(tmp_path, "--dry-run", flag, rate))
    assert "Give --out" in refused(capsys, *dry(tmp_path))
    assert "cannot read the recipe" in refused(capsys, "run", str(tmp_path / "nowhere.toml"), "--dry-run")


@pytest.mark.parametrize("name", ["rewrite", "gap", "train", "evaluate", "grade", "doctor", "report"])
def test_a_flag_belongs_to_one_section(name: str) -> None:
    hints = get_type_hints(getattr(commands, name))
    sections = [part for hint in hints.values() for part in get_args(hint) if isinstance(part, type)]
    fields = [field for part in sections if issubclass(part, Section) for field in part.model_fields]
    assert [field for field, n in Counter(fields).items() if n > 1] == []


def test_a_seed_and_a_prompt_reach_their_sections(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(rewriting(data, out, "--seed", "5", "--sample", "2", "--sample-seed", "6")) == 0
    stored = load_recipe(out / "recipe.resolved.toml")
    assert (stored.rewrite.seed, stored.data.sample_seed, stored.data.sample) == (5, 6, 2)
    tiny = Path(package.__file__).parent / "tiny"
    evaluating = ["evaluate", "--model", str(tiny / "policy"), "--benchmark", str(tiny / "data/bench-1.jsonl")]
    evaluating += ["--limit", "1", "--k", "1", "--max-tokens", "4", "--out", str(tmp_path / "eval")]
    assert main([*evaluating, "--prompt", "qwen-boxed"]) == 0
    stored = load_recipe(tmp_path / "eval/recipe.resolved.toml")
    assert (stored.evaluate.prompt, stored.policy.template) == ("qwen-boxed", "plain")
    assert json.loads((tmp_path / "eval/eval/base.json").read_text(encoding="utf-8"))["system"] is not None
    assert main([*evaluating, "--prompt", "boxed"]) == 0
    assert "nothing to do" not in capsys.readouterr().err
    assert json.loads((tmp_path / "eval/eval/base.json").read_text(encoding="utf-8"))["system"] is None
