import pytest
from faulty_server import faulty, models

from retell.engines.endpoint import Endpoint, Key, address
from retell.engines.replies import Fault
from retell.errors import EngineError, RecipeError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("https://host.example/api/openai", "https://host.example/api/openai"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_a_url_is_taken_as_given_with_v1_where_it_has_no_path(given: str, used: str) -> None:
    assert address(given) == used


@pytest.mark.parametrize(
    "given",
    ["", "127.0.0.1:8000", "ftp://host/v1", "http://", "http://host:port", "http://host:99999", "http:// host/v1",
     "http://[::1/v1", "http://host/v1\n"],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(given: str) -> None:
    with pytest.raises(RecipeError, match="is no URL of a server: http://HOST:PORT/v1"):
        address(given)


@pytest.mark.parametrize(
    "given", ["http://me:hunter2@host/v1", "http://host/v1?key=hunter2", "ftp://x:hunter2@h", "http://host/#hunter2"]
)
def test_a_url_that_may_hold_a_secret_is_refused_and_not_shown(given: str) -> None:
    with pytest.raises(RecipeError, match="leave out user, password, query and fragment") as caught:
        address(given)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["sk-ключ", "sk\x07-secret", "one\ntwo"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POLICY_KEY", value)
    with pytest.raises(EngineError, match="POLICY_KEY holds characters no API key has") as caught:
        Key("POLICY_KEY")
    assert value not in str(caught.value)


def test_the_proxies_of_the_environment_are_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def ask(url: str) -> object:
        endpoint = Endpoint(url, 1, Key("UNSET"))
        try:
            return await endpoint.call("/models")
        finally:
            await endpoint.close()

    with faulty(lambda asked: models(), models("policy")) as one:
        assert asyncio.run(ask(one.url)) == one.listed.said
        # Any other host is asked through the proxy, where nothing listens.
        with pytest.raises(Fault, match="connection"):
            asyncio.run(ask(one.url.replace("127.0.0.1", "0.0.0.0")))
        assert len(one.asked) == 1
