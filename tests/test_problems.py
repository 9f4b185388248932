import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retell.errors import DataError
from retell.problems import Loaded, load_part, load_problems
from retell.recipe import Data

ROW = {"problem": "1 + 1?", "solution": "It is \\boxed{2}."}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CELL = JSON | st.sampled_from(["x", "\\boxed{3}", "#### 4", "", " ", "\ud800"])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]) | JSON, "content": CELL}),
    max_size=3,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": CELL,
        "problem": CELL,
        "solution": CELL,
        "answer": CELL,
        "answer_raw": CELL,
        "source": CELL,
        "candidates": CELL | st.lists(st.text()),
        "messages": CELL | MESSAGES,
    },
)


def outside(name: str) -> Path:
    if "RETELL_TEST_DATA" not in os.environ:
        pytest.skip("RETELL_TEST_DATA names no folder of data")
    return Path(os.environ["RETELL_TEST_DATA"]) / name


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(path: Path, rows: list[Any], **settings: Any) -> Loaded:
    return load_problems(Data(path=write(path / "data.jsonl", rows), **settings))


def reasons(loaded: Loaded) -> Counter[str]:
    return Counter(reject.reason for reject in loaded.rejected)


def test_math_train_loses_two_rows_whose_box_is_empty() -> None:
    path = outside("train/math_train.jsonl")
    loaded = load_problems(Data(path=str(path)))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 7500
    assert len(loaded.problems) == 7498
    assert [(reject.id, reject.reason) for reject in loaded.rejected] == [
        ("math_train/5341", "no_gold"),
        ("math_train/5343", "no_gold"),
    ]
    assert len({problem.id for problem in loaded.problems}) == 7498
    kept = [row for row in rows if row["answer_raw"]]
    assert [problem.answer for problem in loaded.problems] == [row["answer_raw"].strip() for row in kept]
    assert [problem.problem for problem in loaded.problems] == [row["problem"].strip() for row in kept]


def test_gsm8k_train_has_its_gold_after_the_marker(tmp_path: Path) -> None:
    lines = outside("train/gsm8k_train.jsonl").read_text(encoding="utf-8").rstrip().split("\n")
    rows = [json.loads(line) for line in lines]
    loaded = load(tmp_path, [{name: row[name] for name in ("problem", "solution")} for row in rows])
    assert len(loaded.problems) == 7473
    assert not loaded.rejected
    for problem in loaded.problems:
        assert problem.answer == problem.solution.splitlines()[-1].removeprefix("#### ")


