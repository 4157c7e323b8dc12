"""The desk of a running promoter, over HTTP (`api`). For commands: every wait has a bound, nothing is asked twice by itself."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from infra.errors import CannotContinue, RetouchError, RetryLater
from trainer.promotion.operator_api import CommandRefused

WAIT_S = 15.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024


class PromoterClient:
    """`url` is the promoter's, `token` the operator's. Redirects are not followed: the token would go along."""

    def __init__(self, url: str, token: str | None, wait_s: float = WAIT_S) -> None:
        self._url, self._token, self._wait_s = url.rstrip("/"), token, wait_s

    def view(self) -> dict[str, Any]:
        return self._ask("GET", "/api/state", None)

    def promote(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        return self._ask("POST", f"/api/versions/{_number(version)}/promote", {"operator": operator, "reason": reason, "confirm": version})

    def reject(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        return self._ask("POST", f"/api/versions/{_number(version)}/reject", {"operator": operator, "reason": reason, "confirm": version})

    def rollback(self, to: str | None, champion: str | None, operator: str, reason: str) -> dict[str, Any]:
        if champion is None:
            raise CommandRefused("no version is champion: there is nothing to roll back")
        return self._ask("POST", "/api/rollback", {"operator": operator, "reason": reason, "confirm": champion, "to": to and _number(to)})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            parts = urlsplit(self._url)
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            connection = kind(parts.hostname or "", parts.port, timeout=self._wait_s)
        except ValueError as error:
            raise CannotContinue(f"{self._url} is no promoter's address: {error}") from None
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self._token}"} if self._token else {})
        try:
            with _ending(connection, self._wait_s):
                connection.request(method, parts.path + path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                status, text = answer.status, answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise RetryLater(f"the promoter at {self._url} does not answer: {str(error) or type(error).__name__}") from error
        except ValueError:  # its text would show the token
            raise CannotContinue("the operator token has characters that HTTP does not carry: it is letters, digits and signs of ASCII") from None
        found = _parsed(text)
        if status == 200 and found is not None:
            return found
        raise self._failure(status, found or {})

    def _failure(self, status: int, found: dict[str, Any]) -> RetouchError:
        error = found.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        if message is None:
            return CannotContinue(f"what answers at {self._url} (HTTP {status}) is no promoter: check promotion.url")
        if status in (401, 403):
            return CannotContinue(f"the promoter at {self._url} refuses: {message}")
        if status in (408, 503):
            return RetryLater(f"the promoter at {self._url} says: {message}")
        if status < 500:
            return CommandRefused(message)
        return CannotContinue(f"the promoter at {self._url} failed: {message}")


@contextmanager
def _ending(connection: http.client.HTTPConnection, within_s: float) -> Iterator[None]:
    """Connect, and close after the block; what is not over by `within_s` fails with a TimeoutError, also where an answer trickles in without end."""
    deadline = time.monotonic() + within_s
    try:
        connection.connect()
        late = threading.Timer(within_s, _cut, [connection.sock])
        late.start()
        try:
            yield
        finally:
            late.cancel()
            if time.monotonic() >= deadline:
                raise TimeoutError(f"not within {within_s:g} s")
    finally:
        connection.close()


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):  # it ended by itself
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _number(version: str) -> str:
    """Versions are numbers, and anything else would be another path."""
    if not (version.isascii() and version.isdigit()):
        raise CommandRefused(f"version {version!r}: versions are numbers, such as 4; `retouch models list` shows them")
    return version
