"""The exports, read as those tools read them: with TRL and datasets themselves, and with what verl's loaders do."""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, disable_progress_bars, load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trl import SFTConfig, SFTTrainer

import retell
from retell.cli import main
from retell.errors import DataError
from retell.export import export
from retell.exports import hf
from retell.exports import rows as exported_rows
from retell.exports.datacard import Origin
from retell.exports.named import FORMATS
from retell.mixes import KEPT, mix_ids
from retell.policy import load_model
from retell.recipe import Recipe
from retell.rewrite import SCHEMA
from retell.runfolder import RunFolder
from retell.tables import ROWS, TableWriter, read_batches
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
TOKENIZER = ChatTokenizer(TINY / "policy")
ORIGIN = Origin(Recipe(), {}, {}, None, None)
NASTY = [
    "plain",
    "2024-01-15",
    " leading, trailing \n",
    "line\u2028sep\u0085\x0b\x0c\r\nend",
    "NUL \x00 and \x1f",
    "𝒳 مرحبا 你好 👩🏽‍🚀 \u202e",
    "null",
    '{"role": "user"}',
    "\\boxed{\\frac12} {{content}} <image> %s",
]
Row = dict[str, Any]

disable_progress_bars()


def row(number: int, **changes: Any) -> Row:
    """A rewritten row of each rung in turn; what the policy drew has ids."""
    rung = ("self", "guided", "expert")[number % 3]
    problem, solution = f"Start with {number}.", f"(a) {number % 90} + 1 = {number % 90 + 1}\nAnswer: \\boxed{{7}}"
    response = solution if rung == "expert" else f"(a) {number % 90} + 2 = 9\nAnswer: \\boxed{{7}}"
    made = {
        "problem": problem,
        "solution": solution,
        "response": response,
        "rung": rung,
        "system": "Be brief.",
    } | changes
    system = made.pop("system")
    turns = [("system", system)] if system is not None else []
    turns += [("user", made["problem"]), ("assistant", made["response"])]
    drawn = TOKENIZER.training_ids([{"role": role, "content": text} for role, text in turns])[1]
    sampled = made["rung"] != "expert"
    return {
        "id": f"id-{number}",
        "source": "",
        "answer": "7",
        "messages": [{"role": role, "content": text} for role, text in turns],
        "response_token_ids": list(drawn) if sampled else None,
        "behaviour_logprobs": [-0.5] * len(drawn) if sampled else None,
        "samples_self": 2,
        "correct_self": 1,
        "samples_guided": 0,
        "correct_guided": 0,
        "verdict": "correct" if sampled else None,
        "policy": "f" * 32,
        "seed": 0,
    } | made


def nasty_rows() -> list[Row]:
    """Rows of every rung and text."""
    texts = [(NASTY[i % len(NASTY)], NASTY[(i + 1) % len(NASTY)], NASTY[(i + 2) % len(NASTY)]) for i in range(27)]
    return [
        row(i, problem=problem, solution=solution, response=response if i % 3 < 2 else solution, id=problem)
        for i, (problem, solution, response) in enumerate(texts)
    ]


def exported(folder: Path, rows: Iterable[Row], format: str, mix: str = "rewritten") -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    with TableWriter(folder / "rewritten.parquet", SCHEMA) as table:
        for one in rows:
            table.add(one)
    with RunFolder(folder) as place:
        return export(folder / "rewritten.parquet", format, mix, ORIGIN, place)


def expected(rows: Sequence[Row], mix: str) -> list[list[dict[str, str]]]:
    """The conversations of a mix, by its definition."""
    return [
        [
            *one["messages"][:-1],
            {"role": "assistant", "content": one["response" if one["rung"] in KEPT[mix] else "solution"]},
        ]
        for one in rows
    ]


def loaded(files: Path | Sequence[Path], cache: Path) -> Dataset:
    paths = [str(file) for file in ([files] if isinstance(files, Path) else files)]
    kind = "json" if paths[0].endswith(".jsonl") else "parquet"
    return load_dataset(kind, data_files=paths, split="train", cache_dir=str(cache))


