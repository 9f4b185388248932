import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from faulty_server import Answer, Asked, chat, error, faulty, models, tops, vllm

import retell
from retell import doctor, present
from retell.checks import base, installation, model, sample, template
from retell.checks.base import Finding, Patient
from retell.cli import main
from retell.doctor import examine
from retell.logprobs import row_logprobs
from retell.policy import load_model
from retell.recipe import Policy, Rewrite
from retell.records import Completion
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny/policy"
TOKENIZER = ChatTokenizer(TINY)
(END,) = TOKENIZER.end_ids
RENDERED = "<|user|>What is 3 + 4?<|end|><|assistant|>"
OPEN = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template that closes no turn."""
Findings = dict[str, Finding]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Most tests need no grading process."""
    if "grad" not in request.node.name:
        monkeypatch.setattr(doctor, "CHECKS", [one for one in doctor.CHECKS if one[0] != "grader"])


def findings(policy: Policy | None = None, settings: Rewrite | None = None) -> list[Finding]:
    return list(examine(Patient(policy or Policy(), settings or Rewrite())))


def worst(found: list[Finding]) -> Findings:
    """For each thing that was looked at the finding that is least well."""
    order = ("ok", "note", "wrong")
    return {one.what: one for one in sorted(found, key=lambda one: order.index(one.state))}


def wrong(found: list[Finding]) -> list[str]:
    return [one.what for one in found if one.state == "wrong"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the packaged policy, to be broken."""
    return Path(shutil.copytree(TINY, tmp_path / "policy"))


def change(folder: Path, file: str, **values: object) -> None:
    """Sets keys of a JSON file; None removes one."""
    path = folder / file
    document = json.loads(path.read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in document.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def of(folder: Path, **settings: Any) -> list[Finding]:
    return findings(Policy(model=str(folder)), Rewrite(**settings))


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON on standard output and what is on standard error."""
    status = main(["doctor", "--json", *arguments])
    output = capsys.readouterr()
    return status, json.loads(output.out), output.err


# --- Nothing asked for, and all well ---


def test_without_options_it_says_what_is_installed_and_grades(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    output = capsys.readouterr()
    assert f"retell {version('retell')}" in output.out
    for expected in ("engine transformers", "engine vllm", "engine server", "engine recorded", "grader", "accelerator"):
        assert expected in output.out
    assert "prompt" not in output.out


def test_a_sound_policy_is_graded_well_and_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "retell:tiny/policy"]) == 0
    table, _, shown = capsys.readouterr().out.partition("\nprompt:\n")
    assert "wrong" not in [line.split()[0] for line in table.splitlines()]
    prompt, _, reply = shown.partition("\nreply:\n")
    assert prompt == f"  {RENDERED}\n"
    assert reply.strip()


def test_json_is_all_there_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = examined(capsys, "--model", "retell:tiny/policy")
    assert status == 0
    assert said.keys() == {"findings", "wrong", "prompt", "reply"}
    assert said["wrong"] == 0
    assert all(one.keys() == {"what", "state", "says", "remedy"} for one in said["findings"])
    assert {one["state"] for one in said["findings"]} <= {"ok", "note"}
    message = {"role": "user", "content": "What is 3 + 4?"}
    ids = TOKENIZER.prompt_ids([message])
    assert said["prompt"] == {"messages": [message], "text": RENDERED, "tokens": len(ids)}
    assert said["reply"].keys() == {"text", "stop", "tokens", "end"}
    assert (said["reply"]["stop"], said["reply"]["end"]) == ("stop", f"'<|end|>' ({END})")


def test_a_diagnosis_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (
        examined(capsys, "--model", "retell:tiny/policy", "--seed", seed)[1]["reply"] for seed in ("1", "1", "3")
    )
    assert first == again
    assert first != other


