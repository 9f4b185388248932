from pathlib import Path

import pytest
from scripts import graded

from retell.errors import RecipeError
from retell.graders.base import Case
from retell.graders.custom import CustomGrader
from retell.graders.math import MathGrader
from retell.graders.named import grader_named
from retell.graders.pool import GraderPool
from retell.graders.qwen import QwenGrader
from retell.records import Verdict

SAME = "def judge(problem, response, gold):\n    return response == gold\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


def verdicts(spec: str, *cases: Case) -> list[Verdict]:
    """What the user's function comes to, in a worker."""
    with GraderPool(grader_named(spec), 1) as pool:
        return graded(pool, list(cases))


def test_graders_by_name(home: Path) -> None:
    write(home / "mine.py", SAME)
    assert isinstance(grader_named("math"), MathGrader)
    assert isinstance(grader_named("qwen"), QwenGrader)
    grader = grader_named("mine:judge")
    assert isinstance(grader, CustomGrader)
    assert grader.spec == "mine:judge"


@pytest.mark.parametrize("spec", ["", "mth", "mine", "../mine:judge", "no_such:judge", "pack:judge", "sys:exit"])
def test_a_spec_that_is_no_grader_is_refused_with_those_there_are(home: Path, spec: str) -> None:
    write(home / "mine.py", SAME)
    write(home / "pack/mine.py", SAME)
    with pytest.raises(RecipeError) as found:
        grader_named(spec)
    assert f"grader {spec!r}: " in str(found.value)
    assert "a grader is math, qwen, or your own as module:function" in str(found.value)


def test_editing_the_module_changes_the_name(home: Path) -> None:
    write(home / "mine.py", SAME)
    before = CustomGrader("mine:judge").name
    assert before.startswith("mine:judge@")
    assert CustomGrader("mine:judge").name == before
    write(home / "mine.py", SAME + "# better")
    assert CustomGrader("mine:judge").name != before


def test_modules_in_packages_are_called(home: Path) -> None:
    write(home / "pack/__init__.py", "")
    write(home / "pack/deep/mine.py", "from pack.other import judge")  # a package without __init__
    write(home / "pack/other.py", SAME)
    assert [verdict.outcome for verdict in verdicts("pack.deep.mine:judge", Case("", "1", "1"))] == ["correct"]


def test_the_working_directory_comes_first(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    write(tmp_path / "elsewhere/mine.py", "def judge(*case): return False")
    elsewhere = CustomGrader("mine:judge").name
    assert [verdict.outcome for verdict in verdicts("mine:judge", Case("", "1", "1"))] == ["wrong"]
    write(home / "mine.py", SAME)
    assert CustomGrader("mine:judge").name != elsewhere
    assert [verdict.outcome for verdict in verdicts("mine:judge", Case("", "1", "1"))] == ["correct"]


def test_the_function_is_given_everything_as_it_is(home: Path) -> None:
    write(
        home / "mine.py",
        "from retell import Verdict\ndef judge(*case): return Verdict('correct', repr(case), '')",
    )
    case = Case("What is\n1 + 1?", "It is {2}\0 \u2028'\"", "½")
    assert verdicts("mine:judge", case)[0].extracted == repr((case.problem, case.response, case.gold))


RETURNS = {
    "True": Verdict("correct", None, "mine:judge"),
    "False": Verdict("wrong", None, "mine:judge"),
    "Verdict('undecided', 'x', 'why')": Verdict("undecided", "x", "why"),
    "Verdict('correct', chr(0xd800), 'what cannot be stored')": Verdict("correct", "?", "what cannot be stored"),
}
NO_ANSWER = [
    "None",
    "1",
    "'correct'",
    "[]",
    "Verdict('right', None, '')",
    "Verdict('correct', 1, '')",
    "Verdict('wrong', None, None)",
]


def test_what_the_function_may_return(home: Path) -> None:
    write(home / "mine.py", "from retell import Verdict\ndef judge(problem, response, gold): return eval(response)")
    found = verdicts("mine:judge", *(Case("", code, "") for code in [*RETURNS, *NO_ANSWER]))
    assert found[: len(RETURNS)] == list(RETURNS.values())
    for code, verdict in zip(NO_ANSWER, found[len(RETURNS) :], strict=True):
        assert verdict.outcome == "undecided"
        assert code.split("(")[0] in verdict.reason
        assert verdict.reason.endswith("no bool and no sound Verdict")
