"""One OpenAI-compatible server over HTTP: its URL, the key for it, and a call."""

import asyncio
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from openai import (
    DEFAULT_CONNECTION_LIMITS,
    APIConnectionError,
    APIStatusError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    HttpxBinaryResponseContent,
    Timeout,
)

from retell.engines.balance import Lane
from retell.engines.dialects import Dialect
from retell.engines.replies import Fault, Reply, parse, plain, status_fault
from retell.errors import EngineError, RecipeError, first_line

CONNECT_SECONDS = 20.0
_KEEP_SECONDS = 2.0
"""Idle connections are closed before the server closes them (uvicorn: after 5 s), which would lose a request."""


class Key:
    """The API key in an environment variable; never shown.

    Raises:
        EngineError: it holds what no HTTP header can.
    """

    def __init__(self, variable: str) -> None:
        self.variable = variable
        self._value = os.environ.get(variable, "").strip()
        if not self._value.isascii() or not (self._value.isprintable()):
            raise EngineError(f"the environment variable {variable} holds characters no API key has: set it again")

    def sent(self) -> str:
        """What is sent; servers that want no key do not look at it."""
        return self._value or "none"

    def plain(self, text: str, most: int = 200) -> str:
        """Somebody else's words without the key, as `retell.engines.replies.plain`."""
        return plain(text, self._value, most)

    def refused(self, url: str, why: Fault) -> EngineError:
        """The error for a server that wants another key."""
        state = "the key there is refused" if self._value else "which is not set"
        return EngineError(f"{url} wants an API key in {self.variable}, {state}: {self.plain(str(why))}")


class Endpoint(Lane):
    """A URL with its client, and what was learnt of it: how to ask, and whether its log-probs are the sampler's."""

    def __init__(self, url: str, most: int, key: Key) -> None:
        super().__init__(url, most)
        self.probing = asyncio.Lock()
        self.dialect: Dialect | None = None
        self.processed: bool | None = None
        self._key = key
        self._client = _client(url, most, key)

    async def call(self, path: str, posted: Mapping[str, object] | None = None) -> Reply:
        """GETs ``path``, or POSTs to it, once.

        Raises:
            Fault: there is no reply, or none that is a JSON object.
            EngineError: the API key is refused.
        """
        try:
            if posted is None:
                answer = await self._client.get(path, cast_to=HttpxBinaryResponseContent)
            else:
                answer = await self._client.post(path, cast_to=HttpxBinaryResponseContent, body=posted)
        except APIStatusError as error:
            fault = status_fault(error.status_code, error.response.content, error.response.headers)
            raise (self._key.refused(self.url, fault) if error.status_code in (401, 403) else fault) from None
        except APIConnectionError as error:
            raise Fault("connection", _reason(error), outage=True) from None
        return parse(answer.content)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()


def address(url: str) -> str:
    """The base URL to use: as given, with ``/v1`` where it has no path.

    Raises:
        RecipeError: it is no http(s) URL, or may hold a secret.
    """
    if "@" in url or "?" in url or "#" in url:
        # It is not shown: what stands there may be a secret.
        raise RecipeError(
            "a base_url holds more than a host and a path: leave out user, password, query and fragment (an API key "
            "belongs into the environment)"
        )
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or " " in url or not url.isprintable():
        raise RecipeError(f"base_url {url!r} is no URL of a server: http://HOST:PORT/v1")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _client(url: str, most: int, key: Key) -> AsyncOpenAI:
    # Made by the class of the HTTP library on which this version of openai is built.
    limits = type(DEFAULT_CONNECTION_LIMITS)(
        max_connections=None, max_keepalive_connections=most, keepalive_expiry=_KEEP_SECONDS
    )
    # A reply may take its time, which is limited as a whole by the caller; to be connected may not.
    timeout = Timeout(None, connect=CONNECT_SECONDS)
    host = urlsplit(url).hostname or ""
    here = host in ("localhost", "::1") or host.startswith("127.")
    try:
        # The environment's proxies are not for a server on this machine.
        http = DefaultAsyncHttpxClient(timeout=timeout, limits=limits, trust_env=not here, follow_redirects=False)
        return AsyncOpenAI(base_url=url, api_key=key.sent(), max_retries=0, timeout=timeout, http_client=http)
    except Exception as error:
        raise EngineError(f"cannot open a client for {url}: {key.plain(first_line(error))}") from None


def _reason(error: BaseException) -> str:
    """What lies under a client's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"
