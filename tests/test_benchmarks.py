import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retell.benchmarks import BENCHMARKS, load_benchmarks
from retell.errors import DataError
from retell.problems import Loaded
from retell.recipe import Evaluate

PAPERS = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")
HUB: dict[str, tuple[str, dict[str, Any]]] = {
    "math500": ("test.jsonl", {"problem": "P{}", "solution": "\\boxed{{{}}}", "answer": "{}", "unique_id": "test/{}"}),
    "minerva_math": ("test.jsonl", {"question": "P{}", "answer": "{}"}),
    "olympiadbench": ("test.jsonl", {"id": "{}", "question": "P{}", "solution": ["So {}"], "final_answer": ["${}$"]}),
    "aime24": ("data/train-00000-of-00001.parquet", {"id": "{}", "problem": "P{}", "solution": "S", "answer": "{}"}),
    "amc23": ("data/test-00000-of-00001.parquet", {"id": "{}", "question": "P{}", "answer": "{}.0", "url": "u"}),
    "aime25": ("test.jsonl", {"problem": "P{}", "answer": "{}", "id": "{}"}),
    "gsm8k": ("main/test-00000-of-00001.parquet", {"question": "P{}", "answer": "1 + 1\n#### {}"}),
}
"""The layouts and columns that the hub has: a file of each, and a row with its number to be filled in."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what `datasets` stores out of the home folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def load(*names: str, **settings: Any) -> dict[str, Loaded]:
    return load_benchmarks(Evaluate(benchmark=names, **settings))


def on_the_hub(name: str, rows: int) -> list[dict[str, Any]]:
    def fill(value: Any, number: int) -> Any:
        if isinstance(value, list):
            return [fill(one, number) for one in value]
        return value.format(number)

    return [{key: fill(value, number) for key, value in HUB[name][1].items()} for number in range(rows)]


def copied(root: Path, name: str, rows: int) -> Path:
    """A copy as `hf download` leaves it."""
    benchmark = BENCHMARKS[name]
    folder, (file, _) = root / benchmark.hub, HUB[name]
    path = folder / file
    path.parent.mkdir(parents=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(on_the_hub(name, rows)), path)
    else:
        path.write_text("\n".join(map(json.dumps, on_the_hub(name, rows))), encoding="utf-8")
    config, pattern = benchmark.config or "default", file.replace("00000-of-00001.parquet", "*")
    card = f"configs:\n- config_name: {config}\n  data_files:\n  - split: {benchmark.split}\n    path: {pattern}\n"
    (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_copy_of_the_hubs_is_read_with_its_columns(tmp_path: Path, name: str) -> None:
    copied(tmp_path, name, BENCHMARKS[name].rows[-1])
    [loaded] = load(name, data_dir=str(tmp_path)).values()
    assert loaded.rejected == ()
    golds = {"olympiadbench": "$7$", "amc23": "7.0"}
    assert (loaded.problems[7].problem, loaded.problems[7].answer) == ("P7", golds.get(name, "7"))
    assert len(loaded.problems) == BENCHMARKS[name].rows[-1]


def test_all_seven_load_from_copies_with_the_right_counts() -> None:
    if "RETELL_TEST_DATA" not in os.environ:
        pytest.skip("RETELL_TEST_DATA names no folder of data")
    folder = Path(os.environ["RETELL_TEST_DATA"]) / "benchmarks"
    found = load(*BENCHMARKS, data_dir=str(folder))
    assert {name: len(loaded.problems) for name, loaded in found.items()} == {
        "math500": 500, "minerva_math": 272, "olympiadbench": 675, "aime24": 30, "amc23": 40, "aime25": 30,
        "gsm8k": 1319,
    }  # fmt: skip
    assert all(not loaded.rejected for loaded in found.values())
    # The gold is what the authors wrote, not what another evaluation's normalisation makes of it.
    for name, loaded in found.items():
        file = next(path for path in folder.iterdir() if path.stem.startswith(name))
        raw = [json.loads(line)["answer_raw"] for line in file.read_text(encoding="utf-8").splitlines()]
        assert [problem.answer for problem in loaded.problems] == [str(one).strip() for one in raw]


def test_the_papers_benchmarks_are_known() -> None:
    assert set(PAPERS) < BENCHMARKS.keys()
    assert all(benchmark.licence for benchmark in BENCHMARKS.values())


def test_a_copy_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    copied(tmp_path, "aime24", 29)
    with pytest.raises(DataError, match=r"aime24 has 30 problems, and this copy 29"):
        load("aime24", data_dir=str(tmp_path))
    copied(tmp_path, "olympiadbench", 673)
    with pytest.raises(DataError, match=r"olympiadbench has 675 or 674 problems, and this copy 673"):
        load("olympiadbench", data_dir=str(tmp_path))


def test_a_limit_is_cut_after_the_count(tmp_path: Path) -> None:
    copied(tmp_path, "aime24", 30)
    [cut] = load("aime24", data_dir=str(tmp_path), limit=3).values()
    [whole] = load("aime24", data_dir=str(tmp_path)).values()
    assert cut.problems == whole.problems[:3]
    assert cut.digest != whole.digest


def test_a_copy_may_be_a_file_under_its_own_or_another_name(tmp_path: Path) -> None:
    rows = [{"problem": f"P{number}", "answer": "0", "answer_raw": str(number)} for number in range(1319)]
    for file in ("gsm8k_test.jsonl", "gsm8k.jsonl"):
        (tmp_path / file).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        [loaded] = load("gsm8k", data_dir=str(tmp_path)).values()
        assert loaded.problems[7].answer == "7"
        (tmp_path / file).unlink()
    copied(tmp_path, "gsm8k", 1319).rename(tmp_path / "gsm8k")
    assert load("gsm8k", data_dir=str(tmp_path))["gsm8k"].problems[7].answer == "7"


def test_a_missing_copy_is_not_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no copy of gsm8k in .*gsm8k_test\.jsonl.*openai/gsm8k"):
        load("gsm8k", data_dir=str(tmp_path))


def test_files_and_folders_are_benchmarks_too(tmp_path: Path) -> None:
    row = json.dumps({"problem": "1 + 1?", "answer": "2"})
    (tmp_path / "sums.jsonl").write_text(f"{row}\n{row}\n", encoding="utf-8")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/part.jsonl").write_text(row, encoding="utf-8")
    found = load(str(tmp_path / "sums.jsonl"), str(tmp_path / "more"))
    assert {name: len(loaded.problems) for name, loaded in found.items()} == {"sums": 2, "more": 1}
    assert len(load(str(tmp_path / "sums.jsonl"), limit=1)["sums"].problems) == 1


def test_two_of_one_name_and_none_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two benchmarks are called 'math500'"):
        load("math500", str(tmp_path / "math500.jsonl"))
    with pytest.raises(DataError, match=r"--benchmark math500 minerva_math"):
        load()


def test_a_copy_with_rows_that_cannot_be_used_is_not_whole(tmp_path: Path) -> None:
    rows = [{"problem": f"P{number}", "answer": str(number)} for number in range(29)] + [{"problem": "P29"}]
    (tmp_path / "aime24.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"this copy 29 \(aime24\.jsonl:30: no answer"):
        load("aime24", data_dir=str(tmp_path))


def test_a_broken_first_row_does_not_hide_the_columns(tmp_path: Path) -> None:
    rows = ["broken", *(json.dumps({"question": f"P{number}", "answer": str(number)}) for number in range(40))]
    (tmp_path / "amc23.jsonl").write_text("\n".join(rows), encoding="utf-8")
    [loaded] = load("amc23", data_dir=str(tmp_path)).values()
    assert (len(loaded.problems), len(loaded.rejected)) == (40, 1)


@pytest.mark.parametrize("name", ["MATH500", "math50", "aime-24", "gsm8k_"])
def test_a_name_that_is_nearly_one_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(DataError, match=rf"there is no benchmark '{name}': did you mean \w+"):
        load(name)


def test_with_copies_no_dataset_is_asked_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no copy of some/thing in"):
        load("some/thing", data_dir=str(tmp_path))


def test_a_limit_is_of_problems_for_files_too(tmp_path: Path) -> None:
    rows = ["broken", *(json.dumps({"problem": f"P{number}", "answer": "1"}) for number in range(4))]
    (tmp_path / "sums.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert [p.problem for p in load(str(tmp_path / "sums.jsonl"), limit=2)["sums"].problems] == ["P0", "P1"]


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers every request as the hub does for what it does not give."""

    def do_GET(self) -> None:
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "offline", "says"),
    [
        ("some/gated", "0", "it is gated: accept its terms"),
        ("some/missing", "0", "doesn't exist on the Hub"),
        ("math500", "1", "the hub cannot be reached"),
    ],
)
def test_what_the_hub_does_not_give_is_said_with_the_way_out(
    tmp_path: Path, hub: str, name: str, offline: str, says: str
) -> None:
    # In a process of its own: the libraries read the environment when they are imported.
    code = (
        "import sys; from retell.benchmarks import load_benchmarks; from retell.recipe import Evaluate\n"
        "from retell.errors import DataError\n"
        "try: load_benchmarks(Evaluate(benchmark=(sys.argv[1],)))\n"
        "except DataError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, name], env=environment, capture_output=True, text=True, check=True
    )
    assert says in done.stdout
    place = BENCHMARKS[name].hub if name in BENCHMARKS else name
    assert f"hf download {place} --repo-type dataset --local-dir DIR/{place}" in done.stdout
    assert "--data-dir DIR" in done.stdout
