from pathlib import Path

import pytest
from scripts import problems

import retell
from retell.engines.named import check_engine, open_engine, served_model
from retell.engines.recorded import RecordedEngine
from retell.engines.transformers import TransformersEngine
from retell.errors import DataError, MissingExtraError, PolicyError, RecipeError
from retell.recipe import Evaluate, Rewrite
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny" / "policy"
URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"base_url": (URL,)}, "base_url is for engine = 'server'"),
        ({"engine": "server"}, "--base-url"),
        ({"engine": "server", "base_url": (URL,), "engine_args": {"timout": 3}}, "did you mean timeout"),
        ({"engine": "recorded", "engine_args": {"dtype": "float32"}}, "takes no engine_args: leave out dtype"),
        ({"engine_args": {"batchsize": 3}}, "did you mean batch_size"),
        ({"engine_args": {"x": 3}}, "known are batch_size, device, dtype"),
        ({"engine_args": {"batch_size": 0}}, "batch_size = 0"),
        ({"engine_args": {"batch_size": True}}, "batch_size = True"),
        ({"engine_args": {"dtype": "fp8"}}, "dtype = 'fp8': use one of auto"),
        ({"engine": "recorded", "ray": "auto"}, "draws nothing that a cluster could draw: leave out --ray"),
        ({"workers": 2}, "workers = 2 are those of a cluster: give --ray"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_it_is_opened(settings: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        check_engine(Rewrite.model_validate(settings))


def test_recorded_responses_must_have_been_recorded() -> None:
    with pytest.raises(DataError, match="needs rows with candidates"):
        check_engine(Rewrite(engine="recorded"), problems(3))


def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retell.engines.named.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"retell\[server\]"):
        check_engine(Evaluate(engine="server", base_url=(URL,)))
    with pytest.raises(MissingExtraError, match=r"retell\[local\]"):
        check_engine(Evaluate())
    with pytest.raises(MissingExtraError, match=r"retell\[ray\]"):
        check_engine(Evaluate(ray="auto"))


def test_a_policy_that_only_a_server_knows_needs_a_name() -> None:
    settings = Rewrite(engine="server", base_url=(URL,))
    with pytest.raises(PolicyError, match="served-model"):
        served_model(settings)
    assert served_model(settings.model_copy(update={"engine_args": {"served_model": "m"}})) == "served:m"


def test_engines_are_opened_with_their_arguments() -> None:
    rows = problems(1)
    assert isinstance(open_engine(Rewrite(engine="recorded"), None, None, rows, False), RecordedEngine)
    engine = open_engine(Rewrite(engine_args={"device": "cpu"}), TINY, ChatTokenizer(TINY), (), False)
    assert isinstance(engine, TransformersEngine)
    assert engine.draws and engine.context == 512
    engine.close()
