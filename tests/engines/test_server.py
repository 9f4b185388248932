import resource
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Answer, Asked, Drop, FaultyServer, Script, chat, error, faulty, models, tops, vllm

import retell
from retell.engines import balance, server
from retell.engines.balance import Balance
from retell.engines.server import ServerEngine
from retell.errors import EngineError, RecipeError
from retell.records import Completion, Prompt, Request, Sampling
from retell.tokens import ChatTokenizer

TOKENIZER = ChatTokenizer(Path(retell.__file__).parent / "tiny/policy")
(END,) = TOKENIZER.end_ids
MESSAGES = ({"role": "user", "content": "What is 3 + 4?"},)
PROMPT = Prompt(MESSAGES, TOKENIZER.prompt_ids(MESSAGES))
PLAIN = Sampling(1.0, 1.0, 100)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, seconds in (
        (balance, "FIRST_PAUSE", 0.02),
        (balance, "LONGEST_PAUSE", 0.05),
        (server, "FIRST_BACKOFF", 0.01),
        (server, "LONGEST_BACKOFF", 0.02),
    ):
        monkeypatch.setattr(module, name, seconds)


def requests(n: int, sampling: Sampling = PLAIN, prompt: Prompt = PROMPT) -> list[Request]:
    return [Request(f"key-{i}", "p", "self", 0, i, prompt, sampling, seed=2**62 + i) for i in range(n)]


def spoken(seed: int) -> list[int]:
    """The ids with which the scripted policy answers a seed, end token included."""
    return [*TOKENIZER.tokenizer.encode(f"It is {seed}", add_special_tokens=False), END]


def well(asked: Asked) -> Answer:
    if asked.path.endswith("/chat/completions"):
        return chat(f"It is {asked.body['seed']}")
    return vllm(asked.body, spoken(asked.body["seed"]), TOKENIZER)


def once(first: Answer | type[Drop]) -> Script:
    """Answers the first try for a sample so, and any other well."""

    def script(asked: Asked) -> Answer:
        if asked.probe or asked.turn:
            return well(asked)
        if isinstance(first, Answer):
            return first
        raise first

    return script


@contextmanager
def opened(*servers: FaultyServer, chats: bool = False, **arguments: Any) -> Iterator[ServerEngine]:
    engine = ServerEngine([one.url for one in servers], None if chats else TOKENIZER, **arguments)
    try:
        yield engine
    finally:
        engine.close()


def sample(engine: ServerEngine, todo: Sequence[Request]) -> dict[str, Completion]:
    """All completions by key; every request taken is answered once."""
    queue = list(todo)

    def take(room: int, idle: bool) -> list[Request]:
        taken, queue[:] = queue[:room], queue[room:]
        return taken

    answers = [(request.key, completion) for batch in engine.sample(take) for request, completion in batch]
    assert Counter(key for key, _ in answers) == Counter(request.key for request in todo)
    return dict(answers)


def drawn(
    script: Script, todo: Sequence[Request], chats: bool = False, **arguments: Any
) -> tuple[dict[str, Completion], Counter[str]]:
    with faulty(script) as one, opened(one, chats=chats, **arguments) as engine:
        return sample(engine, todo), engine.faults


def is_well(completions: dict[str, Completion]) -> bool:
    wanted = {f"key-{i}": f"It is {2**62 + i}" for i in range(len(completions))}
    return {key: completion.text for key, completion in completions.items()} == wanted


# What is asked, and what is read.


def test_ids_and_logprobs_come_as_they_were_sampled_and_the_text_is_theirs() -> None:
    answers, faults = drawn(well, requests(40))
    assert is_well(answers) and not faults
    first = answers["key-0"]
    assert first.ids == tuple(spoken(2**62))
    assert first.logprobs == tuple(-0.25 * (i + 1) for i in range(len(first.ids)))
    assert (first.stop, first.error, first.usage) == ("stop", None, None)


def test_a_response_that_reaches_the_limit_stopped_for_length() -> None:
    answers, _ = drawn(well, requests(1, Sampling(1.0, 1.0, 3)))
    assert answers["key-0"].stop == "length" and answers["key-0"].ids == tuple(spoken(2**62)[:3])