def conversations(format: str, folder: Path, cache: Path) -> list[list[dict[str, str]]]:
    """What stands in an export, as its tool's loader gives it."""
    place = folder / "export" / format
    if format == "trl":
        return [one["prompt"] + one["completion"] for one in loaded(place / "train.jsonl", cache)]
    if format == "llamafactory":
        return list(llamafactory_rows(place, cache))
    if format == "axolotl":
        return list(loaded(place / "train.jsonl", cache)["messages"])
    if format == "verl":
        return verl_sft_rows(place / "sft.parquet")
    return list(load_dataset(str(place), split="train", cache_dir=str(cache))["messages"])


def llamafactory_rows(place: Path, cache: Path) -> list[list[dict[str, str]]]:
    """As llamafactory 0.9.5 finds and reads a data set: data/parser.py and data/converter.py (sharegpt)."""
    (info,) = json.loads((place / "dataset_info.json").read_text(encoding="ascii")).values()
    assert info["formatting"] == "sharegpt"
    tags = info["tags"]
    roles = {tags[f"{role}_tag"]: role for role in ("system", "user", "assistant")}
    return [
        [{"role": roles[turn[tags["role_tag"]]], "content": turn[tags["content_tag"]]} for turn in turns]
        for turns in loaded(place / info["file_name"], cache)[info["columns"]["messages"]]
    ]


def verl_sft_rows(path: Path) -> list[list[dict[str, str]]]:
    """As verl 0.9.1 reads them: utils/dataset/multiturn_sft_dataset.py, MultiTurnSFTDataset._read_files_and_process.

    A column `images`, `videos`, `tools` or `enable_thinking` would mean something to it.
    """
    frame = pd.read_parquet(path, dtype_backend="pyarrow")
    assert not {"images", "videos", "tools", "enable_thinking"} & set(frame.columns)
    return [[dict(turn) for turn in turns] for turns in frame["messages"]]


# --- Rows and texts are those of the mix ---


@pytest.mark.parametrize("mix", KEPT)
@pytest.mark.parametrize("format", FORMATS)
def test_each_tool_reads_the_rows_and_texts_of_the_mix(format: str, mix: str, tmp_path: Path) -> None:
    rows = nasty_rows()
    summary = exported(tmp_path / "run", rows, format, mix)
    assert conversations(format, tmp_path / "run", tmp_path / "cache") == expected(rows, mix)
    assert (summary["rows"], summary["rejected"], summary["mix"]) == (len(rows), {}, mix)
    kept = [one["rung"] if one["rung"] in KEPT[mix] else "expert" for one in rows]
    assert summary["rungs"] == {rung: kept.count(rung) for rung in ("self", "guided", "expert") if rung in kept}


@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"))] * 3), min_size=1, max_size=4))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_through(tmp_path: Path, texts: list[tuple[str, str, str]]) -> None:
    rows = [
        row(i, problem=problem, solution=solution, response=response if i % 3 < 2 else solution, system=None)
        for i, (problem, solution, response) in enumerate(texts)
    ]
    told = [one for one in expected(rows, "rewritten") if one[-1]["content"].strip()]
    for format in FORMATS:
        if not told:
            with pytest.raises(
                DataError, match=f"no row of the mix rewritten can be exported: {len(rows)} no_response"
            ):
                exported(tmp_path / "run", rows, format)
            continue
        summary = exported(tmp_path / "run", rows, format)
        assert summary["rows"] + sum(summary["rejected"].values()) == len(rows)
        place = tmp_path / "run" / "export" / format
        if format == "verl":
            assert verl_sft_rows(place / "sft.parquet") == told
        elif format == "hf":
            assert pq.read_table(place / "data")["messages"].to_pylist() == told
        else:
            lines = map(json.loads, (place / "train.jsonl").read_bytes().decode().split("\n")[:-1])
            assert [one.get("messages") or one["prompt"] + one["completion"] for one in lines] == told


def test_a_response_that_says_nothing_is_rejected_and_counted(tmp_path: Path) -> None:
    rows = [row(0), row(1, response=" \n"), row(2)]
    for format in FORMATS:
        summary = exported(tmp_path / "run", rows, format)
        assert (summary["rows"], summary["rejected"]) == (2, {"no_response": 1})
        told = conversations(format, tmp_path / "run", tmp_path / format)
        assert told == [one["messages"] for one in rows if one is not rows[1]]
        # Under a mix that has the expert's text in its place there is something to say.
        assert exported(tmp_path / "run", rows, format, "self_only")["rejected"] == {}
    lines = pq.read_table(tmp_path / "run/export/verl/rl.parquet").to_pylist()
    assert [one["extra_info"]["index"] for one in lines] == [0, 1, 2]


