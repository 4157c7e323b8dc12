"""HTTP client of a running promoter (`api`). Every request has a time limit, and none is repeated."""

from __future__ import annotations

import asyncio
import ssl
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from infra.errors import CannotContinue, RetouchError, RetryLater
from infra.http_exchange import exchange
from infra.settings.texts import token_problem
from schemas.promotion_view import ErrorReply, OperatorRequest, PromotionView, VersionTransition
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand

WAIT_S = 15.0
MAX_REPLY_BYTES = 64 * 1024 * 1024

Reply = TypeVar("Reply", bound=BaseModel)


class PromoterClient:
    """An `OperatorApi`. `url` is the promoter's address, `token` the operator token. Redirects are not followed: the token would go along."""

    def __init__(self, url: str, token: str | None, wait_s: float = WAIT_S) -> None:
        self._url, self._token, self._wait_s = url.rstrip("/"), token, wait_s

    def view(self) -> PromotionView:
        return self._send("GET", "/api/state", None, PromotionView)

    def execute(self, command: OperatorCommand) -> VersionTransition:
        if command.action == "rollback" and not command.version:
            raise CommandRefused("no version is champion: there is nothing to roll back")
        path = "/api/rollback" if command.action == "rollback" else f"/api/versions/{_number(command.version)}/{command.action}"
        to = command.to and _number(command.to)
        # Not validated here: the promoter does.
        body = OperatorRequest.model_construct(operator=command.operator, reason=command.reason, confirm=command.version, to=to)
        return self._send("POST", path, body, VersionTransition)

    def _send(self, method: str, path: str, body: OperatorRequest | None, reply: type[Reply]) -> Reply:
        headers = {b"content-type": b"application/json"} | ({b"authorization": _authorization(self._token)} if self._token else {})
        try:
            _ = urlsplit(self._url).port  # raises ValueError
            client = httpx.AsyncClient(verify=self._verify, timeout=self._wait_s, trust_env=False)
            sent = body.model_dump_json() if body else None
            request = exchange(client, method, self._url + path, within_s=self._wait_s, max_bytes=MAX_REPLY_BYTES, content=sent, headers=headers)
            status, content = asyncio.run(request)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise CannotContinue(f"{self._url} is not the address of a promoter: {error}") from None
        except (TimeoutError, httpx.TimeoutException) as error:
            raise RetryLater(f"the promoter at {self._url} does not answer: not within {self._wait_s:g} s") from error
        except (httpx.HTTPError, OSError) as error:
            raise RetryLater(f"the promoter at {self._url} does not answer: {str(error) or type(error).__name__}") from error
        try:
            if status == 200:
                return reply.model_validate_json(content)
            raise self._failure(status, ErrorReply.model_validate_json(content).error.message)
        except ValidationError:
            raise CannotContinue(f"the server at {self._url} (HTTP {status}) is no promoter: check promotion.url") from None

    @property
    def _verify(self) -> ssl.SSLContext | bool:
        return ssl.create_default_context() if self._url.startswith("https:") else False

    def _failure(self, status: int, message: str) -> RetouchError:
        if status in (401, 403):
            return CannotContinue(f"the promoter at {self._url} denies the request: {message}")
        if status in (408, 503):
            return RetryLater(f"the promoter at {self._url} cannot answer now: {message}")
        if status < 500:
            return CommandRefused(message)
        return CannotContinue(f"the promoter at {self._url} failed: {message}")


def _authorization(token: str) -> bytes:
    """Raises CannotContinue, without the token, if a header cannot hold it."""
    if problem := token_problem(token):
        raise CannotContinue(f"the operator token {problem}") from None
    return f"Bearer {token}".encode()


def _number(version: str) -> str:
    """Raises CommandRefused for anything but a number, which would change the path."""
    if not (version.isascii() and version.isdigit()):
        raise CommandRefused(f"version {version!r}: versions are numbers, such as 4; `retouch models list` shows them")
    return version
