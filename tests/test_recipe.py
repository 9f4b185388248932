import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from retell.errors import RecipeError
from retell.recipe import Data, Recipe, Rewrite, Section, dump_recipe, load_recipe, located, overlay, reference

SCALAR = st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
VALUE = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(st.text("ab-_", min_size=1), SCALAR, max_size=2)
SECTIONS: dict[str, list[str]] = {
    name: list(type(getattr(Recipe(), name)).model_fields) for name in Recipe.model_fields
}
VALID: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "policy": {"model": st.text(), "system": st.text(), "template": st.text(), "trust_remote_code": st.booleans()},
    "data": {"path": st.text(), "limit": st.integers(1), "max_length": st.integers(2)},
    "rewrite": {
        "engine_args": st.dictionaries(st.text("ab_", min_size=1), SCALAR, max_size=3),
        "temperature": st.floats(0, 2),
        "k": st.integers(1),
        "seed": st.integers(0, 2**32 - 1),
    },
    "train": {"runs": st.lists(st.text(), max_size=3), "learning_rate": st.floats(1e-9, 1)},
    "evaluate": {"benchmark": st.lists(st.text(), max_size=3), "top_p": st.floats(0.1, 1)},
}
DOCUMENTS = st.fixed_dictionaries({}, optional={n: st.fixed_dictionaries({}, optional=s) for n, s in VALID.items()})


def recipe_file(path: Path, text: str) -> Path:
    file = path / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(path: Path) -> str | None:
    """What is said against a recipe, if anything is; other errors than RecipeError are not expected."""
    try:
        load_recipe(path)
    except RecipeError as error:
        return str(error)
    return None


def values(section: Section) -> dict[str, Any]:
    return {name: getattr(section, name) for name in type(section).model_fields}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS)
def test_a_stored_recipe_reads_back_the_same(tmp_path: Path, document: dict[str, Any]) -> None:
    recipe = load_recipe(recipe_file(tmp_path, tomli_w.dumps(document)))
    again = load_recipe(recipe_file(tmp_path, dump_recipe(recipe)))
    assert again == recipe
    assert repr(again) == repr(recipe)  # 1, 1.0 and True are equal and not the same


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([*SECTIONS, "rewritee", "x"]),
        st.dictionaries(st.sampled_from(sum(SECTIONS.values(), ["kk"])), VALUE, max_size=3) | VALUE,
        max_size=3,
    )
)
def test_any_toml_is_a_recipe_or_a_one_line_error(tmp_path: Path, document: dict[str, Any]) -> None:
    path = recipe_file(tmp_path, tomli_w.dumps(document))
    message = refusal(path)
    assert message is None or (str(path) in message and "pydantic" not in message)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_any_file_is_a_recipe_or_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.toml").write_bytes(content)
    message = refusal(tmp_path / "recipe.toml")
    assert message is None or "recipe.toml" in message


@given(DOCUMENTS, DOCUMENTS)
def test_an_overlay_changes_what_was_set_and_nothing_else(base: dict[str, Any], changes: dict[str, Any]) -> None:
    below, above = Recipe.model_validate(base), Recipe.model_validate(changes)
    merged = overlay(below, above)
    for name in Recipe.model_fields:
        set_above = changes.get(name, {})
        for key, value in values(getattr(merged, name)).items():
            old, new = getattr(getattr(below, name), key), getattr(getattr(above, name), key)
            wanted = new if key in set_above else old
            assert value == (old | new if isinstance(new, dict) else wanted)
    assert overlay(below, Recipe()) == below
    assert overlay(Recipe(), below) == below
    assert overlay(merged, above) == merged


def test_a_value_set_to_its_default_is_set() -> None:
    base = Recipe.model_validate({"rewrite": {"k": 4}, "data": {"path": "x", "limit": 3}})
    changes = Recipe.model_validate({"rewrite": {"k": Rewrite().k}, "data": {"limit": None}})
    merged = overlay(base, changes)
    assert (merged.rewrite.k, merged.data.limit, merged.data.path) == (Rewrite().k, None, "x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[rewrite]\ntemperatur = 1", r"unknown key rewrite\.temperatur: did you mean temperature\?"),
        ("[rewrites]\nk = 1", r"unknown key rewrites: did you mean rewrite\?"),
        ("[gap]\nzzz = 1", r"unknown key gap\.zzz: known are batch_tokens"),
        ("k = 1", r"unknown key k: known are policy, data"),
        ("[rewrite]\nk = 0", r"rewrite\.k = 0: input should be greater than or equal to 1"),
        ("[rewrite]\nk = 'x'\nseed = 'y'", r"rewrite\.k = 'x': .* \(and 1 more\)"),
        ("[rewrite]\ntemperature = nan", r"rewrite\.temperature = nan"),
        ("[rewrite]\ntemperature = -0.1", r"rewrite\.temperature = -0\.1"),
        ("[rewrite]\ntop_p = 0", r"rewrite\.top_p = 0"),
        ("[rewrite]\nseed = -1", r"rewrite\.seed = -1"),
        ("[rewrite]\nseed = 4294967296", r"rewrite\.seed = 4294967296"),
        ("[rewrite]\nengine = 'vlm'", r"rewrite\.engine = 'vlm': input should be 'transformers'"),
        ("[data]\nlimit = 0", r"data\.limit = 0"),
        ("[train]\nlearning_rate = 0", r"train\.learning_rate = 0"),
        ("rewrite = 3", r"rewrite = 3"),
        ("[rewrite\nk = 1", "is not TOML"),
        ("[rewrite]\nk = 1\nk = 2", "is not TOML"),
    ],
)
def test_a_bad_key_or_value_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe(recipe_file(tmp_path, text))


