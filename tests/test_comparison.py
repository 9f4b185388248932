import json
import re
from pathlib import Path

import pytest
from madeup import evaluation, whole

from retell.cli import main
from retell.comparison import named
from retell.errors import RequestError
from retell.recipe import Data, Policy, Recipe, Rewrite
from retell.runfolder import RunFolder


def run(path: Path, k: int = 8, scores: list[int] | None = None, names: tuple[str, ...] = ("dft",)) -> Path:
    """A run with K samples a rung, and these evaluations."""
    with RunFolder(path) as folder:
        folder.store_recipe(Recipe(policy=Policy(model="m"), data=Data(path="d"), rewrite=Rewrite(k=k)))
        for name in names if scores else ():
            evaluation(folder, name, scores or [])
    return path


def squeezed(out: Path) -> str:
    """The page without the spaces that align its tables."""
    return re.sub(" +", " ", (out / "compare.md").read_text(encoding="utf-8"))


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["compare", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_runs_are_compared_on_one_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = run(tmp_path / "one", 8, [0] * 30 + [1] * 10), run(tmp_path / "two", 4, [1] * 40, ("dft", "sft"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, said, _ = command(capsys, one, two, "--out", tmp_path / "out", "--json")
    assert status == 0
    summary = json.loads(said)
    assert summary["differing"] == {"rewrite.k": ["8", "4"]}
    assert summary["averages"] == {"one": {"dft": 25.0}, "two": {"sft": 100.0, "dft": 100.0}}
    assert {path: path.read_bytes() for path in before} == before
    page = squeezed(tmp_path / "out")
    assert "| rewrite.k | 8 | 4 |" in page
    assert "| DFT: two − one | +75.0 | " in page
    assert "SFT: two − one" not in page
    assert "| SFT: two | 100.0 ± 1.0 | 100.0 ± 0.5 |" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.html", "compare.md"]


def test_every_part_of_whole_runs_is_laid_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two", "three"):
        whole(RunFolder(run(tmp_path / name)))
    status, said, _ = command(capsys, *(tmp_path / name for name in ("one", "two", "three")), "--out", tmp_path)
    assert status == 0
    assert said.startswith("their recipes are the same\n")
    assert said.rstrip().endswith(str(tmp_path / "compare.html"))
    page = squeezed(tmp_path)
    for heading in (
        "In what they differ",
        "Rungs",
        "Log-probs and weights",
        "Accuracy",
        "Differences from one",
        "Cost",
    ):
        assert f"## {heading}" in page
    assert "Their recipes are the same." in page
    assert "| three | 6 (60.0%) | 3 (30.0%) | 1 (10.0%) | 10 | 2 |" in page
    assert page.count("− one |") == 12, "six models of two runs"
    assert "two − three" not in page


def test_evaluations_with_other_settings_are_not_subtracted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = run(tmp_path / "one", scores=[0, 1]), run(tmp_path / "two", scores=[1, 1])
    folder = RunFolder(two)
    folder.write_json("eval/dft.json", (folder.read_json("eval/dft.json") or {}) | {"grader": "another"})
    assert command(capsys, one, two, "--out", tmp_path)[0] == 0
    page = squeezed(tmp_path)
    assert "No model was evaluated in two runs on common problems with the same settings." in page


def test_runs_with_nothing_in_common_have_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(RunFolder(run(tmp_path / "one")))
    two = run(tmp_path / "two", scores=[1, 1], names=("somebody's",))
    for first, second in ((tmp_path / "one", two), (two, tmp_path / "one")):
        assert command(capsys, first, second, "--out", tmp_path)[0] == 0
    assert "| two | – |" in squeezed(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no run to compare: give the folders of two or more"),
        (["one"], "one run to compare: give the folders of two or more"),
        (["one", "one"], "one is given twice"),
        (["one", "nowhere"], "nowhere is no run folder"),
        (["one", "empty"], "empty holds no results: run `retell rewrite` or `retell evaluate` first"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    run(tmp_path / "one", scores=[0, 1])
    run(tmp_path / "empty")
    status, _, err = command(capsys, *(tmp_path / name for name in given), "--out", tmp_path / "out")
    assert status == 2
    assert said in err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "nowhere").exists()


def test_runs_of_the_same_name_are_called_by_their_paths(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "other"]
    assert list(named(paths)) == [str(paths[0]), str(paths[1]), "other"]
    with pytest.raises(RequestError, match="given twice"):
        named([paths[0], tmp_path / "a" / ".." / "a" / "run"])
