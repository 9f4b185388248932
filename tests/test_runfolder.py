import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.errors import RunFolderError, StorageError
from retell.recipe import Recipe
from retell.runfolder import RunFolder

IDENTITY = {"policy": "a", "temperature": 1.0, "system message": None, "seed": 0}
HOLD = """
import sys
from pathlib import Path
from retell.runfolder import RunFolder
with RunFolder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match=r"another retell is running in .*run"), RunFolder(tmp_path / "run"):
            pass
        holder.kill()
        holder.wait()
        with RunFolder(tmp_path / "run") as folder:
            assert folder.path == tmp_path / "run"


def test_the_lock_is_given_back_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path):
        raise ZeroDivisionError
    with RunFolder(tmp_path), pytest.raises(RunFolderError), RunFolder(tmp_path):
        pass


def test_a_claim_by_the_same_identity_is_welcome_again(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path) as folder:
            folder.claim("rewrite", IDENTITY)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": 0.5}, r"another temperature: 1\.0 there, 0\.5 now: choose another --out, or --restart"),
        ({"policy": "b"}, "another policy: 'a' there, 'b' now"),
        ({"system message": "Be brief."}, "another system message: None there, 'Be brief.' now"),
        ({"policy": "b", "seed": 1}, r"another policy: 'a' there, 'b' now \(also seed\)"),
    ],
)
def test_a_claim_by_another_identity_names_the_difference(tmp_path: Path, change: dict[str, object], says: str) -> None:
    with RunFolder(tmp_path) as folder:
        folder.claim("rewrite", IDENTITY)
        with pytest.raises(RunFolderError, match=says):
            folder.claim("rewrite", {**IDENTITY, **change})
        folder.claim("rewrite", IDENTITY)  # the refused claim left no trace
        folder.claim("other stage", {**IDENTITY, **change})


def test_a_stage_is_fresh_while_inputs_and_files_are_as_they_were(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        assert not folder.is_fresh("gap", ["a"])
        folder.write_json("gap.json", {})
        folder.finished("gap", ["a"], ["gap.json"])
        assert folder.is_fresh("gap", ["a"])
        assert not folder.is_fresh("gap", ["b"])
        assert not folder.is_fresh("other", ["a"])
        folder.finished("gap", ["b"], ["gap.json"])
        assert not folder.is_fresh("gap", ["a"])
        (tmp_path / "gap.json").unlink()
        assert not folder.is_fresh("gap", ["b"])


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.booleans(), max_size=4))
def test_json_reads_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, object]) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("json"))
    folder.write_json("eval/a.json", value)
    assert folder.read_json("eval/a.json") == value


def test_a_file_not_written_yet_is_none(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).read_json("gap.json") is None
    assert RunFolder(tmp_path).recipe() is None


def test_the_recipe_reads_back(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"rewrite": {"k": 3}, "policy": {"system": "Größe ∞ \n'\"\\"}})
    folder = RunFolder(tmp_path)
    folder.store_recipe(recipe)
    assert folder.recipe() == recipe


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("a.json", "old")

    def half(error: Exception) -> None:
        with folder.replacing("a.json") as path:
            path.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(ZeroDivisionError):
        half(ZeroDivisionError())
    with pytest.raises(StorageError, match=r"cannot write .*a\.json: No space left"):
        half(OSError(28, "No space left on device"))
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == {"a.json"}


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for content in ("old", "new"):
        with folder.replacing("checkpoints/sft") as path:
            path.mkdir()
            (path / content).write_text(content, encoding="utf-8")
            (path / "sub").mkdir()
    assert names(tmp_path / "checkpoints") == {"sft"}
    assert names(tmp_path / "checkpoints" / "sft") == {"new", "sub"}


def test_what_a_killed_process_left_half_done_is_swept_away(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.replacing("a") as path:
        left = path
        path.write_text("", encoding="utf-8")
    left.mkdir()
    (left / "torn").write_text("", encoding="utf-8")
    folder.write_text("a", "new")
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text(encoding="utf-8") == "new"


def test_restarting_removes_what_retell_wrote_and_nothing_else(tmp_path: Path) -> None:
    mine = tmp_path / "run" / "notes.txt"
    linked = tmp_path / "elsewhere"
    linked.mkdir()
    (linked / "model").write_text("mine", encoding="utf-8")
    with RunFolder(tmp_path / "run") as folder:
        mine.write_text("mine", encoding="utf-8")
        folder.store_recipe(Recipe())
        folder.claim("rewrite", IDENTITY)
        folder.write_json("eval/base.json", {})
        folder.finished("evaluate/base", 1, ["eval/base.json"])
        folder.begin("evaluate/base")  # and it died there: the old file is still retell's
        folder.write_text("rewritten.parquet", "")
        folder.finished("rewrite", 1, ["rewritten.parquet"])
        (tmp_path / "run" / "eval" / "mine.png").write_text("mine", encoding="utf-8")
        folder.write_json("gap/sft.json", {})
        folder.finished("gap/sft", 1, ["gap/sft.json"])
        folder.write_text(".gap/model/part", "")
        (tmp_path / "run" / "checkpoints").symlink_to(linked)
    with RunFolder(tmp_path / "run", restart=True) as folder:
        assert (tmp_path / "run" / "rewritten.parquet").is_file(), (
            "nothing goes before the new run is known to be sound"
        )
        folder.claim("rewrite", {**IDENTITY, "policy": "b"})
    assert names(tmp_path / "run") == {"notes.txt", ".lock", "manifest.json", "eval", "checkpoints"}
    assert names(tmp_path / "run" / "eval") == {"mine.png"}
    assert mine.read_text(encoding="utf-8") == "mine"
    assert (linked / "model").read_text(encoding="utf-8") == "mine"


def test_what_follows_a_stage_is_out_of_date_once_it_begins_again(tmp_path: Path) -> None:
    stages = ["rewrite", "gap", "train/sft", "train/dft", "evaluate/base", "evaluate/sft", "evaluate/sft-2"]
    stages += ["gap/sft", "gap/dft"]
    with RunFolder(tmp_path) as folder:
        for stage in stages:
            folder.finished(stage, 1, [])
        folder.begin("train/sft")
        assert folder.stages() == ["rewrite", "gap", "train/dft", "evaluate/base", "evaluate/sft-2", "gap/dft"]
        folder.begin("rewrite")
        assert folder.stages() == ["evaluate/base"]


def test_a_place_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/retell"), tmp_path / ("a" * 300)):
        with (
            pytest.raises(RunFolderError, match=r"cannot write into .* choose another --out") as caught,
            RunFolder(path),
        ):
            pass
        assert str(path) in str(caught.value)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"udcff.* is no valid UTF-8"), RunFolder(tmp_path / "run\udcff"):
        pass
    assert names(tmp_path) == set()


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"a": 1}', '{"identity": [], "stages": 3}', "\0"])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with RunFolder(tmp_path) as folder, pytest.raises(RunFolderError, match=r"manifest\.json.*--restart"):
        folder.claim("rewrite", IDENTITY)


def test_of_processes_that_train_together_only_the_lead_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.store_recipe(Recipe())
        folder.claim("rewrite", IDENTITY)
        folder.finished("rewrite", 1, [])
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    lead = RunFolder(tmp_path / "run")
    with lead:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with RunFolder(tmp_path / "run", restart=True) as folder:  # the lead's lock is no hindrance
            assert folder.recipe() == Recipe()
            folder.store_recipe(Recipe.model_validate({"rewrite": {"k": 3}}))
            folder.claim("rewrite", {**IDENTITY, "policy": "b"})
            folder.begin("rewrite")
            folder.finished("gap", 1, ["gap.json"])
            folder.write_json("gap.json", {"a": 1})
            with folder.replacing("checkpoints/sft") as path:
                path.mkdir(parents=True)
                (path / "model").write_text("mine", encoding="utf-8")
            assert not path.exists()
            assert folder.stages() == ["rewrite"]
        with RunFolder(tmp_path / "other"):
            pass
        monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert names(tmp_path) == {"run"}


def test_a_new_evaluation_of_the_base_makes_the_drifts_that_rest_on_it_stale(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        for stage in ("rewrite", "gap", "gap/sft", "train/sft", "evaluate/base", "evaluate/sft"):
            folder.finished(stage, 1, [])
        folder.begin("evaluate/base")
        assert set(folder.stages()) == {"rewrite", "gap", "train/sft", "evaluate/sft"}


def test_a_restart_removes_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "absolute").write_text("mine", encoding="utf-8")
    with RunFolder(tmp_path / "run") as folder:
        folder.finished("rewrite", 1, ["../mine", str(tmp_path / "absolute"), "a/../../mine"])
    with RunFolder(tmp_path / "run", restart=True) as folder:
        folder.claim("rewrite", IDENTITY)
    assert (tmp_path / "mine").is_dir()
    assert (tmp_path / "absolute").is_file()