# --- TRL ---


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("mix", KEPT)
def test_trl_trains_on_the_response_and_its_end_and_on_nothing_else(mix: str, tmp_path: Path) -> None:
    rows = [row(number) for number in range(9)]
    exported(tmp_path / "run", rows, "trl", mix)
    trainer = SFTTrainer(
        model=load_model(TINY / "policy", "float32", "cpu", False),
        args=SFTConfig(
            str(tmp_path / "out"),
            max_length=None,
            completion_only_loss=True,
            use_cpu=True,
            bf16=False,
            report_to="none",
        ),
        train_dataset=loaded(tmp_path / "run/export/trl/train.jsonl", tmp_path / "cache"),
        processing_class=TOKENIZER.tokenizer,
    )
    used, _ = mix_ids(mix, rows, TOKENIZER, 1000)
    ours = list(used.values())
    theirs = list(trainer.train_dataset)
    assert len(theirs) == len(ours) == len(rows)
    for mine, its in zip(ours, theirs, strict=True):
        assert its["input_ids"] == [*mine.prompt, *mine.response]
        assert its["labels"] == [*[-100] * len(mine.prompt), *mine.response]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
def test_the_sampled_ids_can_be_trained_on_in_trl(tmp_path: Path) -> None:
    """As docs/export.md has it."""
    rows = [row(number) for number in range(6)]
    ids = [9, 8, TOKENIZER.training_end]  # no tokenizer would make them of its text
    rows[0] |= {"response_token_ids": ids, "behaviour_logprobs": [-1.0, -2.0, -3.0]}
    exported(tmp_path / "run", rows, "hf")
    tokenizer = TOKENIZER.tokenizer

    def exact(row: Row) -> Row:
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True, return_dict=False)
        response = row["response_token_ids"]
        if response is None:
            response = tokenizer(row["response"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}

    dataset = load_dataset(str(tmp_path / "run/export/hf"), split="train", cache_dir=str(tmp_path / "cache"))
    trainer = SFTTrainer(
        model=load_model(TINY / "policy", "float32", "cpu", False),
        args=SFTConfig(str(tmp_path / "out"), max_length=None, use_cpu=True, bf16=False, report_to="none"),
        train_dataset=dataset.map(exact, remove_columns=dataset.column_names),
        processing_class=tokenizer,
    )
    used, _ = mix_ids("rewritten", rows, TOKENIZER, 1000)
    ours = list(used.values())
    for mine, its in zip(ours, trainer.train_dataset, strict=True):
        assert its["input_ids"] == [*mine.prompt, *mine.response]
        assert its["labels"] == [*[-100] * len(mine.prompt), *mine.response]


# --- Hugging Face ---


def test_the_dataset_folder_has_every_column_as_it_was(tmp_path: Path) -> None:
    rows = nasty_rows()
    exported(tmp_path / "run", rows, "hf")
    dataset = load_dataset(str(tmp_path / "run/export/hf"), split="train", cache_dir=str(tmp_path / "cache"))
    assert dataset.column_names == SCHEMA.names
    assert dataset.to_list() == pq.read_table(tmp_path / "run/rewritten.parquet").to_pylist()


@pytest.mark.parametrize("mix", ["expert", "self_only", "guided_only"])
def test_where_the_expert_replaces_a_sample_nothing_of_the_sample_is_left(mix: str, tmp_path: Path) -> None:
    rows = [row(number) for number in range(6)]
    exported(tmp_path / "run", rows, "hf", mix)
    for one, its in zip(rows, pq.read_table(tmp_path / "run/export/hf/data").to_pylist(), strict=True):
        if one["rung"] in KEPT[mix]:
            assert its == pa.Table.from_pylist([one], schema=SCHEMA).to_pylist()[0]
        else:
            sampled = [its[name] for name in ("response_token_ids", "behaviour_logprobs", "verdict")]
            assert (sampled, its["rung"], its["response"]) == ([None] * 3, "expert", one["solution"])
        assert its["samples_self"] == 2


def test_a_large_data_set_is_in_shards_whose_names_say_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "SHARD", 1)
    for groups, more, shards in ((1, 0, 1), (2, 5, 3), (3, 0, 3)):
        rows = [{**row(0), "id": str(number)} for number in range(groups * ROWS + more)]
        summary = exported(tmp_path / "run", rows, "hf")
        names = [f"data/train-{number:05}-of-{shards:05}.parquet" for number in range(shards)]
        assert summary["files"] == ["README.md", *names]
        # One cache for all: `datasets` must see that the files have changed.
        dataset = load_dataset(str(tmp_path / "run/export/hf"), split="train", cache_dir=str(tmp_path / "cache"))
        assert list(dataset["id"]) == [one["id"] for one in rows]


