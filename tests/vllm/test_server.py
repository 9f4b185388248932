"""A vLLM server in processes of its own: what is drawn from it, and that no row depends on its life or the client's.

Samples are compared exactly: the model is in float32 and each request has a seed of its own, so that what else is in a
batch can change no more than the last bits of the logits. Log-probs show those bits and have a tolerance.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import retell
from retell.engines.server import ServerEngine
from retell.engines.warden import Warden
from retell.problems import load_problems
from retell.prompts import Prompter
from retell.recipe import Data, Policy
from retell.records import Completion, Request, Sampling
from retell.tokens import ChatTokenizer

TINY = Path(retell.__file__).parent / "tiny"
NAME = "tiny"
OTHER_DEFAULTS = {"temperature": 0.2, "top_p": 0.3, "top_k": 2, "min_p": 0.3, "repetition_penalty": 1.5}
"""Which would change every sample, were they not overruled by each request."""
START_SECONDS = 240
PROBLEMS = 40
AT_ONCE = 2
"""Requests in flight where a run is disturbed."""
STORED = 50
"""Samples after which a run is disturbed: more than are in flight, and less than half of all."""


class Server:
    """vLLM's OpenAI-compatible server on a port that stays the same when it is started again."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._warden = Warden("server")  # so that nothing is left even if the tests are killed
        self.gate = Path(tempfile.mkdtemp()) / "gate"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--model", str(TINY / "policy"), "--served-model-name", NAME]
        command += ["--dtype", "float32", "--logprobs-mode", "processed_logprobs", "--enforce-eager"]
        command += ["--no-enable-chunked-prefill"]  # on a CPU, seeds do not survive prompts that are read in pieces
        command += ["--override-generation-config", json.dumps(OTHER_DEFAULTS)]
        command += ["--middleware", "gate.Middleware"]
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment |= {"RETELL_TEST_GATE": str(self.gate), "PYTHONPATH": str(Path(gate.__file__).parent)}
        with self._warden.capturing():
            self._process = subprocess.Popen(command, env=environment, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, f"the server does not start:\n{self._log()[-3000:]}"
            time.sleep(0.2)

    def kill(self) -> None:
        """Kills its whole process group at once, but for Python's tracker, which then removes the shared memory."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGSTOP)  # none of them sees another one die
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.Error):
                if os.getpgid(process.pid) == self._process.pid:
                    tracker = any("resource_tracker" in word for word in process.cmdline())
                    process.send_signal(signal.SIGCONT if tracker else signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._warden.close(keep=False)
        shutil.rmtree(self.gate.parent)

    def drawn(self) -> int:
        """How many samples it has answered with so far, probes included."""
        return self._log().count('"POST /v1/completions HTTP/1.1" 200')

    def _answers(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            try:
                connection.request("GET", "/v1/models")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def _log(self) -> str:
        return self._warden.log.read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    try:
        server.start()
        yield server
    finally:
        server.close()


# --- What is drawn ---


def requests(tokenizer: ChatTokenizer, sampling: Sampling) -> list[Request]:
    prompter = Prompter(Policy(), tokenizer)
    problems = load_problems(Data(path=str(TINY / "data/bench-2.jsonl"), limit=8)).problems
    return [
        Request(f"{p.id}/{i}/{limit}", p.id, "self", 0, i, prompter.solve(p.problem), how, (1 << 62) + 100 * i + number)
        for number, p in enumerate(problems)
        for i in range(3)
        for limit in (sampling.max_tokens, 3)
        for how in [replace(sampling, max_tokens=limit)]
    ]


def sample(server: Server, tokenizer: ChatTokenizer | None, todo: Iterable[Request]) -> dict[str, Completion]:
    queue = list(todo)

    def take(room: int, idle: bool) -> list[Request]:
        taken, queue[:] = queue[:room], queue[room:]
        return taken

    with closing(ServerEngine([server.url], tokenizer, served_model=NAME)) as engine:
        answers = [(request.key, completion) for batch in engine.sample(take) for request, completion in batch]
        assert engine.faults == {}
        assert engine.context == 512
    assert len(answers) == len(dict(answers))
    return dict(answers)


def forward_logprobs(model: PreTrainedModel, request: Request, completion: Completion) -> Tensor:
    """Log-probs of a completion under its sampling distribution, by a plain forward pass."""
    assert request.prompt.ids and completion.ids
    ids = torch.tensor([[*request.prompt.ids, *completion.ids]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(request.prompt.ids) - 1 : -1]
    probs = (logits / request.sampling.temperature).softmax(-1)
    if request.sampling.top_p < 1:
        ordered, order = probs.sort(descending=True)
        probs = probs * (ordered.cumsum(-1) - ordered < request.sampling.top_p).gather(-1, order.argsort())
    return (probs / probs.sum(-1, keepdim=True)).gather(-1, torch.tensor(completion.ids)[:, None])[:, 0].log()


@pytest.mark.parametrize("sampling", [Sampling(1.0, 1.0, 100), Sampling(0.7, 0.9, 100)])
def test_ids_and_logprobs_are_those_of_the_policy_whatever_the_servers_defaults(
    sampling: Sampling, server: Server, tokenizer: ChatTokenizer, model: PreTrainedModel
) -> None:
    todo = requests(tokenizer, sampling)
    drawn = sample(server, tokenizer, todo)
    assert drawn.keys() == {request.key for request in todo}
    for request in todo:
        completion = drawn[request.key]
        assert completion.ids and completion.logprobs
        ended = completion.ids[-1] in tokenizer.end_ids
        assert completion.stop == ("stop" if ended else "length")
        assert sum(token in tokenizer.end_ids for token in completion.ids) == ended
        assert ended or len(completion.ids) == request.sampling.max_tokens
        assert completion.text == tokenizer.decode(completion.ids)
        wanted = forward_logprobs(model, request, completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), wanted, atol=1e-4, rtol=0)
    stops = Counter((request.sampling.max_tokens, drawn[request.key].stop) for request in todo)
    assert stops[3, "length"] == 24
    assert stops[100, "stop"] > 18
    assert len({completion.ids for completion in drawn.values()}) > 24


def test_a_sample_depends_on_its_request_alone(server: Server, tokenizer: ChatTokenizer) -> None:
    todo = requests(tokenizer, Sampling(1.0, 1.0, 100))
    together = sample(server, tokenizer, todo)
    alone = sample(server, tokenizer, todo[::-5])
    assert {key: completion.ids for key, completion in alone.items()} == {key: together[key].ids for key in alone}


def test_chat_gives_the_text_of_the_same_sample(server: Server, tokenizer: ChatTokenizer) -> None:
    todo = requests(tokenizer, Sampling(1.0, 1.0, 100))[::5]
    exact = sample(server, tokenizer, todo)
    for key, completion in sample(server, None, todo).items():
        wanted = exact[key]
        assert (completion.text, completion.stop) == (wanted.text, wanted.stop)
        assert completion.usage == len(wanted.ids or ())
        assert (completion.ids, completion.logprobs) == (None, None)


# --- The commands ---


def command(name: str, server: Server, out: Path, *more: str) -> list[str]:
    policy = ["--model", "retell:tiny/policy", "--max-tokens", "128", "--out", str(out)]
    return [sys.executable, "-m", "retell", name, "--engine", "server", "--base-url", server.url, *policy, *more]


def rewriting(server: Server, data: Path, out: Path, *more: str) -> list[str]:
    guided = ["--guided-template", "retell:tiny/guided.txt"]
    return command("rewrite", server, out, "--data", str(data), *guided, "--k", "4", *more)


def finished(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done


def rewritten(folder: Path) -> pa.Table:
    return pq.read_table(folder / "rewritten.parquet")


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def stored(folder: Path) -> dict[str, tuple[Any, ...]]:
    """The samples in a journal that may be in use."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
            rows = journal.execute("SELECT key, problem, rung, idx, text, stop, ids, logprobs FROM samples")
            return {row[0]: row for row in rows}
    except sqlite3.OperationalError:
        return {}  # it is not there yet


@contextmanager
def under_way(server: Server, arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A rewriting in the middle: some samples are stored, and no more are drawn until its gate is taken away."""
    gate.shut(server.gate, STORED + 2 * AT_ONCE)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None and len(stored(folder)) < STORED:
                time.sleep(0.02)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            server.gate.unlink(missing_ok=True)
            process.kill()


def assert_same_run(folder: Path, undisturbed: Path) -> None:
    mine, theirs = rewritten(folder), rewritten(undisturbed)
    assert mine.drop_columns("behaviour_logprobs").equals(theirs.drop_columns("behaviour_logprobs"))
    for one, other in zip(*(table["behaviour_logprobs"].to_pylist() for table in (mine, theirs)), strict=True):
        assert one == (other and pytest.approx(other, abs=1e-4))
    assert (folder / "rejected.jsonl").read_bytes() == (undisturbed / "rejected.jsonl").read_bytes()
    # What was asked of the engine and what it met on the way may differ, and nothing else.
    summaries = [read(one / "rewrite.json") for one in (folder, undisturbed)]
    for summary in summaries:
        del summary["seconds"], summary["faults"], summary["recipe_sha"]
    assert summaries[0] == summaries[1]
    samples = [{row[:-1] for row in stored(one).values()} for one in (folder, undisturbed)]
    assert samples[0] == samples[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = (TINY / "data/train.jsonl").read_text(encoding="utf-8").splitlines()[:PROBLEMS]
    unusable = json.dumps({"problem": "What is 1 + 1?", "solution": "Two."})
    path.write_text("".join(f"{line}\n" for line in [*lines, unusable]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finished(rewriting(server, data, folder))
    return folder


def test_a_rewriting_has_ids_and_logprobs_of_all_that_was_sampled(undisturbed: Path, tokenizer: ChatTokenizer) -> None:
    rows, summary = rewritten(undisturbed).to_pylist(), read(undisturbed / "rewrite.json")
    rejected = [json.loads(line) for line in (undisturbed / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == PROBLEMS
    assert [reject["reason"] for reject in rejected] == ["no_gold"]
    assert (summary["faults"], summary["failed"], summary["rejected"]) == ({}, 0, {"no_gold": 1})
    rungs = Counter(row["rung"] for row in rows)
    assert rungs == summary["rungs"]
    assert rungs.keys() == {"self", "guided", "expert"}
    for row in rows:
        ids, logprobs = row["response_token_ids"], row["behaviour_logprobs"]
        if row["rung"] == "expert":
            assert (ids, logprobs) == (None, None)
        else:
            assert tokenizer.decode(ids) == row["response"]
            assert ids[-1] in tokenizer.end_ids
            assert len(logprobs) == len(ids)
            assert all(-20 < one < 1e-4 for one in logprobs)
    assert len(stored(undisturbed)) == sum(summary["samples"].values()) > 2 * STORED


def test_an_evaluation_counts_every_sample(server: Server, tmp_path: Path) -> None:
    benchmark = ["--benchmark", "retell:tiny/data/bench-1.jsonl", "--limit", "10", "--k", "2"]
    finished(command("evaluate", server, tmp_path / "run", *benchmark, "--temperature", "0.7", "--top-p", "0.9"))
    summary = read(tmp_path / "run/eval/base.json")
    (score,) = summary["benchmarks"].values()
    assert (score["n"], summary["k"], summary["failed"], summary["faults"]) == (10, 2, 0, {})
    rows = pq.read_table(tmp_path / "run/eval/base.parquet").to_pylist()
    assert len(rows) == 20
    assert all(row["tokens"] for row in rows)
    assert 0 < score["avg_at_k"] == pytest.approx(5 * sum(row["verdict"] == "correct" for row in rows))


def test_a_client_that_is_killed_goes_on_with_what_is_stored(
    server: Server, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder, before = tmp_path / "run", server.drawn()
    again = rewriting(server, data, folder, "--engine-args.concurrency", str(AT_ONCE))
    with under_way(server, again, folder) as process:
        process.kill()
        process.communicate()
    kept = stored(folder)
    total = len(stored(undisturbed))
    assert STORED <= len(kept) < total
    finished(again)
    assert kept.items() <= stored(folder).items()
    assert_same_run(folder, undisturbed)
    # Each start asks once how the server is to be asked; only what was in flight is drawn a second time.
    assert 0 <= server.drawn() - before - total - 2 <= AT_ONCE


@pytest.mark.timeout(600)
def test_a_server_that_is_killed_and_started_again_costs_nothing_but_time(
    server: Server, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder, before = tmp_path / "run", server.drawn()
    command = rewriting(server, data, folder, "--engine-args.concurrency", str(AT_ONCE))
    with under_way(server, command, folder) as process:
        server.kill()
        kept = stored(folder)
        server.gate.unlink(missing_ok=True)
        server.start()
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    total = len(stored(undisturbed))
    assert STORED <= len(kept) < total
    assert kept.items() <= stored(folder).items()
    assert_same_run(folder, undisturbed)
    faults = read(folder / "rewrite.json")["faults"]
    assert faults.keys() == {"connection"}
    assert 1 <= faults["connection"] <= AT_ONCE
    assert "is set aside" in errors
    assert f"{server.url} is back" in errors
    assert 0 <= server.drawn() - before - total - 2 <= AT_ONCE