def test_it_writes_nothing(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--model", str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_it_takes_the_options_of_rewrite(tmp_path: Path) -> None:
    template = tmp_path / "ask.txt"
    template.write_text("Solve {problem}", encoding="utf-8")
    patient = Patient(Policy(model=str(TINY), template=str(template), system="Be brief."), Rewrite(max_tokens=3))
    assert wrong(list(examine(patient))) == []
    assert patient.rendered == "<|system|>Be brief.<|end|><|user|>Solve What is 3 + 4?<|end|><|assistant|>"
    assert patient.reply
    assert (patient.reply.tokens, patient.reply.stop) == (3, "length")


def test_bad_options_are_refused_before_anything_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--bogus", "1"], ["--temperature", "-1"], ["--engine", "abacus"]):
        assert main(["doctor", *arguments]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("retell: ")


def test_log_probs_are_compared_with_a_forward_pass_at_any_temperature() -> None:
    for settings in ({}, {"temperature": 0.5}, {"temperature": 0}, {"top_p": 0.6}):
        compared = [one for one in of(TINY, **settings) if "forward pass" in one.says]
        assert [one.state for one in compared] == ["ok"], settings


# --- What is not installed ---


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    installed = base.installed_version
    for module in (base, installation, model):
        monkeypatch.setattr(
            module, "installed_version", lambda package: "" if package in packages else installed(package)
        )


def test_a_missing_engine_is_wrong_only_if_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "vllm")
    assert worst(findings())["engine vllm"].state == "note"
    found = findings(Policy(model=str(TINY)), Rewrite(engine="vllm"))
    assert wrong(found) == ["engine vllm"]
    assert "retell[vllm]" in worst(found)["engine vllm"].remedy
    assert "chat template" in worst(found)


def test_without_torch_there_is_no_word_of_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch")
    assert "accelerator" not in worst(findings())
    assert wrong(findings(settings=Rewrite(engine="transformers"))) == ["engine transformers"]


def test_a_missing_engine_fails_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "vllm")
    status, said, complaint = examined(capsys, "--engine", "vllm")
    assert (status, said["wrong"]) == (1, 1)
    assert "1 of" in complaint


def test_an_accelerator_that_torch_cannot_use_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device, expected in ((tmp_path, "cannot use it"), (tmp_path / "none", "CPU")):
        monkeypatch.setattr(installation, "NVIDIA", device)
        assert expected in worst(findings())["accelerator"].says


# --- Graders ---


def test_a_grader_that_cannot_judge_is_wrong() -> None:
    found = worst(findings(settings=Rewrite(grader="nowhere:judge")))
    assert (found["grader"].state, "nowhere" in found["grader"].says) == ("wrong", True)
    assert "accelerator" in found


def test_somebodys_own_grader_may_judge_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def lenient(problem, response, gold):\n    return True\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = worst(findings(settings=Rewrite(grader="mine:lenient")))["grader"]
    assert found.state == "note"
    assert "x + 8" in found.says


def test_grading_processes_that_do_not_start_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retell.graders.pool.sys.executable", "/bin/false")
    assert "does not start" in worst(findings())["grader"].says
    assert wrong(findings()) == ["grader"]


# --- A policy that is broken in one way ---


def test_no_such_folder(tmp_path: Path) -> None:
    found = of(tmp_path / "nothing")
    assert wrong(found) == ["model"]
    assert "there is no model folder" in worst(found)["model"].says


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    found = of(folder)
    assert wrong(found) == ["tokenizer"]
    assert "has no tokenizer" in worst(found)["tokenizer"].says
    assert worst(found)["configuration"].state == "ok"


def test_no_chat_template(folder: Path) -> None:
    change(folder, "tokenizer_config.json", chat_template=None)
    found = of(folder)
    assert wrong(found) == ["tokenizer"]
    assert "no chat template" in worst(found)["tokenizer"].says


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    found = of(folder)
    assert wrong(found) == ["model", "sample"]
    assert "safetensors" in worst(found)["model"].says
    assert worst(of(folder, engine="recorded"))["model"].state == "note"


