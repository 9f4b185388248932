import json

import pytest

from retell.engines.replies import Fault, parse, plain, read_models, status_fault


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "too long", "type": "BadRequestError"}}, "too long"),
        ({"error": "too long"}, "too long"),
        ({"object": "error", "message": "too long", "code": 400}, "too long"),
        ({"detail": "too long"}, "too long"),
        ({"detail": [{"loc": ["body"], "msg": "too long"}]}, '[{"loc": ["body"], "msg": "too long"}]'),
        ({"error": {"message": {"error": "too long"}}}, "too long"),
    ],
)
def test_what_a_server_says_is_found_where_servers_put_it(body: object, said: str) -> None:
    assert str(status_fault(400, json.dumps(body).encode(), {})) == f"400: {said}"


def test_a_body_that_is_no_json_is_shown_and_an_empty_one_is_left_out() -> None:
    assert str(status_fault(502, b"<html>Bad\xff</html>", {})) == "502: <html>Bad�</html>"
    assert str(status_fault(502, b"", {})) == "502"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, (True, False, False)),
        (400, (True, False, False)),
        (404, (False, True, False)),
        (408, (False, False, False)),
        (422, (True, False, False)),
        (429, (False, False, True)),
        (500, (False, False, False)),
        (501, (True, False, False)),
        (502, (False, True, False)),
        (503, (False, True, True)),
        (504, (False, True, False)),
        (529, (False, False, False)),
    ],
)
def test_a_status_says_whether_to_try_again_elsewhere_or_more_slowly(
    status: int, kind: tuple[bool, bool, bool]
) -> None:
    fault = status_fault(status, b"", {})
    assert (fault.lasting, fault.outage, fault.overload) == kind


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("0.5", 0.5), ("-2", 0.0), ("inf", None), ("soon", None)])
def test_only_a_number_of_seconds_is_heeded(header: str, seconds: float | None) -> None:
    assert status_fault(429, b"", {"retry-after": header}).retry_after == seconds
    assert status_fault(429, b"", {}).retry_after is None


def test_outside_words_are_one_short_printable_line_without_the_secret() -> None:
    assert plain("a\n\tb\x1b[2J\u202ec", None) == "a b [2J c"
    assert plain("x" * 300, None) == "x" * 199 + "…"
    assert plain("x" * 200, None) == "x" * 200
    # What is cut off must not leave a part of the secret.
    assert "top" not in plain("x" * 190 + "topsecret" * 2, "topsecret")
    assert plain("key topsecret!", "topsecret") == "key ***!"
    assert plain("none of it", "") == "none of it"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"null", b'"text"', b"{" * 200_000, b"9" * 10_000])
def test_a_body_that_holds_no_object_is_a_fault(body: bytes) -> None:
    with pytest.raises(Fault, match="not JSON"):
        parse(body)


def test_a_list_of_models_is_read_with_what_it_says_of_the_context() -> None:
    listed = {
        "data": [{"id": "a", "max_model_len": 4096}, {"id": "b"}, {"id": 7}, "c", {"id": "d", "max_model_len": "x"}]
    }
    assert read_models(listed) == {"a": 4096, "b": None, "d": None}
    with pytest.raises(Fault, match="no models"):
        read_models({"error": "unknown"})
