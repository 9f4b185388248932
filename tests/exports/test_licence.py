from pathlib import Path

import pytest
from huggingface_hub import constants

from retell.errors import DataError, RecipeError
from retell.exports.licence import Licence, given_licence, inherited_licence
from retell.recipe import Data

CARD = "---\nlicense: cc-by-4.0\ntags: [x]\n---\n# Data\n"
FOUND = Licence(("cc-by-4.0",), None, None, "the card of the source")


def folder_with(card: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def test_a_dataset_folder_says_its_licence(tmp_path: Path) -> None:
    place = folder_with(CARD, tmp_path / "data")
    assert inherited_licence(Data(path=str(place))) == FOUND
    file = place / "train.jsonl"
    file.write_text("", encoding="utf-8")
    assert inherited_licence(Data(path=str(file))) is None  # a README beside a file may be of anything


def test_so_does_a_copy_of_a_hub_dataset(tmp_path: Path) -> None:
    folder_with(CARD, tmp_path / "owner" / "name")
    assert inherited_licence(Data(path="owner/name", data_dir=str(tmp_path))) == FOUND


def test_so_does_the_card_that_was_downloaded_with_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo, commit = tmp_path / "datasets--owner--name", "a" * 40
    folder_with(CARD, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    assert inherited_licence(Data(path="owner/name")) == FOUND
    assert inherited_licence(Data(path="owner/other")) is None
    assert inherited_licence(Data(path="--no name--")) is None


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("# No metadata\n", None),
        ("---\ntags: [x]\n---\n", None),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", Licence(("mit", "apache-2.0"), None, None, FOUND.source)),
        (
            "---\nlicense: other\nlicense_name: own\nlicense_link: https://example.org/own\n---\n",
            Licence(("other",), "own", "https://example.org/own", FOUND.source),
        ),
    ],
)
def test_what_a_card_says_is_taken_as_it_is(card: str, licence: Licence | None, tmp_path: Path) -> None:
    assert inherited_licence(Data(path=str(folder_with(card, tmp_path / "data")))) == licence


def test_a_licence_in_a_file_beside_the_card_is_linked_where_it_is(tmp_path: Path) -> None:
    card = "---\nlicense: other\nlicense_link: LICENSE\n---\n"
    folder_with(card, tmp_path / "owner" / "name")
    told = inherited_licence(Data(path="owner/name", data_dir=str(tmp_path)))
    assert told == Licence(
        ("other",), None, "https://huggingface.co/datasets/owner/name/blob/main/LICENSE", FOUND.source
    )
    place = folder_with(card, tmp_path / "data")
    assert inherited_licence(Data(path=str(place))) == Licence(("other",), None, None, FOUND.source)


def test_a_card_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    place = folder_with("---\nlicense: [mit\n---\n", tmp_path / "data")
    with pytest.raises(DataError, match=r"cannot read the card .*README\.md: .*or name the --license"):
        inherited_licence(Data(path=str(place)))


def test_a_file_or_nothing_says_nothing(tmp_path: Path) -> None:
    assert inherited_licence(Data()) is None
    assert inherited_licence(Data(path=str(tmp_path / "gone.jsonl"))) is None
    assert inherited_licence(Data(path="retell:tiny/data/train.jsonl")) is None


def test_a_licence_is_given_by_its_identifier() -> None:
    assert given_licence("cc-by-4.0").ids == ("cc-by-4.0",)
    for wrong in ("", "MIT", "my licence", "mit\n", "a--b", "mit: x"):
        with pytest.raises(RecipeError, match="no licence identifier"):
            given_licence(wrong)