def test_a_response_whose_last_possible_token_ends_it_has_ended_by_itself() -> None:
    def script(asked: Asked) -> Answer:
        return vllm(asked.body, spoken(asked.body["seed"]), TOKENIZER, finish_reason="length")

    answers, _ = drawn(script, requests(1))
    assert answers["key-0"].stop == "stop"


def test_every_sampling_parameter_is_sent() -> None:
    with faulty(well) as one, opened(one) as engine:
        sample(engine, requests(1, Sampling(0.0, 0.9, 50)))
        (asked,) = one.drawn()
    assert asked.body == {
        "model": "policy",
        "prompt": list(PROMPT.ids or ()),
        "n": 1,
        "temperature": 0.0,
        "top_p": 0.9,
        "max_tokens": 50,
        "seed": 2**62,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "ignore_eos": False,
        "watermarking": False,
        "stop_token_ids": [END],
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "include_stop_str_in_output": False,
        "add_special_tokens": False,
        "logprobs": 0,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def test_one_probe_of_one_token_finds_the_way_to_ask() -> None:
    with faulty(well) as one, opened(one) as engine:
        sample(engine, requests(20))
        posted = [asked for asked in one.asked if asked.path.endswith("completions")]
    assert [asked.probe for asked in posted] == [True] + [False] * 20


@pytest.mark.parametrize(
    "first", [error(404), error(400, "prompt must be a string"), error(422), Answer({"choices": [{"text": "It"}]})]
)
def test_a_server_without_token_ids_is_asked_by_chat_and_that_is_said_once(
    first: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(asked: Asked) -> Answer:
        return well(asked) if "chat" in asked.path else first

    with faulty(script) as one, opened(one) as engine:
        answers = sample(engine, requests(5))
        assert not engine.faults and not one.drawn() and len(one.drawn("/chat/completions")) == 5
    assert is_well(answers)
    assert {(c.ids, c.logprobs, c.stop, c.usage) for c in answers.values()} == {(None, None, "stop", 7)}
    assert capsys.readouterr().err.count("gives no token ids") == 1


def test_without_a_tokenizer_nothing_but_chats_is_asked_with_every_parameter() -> None:
    with faulty(well) as one, opened(one, chats=True) as engine:
        sample(engine, requests(1, Sampling(0.7, 0.8, 50), Prompt(MESSAGES, None)))
        (asked,) = one.drawn("/chat/completions")
        assert not one.drawn()
    sent = asked.body
    assert sent["messages"] == list(MESSAGES) and "prompt" not in sent and sent["top_k"] == -1
    names = ("n", "temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty")
    assert [sent[name] for name in names] == [1, 0.7, 0.8, 50, 2**62, 0.0, 0.0]


def test_fields_that_a_chat_server_refuses_are_left_out_or_renamed() -> None:
    def strict(asked: Asked) -> Answer:
        refused = {"top_k", "min_p", "repetition_penalty", "max_tokens"} & asked.body.keys()
        return error(400, f"unsupported: {refused}") if refused else well(asked)

    with faulty(strict) as one, opened(one, chats=True) as engine:
        assert is_well(sample(engine, requests(3, Sampling(1.0, 1.0, 60))))
        kept = {frozenset(asked.body) for asked in one.drawn("/chat/completions")}
        assert {asked.body.get("max_completion_tokens") for asked in one.drawn("/chat/completions")} == {60}
        assert not engine.faults
    common = {"model", "messages", "n", "temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"}
    assert kept == {frozenset(common | {"max_completion_tokens"})}


def test_servers_may_differ_in_how_they_are_asked() -> None:
    def chatting(asked: Asked) -> Answer:
        return well(asked) if "chat" in asked.path else error(404)

    barrier = threading.Barrier(2, timeout=30)

    def together(script: Script) -> Script:
        def wait(asked: Asked) -> Answer:
            if not asked.probe:
                barrier.wait()
            return script(asked)

        return wait

    with faulty(together(well)) as exact, faulty(together(chatting)) as other:
        with opened(exact, other, concurrency=1) as engine:
            answers = sample(engine, requests(2))
        assert len(exact.drawn()) == len(other.drawn("/chat/completions")) == 1
    assert sorted(answer.ids is None for answer in answers.values()) == [False, True]


# Log-probs.


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("sampling", [Sampling(0.7, 1.0, 50), Sampling(1.0, 0.9, 50)])
def test_logprobs_are_kept_only_where_they_are_of_the_sampling_distribution(
    applied: bool, sampling: Sampling, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(asked: Asked) -> Answer:
        if asked.body["logprobs"] == 0:
            return well(asked)
        top = tops(asked.body, [1.0, 4.0, 0.0, 2.5, -1.0, -2.0], applied=applied)
        return vllm(asked.body, spoken(1), TOKENIZER, logprobs={"token_logprobs": [-1.0], "top_logprobs": [top]})

    with faulty(script) as one, opened(one) as engine:
        answers = sample(engine, requests(6, sampling))
        assert len([asked for asked in one.asked if asked.body.get("logprobs")]) == 3
        assert not engine.faults
    assert {answer.logprobs is not None for answer in answers.values()} == {applied}
    assert all(answer.ids for answer in answers.values())
    assert capsys.readouterr().err.count("--logprobs-mode processed_logprobs") == (not applied)


def test_a_server_that_shows_no_likeliest_tokens_gives_no_logprobs_away_from_temperature_1() -> None:
    def script(asked: Asked) -> Answer:
        return error(400, "too many logprobs") if asked.body["logprobs"] else well(asked)

    answers, faults = drawn(script, requests(2, Sampling(0.7, 1.0, 50)))
    assert is_well(answers) and not faults and {answer.logprobs for answer in answers.values()} == {None}


def test_greedy_logprobs_are_those_of_a_certain_token() -> None:
    with faulty(well) as one, opened(one) as engine:
        answers = sample(engine, requests(2, Sampling(0.0, 0.9, 50)))
        assert not engine.faults and not any(asked.body.get("logprobs") for asked in one.asked)
    assert {answer.logprobs for answer in answers.values()} == {(0.0,) * len(spoken(2**62))}


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"token_logprobs": [-0.5]},
        {"token_logprobs": [None] * len(spoken(2**62))},
        {"token_logprobs": [-0.5, *[float("nan")] * (len(spoken(2**62)) - 1)]},
        {"token_logprobs": [17.5] * len(spoken(2**62))},
    ],
)
def test_a_sample_without_usable_logprobs_is_a_sample_and_counted(given: object) -> None:
    def script(asked: Asked) -> Answer:
        return vllm(asked.body, spoken(asked.body["seed"]), TOKENIZER, logprobs=given)

    answers, faults = drawn(script, requests(3))
    assert is_well(answers) and {answer.logprobs for answer in answers.values()} == {None}
    assert faults == {"missing log-probs": 3}


