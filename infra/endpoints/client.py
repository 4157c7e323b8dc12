"""Client of OpenAI-compatible endpoints: one chat completion per call, or several to one prompt. The types of its errors say what the caller should do.

It sends each request once: the caller decides about retries. It repeats a call only to leave out a parameter that the endpoint refuses.
After a failure that may concern every prompt it makes a health check: a call with a constant prompt. So one user's prompt never stops the others, an
endpoint that is away costs no query an attempt, and the endpoint's message, which may quote the prompt, can be shown. Error texts contain no user's text.
It uses aiohttp: at 64 concurrent requests httpx, also below the openai client, took 7.5 ms of CPU per request, aiohttp 0.2 (2026-11-21).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

from infra.endpoints.refusals import Meaning
from infra.endpoints.reply import MAX_BODY_BYTES, ChatAnswer, Failure, read_reply
from infra.endpoints.request import ChatRequest, Prompt
from infra.errors import BadSetting, CannotContinue, DependencyBlocked, DependencyUnavailable, RetouchError, RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from infra.telemetry.metrics import RetryReason
from infra.telemetry.model_calls import CalledModel, model_call
from infra.urls import is_loopback, without_user
from schemas.drafts import FailureCause, Usage

log = logging.getLogger(__name__)

#: Prompt of a health check. It needs few tokens and holds no user's text.
HEALTH_CHECK_PROMPT = "Say ok."
#: Bound of the call at the start. Refusals come at once; an endpoint that is slower than this counts as away.
START_WITHIN_S = 3.0
#: The breaker's longest pause, as a multiple of its first.
LONGEST_PAUSE = 8
CHUNK_BYTES = 1 << 16
#: Of the conventions for generative AI: the API that is spoken, whoever serves it.
PROVIDER = "openai"

#: What to change, by cause. `{0}` is the settings' section.
_REMEDIES = {
    FailureCause.WRONG_KEY: "check {0}.api_key",
    FailureCause.NO_CREDIT: "the account of {0}.api_key has no credit left",
    FailureCause.NOT_ALLOWED: "{0}.api_key may not use {0}.model",
    FailureCause.WRONG_MODEL: "check {0}.model",
    FailureCause.WRONG_URL: "check {0}.url",
    FailureCause.WRONG_PARAMETER: "check {0}.parameters",
    FailureCause.PROMPT_REFUSED: "check {0}.model and {0}.parameters",
    FailureCause.PROMPT_TOO_LONG: "{0}.model has no room for the tokens of an answer: set max_tokens in {0}.parameters",
}
#: Causes that no setting solves.
_OUTSIDE = (FailureCause.NO_CREDIT, FailureCause.NOT_ALLOWED)


class PromptRefused(RetouchError):
    """The endpoint will never answer this request: too long, filtered, malformed, or without a text."""

    def __init__(self, message: str, cause: str = FailureCause.OTHER) -> None:
        super().__init__(message)
        self.cause = cause


class EndpointFailed(RetryLater):
    """The endpoint failed at this prompt, and passed the health check. Another try may succeed."""


class EndpointAway(DependencyUnavailable):
    """The endpoint cannot be reached, or failed the health check too. It may work again by itself."""


class EndpointBlocked(DependencyBlocked):
    """The endpoint refuses every prompt until a setting, the key or the account changes."""


class ChatClient(Protocol):
    """The interface of a ChatEndpoint for its callers."""

    async def complete(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        key: Hashable | None = None,
    ) -> ChatAnswer: ...


@dataclass(frozen=True)
class _Call:
    """One request for `n` texts."""

    prompt: Prompt
    max_tokens: int
    schema: dict[str, Any] | None = None
    n: int = 1
    temperature: float | None = None


def endpoint_breaker(section: str, open_s: float = 3.0, failures: int = 5, **options: Any) -> CircuitBreaker:
    return CircuitBreaker(open_s, LONGEST_PAUSE * open_s, failures=failures, endpoint=section, **options)


class ChatEndpoint:
    """`POST {url}/chat/completions`. Use as an async context manager, on one event loop; calls may overlap.

    `section` names the settings' section in errors and metrics. `parameters` are merged into each request; null removes a field.
    `on_blocked` gets the reason when the endpoint refuses every prompt or stays away, and None when it answers again.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None,
        timeout_s: float,
        concurrency: int,
        section: str = "base",
        parameters: Mapping[str, Any] | None = None,
        breaker: CircuitBreaker | None = None,
        on_blocked: Callable[[str | None], None] = lambda reason: None,
    ) -> None:
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._called = CalledModel(model, PROVIDER, url)
        # Compressed bodies are decompressed by `read_reply`, within its bound.
        self._headers = {"Accept-Encoding": "gzip, deflate"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._concurrency = concurrency
        self._section = section
        self._request = ChatRequest(model, parameters or {}, section)
        self._breaker = breaker or endpoint_breaker(section)
        self._on_blocked = on_blocked
        self._session: aiohttp.ClientSession | None = None
        self._checking = asyncio.Lock()
        self._checks = 0  # number of health checks that have ended
        self._last_check: Failure | None = None  # why it failed; None: it passed
        self._check_tokens = 0  # `max_tokens` of a health check, as for `checked`; 0: that of the call
        self._reported: str | None = None  # the reason that `on_blocked` got last

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=not is_loopback(self._url),  # a proxy does not apply to this machine
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def checked(self, max_tokens: int) -> AsyncIterator[Self]:
        """Enters the endpoint, as `async with` does, and makes a health check.

        Raises BadSetting or CannotContinue, with the setting to check, if the endpoint refuses every prompt. An endpoint that is away is no error, and a
        refusal with a status from 500, such as 503 `model_not_available`, is none either: both may be temporary.
        """
        self._check_tokens = max_tokens
        async with self:
            try:
                async with asyncio.timeout(START_WITHIN_S):
                    failure = await self._health_check(max_tokens)
            except TimeoutError:
                failure = Failure(Meaning.RETRY, FailureCause.TIMEOUT)
            if failure is not None and failure.may_concern_every_prompt and failure.meaning is not Meaning.RETRY and failure.status < 500:
                raise (CannotContinue if failure.cause in _OUTSIDE else BadSetting)(self._reason(failure))
            if failure is not None:
                log.warning("the endpoint does not answer yet", extra={"endpoint": self._section, "failure": str(failure)})
            yield self

    async def complete(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        schema: dict[str, Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        key: Hashable | None = None,
    ) -> ChatAnswer:
        """The answer to one user turn or to the turns of a chat. With `schema`, the request asks for JSON that matches it, unless the endpoint refuses
        `response_format`. `temperature` None: 0, or that of the settings' parameters.

        With `n` the answer has one to `n` texts and the tokens of all calls: one call returns them, or, if the endpoint refuses or ignores `n`, several calls
        at once, of which those that fail are left out.
        `key` identifies the user: failures of one key in a row count as one in the breaker. Raises PromptRefused if this prompt never gets an answer,
        DependencyUnavailable if no prompt gets one now, and EndpointFailed for everything else (`after_s` from Retry-After).
        """
        if self._breaker.is_open:
            with self._breaker.call():  # raises during the pause; after it one call at a time makes a health check
                await self._raise_if_unhealthy(max_tokens, self._checks, is_trial=True)
        call = _Call(prompt, max_tokens, schema, n, temperature)
        with self._breaker.call(key):
            checks = self._checks
            reading = await self._ask(call)
            if isinstance(reading, Failure) and reading.cause is FailureCause.UNREACHABLE:
                raise _away(reading)
            if isinstance(reading, Failure) and reading.may_concern_every_prompt:
                await self._raise_if_unhealthy(max_tokens, checks)
                if reading.meaning is Meaning.RETRY:
                    raise _failed(reading)
        if isinstance(reading, ChatAnswer):
            self._report(None)
            return await self._with_more(reading, call)
        if reading.meaning is Meaning.PROMPT:
            raise PromptRefused(f"the endpoint gives no answer to this prompt: {reading}", reading.cause)
        raise _failed(reading)

    async def _with_more(self, answer: ChatAnswer, call: _Call) -> ChatAnswer:
        """`answer` with the texts that it lacks of the `n` requested ones, by one call each."""
        missing = call.n - len(answer.texts)
        more = await asyncio.gather(*(self._ask(replace(call, n=1)) for _ in range(missing)))
        answers = [answer, *(reading for reading in more if isinstance(reading, ChatAnswer))]
        prompt_tokens, completion_tokens = (sum(counts) for counts in zip(*((a.usage.prompt_tokens, a.usage.completion_tokens) for a in answers), strict=True))
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        return replace(answer, usage=usage, others=tuple(text for each in answers for text in each.texts)[1:])

    async def _raise_if_unhealthy(self, max_tokens: int, checks: int, *, is_trial: bool = False) -> None:
        """Raises EndpointBlocked or EndpointAway if the health check fails. Makes none if another call has made one since `checks` of them had ended.

        An endpoint that is away is reported only at a trial of the breaker: until then it may be away for a moment.
        """
        async with self._checking:
            if self._checks == checks:
                self._last_check = await self._health_check(self._check_tokens or max_tokens)
                self._checks += 1
            failure = self._last_check
        if failure is None or not failure.may_concern_every_prompt:
            self._report(None)
        elif failure.meaning is not Meaning.RETRY:
            reason = self._reason(failure)
            self._report(reason)
            raise EndpointBlocked(reason, failure.after_s, RetryReason.ENDPOINT, failure.cause)
        else:
            if is_trial and self._reported is None:  # whether a blocked endpoint still refuses every prompt is not known
                self._report(f"{without_user(self._url)} is away: {self._shown(failure)}")
            raise _away(failure)

    async def _health_check(self, max_tokens: int) -> Failure | None:
        """Why its prompt gets no answer; None if it gets one."""
        reading = await self._ask(_Call(HEALTH_CHECK_PROMPT, max_tokens))
        return reading if isinstance(reading, Failure) else None

    def _report(self, reason: str | None) -> None:
        """Logs a change, and calls `on_blocked`."""
        if reason == self._reported:
            return
        if reason:
            log.error("the endpoint fails for every prompt: calls to it pause", extra={"endpoint": self._section, "reason": reason})
        else:
            log.warning("the endpoint works again", extra={"endpoint": self._section})
        self._reported = reason
        self._on_blocked(reason)

    def _reason(self, failure: Failure) -> str:
        """One line for the log, errors and status."""
        remedy = _REMEDIES[failure.cause].format(self._section)
        return f"{remedy}: {without_user(self._url)} refuses every prompt to the model {self._model!r}: {self._shown(failure)}"

    def _shown(self, failure: Failure) -> str:
        """With the endpoint's message: `failure` is one of the health check, so it holds no user's text. Some endpoints quote the key that they refuse."""
        message = failure.message.replace(self._api_key, "***") if self._api_key else failure.message
        return f"{failure} ({message})" if message else str(failure)

    async def _ask(self, call: _Call) -> ChatAnswer | Failure:
        """Repeats the call at once without a parameter that the endpoint refuses."""
        while True:
            body = self._body(call)
            reading = await self._post(body, call.n)
            if not (isinstance(reading, Failure) and self._request.learn(body, reading.param)):
                break
        plain = self._body(replace(call, schema=None, n=1))
        if isinstance(reading, Failure) and reading.cause is FailureCause.PROMPT_REFUSED and plain != body:
            # Endpoints refuse structured output, or several answers, in many words. If the same prompt gets an answer without it, it was the reason.
            without = await self._post(plain)
            if isinstance(without, ChatAnswer):
                self._request.learn(body, "n" if call.n > 1 else "response_format")
                return without
        return reading

    def _body(self, call: _Call) -> dict[str, Any]:
        return self._request.body(call.prompt, call.max_tokens, call.schema, n=call.n, temperature=call.temperature)

    async def _post(self, body: dict[str, Any], n: int = 1) -> ChatAnswer | Failure:
        assert self._session is not None, "enter the endpoint first"
        max_tokens = body.get("max_tokens", body.get("max_completion_tokens"))
        with model_call(self._called, max_tokens if isinstance(max_tokens, int) else None) as call:
            reading = await self._exchange(self._session, body, n, call.traceparent)
            if isinstance(reading, Failure):
                call.failed(reading.cause, reading.status)
            else:
                call.answered(reading.usage.prompt_tokens, reading.usage.completion_tokens, response_model=reading.model)
            return reading

    async def _exchange(self, session: aiohttp.ClientSession, body: dict[str, Any], n: int, traceparent: str) -> ChatAnswer | Failure:
        try:
            async with session.post(self._url, json=body, headers={"traceparent": traceparent}, allow_redirects=False) as response:
                return read_reply(response.status, response.headers, await _read(response.content), n)
        except (aiohttp.ClientConnectorError, UnicodeError) as error:  # UnicodeError: a host that is no name for DNS
            number = error.errno if type(error) is aiohttp.ClientConnectorError else None  # other types have numbers of DNS or TLS
            return Failure(Meaning.RETRY, FailureCause.UNREACHABLE, code=errno.errorcode.get(number or 0, type(error).__name__))
        except TimeoutError:
            return Failure(Meaning.RETRY, FailureCause.TIMEOUT)
        except aiohttp.ClientError:
            return Failure(Meaning.RETRY, FailureCause.DISCONNECTED)


async def _read(content: aiohttp.StreamReader) -> bytes:
    """At most one chunk more than `MAX_BODY_BYTES`. The rest of a longer body is not read: its connection is closed."""
    body = bytearray()
    async for chunk in content.iter_chunked(CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body)


def _away(failure: Failure) -> EndpointAway:
    return EndpointAway(f"the endpoint is away: {failure}", failure.after_s, RetryReason.ENDPOINT, failure.cause)


def _failed(failure: Failure) -> EndpointFailed:
    return EndpointFailed(f"the endpoint gave no answer: {failure}", failure.after_s, RetryReason.ENDPOINT, failure.cause)