@settings(max_examples=150)
@given(st.lists(ROWS | JSON, max_size=6))
def test_no_row_is_ever_lost_and_ids_are_distinct(rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(Path(folder), [*rows, ROW])
    assert len(loaded.problems) + len(loaded.rejected) == len(rows) + 1
    assert len({problem.id for problem in loaded.problems}) == len(loaded.problems)
    for problem in loaded.problems:
        assert problem.id and problem.problem and problem.solution and problem.answer
        json.dumps([problem.problem, problem.solution, problem.source], ensure_ascii=False).encode()
    for reject in loaded.rejected:
        assert reject.reason and reject.detail and reject.where


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=6))
def test_lines_of_any_bytes_are_counted(lines: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        path.write_bytes(b"\n".join([*lines, json.dumps(ROW).encode()]))
        loaded = load_problems(Data(path=str(path)))
    assert len(loaded.problems) == 1
    assert reasons(loaded) == Counter(broken_line=sum(bool(line.strip()) for line in lines))


@settings(max_examples=100, derandomize=True)
@given(st.data())
def test_a_damaged_parquet_file_is_read_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        pq.write_table(pa.Table.from_pylist([{**ROW, "answer": number} for number in range(9)]), path)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
        try:
            assert load_problems(Data(path=str(path))).problems
        except DataError as error:
            message = str(error)
        else:
            return
    assert str(path) in message
    assert "\n" not in message


def test_every_kind_of_bad_row_has_its_reason_and_place(tmp_path: Path) -> None:
    lines = [
        json.dumps({**ROW, "id": "good"}),
        '{"problem": "torn',
        "",
        "[1, 2]",
        "null",
        json.dumps({"id": "a", "solution": "\\boxed{2}"}),
        json.dumps({"id": "b", "problem": "1 + 1?", "solution": "  "}),
        json.dumps({"id": "c", "problem": "1 + 1?", "solution": "It is two.", "answer": None}),
        json.dumps({"id": "d", "messages": [{"role": "user", "content": "1 + 1?"}]}),
        json.dumps({"id": "e", **ROW, "candidates": ["\\boxed{2}", 3]}),
        json.dumps({"id": "f", "problem": ["1 + 1?"], "solution": {"text": "2"}}),
        "[" * 100_000,
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    loaded = load_problems(Data(path=str(path)))
    assert [problem.id for problem in loaded.problems] == ["good"]
    assert [(reject.where, reject.reason, reject.id) for reject in loaded.rejected] == [
        ("data.jsonl:2", "broken_line", None),
        ("data.jsonl:4", "broken_line", None),
        ("data.jsonl:5", "broken_line", None),
        ("data.jsonl:6", "missing_problem", "a"),
        ("data.jsonl:7", "missing_solution", "b"),
        ("data.jsonl:8", "no_gold", "c"),
        ("data.jsonl:9", "bad_messages", "d"),
        ("data.jsonl:10", "bad_candidates", "e"),
        ("data.jsonl:11", "missing_problem", "f"),
        ("data.jsonl:12", "broken_line", None),
    ]
    assert [reject.problem for reject in loaded.rejected if reject.id in ("b", "c", "e")] == ["1 + 1?"] * 3


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({}, "2"),
        ({"solution": "so\n#### 1,234"}, "1,234"),
        ({"answer": "3"}, "3"),
        ({"answer": "3", "answer_raw": "4"}, "4"),
        ({"answer": "", "answer_raw": "4"}, "4"),
        ({"answer": "3", "answer_raw": ""}, "3"),
        ({"answer": "  ", "answer_raw": None}, "2"),
        ({"answer": 0}, "0"),
        ({"answer": -7}, "-7"),
        ({"answer": 0.5}, "0.5"),
        ({"answer": True}, "2"),
        ({"answer": ["3"]}, "2"),
    ],
)
def test_where_the_gold_comes_from(tmp_path: Path, row: dict[str, Any], gold: str) -> None:
    assert load(tmp_path, [{**ROW, **row}]).problems[0].answer == gold


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    row = {"question": "1 + 1?", "cot": "two", "final": 2, "problem": "no", "answer": "no", "answer_raw": "no"}
    loaded = load(tmp_path, [row], problem_field="question", solution_field="cot", answer_field="final")
    problem = loaded.problems[0]
    assert (problem.problem, problem.solution, problem.answer) == ("1 + 1?", "two", "2")


def test_a_named_answer_column_stands_in_for_the_usual_ones_and_for_the_box(tmp_path: Path) -> None:
    loaded = load(tmp_path, [{**ROW, "final": "5", "answer_raw": "no"}, {**ROW, "answer": "no"}], answer_field="final")
    assert [problem.answer for problem in loaded.problems] == ["5"]
    assert [(reject.reason, reject.detail) for reject in loaded.rejected] == [("no_gold", "no text under 'final'")]


def test_chat_rows_are_read_where_there_is_no_problem(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": " 2 + 2? "}, {"role": "assistant", "content": "\\boxed{4}"}]
    system = {"role": "system", "content": "Be brief."}
    rows: list[dict[str, Any]] = [
        {"messages": chat},
        {"messages": [system, *chat]},
        {**ROW, "messages": chat},
        {"messages": [*chat, *chat]},
        {"messages": chat[::-1]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}, chat[1]]},
        {"messages": "2 + 2?"},
    ]
    loaded = load(tmp_path, rows)
    assert [(p.problem, p.answer) for p in loaded.problems] == [("2 + 2?", "4"), ("2 + 2?", "4"), ("1 + 1?", "2")]
    assert reasons(loaded) == {"bad_messages": 3, "missing_problem": 1}
    renamed = load(tmp_path, [{"chat": chat}], messages_field="chat")
    assert renamed.problems[0].problem == "2 + 2?"