# Faults.

ENDLESS = spoken(2**62)[:-1]


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (error(429), "429"),
        (error(429, retry_after="1"), "429"),
        (error(500), "500"),
        (error(503), "503"),
        (error(408), "408"),
        (Answer(b"<html>busy</html>", headers={"Content-Type": "text/html"}), "not JSON"),
        (Answer(b'{"choices": [{"text": "It'), "not JSON"),
        (Answer(b"[" * 100_000), "not JSON"),
        (Answer([]), "not JSON"),
        (Answer({"choices": []}), "no choices"),
        (Answer({"error": {"message": "overloaded"}}), "no choices"),
        (Answer({"choices": [{}, {}]}), "several choices"),
        (Answer({"choices": [{"text": "It is", "finish_reason": "stop"}]}), "missing token ids"),
        (Answer({"choices": [{"token_ids": [1, "2"], "finish_reason": "stop"}]}), "missing token ids"),
        (Answer({"choices": [{"token_ids": [5, END], "finish_reason": "abort"}]}), "unfinished"),
        (Answer({"choices": []}, cut=3), "connection"),
        (Drop, "connection"),
    ],
)
def test_a_fault_is_counted_by_name_and_mended_by_trying_again(first: Answer | type[Drop], name: str) -> None:
    answers, faults = drawn(once(first), requests(5))
    assert is_well(answers) and faults == {name: 5}


