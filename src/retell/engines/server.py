"""OpenAI-compatible servers: vLLM's with exact token ids, any other by chat."""

import asyncio
import random
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from retell.engines.balance import Balance, Ticket
from retell.engines.base import Batches, Take, room
from retell.engines.dialects import CHATS, COOLED, CUT, IDS, PLAIN, PROBED, Dialect, body, processed
from retell.engines.endpoint import Endpoint, Key, address
from retell.engines.replies import Fault, Reply, only_choice, read_chat, read_ids, read_models, token_ids, top_logprobs
from retell.engines.window import drive
from retell.errors import EngineError, RecipeError
from retell.records import Completion, Request, Sampling
from retell.tokens import ChatTokenizer

T = TypeVar("T")

TRIES = 8
"""Faulty answers after which a request has failed for good."""
OUTAGES = 128
"""Times a request may be lost with its server; one that is lost each time, as behind an impatient proxy, must end."""
FIRST_BACKOFF = 1.0
LONGEST_BACKOFF = 60.0
"""Seconds between tries: doubling, with jitter. A server's own Retry-After is heeded up to the longest."""
_LIST_SECONDS = 30.0
"""How long a server may take to list its models."""
_OTHER_FILES = 256
"""Open files besides connections."""
_REFUSED = {"400", "404", "405", "413", "415", "422", "501"}
"""Statuses with which a server refuses what it does not know."""