def test_equal_rows_get_distinct_ids_that_do_not_depend_on_the_file(tmp_path: Path) -> None:
    first = load(tmp_path, [ROW, ROW, {**ROW, "problem": "other"}, ROW])
    ids = [problem.id for problem in first.problems]
    assert len(set(ids)) == 4
    moved = load(tmp_path, [{**ROW, "problem": "other"}, ROW, ROW, ROW])
    assert {problem.id for problem in moved.problems} == set(ids)
    assert (moved.problems[0].problem, moved.problems[0].id) == ("other", ids[2])


def test_repeated_given_ids_are_made_distinct_and_all_rows_kept(tmp_path: Path) -> None:
    given_ids = ["a", "a", "a~2", "a", "a~2", 1, "1", " 1 ", 1.0]
    loaded = load(tmp_path, [{**ROW, "id": name} for name in given_ids])
    ids = [problem.id for problem in loaded.problems]
    assert len(set(ids)) == len(given_ids)
    assert ids[0] == "a"
    assert ids[5] == "1"
    assert load(tmp_path, [{**ROW, "id": name} for name in given_ids]).problems == loaded.problems


@given(st.lists(st.sampled_from(["a", "a~2", "a~2~", "a~3", "a~2~2", "b", None]), max_size=12))
def test_ids_are_distinct_whatever_names_are_given(names: list[str | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(Path(folder), [*({**ROW, "id": name} for name in names), ROW])
    assert len({problem.id for problem in loaded.problems}) == len(names) + 1


def test_parquet_gives_what_jsonl_gives(tmp_path: Path) -> None:
    rows = [
        {**ROW, "id": str(number), "answer": 2.5 if number % 2 else None, "candidates": ["\\boxed{2}", ""]}
        for number in range(5)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet", row_group_size=2)
    loaded = load_problems(Data(path=str(tmp_path / "data.parquet")))
    assert loaded.problems == load(tmp_path, rows).problems
    assert loaded.digest == load(tmp_path, rows).digest


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", [{**ROW, "id": "2"}, "no row"])
    pq.write_table(pa.Table.from_pylist([{**ROW, "id": "1"}]), tmp_path / "a.parquet")
    write(tmp_path / "notes.txt", [{**ROW, "id": "no"}])
    loaded = load_problems(Data(path=str(tmp_path)))
    assert [problem.id for problem in loaded.problems] == ["1", "2"]
    assert [reject.where for reject in loaded.rejected] == ["b.jsonl:2"]


def test_a_limit_is_of_rows_from_the_top(tmp_path: Path) -> None:
    loaded = load(tmp_path, [{**ROW, "id": "1"}, "no row", {**ROW, "id": "3"}], limit=2)
    assert [problem.id for problem in loaded.problems] == ["1"]
    assert len(loaded.rejected) == 1


def test_benchmarks_need_no_solution(tmp_path: Path) -> None:
    path = write(tmp_path / "bench.jsonl", [{"problem": "1 + 1?", "answer": 2}, {"problem": "1 + 1?"}])
    loaded = load_problems(Data(path=path), needs_solution=False)
    assert [(problem.answer, problem.solution) for problem in loaded.problems] == [("2", "")]
    assert reasons(loaded) == {"no_gold": 1}


def test_the_digest_is_of_the_problems_content(tmp_path: Path) -> None:
    base = {**ROW, "id": "1", "answer": "2", "candidates": ["2"]}
    digest = load(tmp_path, [base]).digest
    assert load(tmp_path, ["broken", base, {"problem": "rejected"}]).digest == digest
    for change in ({"id": "2"}, {"problem": "?"}, {"answer": "3"}, {"solution": "#### 2"}, {"candidates": ["3"]}):
        assert load(tmp_path, [{**base, **change}]).digest != digest
    assert load(tmp_path, [base, {**base, "id": "2"}]).digest != load(tmp_path, [{**base, "id": "2"}, base]).digest


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    line = json.dumps({**ROW, "problem": "Größe?"}, ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line + b"\r\n\r\n")
    loaded = load_problems(Data(path=str(path)))
    assert [problem.problem for problem in loaded.problems] == ["Größe?", "Größe?"]
    assert not loaded.rejected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n \n\n", "is empty"),
        ("garbage.jsonl", bytes(range(256)) * 20, "broken_line"),
        ("utf16.jsonl", json.dumps(ROW).encode("utf-16") + b"\n\x00", "broken_line"),
        ("unusable.jsonl", b'{"problem": "1 + 1?"}\n{"problem": "2 + 2?"}\n3\n', "2 missing_solution, 1 broken_line"),
        ("garbage.parquet", bytes(range(256)) * 20, "Parquet"),
        ("empty.parquet", b"", "Parquet"),
        ("data.csv", b"problem,solution\n", r"\.jsonl or \.parquet"),
    ],
)
def test_a_file_without_a_usable_row_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        load_problems(Data(path=str(tmp_path / name)))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    "path", ["nowhere.jsonl", "/nowhere/at/all", "~nobody-at-all/data.jsonl", "a" * 300 + ".jsonl"]
)
def test_a_path_that_leads_nowhere_is_named(path: str) -> None:
    with pytest.raises(DataError, match=r"there is no file") as caught:
        load_problems(Data(path=path))
    assert path in str(caught.value)


