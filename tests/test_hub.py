"""Sending a data set with the real client to a hub on loopback; the token is in no output and in no file."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import load_dataset
from fake_hub import TOKEN, FakeHub, Repo, hub
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from retell.cli import main

NAME = "me/mine"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = tmp_path / "data.jsonl"
    data.write_text(
        json.dumps({"problem": "1 + 1?", "solution": "It is \\boxed{2}.", "candidates": ["So \\boxed{2}"]}) + "\n",
        encoding="utf-8",
    )
    assert main(["rewrite", "--engine", "recorded", "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path) -> Iterator[FakeHub]:
    capsys.readouterr()
    with hub() as there:
        monkeypatch.setattr(constants, "ENDPOINT", there.url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run.parent / "no token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield there
        close_session()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def pushing(run: Path, *more: str) -> list[str]:
    return ["export", str(run), "--format", "hf", "--push", NAME, *more]


def told(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    return out, err


def files_of(run: Path) -> dict[str, bytes]:
    place = run / "export" / "hf"
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def sent(fake: FakeHub) -> dict[str, bytes]:
    return fake.repos[NAME].files


def assert_no_token_in(folder: Path) -> None:
    assert all(TOKEN.encode() not in path.read_bytes() for path in folder.rglob("*") if path.is_file())


# --- What is sent, and when ---


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's own way with large files
@pytest.mark.parametrize("large", [False, True])
def test_the_folder_arrives_as_it_is_and_is_private(
    large: bool, run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.large = large
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", large)
    assert main(pushing(run, "--yes", "--json")) == 0
    out, err = told(capsys)
    pushed = json.loads(out)["pushed"]
    assert pushed["visibility"] == "private"
    assert pushed["url"] == f"{fake.url}/datasets/{NAME}"
    assert pushed["commit"] == fake.repos[NAME].head
    assert [(made["visibility"], made["type"]) for made in fake.made] == [("private", "dataset")]
    assert sent(fake) == files_of(run)
    for name, data in files_of(run).items():
        assert f"{len(data):,} bytes  {name}" in err
    assert f"data set {NAME} on {fake.url}, which is made, private" in err
    assert f'load_dataset("{NAME}", split="train")' in sent(fake)["README.md"].decode()
    assert_no_token_in(run)


def test_what_was_sent_can_be_loaded(run: Path, fake: FakeHub, tmp_path: Path) -> None:
    assert main(pushing(run, "--yes")) == 0
    for name, data in sent(fake).items():
        path = tmp_path / "clone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    dataset = load_dataset(str(tmp_path / "clone"), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset["response"][0] == "So \\boxed{2}"


def test_public_is_said_and_made_only_if_asked_for(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pushing(run, "--yes", "--public")) == 0
    assert "public: everyone sees it" in told(capsys)[1]
    assert not fake.repos[NAME].private


@pytest.mark.parametrize(
    ("answer", "goes"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_a_person_is_asked_after_it_was_shown(
    answer: str,
    goes: bool,
    run: Path,
    fake: FakeHub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(pushing(run)) == 0
    out, err = told(capsys)
    assert err.index("README.md") < err.index("Send it? [y/N]")
    assert (NAME in fake.repos) is goes
    assert ("nothing was sent" in out) is not goes
    if not goes:
        assert fake.changes == []
    assert (run / "export" / "hf" / "README.md").is_file()


def test_without_a_terminal_it_is_shown_and_not_sent(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(pushing(run)) == 2
    out, err = told(capsys)
    assert out == ""
    assert "README.md" in err
    assert "nothing was sent, since there is no terminal to ask whether to: say --yes" in err
    assert (fake.changes, fake.repos) == ([], {})


# --- What is there already ---


def test_another_export_replaces_the_one_before_and_leaves_the_rest(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"README.md": b"old", "data/train-00000-of-00002.parquet": b"1", "data/train-00001-of-00002.parquet": b"2"}
    fake.repos[NAME] = Repo(True, {**old, "notes.md": b"mine", "data/other.parquet": b"mine"})
    assert main(pushing(run, "--yes")) == 0
    _, err = told(capsys)
    assert "which is there already, private" in err
    assert "README.md  (replaces it)" in err
    assert "removed there  data/train-00001-of-00002.parquet" in err
    assert sent(fake) == {**files_of(run), "notes.md": b"mine", "data/other.parquet": b"mine"}
    assert fake.made == []


@pytest.mark.parametrize(
    ("private", "options", "says"),
    [
        (
            False,
            [],
            "is there already and public, which sending does not change: say --public if everyone may see this",
        ),
        (True, ["--public"], "is there already and private, which sending does not change: leave out --public"),
    ],
)
def test_the_visibility_of_what_is_there_must_be_the_one_asked_for(
    private: bool, options: list[str], says: str, run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.repos[NAME] = Repo(private, {"README.md": b"old"})
    assert main(pushing(run, "--yes", *options)) == 2
    assert f"{NAME} {says}" in told(capsys)[1]
    assert (fake.changes, sent(fake)) == ([], {"README.md": b"old"})


def test_what_changes_there_while_a_person_thinks_is_not_overwritten(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.repos[NAME] = Repo(True, {"README.md": b"old"})

    class Thinking(Terminal):
        def readline(self, *_: object) -> str:  # type: ignore[override]
            fake.repos[NAME] = Repo(True, {"README.md": b"theirs"}, "1" * 40)
            return "y\n"

    monkeypatch.setattr(sys, "stdin", Thinking())
    assert main(pushing(run)) == 1
    assert "(412); it changed meanwhile: start again to see what is there" in told(capsys)[1]
    assert sent(fake) == {"README.md": b"theirs"}


# --- What goes wrong ---


@pytest.mark.parametrize(
    ("path", "status", "said", "says"),
    [
        (
            "/api/repos/create",
            403,
            "You don't have the rights",
            "refuses me/mine: You don't have the rights (403); your",
        ),
        ("/api/repos/create", 409, "You already created this", "(409); somebody made it meanwhile"),
        ("/preupload/", 403, "Your storage is full", "Your storage is full (403)"),
        ("/commit/", 412, "A commit has happened since", "(412); it changed meanwhile"),
        ("/commit/", 400, "Invalid license", "refuses me/mine: Invalid license (400); start again"),
        ("/api/datasets/", 403, f"No entry with {TOKEN}", "No entry with … (403); your token may not write to me/mine"),
    ],
)
def test_a_refusal_is_one_line_with_what_to_do(
    path: str, status: int, said: str, says: str, run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.refusals[path] = (status, said)
    assert main(pushing(run, "--yes")) == 1
    out, err = told(capsys)
    message = err.splitlines()[-1]
    assert (out, message[:8]) == ("", "retell: ")
    assert says in message
    assert "Traceback" not in err


def test_a_gated_repository_is_not_taken_for_one_that_is_not_there(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = fake.answer
    gated = (403, {"error": "gated"}, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
    monkeypatch.setattr(
        fake, "answer", lambda *asked: gated if asked[1].startswith("/api/datasets") else answer(*asked)
    )
    assert main(pushing(run, "--yes")) == 1
    assert "refuses me/mine: Access is restricted gated (403)" in told(capsys)[1]
    assert fake.changes == []


def test_a_token_that_the_hub_does_not_know(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert main(pushing(run, "--yes")) == 1
    out, err = capsys.readouterr()
    assert "(401); it does not know your token: log in with `hf auth login`, or set HF_TOKEN" in err
    assert "hf_other" not in out + err
    assert fake.changes == []


def test_no_token_or_a_broken_one_is_told_before_anything_is_made(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}é")
    assert main(pushing(run, "--yes")) == 2
    assert "holds a character that no token has: check HF_TOKEN" in told(capsys)[1]
    monkeypatch.delenv("HF_TOKEN")
    assert main(pushing(run, "--yes")) == 2
    assert "set HF_TOKEN, or log in with `hf auth login`" in told(capsys)[1]
    assert fake.asked == []
    assert not (run / "export").exists()


@pytest.mark.parametrize(
    "name", ["mine", "", "me/", "/mine", "a/b/c", "me/my data", "me/../x", "me/a--b", "me/x.git", "-/x"]
)
def test_a_name_that_is_none_is_told_before_anything_is_made(
    name: str, run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--format", "hf", f"--push={name}", "--yes"]) == 2
    assert f"--push {name!r} is no name of a data set" in told(capsys)[1]
    assert fake.asked == []
    assert not (run / "export").exists()


def test_a_hub_that_is_not_there(
    run: Path, fake: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(pushing(run, "--yes")) == 1
    assert "retell: the hub at http://127.0.0.1:9 cannot be used: " in told(capsys)[1]


def test_the_environment_says_which_hub(run: Path, fake: FakeHub) -> None:
    """The command in a process of its own, with nothing replaced in it."""
    home = {"HF_HOME": str(run.parent / "home"), "HF_ENDPOINT": fake.url, "HF_TOKEN": TOKEN}
    finished = subprocess.run(
        [sys.executable, "-m", "retell", *pushing(run, "--yes")],
        env=os.environ | home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert TOKEN not in finished.stdout + finished.stderr
    assert finished.stdout.endswith(f"{fake.url}/datasets/{NAME}\n")
    assert sent(fake) == files_of(run)
    assert_no_token_in(run.parent)
