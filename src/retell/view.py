"""`retell view`: the rows of a run on a page of one's own machine, read-only.

The address is random: a free port and a token without which nothing is answered. The server listens on loopback, takes
requests for this machine only (so that no other site's name can be pointed at it), and answers GET alone.
"""

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from typing import get_args

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retell.browse import MARKUP, scripts, styles
from retell.errors import RecipeError, RetellError, first_line
from retell.finder import Finder, Query
from retell.records import Outcome, Rung
from retell.rows import Json, Rows
from retell.shell import escaped, page, policy

HOST = "127.0.0.1"
PAGE = 10
"""Rows of an answer."""
SECONDS = 0.15
"""How long an answer looks for rows: then it says where the next one goes on."""
_UNFRAMED = "frame-ancestors 'none'"
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; {_UNFRAMED}",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def make_app(rows: Rows, finder: Finder, name: str, token: str) -> ASGIApp:
    """The web app: under ``/TOKEN/`` the page, ``rows``, ``place`` and ``attempt``; there is nothing else.

    Its handlers run one after the other in a single thread, which is all that one reader needs.
    """
    whole = _page(rows, name)

    async def show(_: Request) -> Response:
        return HTMLResponse(whole, headers={"Content-Security-Policy": f"{policy(scripts(), True)}; {_UNFRAMED}"})

    async def find(request: Request) -> Response:
        until = time.monotonic() + SECONDS
        given = request.query_params
        query = Query(_name(given, "rung", Rung), _name(given, "verdict", Outcome), given.get("text", ""))
        found = finder.find(query, _number(given, "start"), PAGE, SECONDS)
        told: list[Json] = []
        rest = found.next
        for _, places in rows.by_group(found.positions):
            if told and time.monotonic() > until:
                rest = places[0]
                break
            told += rows.read(places)
        return _json({"rows": told, "next": rest, "total": found.total, "before": found.before})

    async def place(request: Request) -> Response:
        of = request.query_params.get("of", "")
        found = rows.place(of)
        if found is None:
            raise HTTPException(404, f"There is no row of the id or number {of}.")
        return _json({"row": found})

    async def attempt(request: Request) -> Response:
        given = request.query_params
        found = rows.attempt(_number(given, "row"), given.get("rung", ""), _number(given, "index"))
        if found is None:
            raise HTTPException(404, "This attempt is not in the journal.")
        return _json(found)

    handlers = {"/": show, "/rows": find, "/place": place, "/attempt": attempt}
    routes = [Route(path, handler, methods=["GET"]) for path, handler in handlers.items()]
    told = (HTTPException, RetellError, OSError, ValueError)  # such as a journal that is broken, or a disk
    app = Starlette(routes=[Mount(f"/{token}", routes=routes)], exception_handlers=dict.fromkeys(told, _explain))
    return _Guard(TrustedHostMiddleware(app, allowed_hosts=[HOST, "localhost"]), token)


def serve(app: Callable[[str], ASGIApp], port: int, announce: Callable[[str], None]) -> None:
    """Serves the app that is made for a token, on loopback, until it is interrupted; ``announce`` gets its address.

    Raises:
        StorageError: the port cannot be had.
    """
    token = secrets.token_urlsafe(24)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise RecipeError(
                f"--port {port} cannot be had: {error.strerror}; leave it out for one that is free"
            ) from error
        config = uvicorn.Config(
            app(token), log_config=None, access_log=False, lifespan="off", ws="none", server_header=False
        )
        listening.listen()
        announce(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        with contextlib.suppress(KeyboardInterrupt):  # which is how one ends it
            uvicorn.Server(config).run(sockets=[listening])


class _Guard:
    """Lets only those through who know the token, and puts on every answer what keeps a browser strict."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        given = scope["path"].split("/")[1] if scope["path"].startswith("/") else ""
        known = secrets.compare_digest(given.encode(errors="replace"), self._token)
        await (self._app if known else PlainTextResponse("Not found", 404))(scope, receive, strictly)


def _page(rows: Rows, name: str) -> str:
    many = f"{len(rows):,} row{'' if len(rows) == 1 else 's'}"
    body = f"""<main>
<h1>{escaped(name)}</h1>
<p class="soft">{many}. They are only read, and this page is served to this machine alone.</p>
{MARKUP}
</main>"""
    data = {"browse": {"live": True, "total": len(rows), "notes": rows.notes}}
    return page(f"{name}: {many}", body, styles=styles(), scripts=scripts(), data=data, connect=True)


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise HTTPException(400, f"{name} is no number.")
    return int(text)


def _name(given: Mapping[str, str], name: str, known: object) -> str:
    """One of the names of a literal type, or nothing."""
    text = given.get(name, "")
    if text and text not in get_args(known):
        raise HTTPException(400, f"{name} is none of {', '.join(get_args(known))}.")
    return text


def _json(value: Json, status: int = 200) -> Response:
    return Response(json.dumps(value, ensure_ascii=False, allow_nan=False), status, media_type="application/json")


async def _explain(_: Request, error: Exception) -> Response:
    """What is wrong with a request, or went wrong here, for the page to show."""
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code)
    return _json({"error": first_line(error)}, 500)