def test_no_path_at_all_says_what_to_give() -> None:
    with pytest.raises(DataError, match="--data"):
        load_problems(Data())


def test_folders_that_cannot_be_read_as_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(DataError, match=r"x\.jsonl holds no"):
        load_problems(Data(path=str(tmp_path / "x.jsonl")))
    with pytest.raises(DataError, match=r"cannot read .*x\.jsonl: Is a directory"):
        load_problems(Data(path=str(tmp_path)))


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data.jsonl", [ROW])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_problems(Data(path="~/data.jsonl")).problems) == 1


def hub_copy(root: Path, name: str, files: dict[str, list[dict[str, Any]]], card: str) -> None:
    """A dataset as `hf download` leaves it: a card that says which file is which split, and the files."""
    for file, rows in files.items():
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            write(path, rows)
    (root / name / "README.md").write_text(f"---\n{card}\n---\n# A card\n", encoding="utf-8")


NUMINA_CARD = """configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*"""


def numina(number: int, source: str = "cn_k12") -> dict[str, Any]:
    problem, solution = f"What is {number} + 1?", f"It is \\boxed{{{number + 1}}}."
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
    return {"source": source, "problem": problem, "solution": solution, "messages": messages}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what `datasets` stores out of the home folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
def test_a_copy_of_a_hub_dataset_is_read_by_its_split(tmp_path: Path) -> None:
    parts = {
        "data/train-00000-of-00002.parquet": [numina(1), numina(2)],
        "data/train-00001-of-00002.parquet": [numina(3, "olympiads")],
        "data/test-00000-of-00001.parquet": [numina(9)],
    }
    hub_copy(tmp_path, "AI-MO/NuminaMath-CoT", parts, NUMINA_CARD)
    loaded = load_problems(Data(path="AI-MO/NuminaMath-CoT", data_dir=str(tmp_path)))
    assert [(p.problem, p.answer, p.source) for p in loaded.problems] == [
        ("What is 1 + 1?", "2", "cn_k12"),
        ("What is 2 + 1?", "3", "cn_k12"),
        ("What is 3 + 1?", "4", "olympiads"),
    ]
    by_path = load_problems(Data(path=str(tmp_path / "AI-MO/NuminaMath-CoT"), split="test"))
    assert [p.answer for p in by_path.problems] == ["10"]
    with pytest.raises(DataError, match=r"cannot read AI-MO/NuminaMath-CoT, split valid.*check --split"):
        load_problems(Data(path="AI-MO/NuminaMath-CoT", data_dir=str(tmp_path), split="valid"))


