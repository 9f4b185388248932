"""An OpenAI-compatible server on loopback that answers by script, faults included."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from retell.tokens import ChatTokenizer

Body = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What to send: a JSON value or raw bytes; ``cut`` bytes of it are never sent before the connection is closed."""

    said: object
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0


class Drop(Exception):
    """Closes the connection without an answer."""


Script = Callable[["Asked"], Answer]


@dataclass(frozen=True)
class Asked:
    """A request as it came, the ``number``-th of its path, and after ``turn`` others of its path and seed.

    Probes, which ask for one token, are counted apart.
    """

    path: str
    body: Body
    headers: dict[str, str]
    number: int
    turn: int

    @property
    def probe(self) -> bool:
        return is_probe(self.body)


def is_probe(body: Body) -> bool:
    return body.get("max_tokens", body.get("max_completion_tokens")) == 1


def models(*names: str, length: int | None = 512) -> Answer:
    return Answer({"object": "list", "data": [{"id": name, "max_model_len": length} for name in names]})


class FaultyServer:
    """Answers POSTs by ``script`` and /models by ``listed``; can go down and come back on the same port."""

    def __init__(self, script: Script, listed: Answer) -> None:
        self.script = script
        self.listed = listed
        self.asked: list[Asked] = []
        self.released = threading.Event()
        """Ends every `hang`."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._port = 0
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def up(self) -> None:
        self._http = _Http(("127.0.0.1", self._port), _handler(self))
        self._port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def down(self) -> None:
        """Closes the port and every connection, at once."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        self.released.wait(60)

    def answer(self, path: str, body: Body, headers: dict[str, str]) -> Answer:
        with self._lock:
            before = [one.body for one in self.asked if one.path == path and one.probe == is_probe(body)]
            turn = sum(one.get("seed") == body.get("seed") for one in before)
            asked = Asked(path, body, headers, len(before) + 1, turn)
            self.asked.append(asked)
        return self.listed if path.endswith("/models") else self.script(asked)

    def drawn(self, path: str = "/completions") -> list[Asked]:
        """The requests for samples, probes left out."""
        return [one for one in self.asked if one.path == f"/v1{path}" and not one.probe]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            server._open.add(self.request)
            super().setup()

        def finish(self) -> None:
            server._open.discard(self.request)
            super().finish()

        def do_GET(self) -> None:
            self.respond({})

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body: Body) -> None:
            try:
                answer = server.answer(self.path, body, {k.lower(): v for k, v in self.headers.items()})
            except Drop:
                self.close_connection = True
                return
            said = answer.said if isinstance(answer.said, bytes) else json.dumps(answer.said).encode()
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said[: len(said) - answer.cut])
            self.close_connection = self.close_connection or bool(answer.cut)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    return Handler


@contextmanager
def faulty(script: Script, listed: Answer | None = None) -> Iterator[FaultyServer]:
    server = FaultyServer(script, listed or models("policy"))
    try:
        yield server
    finally:
        server.released.set()
        server.down()


def tops(body: Body, logits: Sequence[float], *, applied: bool) -> dict[str, float]:
    """Log-probs of the likeliest of a few tokens, before or after temperature and top_p, as vLLM reports them."""
    import numpy as np

    values = np.array(logits)
    if applied:
        values = values / body["temperature"]
        probs = np.exp(values) / np.exp(values).sum()
        order = np.argsort(-probs)
        before = np.cumsum(probs[order]) - probs[order]
        values[order[before >= body["top_p"]]] = -np.inf
    logp = values - np.log(np.exp(values).sum())
    best = np.argsort(-logp)[: body["logprobs"]]
    return {f"token_id:{token}": max(float(logp[token]), -9999.0) for token in best}


def vllm(body: Body, ids: Sequence[int], tokenizer: ChatTokenizer, **changes: object) -> Answer:
    """A reply of vLLM's /v1/completions with these ids, cut at the limit; ``changes`` replace the choice's fields."""
    ids = list(ids)[: body["max_tokens"]]
    choice = {
        "index": 0,
        "text": "not to be used",
        "finish_reason": "stop" if ids[-1] in tokenizer.end_ids else "length",
        "token_ids": ids,
        "prompt_token_ids": body["prompt"],
        "logprobs": {"token_logprobs": [-0.25 * (i + 1) for i in range(len(ids))], "top_logprobs": [{}] * len(ids)},
    }
    return Answer({"choices": [choice | changes], "usage": {"completion_tokens": len(ids)}})


def chat(text: object, reason: str = "stop", **changes: object) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return Answer({"choices": [choice | changes], "usage": {"completion_tokens": 7}})


def error(status: int, message: str = "no", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer({"error": {"message": message, "code": status}}, status, named)