class ServerEngine:
    """Samples from OpenAI-compatible servers, the least loaded first.

    A vLLM server gives the sampled token ids, and log-probs where they are those of the sampling distribution. Of any
    other server only the text is known. The API key is read from the environment alone.

    Args:
        urls: base URLs; one without a path gets ``/v1``.
        tokenizer: the policy's tokenizer; without one all is done by chat.
        served_model: what the servers call the policy; needed where they serve several models.
        concurrency: most requests in flight at one server.
        timeout: seconds after which a reply is no longer waited for.
        patience: seconds to go on while no server answers.
        api_key_env: the environment variable that holds the API key, if the servers want one.

    Raises:
        RecipeError: a URL or an argument is of no use, or the model cannot be chosen.
        EngineError: no server answers, or the key is refused.
    """

    draws = True

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: ChatTokenizer | None,
        *,
        served_model: str | None = None,
        concurrency: int = 256,
        timeout: float = 1800.0,
        patience: float = 900.0,
        api_key_env: str = "OPENAI_API_KEY",
    ) -> None:
        _check(concurrency=concurrency, timeout=timeout, patience=patience)
        self.context: int | None = None
        self.faults: Counter[str] = Counter()
        self._tokenizer = tokenizer
        self._timeout = timeout
        self._key = Key(api_key_env)
        self._said: set[str] = set()
        self._answered = False
        self._endpoints = [Endpoint(url, concurrency, self._key) for url in dict.fromkeys(map(address, urls))]
        self._balance = Balance(self._endpoints, patience, self._still_down)
        _allow_files(concurrency * len(self._endpoints) + _OTHER_FILES)
        self._loop = asyncio.new_event_loop()
        try:
            self._model = self._loop.run_until_complete(self._connect(served_model))
        except BaseException:
            self.close()
            raise

    def sample(self, take: Take) -> Batches:
        """Keeps every server's window full and yields completions as they come."""
        return drive(take, self._complete, lambda: self._balance.width, self._loop)

    def close(self) -> None:
        """Closes the connections."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._disconnect())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _disconnect(self) -> None:
        await self._balance.close()
        for endpoint in self._endpoints:
            await endpoint.close()

    # Which servers answer, and what they serve.

    async def _connect(self, wanted: str | None) -> str:
        listed: dict[Endpoint, dict[str, int | None]] = {}
        dead: dict[Endpoint, str] = {}
        for endpoint, models in zip(
            self._endpoints, await asyncio.gather(*map(self._list, self._endpoints)), strict=True
        ):
            if isinstance(models, Fault):
                dead[endpoint] = self._key.plain(str(models))
            else:
                listed[endpoint] = models
        if not listed:
            causes = "; ".join(f"{endpoint.url} ({cause})" for endpoint, cause in dead.items())
            raise EngineError(f"no server answers: {causes}: start one, or correct base_url")
        model = self._choose(wanted, {endpoint.url: models for endpoint, models in listed.items() if models})
        for models in listed.values():
            self._learn_context(models.get(model))
        for endpoint, cause in dead.items():
            self._balance.set_aside(endpoint, cause)
        return model

    async def _list(self, endpoint: Endpoint) -> dict[str, int | None] | Fault:
        """The models of a server, none if it does not tell; or why it does not answer."""
        try:
            return read_models(await _within(_LIST_SECONDS, endpoint.call("/models")))
        except Fault as fault:
            return {} if fault.name in _REFUSED else fault

    def _choose(self, wanted: str | None, listed: Mapping[str, Mapping[str, object]]) -> str:
        if not listed:
            if not wanted:
                raise RecipeError("the servers do not list their models: set engine_args.served_model")
            return wanted
        offers = "; ".join(f"{url} serves {self._names(models)}" for url, models in listed.items())
        common = set.intersection(*map(set, listed.values()))
        if wanted and wanted not in common:
            raise RecipeError(f"engine_args.served_model = {wanted!r} is not served everywhere: {offers}")
        if not common:
            raise RecipeError(f"the servers have no model in common: {offers}: correct base_url")
        if not wanted and len(common) > 1:
            raise RecipeError(f"there are several models: {offers}: set engine_args.served_model to one of them")
        return wanted or common.pop()

    def _names(self, models: Mapping[str, object]) -> str:
        return self._key.plain(", ".join(sorted(models)))

    def _learn_context(self, length: int | None) -> None:
        if length is not None:
            self.context = min(length, self.context or length)

    async def _still_down(self, endpoint: Endpoint) -> str | None:
        """Why a server that was set aside is still not to be used, or None."""
        try:
            models = await self._list(endpoint)
        except EngineError:
            return None  # it answers; the next request meets the same refusal, and ends the run
        if isinstance(models, Fault):
            return self._key.plain(str(models))
        if models and self._model not in models:
            return f"it serves {self._names(models)}"
        self._learn_context(models.get(self._model))
        endpoint.dialect = endpoint.processed = None  # it may have been started again with other options
        return None

    # One request.

    async def _complete(self, request: Request) -> Completion:
        tries = outages = 0
        while True:
            ticket = await self._balance.acquire()
            try:
                completion = await _within(self._timeout, self._draw(ticket.lane, request))
                self._balance.succeeded(ticket)
                self._answered = True
                return completion
            except Fault as fault:
                met = fault
                self._note(fault, ticket)
            finally:
                self._balance.release(ticket)
            if met.lasting:
                return self._given_up(met)
            tries, outages = tries + (not met.outage), outages + met.outage
            if tries == TRIES or outages == OUTAGES:
                return self._given_up(met, f" after {tries + outages} tries")
            if not met.outage:
                await asyncio.sleep(_backoff(tries, met.retry_after))

    def _note(self, fault: Fault, ticket: Ticket[Endpoint]) -> None:
        self.faults[fault.name] += 1
        pause = min(fault.retry_after or 0.0, LONGEST_BACKOFF)
        cause = self._key.plain(str(fault))
        if self.faults[fault.name] == 1:
            self._say(f"{ticket.lane.url}: {cause}; what is met again is counted")
        self._balance.failed(ticket, cause, overload=fault.overload, outage=fault.outage, pause=pause)

    def _given_up(self, fault: Fault, tries: str = "") -> Completion:
        error = self._key.plain(str(fault), 200 - len(tries)) + tries
        return Completion("", None, None, "error", error, lasting=fault.lasting)

    async def _draw(self, endpoint: Endpoint, request: Request) -> Completion:
        dialect = await self._dialect(endpoint, request)
        reply = await self._ask(endpoint, dialect, request)
        if not dialect.ids:
            return read_chat(reply)
        assert self._tokenizer
        completion = read_ids(reply, request, self._tokenizer)
        if request.sampling.temperature == 0:
            return replace(completion, logprobs=(0.0,) * len(completion.ids or ()))
        if _alters(request.sampling) and not endpoint.processed:
            return replace(completion, logprobs=None)
        if completion.logprobs is None:
            self.faults["missing log-probs"] += 1
        return completion

    async def _ask(
        self, endpoint: Endpoint, dialect: Dialect, request: Request, more: Mapping[str, object] | None = None
    ) -> Reply:
        ends = self._tokenizer.end_ids if self._tokenizer else ()
        most = room(request, self.context)
        return await endpoint.call(dialect.path, body(dialect, request, self._model, ends, most) | dict(more or {}))

    # How to ask a server, found with its first request.

    async def _dialect(self, endpoint: Endpoint, request: Request) -> Dialect:
        async with endpoint.probing:
            if endpoint.dialect is None:
                endpoint.dialect = await self._find_dialect(endpoint, request)
                if not endpoint.dialect.ids:
                    why = (
                        "gives no token ids"
                        if self._tokenizer
                        else "is asked without --model, whose tokens are unknown"
                    )
                    self._say(f"{endpoint.url} {why}: drawn by chat, nothing but the text is known")
            dialect = endpoint.dialect
            if dialect.ids and endpoint.processed is None and _alters(request.sampling):
                endpoint.processed = await self._find_processed(endpoint, request)
                if not endpoint.processed:
                    self._say(
                        f"{endpoint.url} does not show that its log-probs are those after temperature and top_p: they "
                        "are left out; start vLLM with --logprobs-mode processed_logprobs to have them"
                    )
            return dialect

    async def _find_dialect(self, endpoint: Endpoint, request: Request) -> Dialect:
        exact = self._tokenizer is not None and request.prompt.ids is not None
        refusals: list[Fault] = []
        for dialect in (IDS, *CHATS) if exact else CHATS:
            try:
                choice = only_choice(await self._ask(endpoint, dialect, replace(request, sampling=PLAIN)))
            except Fault as fault:
                if fault.name not in _REFUSED:
                    raise
                refusals.append(fault)
                continue
            if not dialect.ids or token_ids(choice):
                return dialect
        # What is wrong with the request itself says more than that a path does not exist.
        telling = [fault for fault in refusals if fault.name in ("400", "413", "422")]
        if not telling and not self._answered:
            raise EngineError(
                f"{endpoint.url} draws no samples of {self._model}: {self._key.plain(str(refusals[0]))}: correct "
                "base_url or engine_args.served_model"
            )
        raise [*refusals[:1], *telling][-1]

    async def _find_processed(self, endpoint: Endpoint, request: Request) -> bool:
        tops = []
        for sampling in (PLAIN, COOLED, CUT):
            try:
                reply = await self._ask(endpoint, IDS, replace(request, sampling=sampling), {"logprobs": PROBED})
            except Fault as fault:
                if fault.name not in _REFUSED:
                    raise
                return False
            tops.append(top_logprobs(only_choice(reply)))
        return processed(*tops)

    def _say(self, line: str) -> None:
        """Says a thing once."""
        if line not in self._said:
            self._said.add(line)
            print(f"retell: {line}", file=sys.stderr)


async def _within(seconds: float, answer: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise Fault("timeout", f"no reply within {seconds:g} s", overload=True) from None


def _allow_files(count: int) -> None:
    """Lets this process hold so many files open, as far as the system allows: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _alters(sampling: Sampling) -> bool:
    """Whether what is sampled is neither the model's own distribution nor its likeliest token."""
    return sampling.temperature != 0 and (sampling.temperature, sampling.top_p) != (1, 1)


def _backoff(tries: int, asked: float | None) -> float:
    """Seconds until the next try; jitter keeps those that failed together from coming back together."""
    if asked is not None:
        return min(asked, LONGEST_BACKOFF) * random.uniform(1.0, 1.1)
    return min(FIRST_BACKOFF * 2.0 ** (tries - 1), LONGEST_BACKOFF) * random.uniform(0.5, 1.0)


def _check(**numbers: float) -> None:
    for name, number in numbers.items():
        whole = name == "concurrency"
        if type(number) not in ((int,) if whole else (int, float)) or not number > 0:
            kind = "number of requests, at least 1" if whole else "number of seconds, above 0"
            raise RecipeError(f"engine_args.{name} = {number!r}: it is a {kind}")