@pytest.mark.usefixtures("cache")
def test_a_copy_without_a_card_is_read_by_its_folders(tmp_path: Path) -> None:
    hub_copy(tmp_path, "set", {"data/train-00000-of-00001.parquet": [numina(1)]}, "")
    (tmp_path / "set/README.md").unlink()
    assert [p.answer for p in load_problems(Data(path=str(tmp_path / "set"))).problems] == ["2"]


@pytest.mark.usefixtures("cache")
def test_gsm8k_has_configurations_and_its_answers_are_solutions(tmp_path: Path) -> None:
    rows = {"main": "She has 3 + 4 = <<3+4=7>>7.\n#### 7", "socratic": "How many? ** 7\n#### 7"}
    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train-*\n" for name in rows
    )
    files = {
        f"{name}/train-00000-of-00001.parquet": [{"question": "3 + 4?", "answer": text}] for name, text in rows.items()
    }
    hub_copy(tmp_path, "openai/gsm8k", files, card)
    columns = {"problem_field": "question", "solution_field": "answer"}
    for config, text in rows.items():
        data = Data(path="openai/gsm8k", config=config, data_dir=str(tmp_path), **columns)
        [problem] = load_problems(data).problems
        assert (problem.problem, problem.solution, problem.answer) == ("3 + 4?", text, "7")


def test_a_sample_is_chosen_by_content_and_keeps_the_order(tmp_path: Path) -> None:
    rows = [{**ROW, "id": str(number)} for number in range(40)] + [{"problem": "unusable"}]
    chosen = [p.id for p in load(tmp_path, rows, sample=10, sample_seed=1).problems]
    assert len(chosen) in (9, 10) and chosen == sorted(chosen, key=int)
    assert {p.id for p in load(tmp_path, rows[::-1], sample=10, sample_seed=1).problems} == set(chosen)
    assert set(chosen) <= {p.id for p in load(tmp_path, rows, sample=11, sample_seed=1).problems}
    assert [p.id for p in load(tmp_path, rows, sample=10, sample_seed=2).problems] != chosen
    for size in (41, 100):
        loaded = load(tmp_path, rows, sample=size, sample_seed=1)
        assert (len(loaded.problems), len(loaded.rejected)) == (40, 1)


def test_every_row_is_as_likely_in_a_sample(tmp_path: Path) -> None:
    rows = [{**ROW, "id": str(number)} for number in range(20)]
    times = Counter(p.id for seed in range(400) for p in load(tmp_path, rows, sample=5, sample_seed=seed).problems)
    assert sum(times.values()) == 2000
    # 100 expected of each; a standard deviation is 8.7.
    assert all(60 < times[str(number)] < 140 for number in range(20))


def test_equal_rows_are_sampled_as_rows(tmp_path: Path) -> None:
    loaded = load(tmp_path, [ROW] * 5, sample=3)
    assert len({p.id for p in loaded.problems}) == len(loaded.problems) == 3


def test_a_part_is_of_all_that_is_read(tmp_path: Path) -> None:
    """Its problems have the ids that they have among all; the same ones whatever the order of the rows."""
    rows = [{**ROW, "id": str(number % 30)} for number in range(40)] + [{"problem": "unusable"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = Data(path=str(path))
    whole, part = load_problems(data), load_part(data, 12)
    assert (part.everything, part.rejected, part.digest) == (40, whole.rejected, whole.digest)
    assert len(part.problems) == 12 and [one for one in whole.problems if one in part.problems] == list(part.problems)
    assert set(load_part(data, 13).problems) > set(part.problems)
    assert load_part(data.model_copy(update={"sample_seed": 1}), 12).problems != part.problems
    assert load_part(data, 41).problems == load_part(data, 40).problems == whole.problems
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]), encoding="utf-8")
    assert {one.id.rstrip("~2") for one in load_part(data, 12).problems} == {
        one.id.rstrip("~2") for one in part.problems
    }
    some = load_part(data.model_copy(update={"sample": 20}), 5)
    assert some.everything + len(some.rejected) == 20
    path.write_text("{torn", encoding="utf-8")
    with pytest.raises(DataError, match="no row"):
        load_part(data, 1)
