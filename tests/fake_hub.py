"""The Hugging Face hub on loopback, as far as the real client needs it to send a data set."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

TOKEN = "hf_SecretOfTheTests"
CHANGES = ("POST", "PUT", "DELETE")


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    head: str = "0" * 40


@dataclass
class FakeHub:
    """Repositories by name; ``large`` says which files it wants as LFS objects; ``refusals`` are answers by path."""

    repos: dict[str, Repo] = field(default_factory=dict)
    large: bool = False
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    @property
    def changes(self) -> list[str]:
        """The paths of requests that could have changed something."""
        return [path for method, path in self.asked if method in CHANGES]

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, object, dict[str, str]]:
        self.asked.append((method, path))
        if token != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
            return 401, {"error": "Invalid"}, {"X-Error-Message": "Invalid credentials in Authorization header"}
        for part, (status, said) in self.refusals.items():
            if part in path:
                return status, {"error": said}, {"X-Error-Message": said}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            header = json.loads(body)["content"].split("---\n")[1]
            assert isinstance(yaml.safe_load(header), dict)
            return 200, {}, {}
        if path.startswith("/lfs/"):
            if method == "PUT":
                self.objects[path.removeprefix("/lfs/")] = body
            return 200, {}, {}
        found = re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+?)(?:\.git)?(?:/(\w+)(/.*)?)?", path)
        repo = self.repos.get(found[1]) if found else None
        if found is None or repo is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if found[2] == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            if lines[0]["value"].get("parentCommit", repo.head) != repo.head:
                return 412, {"error": "A commit has happened since"}, {}
            self._commit(repo, lines)
            return 200, {"commitUrl": f"{self.url}/datasets/{found[1]}/commit/{repo.head}", "commitOid": repo.head}, {}
        return 200, self._of_repo(repo, found[1], found[2] or "", body), {}

    def _create(self, asked: dict[str, Any]) -> tuple[int, object, dict[str, str]]:
        self.made.append(asked)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return 409, {"error": "You already created this dataset repo"}, {}
        self.repos[name] = Repo(private=asked.get("visibility") == "private")
        return 200, {"url": f"{self.url}/datasets/{name}"}, {}

    def _of_repo(self, repo: Repo, name: str, verb: str, body: bytes) -> object:
        if verb == "preupload":
            mode = "lfs" if self.large else "regular"
            return {
                "files": [
                    {
                        "path": one["path"],
                        "uploadMode": mode if one["path"].endswith(".parquet") else "regular",
                        "shouldIgnore": False,
                    }
                    for one in json.loads(body)["files"]
                ]
            }
        if verb == "info":  # …/info/lfs/objects/batch
            return {
                "transfer": "basic",
                "objects": [
                    one | {"actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ],
            }
        if verb == "tree":
            return [
                {"type": "file", "path": path, "size": len(data), "oid": "1" * 40} for path, data in repo.files.items()
            ]
        siblings = [{"rfilename": path} for path in repo.files]
        return {"_id": "1", "id": name, "private": repo.private, "sha": repo.head, "siblings": siblings, "tags": []}

    def _commit(self, repo: Repo, lines: list[dict[str, Any]]) -> None:
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "deletedFile":
                del repo.files[value["path"]]
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.objects[value["oid"]]
            else:
                repo.files[value["path"]] = base64.b64decode(value["content"])
        repo.head = hashlib.sha1(repr(sorted(repo.files.items())).encode()).hexdigest()


@contextmanager
def hub() -> Iterator[FakeHub]:
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            status, said, headers = fake.answer(self.command, path, self.headers.get("Authorization", ""), body)
            data = json.dumps(said).encode()
            self.send_response(status)
            for name, value in (
                {"Content-Type": "application/json", "Content-Length": str(len(data))} | headers
            ).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _reply

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
