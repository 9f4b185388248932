import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import make_run, said, state, viewing
from starlette.testclient import TestClient

from retell import showing, view
from retell.cli import main
from retell.finder import Finder
from retell.journal import Journal
from retell.records import Request
from retell.rows import Rows
from retell.runfolder import RunFolder
from retell.showing import open_rows
from retell.view import PAGE, make_app

TOKEN = "a-token"
MANY = 37
HOSTILE = "<script>document.title = 'ran'</script>"


def problem(n: int) -> dict[str, str]:
    return {"id": f"p{n}", "problem": f"{HOSTILE} {n}?", "solution": f"It is \\boxed{{{n}}}."}


def answer(request: Request) -> Any:
    n = int(request.problem[1:])
    return said(f"Say \\boxed{{{n if n % 2 else n + 1}}}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("view") / "run", [problem(n) for n in range(MANY)], answer)


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    folder = RunFolder(run)
    recipe = folder.recipe()
    assert recipe
    with Rows(folder, open_rows(recipe, folder)) as rows:
        app = make_app(rows, Finder(rows, dict), "the <run>", TOKEN)
        yield TestClient(app, base_url="http://127.0.0.1:5000", raise_server_exceptions=False)


def ids(answered: Any) -> list[str]:
    assert answered.status_code == 200, answered.text
    return [row["id"] for row in answered.json()["rows"]]


def test_the_page_is_whole_and_what_it_names_is_escaped(client: TestClient) -> None:
    answered = client.get(f"/{TOKEN}/")
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>the &lt;run&gt;</h1>" in answered.text
    assert f"{MANY} rows" in answered.text


def test_rows_come_page_by_page(client: TestClient) -> None:
    first = client.get(f"/{TOKEN}/rows")
    assert ids(first) == [f"p{n}" for n in range(PAGE)]
    assert {name: first.json()[name] for name in ("next", "total", "before")} == {
        "next": 10,
        "total": MANY,
        "before": 0,
    }
    last = client.get(f"/{TOKEN}/rows", params={"start": 30})
    assert ids(last) == [f"p{n}" for n in range(30, MANY)]
    assert last.json()["next"] is None
    assert first.json()["rows"][0]["problem"] == problem(0)["problem"]


def test_rows_are_filtered_and_searched(client: TestClient) -> None:
    own = client.get(f"/{TOKEN}/rows", params={"rung": "self"})
    assert ids(own) == [f"p{n}" for n in range(1, 20, 2)]
    assert own.json()["total"] == MANY // 2
    assert ids(client.get(f"/{TOKEN}/rows", params={"verdict": "correct", "text": "OXED{33}"})) == ["p33"]
    assert ids(client.get(f"/{TOKEN}/rows", params={"text": "<SCRIPT>document", "start": 33})) == [
        "p33",
        "p34",
        "p35",
        "p36",
    ]


def test_a_place_and_an_attempt_can_be_asked_for(client: TestClient) -> None:
    assert client.get(f"/{TOKEN}/place", params={"of": "p20"}).json() == {"row": 20}
    assert client.get(f"/{TOKEN}/place", params={"of": "1"}).json() == {"row": 0}
    nowhere = client.get(f"/{TOKEN}/place", params={"of": "p99"})
    assert (nowhere.status_code, nowhere.json()) == (404, {"error": "There is no row of the id or number p99."})
    shown = client.get(f"/{TOKEN}/attempt", params={"row": 4, "rung": "guided", "index": 1})
    assert (shown.json()["text"], shown.json()["outcome"]) == ("Say \\boxed{5}", "wrong")
    assert client.get(f"/{TOKEN}/attempt", params={"row": 4, "rung": "guided", "index": 5}).status_code == 404


@pytest.mark.parametrize("start", ["-1", "x", "", "1e3", "²", "9" * 40])
def test_a_question_that_is_none_is_refused(client: TestClient, start: str) -> None:
    answered = client.get(f"/{TOKEN}/rows", params={"start": start})
    assert (answered.status_code, answered.json()) == (400, {"error": "start is no number."})


@pytest.mark.parametrize("name", ["rung", "verdict"])
def test_a_filter_that_is_none_is_refused(client: TestClient, name: str) -> None:
    answered = client.get(f"/{TOKEN}/rows", params={name: "none"})
    assert answered.status_code == 400
    assert answered.json()["error"].startswith(f"{name} is none of ")


@pytest.mark.parametrize(
    "path", ["/", "/rows", "/favicon.ico", "//", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", f"/x/{TOKEN}/", "/%ff/"]
)
def test_without_the_token_there_is_nothing(client: TestClient, path: str) -> None:
    answered = client.get(path)
    assert (answered.status_code, answered.text) == (404, "Not found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["", "rows", "attempt"])
def test_nothing_but_reading_is_allowed(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, f"/{TOKEN}/{path}").status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "[::1]", "10.0.0.1"])
def test_another_sites_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    assert client.get(f"/{TOKEN}/", headers={"Host": host}).status_code == 400
    assert client.get(f"/{TOKEN}/", headers={"Host": "localhost:5000"}).status_code == 200


@pytest.mark.parametrize("path", [f"/{TOKEN}/", f"/{TOKEN}/rows", f"/{TOKEN}/rows?start=x", f"/{TOKEN}/none", "/"])
def test_every_answer_is_strict(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in rules.get("script-src", "")
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def test_an_answer_ends_in_time_and_says_where_it_goes_on(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "SECONDS", 0.0)
    monkeypatch.setattr(Rows, "by_group", lambda _, positions: ((0, [place]) for place in positions))
    answered = client.get(f"/{TOKEN}/rows", params={"rung": "self"})
    assert ids(answered) == ["p1"]
    assert answered.json()["next"] == 3


def test_what_goes_wrong_is_told_on_the_page(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "samples", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
    answered = client.get(f"/{TOKEN}/rows")
    assert (answered.status_code, answered.json()) == (500, {"error": "the disk is gone"})
    assert answered.headers["cache-control"] == "no-store"


# --- As a process ---


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a policy, which is opened at once."""
    folder = tmp_path_factory.mktemp("recorded")
    lines = [json.dumps({**problem(n), "candidates": [f"\\boxed{{{n}}}"]}) for n in range(MANY)]
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data, out = str(folder / "data.jsonl"), folder / "run"
    assert main(["rewrite", "--engine", "recorded", "--data", data, "--out", str(out)]) == 0
    return out


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answered:  # nothing but what the test has started
        body: bytes = answered.read()
    return body


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_on_loopback_while_a_run_is_going_on_and_ends_at_a_signal(
    recorded: Path, end: signal.Signals
) -> None:
    before = state(recorded)
    with RunFolder(recorded), viewing(recorded) as (process, said):
        assert said["rows"] == MANY
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", said["url"])
        assert len(json.loads(read(said["url"] + "rows"))["rows"]) == PAGE
        with socket.socket() as other, pytest.raises(OSError, match="refused"):
            other.connect(("127.0.0.2", int(said["url"].split(":")[2].split("/")[0])))
        process.send_signal(end)
        assert process.wait(30) == 0
        assert process.stderr and process.stderr.read() == ""
        assert process.stdout and process.stdout.read() == ""
    assert state(recorded) == before


def test_addresses_differ_and_a_port_can_be_chosen(recorded: Path) -> None:
    with viewing(recorded) as (_, one):
        port = one["url"].split(":")[2].split("/")[0]
        done = subprocess.run(
            [sys.executable, "-m", "retell", "view", str(recorded), "--port", port],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(
            rf"retell: --port {port} cannot be had: .*; leave it out for one that is free\n", done.stderr
        )
    with viewing(recorded, "--port", port) as (_, other):
        assert other["url"].startswith(f"http://127.0.0.1:{port}/")
        assert other["url"] != one["url"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["view", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_what_cannot_be_viewed_is_an_error_for_people(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{tmp_path} is no run folder" in refused(capsys, str(tmp_path))
    (tmp_path / "recipe.resolved.toml").write_bytes((run / "recipe.resolved.toml").read_bytes())
    assert f"{tmp_path} holds no rewritten.parquet" in refused(capsys, str(tmp_path))
    assert "--port 99999" in refused(capsys, str(run), "--port", "99999")
    monkeypatch.setattr(showing, "find_spec", lambda name: None)
    assert "pip install 'retell[view]'" in refused(capsys, str(run))
    assert os.listdir(tmp_path) == ["recipe.resolved.toml"]
