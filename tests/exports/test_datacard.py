"""What the card of an exported data set says, and that no text from elsewhere can say more."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st

from retell.exports.datacard import Origin, dataset_card
from retell.exports.licence import Licence
from retell.recipe import Recipe
from retell.rewrite import SCHEMA

RUNGS = {"self": 600, "guided": 300, "expert": 100}
REWRITTEN = {"policy": "f" * 32, "grader": "retell-4", "rejected": {"overlong": 12, "no_gold": 3}}
BENCHMARK = {"problems": 500, "known": 2, "equal": 1, "training_problems": 3, "dropped": True}
HOSTILE = st.text(max_size=40) | st.sampled_from(
    ["---\nlicense: mit\n---", "`</code>` <script>", "# heading", "a|b", "x: [y", '"', "\\", "\u202etxt", "]\n- z", "'"]
)


def card(
    changes: dict[str, Any] | None = None,
    licence: Licence | None = None,
    mix: str = "rewritten",
    rungs: dict[str, int] | None = None,
    contamination: dict[str, Any] | None = None,
    repo: str | None = None,
) -> str:
    document: dict[str, Any] = {"policy": {"model": "Qwen/Qwen2.5-Math-1.5B"}, "data": {"path": "AI-MO/NuminaMath-CoT"}}
    for section, keys in (changes or {}).items():
        document[section] = document.get(section, {}) | keys
    origin = Origin(Recipe.model_validate(document), REWRITTEN, contamination or {}, licence, repo)
    return dataset_card(origin, mix, rungs or RUNGS, {}, "d" * 32)


def metadata(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_hub_reads_the_metadata() -> None:
    data = DatasetCard(card(licence=Licence(("cc-by-4.0",), None, None, "the card of the source"))).data
    assert data.license == "cc-by-4.0"
    assert data.task_categories == ["text-generation"]
    assert data.size_categories == ["1K<n<10K"]
    assert "retell" in data.tags
    (config,) = data.to_dict()["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]


def test_the_card_tells_how_the_data_was_made() -> None:
    changes = {
        "policy": {"revision": "abc123", "system": "Be brief."},
        "rewrite": {"k": 5, "temperature": 0.7, "top_p": 0.9, "max_tokens": 1234, "seed": 42},
    }
    text = card(changes, contamination={"benchmarks": {"math500": BENCHMARK}}, repo="me/mine")
    for said in (
        "# mine",
        "| `self` | 600 | 60.0% |",
        "| `guided` | 300 | 30.0% |",
        "| `expert` | 100 | 10.0% |",
        "| all | 1,000 | |",
        "- policy: `Qwen/Qwen2.5-Math-1.5B`, revision `abc123`, fingerprint `" + "f" * 32,
        "- problems: `AI-MO/NuminaMath-CoT`, split `train`",
        "system message `Be brief.`",
        "at most 5 samples per rung by `transformers`, temperature 0.7, top_p 0.9, at most 1,234 tokens, seed 42",
        "- grader: `retell-4`",
        "- problems that gave no row: 12 `overlong`, 3 `no_gold`",
        "| `math500` | 500 | 2 | 1 | 3 | dropped |",
        'load_dataset("me/mine", split="train")',
        f"retell {version('retell')}",
    ):
        assert said in text, said


def test_what_is_not_known_is_said_and_not_invented() -> None:
    text = card()
    assert "license" not in metadata(text)
    assert "The licence of the source is unknown" in text
    assert "no revision named" in text
    assert "No benchmark was looked for" in text


def test_a_licence_of_its_own_is_told_with_name_and_link() -> None:
    text = card(licence=Licence(("other",), "my licence", "LICENSE.md", "the card of the source"))
    told = {key: value for key, value in metadata(text).items() if key.startswith("license")}
    assert told == {"license": "other", "license_name": "my licence", "license_link": "LICENSE.md"}
    assert "`other`, `my licence`, `LICENSE.md`, as the card of the source says" in text
    assert metadata(card(licence=Licence(("mit", "apache-2.0"), None, None, "x")))["license"] == ["mit", "apache-2.0"]


def test_recorded_responses_have_no_sampling() -> None:
    text = card({"rewrite": {"engine": "recorded"}})
    assert "sampling: none: the responses had been recorded before" in text
    assert "temperature" not in text


def test_each_mix_says_whose_text_it_has() -> None:
    for mix in ("rewritten", "self_only"):
        assert "a correct solution of the policy's own" in card(mix=mix)
    assert "every response is the expert's solution" in card(mix="expert", rungs={"expert": 3})
    assert metadata(card(mix="expert", rungs={"expert": 3}))["size_categories"] == ["n<1K"]


def test_the_card_explains_every_column() -> None:
    table = card().partition("| column | |\n|---|---|\n")[2].partition("\n\n")[0]
    columns = [name for line in table.splitlines() for name in line.split("|")[1].strip().split(", ")]
    assert sorted(columns) == sorted(SCHEMA.names)


def test_a_path_on_this_machine_is_not_told(tmp_path: Path) -> None:
    folder = tmp_path / "secret-user" / "model"
    folder.mkdir(parents=True)
    file = tmp_path / "secret-user" / "problems.jsonl"
    file.write_text("", encoding="utf-8")
    changes = {
        "policy": {"model": str(folder), "template": str(file)},
        "data": {"path": str(file)},
        "rewrite": {"guided_template": str(file)},
    }
    text = card(changes, contamination={"benchmarks": {str(file): BENCHMARK}})
    assert "secret-user" not in text
    assert "policy: `model`" in text
    assert "problems: `problems.jsonl`\n" in text


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_text_from_elsewhere_cannot_break_the_card(model: str, data: str, system: str, name: str, licence: str) -> None:
    def made(texts: tuple[str, str, str, str, str]) -> str:
        model, data, system, name, licence = texts
        changes = {"policy": {"model": f"m{model}", "system": system}, "data": {"path": f"d{data}"}}
        own = Licence((f"l{licence}",), f"n{licence}", f"k{licence}", "the card of the source")
        return card(changes, own, contamination={"benchmarks": {f"b{name}": BENCHMARK}})

    text, plain = made((model, data, system, name, licence)), made(("", "", "x", "", ""))
    header, its = metadata(text), metadata(plain)
    assert header.keys() == its.keys()
    printable = "".join(c for c in licence if c.isprintable())
    assert [header.pop(key) for key in ("license", "license_name", "license_link")] == [
        f"{letter}{printable}" for letter in "lnk"
    ]
    assert header == {key: value for key, value in its.items() if key in header}
    assert all(c.isprintable() or c == "\n" for c in text)
    lines, theirs = text.splitlines(), plain.splitlines()
    assert len(lines) == len(theirs)
    for line, its_line in zip(lines, theirs, strict=True):
        if line.startswith("license"):
            continue
        assert line.count("`") == its_line.count("`")
        assert not its_line.startswith("|") or line.count("|") == its_line.count("|")
        assert re.match(r"[#\-|`*>]*", line)[0] == re.match(r"[#\-|`*>]*", its_line)[0]  # type: ignore[index]
        assert "<script" not in re.sub("`[^`]*`", "", line)