def test_torn_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    assert wrong(of(folder)) == ["model", "sample"]


@pytest.mark.parametrize(
    ("inside", "opened"),
    [("m.content if add_generation_prompt else m.content|upper", ""), ("m.content", "<think>")],
    ids=["the question is changed", "the opened turn is not kept"],
)
def test_a_template_that_changes_the_prompt_once_it_is_answered(folder: Path, inside: str, opened: str) -> None:
    template = (
        f"{{% for m in messages %}}<|{{{{ m.role }}}}|>{{{{ {inside} }}}}<|end|>{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|assistant|>{opened}{{% endif %}}"
    )
    change(folder, "tokenizer_config.json", chat_template=template)
    found = of(folder)
    assert wrong(found) == ["chat template"]
    assert "at character" in worst(found)["chat template"].says
    assert "every row" in worst(found)["chat template"].remedy
    assert worst(found)["sample"].state != "wrong"


def test_words_that_a_template_puts_into_the_response_are_shown(folder: Path) -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}Well: {% endif %}{{ m.content }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    change(folder, "tokenizer_config.json", chat_template=template)
    found = worst(of(folder))["chat template"]
    assert (found.state, "'Well: 3 + 4" in found.says) == ("note", True)


def test_a_template_that_refuses_the_system_message(folder: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    change(folder, "tokenizer_config.json", chat_template=template)
    assert wrong(of(folder)) == []
    found = findings(Policy(model=str(folder), system="Be brief."))
    assert wrong(found) == ["prompt"]
    assert "policy.system" in worst(found)["prompt"].says


def test_a_turn_that_ends_with_no_end_of_the_model(folder: Path) -> None:
    change(folder, "tokenizer_config.json", eos_token="<|pad|>", additional_special_tokens=["<|end|>"])
    for file in ("config.json", "generation_config.json"):
        change(folder, file, eos_token_id=4)
    found = of(folder)
    assert wrong(found) == []
    turn = worst(found)["end of turn"]
    assert (turn.state, turn.what) == ("note", "end of turn")
    assert f"'<|end|>' ({END}), which is none of them" in turn.says
    assert "retell stops there" in turn.says
    assert "'<|pad|>' (4) by the tokenizer, generation_config.json, config.json" in worst(found)["end tokens"].says
    assert f"ended by itself with '<|end|>' ({END})" in worst(found)["sample"].says


def test_files_that_disagree_are_shown(folder: Path) -> None:
    change(folder, "generation_config.json", eos_token_id=[END, 4])
    says = worst(of(folder))["end tokens"].says
    assert f"'<|end|>' ({END}) by the tokenizer, generation_config.json, config.json" in says
    assert "'<|pad|>' (4) by generation_config.json" in says


def test_no_file_names_an_end(folder: Path) -> None:
    change(folder, "tokenizer_config.json", eos_token=None, additional_special_tokens=["<|end|>"])
    for file in ("config.json", "generation_config.json"):
        change(folder, file, eos_token_id=None)
    found = worst(of(folder))
    assert (found["end tokens"].state, found["end of turn"].state) == ("note", "note")
    assert f"'<|end|>' ({END}), which is none of them" in found["end of turn"].says


def test_a_turn_that_is_not_closed_ends_with_the_tokenizers_token(folder: Path) -> None:
    change(folder, "tokenizer_config.json", chat_template=OPEN)
    turn = worst(of(folder))["end of turn"]
    assert (turn.state, f"rows end with '<|end|>' ({END})" in turn.says) == ("note", True)


def test_a_turn_that_only_the_configuration_ends(folder: Path) -> None:
    change(folder, "tokenizer_config.json", chat_template=OPEN, eos_token=None)
    found = of(folder)
    assert "end of turn" not in wrong(found)
    assert "training rows end with '<|end|>' (3)" in worst(found)["end of turn"].says


def test_layers_that_the_transformers_engine_refuses(folder: Path) -> None:
    change(folder, "config.json", layer_types=["full_attention", "full_attention", "sliding_attention"])
    assert wrong(of(folder)) == ["layers", "sample"]
    assert worst(of(folder, engine="recorded"))["layers"].state == "note"


def test_a_prompt_that_fills_the_context(folder: Path) -> None:
    change(folder, "config.json", max_position_embeddings=8)
    found = of(folder)
    assert wrong(found) == ["sample"]
    assert "fills the context" in worst(found)["sample"].says


def test_weights_that_are_large_are_not_loaded_again_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "LARGE", 1000)
    monkeypatch.setattr(sample, "default_device", lambda: "cpu")
    assert "large" in worst(of(TINY))["log-probs"].says


def test_options_that_do_not_go_together() -> None:
    found = of(TINY, engine_args={"batch_sze": 2})
    assert wrong(found) == ["options"]
    assert worst(found)["options"].says == "unknown key engine_args.batch_sze: did you mean batch_size?"
    assert wrong(findings(settings=Rewrite(base_url=("http://127.0.0.1:9",)))) == ["options"]
    assert wrong(findings(Policy(model=str(TINY), template="nowhere"))) == ["prompt"]
    assert wrong(of(TINY, guided_template="plain")) == ["prompt"]


def test_recorded_responses_need_no_sample() -> None:
    found = findings(settings=Rewrite(engine="recorded"))
    assert wrong(found) == []
    assert "none is drawn" in worst(found)["sample"].says


def test_an_engine_without_a_model_draws_nothing() -> None:
    found = findings(settings=Rewrite(engine="transformers"))
    assert wrong(found) == []
    assert worst(found)["sample"].remedy == "give --model"


def test_a_check_that_fails_keeps_no_other_from_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Any:
        raise ZeroDivisionError("first\nsecond")

    monkeypatch.setattr(template, "_named_ends", fails)
    found = of(TINY)
    assert wrong(found) == ["end tokens"]
    assert worst(found)["end tokens"].says == "ZeroDivisionError: first"
    assert worst(found)["sample"].state == "ok"


# --- An engine that draws badly ---


class Broken:
    """An engine whose completions are given, by index; it ends without the others."""

    draws = True
    context: int | None = None

    def __init__(self, *completions: Completion) -> None:
        self.faults: Counter[str] = Counter({"500": 2})
        self.closed = False
        self._completions = completions

    def sample(self, take: Callable[[int, bool], list[Any]]) -> Iterator[list[tuple[Any, Completion]]]:
        yield list(zip(take(8, True), self._completions, strict=False))

    def close(self) -> None:
        self.closed = True


def drawn(monkeypatch: pytest.MonkeyPatch, *completions: Completion, **settings: Any) -> list[Finding]:
    engine = Broken(*completions)
    monkeypatch.setattr(sample, "open_engine", lambda *_: engine)
    found = of(TINY, **settings)
    assert engine.closed
    return found


def forward(response: tuple[int, ...]) -> tuple[float, ...]:
    model = load_model(TINY, "auto", "cpu", trust_remote_code=False)
    prompt = TOKENIZER.prompt_ids([{"role": "user", "content": "What is 3 + 4?"}])
    ((_, own),) = row_logprobs(model, [(prompt, response)], 1024)
    return tuple(own)


SPOKEN = (*TOKENIZER.tokenizer.encode("It is 7", add_special_tokens=False), END)
OWN = forward(SPOKEN)
GIVEN = Completion("It is 7", SPOKEN, (-9.0,) * len(SPOKEN), "stop")


def test_log_probs_of_another_model_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn(monkeypatch, GIVEN)
    assert wrong(found) == ["log-probs"]
    assert "another model" in worst(found)["log-probs"].remedy
    for distance, state in ((0.01, "ok"), (0.3, "note"), (0.9, "wrong"), (float("nan"), "wrong")):
        shifted = replace(GIVEN, logprobs=tuple(one - distance for one in OWN))
        assert worst(drawn(monkeypatch, shifted))["log-probs"].state == state


def test_a_request_that_failed_is_wrong_and_no_reply(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Broken(Completion("", None, None, "error", "out of ink"))
    monkeypatch.setattr(sample, "open_engine", lambda *_: engine)
    status, said, _ = examined(capsys, "--model", "retell:tiny/policy")
    assert (status, said["reply"]) == (1, None)
    assert [one["says"] for one in said["findings"] if one["state"] == "wrong"] == ["out of ink"]
    assert any("500 (2)" in one["says"] for one in said["findings"])


def test_an_engine_that_ends_without_an_answer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no sample" in worst(drawn(monkeypatch))["sample"].says


def test_text_of_a_model_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    present.doctor({"prompt": None, "reply": {"text": "[red]\\neq\x1b[31m\n\u202ea b\n"}})
    assert capsys.readouterr().out == "\nreply:\n  [red]\\neq\\x1b[31m\\n\n  \\u202ea b\\n\n"
    present.finding(Finding("a", "wrong", "b\n\x1b[31m", "c\r"))
    assert capsys.readouterr().out.replace(" ", "") == "wrongab??[31m\n→c?\n"


# --- Servers ---


def spoken(asked: Asked) -> Answer:
    """A vLLM server of the tiny policy that says what the scripted engine above says."""
    if asked.path == "/tokenize":
        ids = TOKENIZER.tokenizer.encode(asked.body["prompt"], add_special_tokens=False)
        return Answer({"tokens": [END, *ids] if asked.body["add_special_tokens"] else ids})
    if asked.path.endswith("/chat/completions"):
        return chat("It is 7")
    if asked.body.get("logprobs"):
        top = tops(asked.body, [2.0, 0.0, -2.0, -4.0, -6.0], applied=False)
        return vllm(asked.body, SPOKEN, TOKENIZER, logprobs={"token_logprobs": [-1.0], "top_logprobs": [top]})
    logprobs = {"token_logprobs": OWN[: asked.body["max_tokens"]]}
    return vllm(asked.body, SPOKEN, TOKENIZER, logprobs=logprobs)


def at(*urls: str, **settings: Any) -> list[Finding]:
    return findings(Policy(model=str(TINY)), Rewrite(engine="server", base_url=urls, **settings))


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_server_of_the_policy_is_well() -> None:
    with faulty(spoken) as server:
        found = at(server.url)
    assert wrong(found) == []
    says = [one.says for one in found if one.what in ("server", "tokenisation", "sample", "token ids", "log-probs")]
    assert says[0] == f"{server.url} serves policy (context of 512 tokens)"
    assert says[1].endswith("token ids of the prompt")
    assert says[2].startswith(f"{server.url}: {len(SPOKEN)} tokens, ended by itself")
    assert all(one.state == "ok" for one in found if one.what in ("server", "tokenisation", "token ids", "log-probs"))
    assert "forward pass" in says[-1]


def test_a_dead_server_is_wrong_and_the_others_are_asked(capsys: pytest.CaptureFixture[str]) -> None:
    dead = f"http://127.0.0.1:{closed_port()}/v1"
    with faulty(spoken) as server:
        found = at("no://url", dead, server.url)
        assert wrong(found) == ["server", "server"]
        assert dead in worst(found)["server"].says
        assert any(one.what == "sample" and server.url in one.says for one in found)
    status, said, _ = examined(capsys, "--engine", "server", "--base-url", dead, "--model", "retell:tiny/policy")
    assert (status, said["wrong"], said["reply"]) == (1, 1, None)


def test_log_probs_before_temperature_are_noted_with_the_remedy() -> None:
    with faulty(spoken) as server:
        found = at(server.url, temperature=0.5)
    assert wrong(found) == []
    noted = worst(found)["log-probs"]
    assert (noted.state, "processed_logprobs" in noted.remedy) == ("note", True)
    assert "temperature 0.5" in noted.says


def test_a_server_with_another_tokenizer_is_wrong() -> None:
    def other(asked: Asked) -> Answer:
        return Answer({"tokens": [1, 2, 3]}) if asked.path == "/tokenize" else spoken(asked)

    with faulty(other) as server:
        assert wrong(at(server.url)) == ["tokenisation"]


def test_a_server_of_other_weights_is_wrong() -> None:
    def other(asked: Asked) -> Answer:
        return vllm(asked.body, SPOKEN, TOKENIZER, logprobs={"token_logprobs": [-9.0] * len(SPOKEN)})

    with faulty(other) as server:
        found = at(server.url)
    assert wrong(found) == ["log-probs"]
    assert worst(found)["tokenisation"].state == "note"


def chats_alone(asked: Asked) -> Answer:
    return chat("It is 7") if asked.path.endswith("/chat/completions") else error(404)


def test_a_server_that_only_chats_is_noted() -> None:
    with faulty(chats_alone) as server:
        found = at(server.url)
    assert wrong(found) == []
    assert worst(found)["token ids"].state == "note"


def test_a_server_can_be_examined_without_the_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with faulty(chats_alone) as server:
        named = ("--engine", "server", "--base-url", server.url, "--engine-args.served-model", "policy")
        status, said, _ = examined(capsys, *named)
        assert (status, said["prompt"]["text"], said["reply"]["text"]) == (0, None, "It is 7")
        assert main(["doctor", *named]) == 0
        assert "\nprompt:\n  user: What is 3 + 4?\n" in capsys.readouterr().out
        # Rewriting would refuse these options, but the server can be asked all the same.
        status, said, _ = examined(capsys, *named[:-2])
        assert (status, said["wrong"], said["reply"]["text"]) == (1, 1, "It is 7")


def test_of_several_models_one_must_be_named() -> None:
    with faulty(spoken, models("one", "two")) as server:
        found = at(server.url)
        assert wrong(found) == ["sample"]
        assert "one" in worst(found)["server"].says
        assert "served_model" in worst(found)["sample"].says
        assert wrong(at(server.url, engine_args={"served_model": "two"})) == []
        assert {asked.body["model"] for asked in server.asked if asked.body} == {"two"}


def test_a_server_that_lists_no_models_is_asked_all_the_same() -> None:
    with faulty(spoken, error(404)) as server:
        found = at(server.url, engine_args={"served_model": "policy"})
    assert wrong(found) == []
    assert "does not list" in worst(found)["server"].says


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "PATIENCE_SECONDS", 0.3)
    with faulty(spoken) as server:

        def hangs(asked: Asked) -> Answer:
            if asked.path != "/tokenize":
                server.hang()
            return spoken(asked)

        server.script = hangs
        found = at(server.url)
        server.released.set()
    assert wrong(found) == ["sample"]
    assert "no sample within 0.3 s" in worst(found)["sample"].says


def test_keys_are_never_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setenv("A_KEY", "sk-12345-secret")

    def tells(asked: Asked) -> Answer:
        return error(500 if asked.turn else 400, f"you sent {asked.headers['authorization']}")

    named = ["--model", "retell:tiny/policy", "--engine", "server", "--engine-args.api-key-env", "A_KEY"]
    for listed in (models("policy sk-12345-secret"), error(500, "sk-12345-secret"), error(401, "sk-12345-secret")):
        with faulty(tells, listed) as server:
            assert main(["doctor", *named, "--base-url", server.url]) == 1
            assert main(["doctor", "--json", *named, "--base-url", server.url]) == 1
    assert main(["doctor", *named, "--base-url", "http://me:sk-12345-secret@127.0.0.1/v1"]) == 1
    output = capsys.readouterr()
    assert "12345" not in output.out + output.err


def test_bodies_that_are_no_answers_are_wrong() -> None:
    for listed in (Answer(b"<html>"), Answer({"data": 3}), Answer([1])):
        with faulty(spoken, listed) as server:
            assert wrong(at(server.url)) == ["server"]