@pytest.mark.parametrize(
    ("first", "name"),
    [(chat(None), "no text"), (chat("It is", "tool_calls"), "unfinished"), (chat(["It"]), "no text")],
)
def test_a_chat_reply_without_text_is_a_fault(first: Answer, name: str) -> None:
    answers, faults = drawn(once(first), requests(3), chats=True)
    assert is_well(answers) and faults == {name: 3}


def test_a_chat_reply_may_be_empty_and_may_be_cut_before_it_begins() -> None:
    def script(asked: Asked) -> Answer:
        return chat("") if asked.body["seed"] == 2**62 else chat(None, "length")

    answers, faults = drawn(script, requests(2), chats=True)
    assert not faults
    assert [(answers[f"key-{i}"].text, answers[f"key-{i}"].stop) for i in (0, 1)] == [("", "stop"), ("", "length")]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"token_ids": ENDLESS, "finish_reason": "stop"}, "no end token"),
        ({"token_ids": [5, END, 5, END], "finish_reason": "stop"}, "end token ignored"),
        ({"prompt_token_ids": [1, *(PROMPT.ids or ())]}, "another prompt"),
    ],
)
def test_what_the_policy_would_not_have_said_to_this_prompt_is_no_sample(wrong: dict[str, Any], name: str) -> None:
    def script(asked: Asked) -> Answer:
        wanted = {} if asked.probe or asked.body["seed"] != 2**62 else wrong
        return vllm(asked.body, spoken(asked.body["seed"]), TOKENIZER, **wanted)

    answers, faults = drawn(script, requests(3))
    assert (answers["key-0"].stop, answers["key-0"].ids) == ("error", None)
    assert (answers["key-0"].error or "").startswith(name) and faults == {name: 1}
    assert [answers[f"key-{i}"].stop for i in (1, 2)] == ["stop", "stop"]


def test_a_request_fails_for_good_after_so_many_tries_and_says_why() -> None:
    def script(asked: Asked) -> Answer:
        bad = asked.body["seed"] == 2**62 and not asked.probe
        return error(500, "internal\n\x1b[31m" + "x" * 500) if bad else well(asked)

    answers, faults = drawn(script, requests(4))
    failed = answers.pop("key-0")
    assert (failed.text, failed.ids, failed.logprobs, failed.stop) == ("", None, None, "error")
    assert failed.error and failed.error.startswith("500: internal [31mxxx")
    assert failed.error.endswith("… after 8 tries") and len(failed.error) == 200 and failed.error.isprintable()
    assert faults == {"500": 8} and {answer.stop for answer in answers.values()} == {"stop"}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_fails_at_once_and_alone(status: int) -> None:
    def script(asked: Asked) -> Answer:
        return error(status, "too long for the context") if asked.body["seed"] == 2**62 else well(asked)

    answers, faults = drawn(script, requests(4))  # the first request is the one with which the server is probed
    assert answers["key-0"].error == f"{status}: too long for the context"
    assert faults == {str(status): 1} and [answers[f"key-{i}"].ids is None for i in (1, 2, 3)] == [False] * 3


@pytest.mark.parametrize("exact_first", [True, False])
def test_a_request_that_is_refused_while_the_server_is_unknown_fails_for_its_own_reason(exact_first: bool) -> None:
    spoken_here = "/v1/completions" if exact_first else "/v1/chat/completions"

    def script(asked: Asked) -> Answer:
        if asked.path != spoken_here:
            return error(404, "no such path")
        return error(400, "too long") if asked.body["seed"] == 2**62 else well(asked)

    answers, faults = drawn(script, requests(3))
    assert answers.pop("key-0").error == "400: too long" and faults == {"400": 1}
    assert [answer.text for answer in answers.values()] == [f"It is {2**62 + i}" for i in (1, 2)]