# --- verl ---


def test_verl_trains_on_the_response_and_its_end_and_on_nothing_else(tmp_path: Path) -> None:
    """Each message is tokenised alone and the assistant's opening masked, as in verl 0.9.1's
    MultiTurnSFTDataset._process_single_message. The class itself was tried by hand: docs/log.md.
    """
    rows = [row(number) for number in range(6)]
    exported(tmp_path / "run", rows, "verl")
    used, _ = mix_ids("rewritten", rows, TOKENIZER, 1000)
    ours = list(used.values())
    opened = [{"role": "user", "content": ""}]
    ids = TOKENIZER.tokenizer.apply_chat_template(opened, add_generation_prompt=True, return_dict=False)
    opening = len(ids) - len(TOKENIZER.tokenizer.apply_chat_template(opened, return_dict=False))
    for mine, turns in zip(ours, verl_sft_rows(tmp_path / "run/export/verl/sft.parquet"), strict=True):
        tokens: list[int] = []
        mask: list[int] = []
        for turn in turns:
            ids = TOKENIZER.tokenizer.apply_chat_template([turn], return_dict=False)
            trained = turn["role"] == "assistant"
            tokens += ids
            mask += [0] * opening + [1] * (len(ids) - opening) if trained else [0] * len(ids)
        assert tokens == [*mine.prompt, *mine.response]
        assert mask == [0] * len(mine.prompt) + [1] * len(mine.response)


def test_verl_has_the_problems_with_their_golds_to_learn_from(tmp_path: Path) -> None:
    """The keys that verl 0.9.1 reads in utils/dataset/rl_dataset.py and its reward manager `naive`."""
    rows = [row(number, source="math" if number else "", answer=str(number)) for number in range(4)]
    exported(tmp_path / "run", rows, "verl")
    dataset = loaded(tmp_path / "run/export/verl/rl.parquet", tmp_path / "cache")
    assert dataset.to_list() == [
        {
            "data_source": one["source"] or "retell",
            "prompt": one["messages"][:-1],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": one["answer"]},
            "extra_info": {"split": "train", "index": index, "id": one["id"]},
        }
        for index, one in enumerate(rows)
    ]


# --- Files ---


def test_an_export_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    run, place = tmp_path / "run", tmp_path / "run/export/trl"
    exported(run, [row(0), row(1)], "trl")
    (place / "stray.txt").write_text("stray", encoding="utf-8")
    exported(run, [row(0)], "trl")
    assert [path.name for path in place.iterdir()] == ["train.jsonl"]
    before = (place / "train.jsonl").read_bytes()
    with pytest.raises(DataError, match="no row"):
        exported(run, [row(0, response=" ")], "trl")
    assert (place / "train.jsonl").read_bytes() == before
    assert [path.name for path in (run / "export").iterdir()] == ["trl"]