def test_a_recipe_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml: No such file"):
        load_recipe(tmp_path / "nowhere.toml")
    with pytest.raises(RecipeError, match="Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "latin.toml").write_bytes("title = 'é'".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.toml"):
        load_recipe(tmp_path / "latin.toml")


def test_dotted_paths_are_beside_the_recipe_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    text = """
    policy = {model = "../model", template = "boxed"}
    data = {path = "./data.jsonl"}
    evaluate = {benchmark = ["./a.jsonl", "org/b", "/c.jsonl", "retell:tiny/x"]}
    """
    recipe = load_recipe(recipe_file(folder, text))
    assert recipe.policy.model == str(tmp_path / "model")
    assert recipe.policy.template == "boxed"
    assert recipe.data.path == str(folder / "data.jsonl")
    assert recipe.evaluate.benchmark == (str(folder / "a.jsonl"), "org/b", "/c.jsonl", "retell:tiny/x")


def test_dotted_paths_of_flags_are_beside_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Data(path="./data.jsonl").path == str(tmp_path / "data.jsonl")


def test_packaged_and_home_paths_are_located(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Path(located("retell:templates/boxed.txt")).is_file()
    assert located("~/x") == "/home/somebody/x"
    assert located("org/name") == "org/name"


def test_engine_arguments_of_flags_are_read_as_values() -> None:
    flags = {"batch-size": "8", "scale": "0.5", "compile": "true", "dtype": "bfloat16", "name": '"8"'}
    assert Rewrite.model_validate({"engine_args": flags}).engine_args == {
        "batch_size": 8,
        "scale": 0.5,
        "compile": True,
        "dtype": "bfloat16",
        "name": "8",
    }


def test_engine_arguments_of_a_recipe_keep_their_types(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path, '[rewrite.engine_args]\nname = "8"\nbatch-size = 8'))
    assert recipe.rewrite.engine_args == {"name": "8", "batch_size": 8}


@pytest.mark.parametrize("bad", ["[1, 2]", "1979-05-27", "{a = 1}"])
def test_an_engine_argument_is_a_single_value(bad: str) -> None:
    with pytest.raises(ValidationError):
        Rewrite.model_validate({"engine_args": {"x": bad}})


def test_bytes_that_are_no_text_are_refused() -> None:
    for section in ({"data": {"path": "\udcff.jsonl"}}, {"evaluate": {"benchmark": ["a", "\udcff"]}}):
        with pytest.raises(ValidationError, match="UTF-8"):
            Recipe.model_validate(section)


def test_the_reference_names_every_key_with_its_default() -> None:
    page = reference()
    for name in Recipe.model_fields:
        rows = page.split(f"## [{name}]")[1].split("\n## ")[0]
        for key, option in type(getattr(Recipe(), name)).model_fields.items():
            assert f"| `{key}` |" in rows
            assert option.description, f"{name}.{key} has no docstring"
            assert option.description in rows


def test_defaults_written_out_are_the_defaults(tmp_path: Path) -> None:
    assert load_recipe(recipe_file(tmp_path, "")) == Recipe()
    assert load_recipe(recipe_file(tmp_path, dump_recipe(Recipe()))) == Recipe()
    document = tomllib.loads(dump_recipe(Recipe()))
    assert "model" not in document["policy"]  # a key without a value is left out


def test_another_engine_leaves_behind_what_was_meant_for_the_one_before() -> None:
    base = Rewrite(engine="server", base_url=("http://a/v1",), engine_args={"concurrency": 3}, k=4)
    switched = overlay(base, Rewrite(engine="vllm", engine_args={"max_num_seqs": 8}))
    assert (switched.engine, switched.base_url, switched.engine_args, switched.k) == (
        "vllm",
        (),
        {"max_num_seqs": 8},
        4,
    )
    same = overlay(base, Rewrite(engine="server", engine_args={"timeout": 5}))
    assert (same.base_url, same.engine_args) == (("http://a/v1",), {"concurrency": 3, "timeout": 5})


def test_budgets_and_machines_belong_to_a_start_and_are_not_stored(tmp_path: Path) -> None:
    given = {
        "rewrite": {"max_tokens_total": 5, "ray": "auto", "workers": 2, "k": 3},
        "evaluate": {"max_hours": 2, "ray": "a:1", "k": 4},
    }
    stored = load_recipe(recipe_file(tmp_path, dump_recipe(Recipe.model_validate(given))))
    assert stored == Recipe.model_validate({"rewrite": {"k": 3}, "evaluate": {"k": 4}})