def test_a_server_that_asks_for_time_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[int, float | None]] = []
    monkeypatch.setattr(server, "_backoff", lambda tries, asked: waits.append((tries, asked)) or 0.0)

    def script(asked: Asked) -> Answer:
        if asked.probe or asked.turn == 3:
            return well(asked)
        return error(429, retry_after=("7", "soon", "-1")[asked.turn])

    answers, faults = drawn(script, requests(1))
    assert is_well(answers) and faults == {"429": 3} and waits == [(1, 7.0), (2, None), (3, 0.0)]


def test_waits_double_with_jitter_and_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_BACKOFF", 1.0)
    monkeypatch.setattr(server, "LONGEST_BACKOFF", 60.0)
    for tries, longest in ((1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (30, 60.0)):
        waits = [server._backoff(tries, None) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    assert all(7.0 <= server._backoff(1, 7.0) <= 7.7 for _ in range(50))
    assert all(60.0 <= server._backoff(1, 1e9) <= 66.0 for _ in range(50))


def test_a_reply_that_does_not_come_is_given_up_and_asked_for_again() -> None:
    with faulty(well) as one:

        def script(asked: Asked) -> Answer:
            if not asked.probe and not asked.turn and asked.body["seed"] % 2:
                one.hang()
            return well(asked)

        one.script = script
        with opened(one, timeout=0.5) as engine:
            assert is_well(sample(engine, requests(6))) and engine.faults["timeout"] >= 3
            one.released.set()


def test_a_server_that_hangs_from_the_first_probe_on_blocks_nothing_for_good() -> None:
    with faulty(well) as one:

        def script(asked: Asked) -> Answer:
            one.hang()
            return well(asked)

        one.script = script
        with opened(one, timeout=0.05) as engine:
            answers = sample(engine, requests(3))
            one.released.set()
    assert {answer.error for answer in answers.values()} == {"timeout: no reply within 0.05 s after 8 tries"}
    assert engine.faults == {"timeout": 24}


# Several servers.


def test_requests_go_where_there_is_room() -> None:
    fast_has_answered = threading.Event()

    def slow(asked: Asked) -> Answer:
        if not asked.probe:
            assert fast_has_answered.wait(30)
        return well(asked)

    with faulty(slow) as first, faulty(well) as second:

        def fast(asked: Asked) -> Answer:
            if len(second.drawn()) >= 36:
                fast_has_answered.set()
            return well(asked)

        second.script = fast
        with opened(first, second, concurrency=4) as engine:
            assert is_well(sample(engine, requests(40))) and not engine.faults
        assert (len(first.drawn()), len(second.drawn())) == (4, 36)


def test_load_is_spread_over_the_servers_up_to_the_concurrency() -> None:
    barrier = threading.Barrier(9, timeout=30)

    def script(asked: Asked) -> Answer:
        if not asked.probe:
            barrier.wait()
        return well(asked)

    with faulty(script) as a, faulty(script) as b, faulty(script) as c:
        with opened(a, b, c, concurrency=3) as engine:
            assert is_well(sample(engine, requests(18)))
        assert [len(one.drawn()) for one in (a, b, c)] == [6, 6, 6]


def test_all_the_concurrency_is_used() -> None:
    barrier = threading.Barrier(48, timeout=60)
    waiting = iter(range(10_000))

    def script(asked: Asked) -> Answer:
        if not asked.probe and next(waiting) >= 32:  # the window starts at 32 and grows by the successes
            barrier.wait()
        return well(asked)

    answers, faults = drawn(script, requests(32 + 48), concurrency=48)
    assert is_well(answers) and not faults


def test_a_server_that_is_down_at_the_start_is_used_once_it_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(well) as first, faulty(well) as second, faulty(well) as third:
        second.down()

        def script(asked: Asked) -> Answer:
            if len(first.drawn()) == 1 and not asked.probe:
                second.up()
            if len(first.drawn()) > 1:
                assert found.wait(30)
            return well(asked)

        def noted(asked: Asked) -> Answer:
            found.set()
            return well(asked)

        found = threading.Event()
        first.script, second.script = script, noted
        with opened(first, second, concurrency=1) as engine:
            assert is_well(sample(engine, requests(30)))
        assert second.drawn() and not engine.faults and not third.asked[1:]
    said = capsys.readouterr().err
    assert said.count(f"{second.url} is set aside") == said.count(f"{second.url} is back") == 1


def dying(one: FaultyServer, back: bool) -> Script:
    """Answers two requests for samples; the third kills the server, whose further requests are lost until it is up."""
    killing, over = threading.Lock(), threading.Event()

    def kill() -> None:
        one.down()
        if back:
            one.up()
        over.set()

    def script(asked: Asked) -> Answer:
        if asked.number < 3 or over.is_set():
            return well(asked)
        if killing.acquire(blocking=False):
            threading.Thread(target=kill).start()
        assert over.wait(30)
        raise Drop

    return script


def test_requests_of_a_server_that_dies_go_to_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(well) as first, faulty(well) as second, faulty(well) as third:
        second.script = dying(second, back=False)
        with opened(first, second, third, concurrency=4) as engine:
            assert is_well(sample(engine, requests(60)))
            assert engine.faults.keys() == {"connection"}
        assert f"{second.url} is set aside" in capsys.readouterr().err
        assert len(first.drawn()) + len(third.drawn()) == 58


def test_the_only_server_may_be_killed_and_started_again(capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(well) as one:
        one.script = dying(one, back=True)
        with opened(one, concurrency=4) as engine:
            assert is_well(sample(engine, requests(30)))
            assert engine.faults.keys() == {"connection"}
    assert f"{one.url} is back" in capsys.readouterr().err


def test_a_server_that_comes_back_changed_is_asked_as_it_wants() -> None:
    with faulty(well) as one:
        first = dying(one, back=True)

        def script(asked: Asked) -> Answer:
            answer = first(asked)
            return answer if "chat" in asked.path or asked.number <= (1 if asked.probe else 2) else error(404)

        one.script = script
        with opened(one, concurrency=4) as engine:
            answers = sample(engine, requests(20))
            # One that was on its way when the server started again can still be asked in the old way.
            assert is_well(answers) and "connection" in engine.faults and engine.faults.keys() <= {"connection", "404"}
        assert Counter(answer.ids is not None for answer in answers.values()) == {True: 2, False: 18}
        assert len(one.drawn("/chat/completions")) == 18


def test_what_a_server_cannot_do_is_said_once_however_often_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(well) as one:
        one.script = dying(one, back=True)
        with opened(one, chats=True, concurrency=4) as engine:
            assert is_well(sample(engine, requests(20)))
    said = capsys.readouterr().err
    assert (said.count("is back"), said.count("drawn by chat")) == (1, 1)


def test_a_server_that_has_drawn_samples_and_knows_nothing_for_a_while_is_set_aside() -> None:
    with faulty(well) as one:
        first = dying(one, back=True)
        unknown = iter([error(404)] * 4)  # one probe in each of the four ways

        def script(asked: Asked) -> Answer:
            answer = first(asked)
            return answer if len(one.drawn()) <= 2 or not asked.probe else next(unknown, answer)

        one.script = script
        with opened(one, concurrency=1) as engine:
            assert is_well(sample(engine, requests(10))) and engine.faults == {"connection": 1, "404": 1}


def test_a_server_that_is_away_and_asks_for_time_is_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def set_aside(self: Balance[Any], lane: Any, cause: str, pause: float = 0.0) -> None:
        pauses.append(pause)

    monkeypatch.setattr(Balance, "set_aside", set_aside)
    monkeypatch.setattr(server, "LONGEST_BACKOFF", 60.0)

    def script(asked: Asked) -> Answer:
        return well(asked) if asked.probe or asked.turn == 3 else error(503, retry_after=("7", "900", "x")[asked.turn])

    answers, faults = drawn(script, requests(1))
    assert is_well(answers) and faults == {"503": 3} and pauses == [7.0, 60.0, 0.0]


def test_when_no_server_comes_back_the_run_ends_and_says_what_to_do() -> None:
    with faulty(well) as one, faulty(well) as other:

        def script(asked: Asked) -> Answer:
            if asked.probe:
                return well(asked)
            raise Drop

        one.script = other.script = script
        with opened(one, other, patience=0.3) as engine:
            threading.Timer(0.05, one.down).start()
            threading.Timer(0.05, other.down).start()
            with pytest.raises(EngineError, match=r"no server has answered for 0\.3 s") as caught:
                sample(engine, requests(20))
            assert engine.faults.keys() == {"connection"}
        said = str(caught.value)
        assert one.url in said and other.url in said and "(connection: " in said and "what was drawn is stored" in said


@pytest.mark.parametrize("first", [error(503), error(502), error(504), error(404)])
def test_a_server_that_lists_its_models_and_draws_nothing_is_not_tried_for_ever(first: Answer) -> None:
    def script(asked: Asked) -> Answer:
        return well(asked) if asked.probe else first

    with pytest.raises(EngineError, match=f"no server has answered for 0.2 s: .*{first.status}: no"):
        drawn(script, requests(3), patience=0.2)


def test_a_request_that_is_lost_with_its_server_each_time_fails_for_good() -> None:
    def script(asked: Asked) -> Answer:
        if asked.body["seed"] == 2**62 and not asked.probe:
            raise Drop
        return well(asked)

    with faulty(script) as one, faulty(script) as other, opened(one, other, concurrency=2) as engine:
        answers = sample(engine, requests(3))
        assert engine.faults == {"connection": server.OUTAGES}
    assert answers["key-0"].stop == "error" and (answers["key-0"].error or "").endswith(f"after {server.OUTAGES} tries")
    assert [answers[f"key-{i}"].stop for i in (1, 2)] == ["stop", "stop"]


def test_a_server_that_comes_back_with_another_model_stays_aside(capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(well) as one, faulty(well) as other:

        def script(asked: Asked) -> Answer:
            if not asked.probe:
                one.listed = models("another")
                raise Drop
            return well(asked)

        one.script = script
        with opened(one, other) as engine:
            assert is_well(sample(engine, requests(60)))
            lost, tried = len(one.drawn()), len(one.asked)
            while len(one.asked) < tried + 2:
                sample(engine, requests(20))
            assert len(one.drawn()) == lost > 0
    assert f"{one.url} is back" not in capsys.readouterr().err


def test_a_window_halves_once_when_there_is_too_much_at_a_time() -> None:
    barrier = threading.Barrier(32, timeout=30)

    def script(asked: Asked) -> Answer:
        if asked.probe or asked.turn or asked.body["seed"] >= 2**62 + 32:
            return well(asked)
        barrier.wait()
        return error(429)

    with faulty(script) as one, opened(one) as engine:
        assert is_well(sample(engine, requests(100))) and engine.faults == {"429": 32}
        # From 16 on by one for each full window: 16 + 17 + 18 + 19 + 20 are 90 of the 100 successes.
        assert engine._balance.width == 21


def test_as_many_connections_may_be_open_as_requests_in_flight() -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, most))
    try:
        with faulty(well) as one, faulty(well) as other, opened(one, other, concurrency=400):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 800
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


# The start.


def test_the_served_model_and_the_context_are_the_servers() -> None:
    with (
        faulty(well, models("policy", length=600)) as one,
        faulty(well, models("policy", length=700)) as other,
        faulty(well, models("policy", length=None)) as silent,
        opened(one, other, silent) as engine,
    ):
        assert engine.context == 600
        sample(engine, requests(40))
        assert {asked.body["model"] for asked in [*one.drawn(), *other.drawn(), *silent.drawn()]} == {"policy"}


def test_of_several_models_one_must_be_named() -> None:
    with faulty(well, models("a", "b")) as one, faulty(well, models("b", "c", "a")) as other:
        with pytest.raises(RecipeError, match=r"a, b.*a, b, c.*engine_args\.served_model"):
            ServerEngine([one.url, other.url], TOKENIZER)
        with opened(one, other, served_model="b") as engine:
            sample(engine, requests(1))
        assert [asked.body["model"] for asked in [*one.drawn(), *other.drawn()]] == ["b"]
        with pytest.raises(RecipeError, match="'c' is not served everywhere"):
            ServerEngine([one.url, other.url], TOKENIZER, served_model="c")


def test_the_only_common_model_is_taken_and_without_one_nothing_is_begun() -> None:
    with (
        faulty(well, models("a", "b")) as one,
        faulty(well, models("b", "c")) as other,
        faulty(well, models("d")) as third,
    ):
        with opened(one, other) as engine:
            sample(engine, requests(1))
        assert {asked.body["model"] for asked in [*one.drawn(), *other.drawn()]} == {"b"}
        with pytest.raises(RecipeError, match="no model in common"):
            ServerEngine([one.url, third.url], TOKENIZER)


def test_a_server_without_a_list_of_models_needs_a_name() -> None:
    with faulty(well, error(404)) as one:
        with pytest.raises(RecipeError, match="do not list their models"):
            ServerEngine([one.url], TOKENIZER)
        with opened(one, served_model="mine") as engine:
            assert is_well(sample(engine, requests(2))) and engine.context is None


def test_when_no_server_answers_each_is_named_with_its_cause() -> None:
    with faulty(well) as one, faulty(well, Answer(b"<html>hello</html>")) as other:
        one.down()
        with pytest.raises(EngineError, match="no server answers") as caught:
            ServerEngine([one.url, other.url], TOKENIZER)
    said = str(caught.value)
    assert f"{one.url} (connection: ConnectError" in said and f"{other.url} (not JSON: <html>hello</html>)" in said
    assert "start one, or correct base_url" in said


def test_a_path_at_which_nothing_is_drawn_ends_the_run_at_once() -> None:
    with pytest.raises(EngineError, match=r"draws no samples of policy: 404: no: correct base_url"):
        drawn(lambda asked: error(404), requests(3))


@pytest.mark.parametrize(
    ("name", "value"),
    [("concurrency", 0), ("concurrency", 2.5), ("timeout", 0), ("timeout", "1"), ("patience", -1.0), ("timeout", True)],
)
def test_an_argument_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=rf"engine_args\.{name} = {value!r}"):
        ServerEngine(["http://127.0.0.1:9/v1"], TOKENIZER, **{name: value})


# The key.

SECRET = "sk-very-secret-7"


def wanting(asked: Asked) -> Answer:
    said = asked.headers["authorization"]
    return well(asked) if said == f"Bearer {SECRET}" else error(401, f"{said} is wrong")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_the_run_and_names_the_variable(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("POLICY_KEY", SECRET)
    echo = f"bad key {SECRET}"
    refused = rf"in POLICY_KEY, the key there is refused: {status}: bad key \*\*\*$"
    with pytest.raises(EngineError, match=refused):
        drawn(lambda asked: error(status, echo), requests(3), api_key_env="POLICY_KEY")
    with faulty(well, error(status, echo)) as one, pytest.raises(EngineError, match="wants an API key") as caught:
        ServerEngine([one.url], TOKENIZER, api_key_env="POLICY_KEY")
    assert SECRET not in str(caught.value)


def test_a_key_that_is_not_set_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EngineError, match=r"OPENAI_API_KEY, which is not set: 401: Bearer none is wrong"):
        drawn(wanting, requests(1))


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
    answers, faults = drawn(wanting, requests(3))
    assert is_well(answers) and not faults


def test_a_key_that_the_server_echoes_is_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with faulty(well, models(SECRET, "policy")) as one:
        with pytest.raises(RecipeError) as several:
            ServerEngine([one.url], TOKENIZER)

        def script(asked: Asked) -> Answer:
            if asked.probe:
                return well(asked)
            return error(503 if asked.body["seed"] % 2 else 400, "y" * 180 + f" Bearer {SECRET}")

        one.script = script
        with opened(one, served_model="policy", patience=0.1) as engine:
            refused, lost = requests(2)
            shown = str(sample(engine, [refused]))
            with pytest.raises(EngineError) as gone:
                sample(engine, [lost])
        with faulty(well, Answer(f"key {SECRET}".encode())) as other, pytest.raises(EngineError) as none:
            ServerEngine([other.url], TOKENIZER)
    everything = " ".join([shown, str(several.value), str(gone.value), str(none.value), *capsys.readouterr()])
    assert "yyy" in shown and "is set aside" in everything and "***" in everything
    assert "very-secret" not in everything and "sk-v" not in everything
