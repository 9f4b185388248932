import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retell.errors import RecipeError
from retell.plugins import Plugin

SAME = "def f(x): return x\n"


@contextmanager
def imports_afresh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes ``folder`` the working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, from which modules are imported afresh."""
    (tmp_path / "home").mkdir()
    with imports_afresh(tmp_path / "home", monkeypatch):
        yield tmp_path / "home"


def write(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")


def plugin(spec: str) -> Plugin:
    return Plugin("thing", spec, ("this", "that"))


@pytest.mark.parametrize(
    "spec", ["", "mine", ":f", "mine:", "mine:a:b", "mine:a.b", "mine.:f", "1:f", "a b:c", "../mine:f"]
)
def test_a_spec_that_is_no_function_of_a_module_is_refused(home: Path, spec: str) -> None:
    write(home / "mine.py", SAME)
    with pytest.raises(RecipeError) as found:
        plugin(spec)
    assert str(found.value) == f"there is no thing {spec!r}: a thing is this, that, or your own as module:function"


@pytest.mark.parametrize("spec", ["no_such:f", "no_such.deep:f", "mine.more:f", "pack.no_such:f"])
def test_a_module_that_is_not_there_is_refused_found_or_loaded(home: Path, spec: str) -> None:
    write(home / "mine.py", SAME)
    write(home / "pack/mine.py", SAME)
    for do in (Plugin.version, Plugin.load):
        with pytest.raises(RecipeError) as found:
            do(plugin(spec))
        assert str(found.value) == (
            f"thing {spec!r}: no module {spec.partition(':')[0]!r} in {home} or on sys.path; "
            "a thing is this, that, or your own as module:function"
        )


def test_the_module_is_found_without_being_run(home: Path) -> None:
    for name in ("flat.py", "pack/__init__.py", "pack/deep/__init__.py", "pack/deep/mine.py", "spaces/deep/mine.py"):
        write(home / name, f"raise SystemExit({name!r})")
    known = set(sys.modules)
    modules = ("flat", "pack", "pack.deep", "pack.deep.mine", "spaces.deep.mine")
    assert len({plugin(f"{module}:f").version() for module in modules}) == len(modules)
    assert known >= {name for name in sys.modules if name.startswith(("flat", "pack", "spaces"))}


def test_the_working_directory_comes_first(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/mine.py", "def f(): return 'elsewhere'")
    write(tmp_path / "elsewhere/yours.py", "def f(): return 'yours'")
    write(home / "mine.py", "def f(): return 'home'")
    sys.path.insert(0, str(tmp_path / "elsewhere"))
    for spec, said in (("mine:f", "home"), ("yours:f", "yours")):
        function, version = plugin(spec).load()
        assert function() == said
        assert version == plugin(spec).version()
    assert sys.path[0] == os.getcwd()


def test_the_version_changes_with_the_file_but_not_of_what_is_loaded(home: Path) -> None:
    write(home / "mine.py", "def f(): return 1")
    before = plugin("mine:f").version()
    assert len(before) == 12
    assert plugin("mine:f").load()[1] == before
    write(home / "mine.py", "def f(): return 1 + 1")
    assert plugin("mine:f").version() != before
    function, version = plugin("mine:f").load()
    assert (function(), version) == (1, before)  # what runs here is what was imported
    del sys.modules["mine"]
    function, version = plugin("mine:f").load()
    assert (function(), version) == (2, plugin("mine:f").version())


def test_a_module_without_a_file_has_no_version() -> None:
    assert plugin("sys:exit").load() == (sys.exit, "")
    with pytest.raises(RecipeError, match="no module 'sys'"):
        plugin("sys:exit").version()


@pytest.mark.parametrize("code", ["", "f = 3"])
def test_a_module_without_the_function_is_refused(home: Path, code: str) -> None:
    write(home / "mine.py", code)
    with pytest.raises(RecipeError) as found:
        plugin("mine:f").load()
    assert str(found.value) == f"{home / 'mine.py'} has no function 'f'"


@pytest.mark.parametrize(
    ("code", "error"), [("import no_such_thing", ModuleNotFoundError), ("1 / 0", ZeroDivisionError)]
)
def test_what_a_module_raises_when_it_is_run_is_its_own(home: Path, code: str, error: type[Exception]) -> None:
    write(home / "mine.py", code)
    with pytest.raises(error):
        plugin("mine:f").load()
