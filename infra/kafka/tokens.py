"""Access tokens for SASL OAUTHBEARER, shared by all Kafka clients of the process: from a token endpoint, or from the function that
`kafka.oauth.token_provider` names. A token is in no log, no error and no `repr`."""

from __future__ import annotations

import functools
import logging
import pkgutil
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kafka.errors import KafkaConnectionError
from kafka.net.sasl.oauth import AbstractTokenProvider

from infra.kafka.token_request import TokenAway, TokenRefused, request_token
from infra.process.abandoned_calls import DaemonThreads
from infra.settings.sasl import OAuthSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Until a token must be there. Little more than the bound of a request, because its thread must start.
TOKEN_S = 4.5
#: A token is requested again after this share of its lifetime: before kafka-python uses it to authenticate again, at 85 % and later.
RENEW_AFTER = 0.8
#: How long a token whose lifetime is unknown is used.
UNKNOWN_LIFETIME_S = 60.0
#: Pause before the next attempt to renew a token that is still valid.
RENEW_PAUSE_S = 10.0
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1


@dataclass(frozen=True)
class Token:
    """`renew_at` and `ends_at` are monotonic seconds."""

    text: str = field(repr=False)
    renew_at: float
    ends_at: float


class TokenSource:
    """`request` returns a new token and its lifetime in seconds, or raises TokenAway or TokenRefused. Safe between threads."""

    def __init__(self, request: Callable[[], tuple[str, float | None]], name: str) -> None:
        self._request, self._name = request, name
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._failure: TokenAway | TokenRefused | None = None
        self._failed_at = 0.0

    def token(self) -> str:
        """A valid token. Blocks for TOKEN_S at most, twice that if another thread has just begun a request. Raises TokenAway and TokenRefused."""
        began = time.monotonic()
        with self._lock:
            if self._token is not None and time.monotonic() < self._token.renew_at:
                return self._token.text
            if self._failure is not None and self._failed_at > began:  # the request that this call waited for
                raise type(self._failure)(*self._failure.args)
            try:
                self._token = self._new()
            except (TokenAway, TokenRefused) as error:
                self._failure, self._failed_at = error, time.monotonic()
                self._token = self._kept(error)
            return self._token.text

    def _new(self) -> Token:
        began = time.monotonic()
        try:
            text, lifetime_s = bounded(self._request, TOKEN_S)
        except TimeoutError:
            raise TokenAway(f"{self._name} gave no token within {TOKEN_S:g} s") from None
        if not _TOKEN.fullmatch(text):
            raise TokenRefused(f"{self._name} gave a text that is no bearer token (RFC 6750): it holds other characters")
        lifetime_s = UNKNOWN_LIFETIME_S if lifetime_s is None else lifetime_s
        if lifetime_s <= 0:
            raise TokenRefused(f"{self._name} gave a token that has already ended: compare its clock with this machine's")
        return Token(text, began + RENEW_AFTER * lifetime_s, began + lifetime_s)

    def _kept(self, error: TokenAway | TokenRefused) -> Token:
        """The present token, which is tried to be renewed later. Raises `error` if it has ended."""
        now = time.monotonic()
        if self._token is None or now >= self._token.ends_at:
            raise error
        log.warning("the access token is not renewed yet; using it until its end", extra={"reason": str(error), "left_s": round(self._token.ends_at - now)})
        return Token(self._token.text, min(now + RENEW_PAUSE_S, self._token.ends_at), self._token.ends_at)


class NoToken(KafkaConnectionError):  # type: ignore[misc]  # the client has no types
    """A connection of kafka-python got no token; its cause says why. The client tries again."""


class KafkaTokens(AbstractTokenProvider):  # type: ignore[misc]
    """The source, and the SASL extensions, as kafka-python takes them. Blocks the client's own thread while a new token is requested."""

    def __init__(self, source: TokenSource, extensions: Mapping[str, str]) -> None:
        super().__init__()
        self._source, self._extensions = source, dict(extensions)

    def token(self) -> str:
        try:
            return self._source.token()
        except (TokenAway, TokenRefused) as error:
            raise NoToken(str(error)) from error

    def extensions(self) -> dict[str, str]:
        return self._extensions


def token_source(oauth: OAuthSettings) -> TokenSource:
    """The source of these settings: one in the process."""
    secret = oauth.client_secret.get_secret_value() if oauth.client_secret else ""
    return _source(_Key((oauth.model_dump_json(), secret), oauth))


@dataclass(frozen=True)
class _Key:
    value: tuple[str, str] = field(repr=False)
    oauth: OAuthSettings = field(compare=False)


@functools.cache
def _source(key: _Key) -> TokenSource:
    oauth = key.oauth
    if oauth.token_provider:
        name = f"kafka.oauth.token_provider={oauth.token_provider}"
        return TokenSource(functools.partial(provided_token, name, oauth.token_provider, oauth.token_arguments), name)
    return TokenSource(functools.partial(request_token, oauth), f"the token endpoint {oauth.token_url}")


def provided_token(name: str, provider: str, arguments: dict[str, str]) -> tuple[str, float | None]:
    """Calls `module:function`. It returns a token, or a token and the Unix time in ms at which it ends, as the signer of MSK IAM does."""
    try:
        result: Any = pkgutil.resolve_name(provider)(**arguments)
    except TypeError as error:
        raise TokenRefused(f"{name} raised {type(error).__name__}: do kafka.oauth.token_arguments ({', '.join(arguments) or 'none'}) fit it?") from None
    except Exception as error:  # of the platform's own code; its text may hold a secret
        raise TokenAway(f"{name} raised {type(error).__name__}: does it have what it needs, such as the platform's credentials?") from None
    text, end_ms = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(text, str) or not isinstance(end_ms, int | float | None):
        raise TokenRefused(f"{name} returned no token: it must return a text, or a text and the Unix time in ms at which it ends")
    return text, None if end_ms is None else end_ms / 1000 - time.time()


def bounded(function: Callable[[], T], timeout_s: float) -> T:
    """The function's result, from a thread that is abandoned after `timeout_s`. Raises TimeoutError, or what the function raises."""
    return DaemonThreads("kafka-token").submit(function).result(timeout_s)