@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_rows(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = row(0)
    peaks = []
    for groups in (3, 12):
        texts = [random.Random(number).randbytes(200).hex() for number in range(groups * ROWS)]
        held: list[tuple[int, int]] = []

        def watched(*asked: Any, held: list[tuple[int, int]] = held) -> Iterator[pa.RecordBatch]:
            held.append((sys.getallocatedblocks(), pa.total_allocated_bytes()))
            for batch in read_batches(*asked):
                held.append((sys.getallocatedblocks(), pa.total_allocated_bytes()))
                yield batch

        monkeypatch.setattr(exported_rows, "read_batches", watched)
        exported(tmp_path / "run", ({**one, "solution": text} for text in texts), format, "expert")
        peaks.append([max(column) - column[0] for column in zip(*held, strict=True)])
    for few, many in zip(*peaks, strict=True):
        assert many < 2 * few + 10_000


# --- The command ---


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of recorded responses."""
    problems = [
        {"problem": "1 + 1?", "solution": "It is \\boxed{2}.", "candidates": ["So \\boxed{2}"]},
        {"problem": "2 + 1?", "solution": "It is \\boxed{3}.", "candidates": ["It is 4."]},
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in problems), encoding="utf-8")
    assert main(["rewrite", "--engine", "recorded", "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("retell: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_says_what_it_wrote(format: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["export", str(run), "--format", format, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {key: summary[key] for key in ("format", "rows", "rejected", "mix", "rungs")} == {
        "format": format,
        "rows": 2,
        "rejected": {},
        "mix": "rewritten",
        "rungs": {"self": 1, "expert": 1},
    }
    assert Path(summary["path"]) == run / "export" / format
    there = [path for path in (run / "export" / format).rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(run / "export" / format)) for path in there) == summary["files"]
    assert main(["export", str(run), "--format", format, "--data", "expert"]) == 0
    shown = capsys.readouterr().out
    assert f"expert for {format}" in shown
    for file in summary["files"]:
        assert f"{run}/export/{format}/{file}" in shown
    told = conversations(format, run, run.parent / "cache")
    assert [turns[-1]["content"] for turns in told] == ["It is \\boxed{2}.", "It is \\boxed{3}."]


def test_a_restart_discards_exports_and_leaves_what_is_not_retells(run: Path, tmp_path: Path) -> None:
    for format in FORMATS:
        assert main(["export", str(run), "--format", format]) == 0
    (run / "export" / "mine.yaml").write_text("mine", encoding="utf-8")
    data = str(tmp_path / "data.jsonl")
    again = ["rewrite", "--engine", "recorded", "--data", data, "--out", str(run), "--restart"]
    assert main(again) == 0
    assert [path.name for path in (run / "export").iterdir()] == ["mine.yaml"]
    (run / "export" / "mine.yaml").unlink()
    assert main(["export", str(run), "--format", "hf"]) == 0
    assert main(again) == 0
    assert not (run / "export").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "trll"], "unknown format 'trll': did you mean trl?"),
        (["--format", "LLaMA-Factory"], "did you mean llamafactory?"),
        (["--format", "csv"], "unknown format 'csv': use one of trl, llamafactory, axolotl, verl, hf"),
        (["--format", "trl", "--data", "rewriten"], "unknown mix 'rewriten': did you mean rewritten?"),
        (["--format", "trl", "--data", "online"], "unknown mix 'online'"),
        (["--format", "trl", "--license", "mit"], "--license is for --format hf: leave it out"),
        (["--format", "verl", "--push", "a/b"], "--push is for --format hf: leave it out"),
        (["--format", "hf", "--public"], "--public has no effect without --push: leave it out"),
        (["--format", "hf", "--yes"], "--yes has no effect without --push"),
        (["--format", "hf", "--license", "MIT License"], "--license 'MIT License' is no licence identifier"),
        (["--format", "hf", "--license="], "--license '' is no licence identifier"),
        ([], "format"),
    ],
)
def test_a_wrong_request_is_told_and_writes_nothing(
    options: list[str], says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, "export", str(run), *options)
    assert not (run / "export").exists()


def test_without_rewritten_rows_there_is_nothing_to_export(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "there is no run folder" in refused(capsys, "export", str(tmp_path / "nowhere"), "--format", "trl")
    table = run / "rewritten.parquet"
    pq.write_table(pq.read_table(table).drop(["solution"]), table)
    assert "has no column solution: rewrite again" in refused(capsys, "export", str(run), "--format", "trl")
    table.write_bytes(b"PAR1 torn")
    assert "rewritten.parquet: " in refused(capsys, "export", str(run), "--format", "hf")
    table.unlink()
    assert "holds no rewritten.parquet: `retell rewrite" in refused(capsys, "export", str(run), "--format", "hf")
    assert not (run / "export" / "hf").exists()
