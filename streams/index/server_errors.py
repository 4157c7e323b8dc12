"""Turns errors of the Qdrant client into ours, each with a cause, the server, the request and the remedy. REST and gRPC.

What time or an operator repairs is a RetryLater: history waits, answers go out without items, and the process goes on, because a restart would repair
none of it. Only a collection that is gone, and a request that the server does not understand, end the process: the next start creates the collection and
fills it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from infra.errors import CannotContinue, DependencyBlocked, RetouchError, RetryLater
from infra.urls import without_user

#: The most characters of a server's own text in an error. Such a text names fields and limits, never a value.
SHOWN = 200


class ServerProblem(StrEnum):
    """The `cause` of a RetryLater from a Qdrant server."""

    UNREACHABLE = "unreachable"  # no connection: refused, reset, or no such host
    SLOW = "slow"  # no answer within `index.timeout_s`, or within the server's own limit
    BUSY = "busy"  # 429, with a pause of its own
    REPLICAS = "replicas"  # too few copies of a shard answer
    OUT_OF_DISK = "out_of_disk"
    FAILED = "failed"  # another error of the server
    WRONG_KEY = "wrong_key"
    NO_RIGHT = "no_right"  # such as a read-only key
    STRICT_MODE = "strict_mode"


#: Problems that last until someone changes something.
BLOCKING = frozenset({ServerProblem.WRONG_KEY, ServerProblem.NO_RIGHT, ServerProblem.STRICT_MODE})

_TEXTS = {
    ServerProblem.UNREACHABLE: "it cannot be reached{detail}; start it, or correct index.url",
    ServerProblem.SLOW: "no answer in time{detail}; give it more resources, or raise index.timeout_s",
    ServerProblem.BUSY: "it has too many requests{detail}; raise the limit of the collection's strict mode, or give the server more resources",
    ServerProblem.REPLICAS: "too few replicas answer{detail}; restore the nodes, or create the collection with a higher index.replication_factor",
    ServerProblem.OUT_OF_DISK: "its disk is full{detail}; free some space or enlarge the volume",
    ServerProblem.FAILED: "it fails{detail}; see its log",
    ServerProblem.WRONG_KEY: "it does not accept the API key{detail}; correct index.api_key",
    ServerProblem.NO_RIGHT: "the API key lacks the right{detail}; set index.api_key to a key that may read and write, and create collections",
    ServerProblem.STRICT_MODE: "the collection's strict mode refuses it{detail}; raise that limit of the collection",
}


@dataclass(frozen=True)
class Place:
    """Which collection on which server. `url`: without one, the client's local mode."""

    url: str
    collection: str

    def __str__(self) -> str:
        return f"collection {self.collection!r} on the Qdrant server {without_user(self.url)}"


def problem_of(error: Exception, request: str, place: Place) -> RetouchError | None:
    """Our error for one of the client's; None for an error of another kind. `request`: what was asked, such as `write 12 points`."""
    import grpc
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, ResourceExhaustedResponse):
        return _retry(ServerProblem.BUSY, "429", request, place, after_s=float(error.retry_after_s))
    if isinstance(error, ResponseHandlingException):
        return _unanswered(error.source, request, place)
    if isinstance(error, UnexpectedResponse):
        return _answered(error.status_code or 0, _text_of(error.content), request, place)
    if isinstance(error, grpc.aio.AioRpcError):
        return _answered(_STATUS_OF_GRPC.get(error.code().name, 500), error.details() or "", request, place, shown=error.code().name)
    return None


#: HTTP statuses of gRPC's codes, as the server's two APIs use them. UNAVAILABLE comes from the client too, if there is no connection.
_STATUS_OF_GRPC = {
    "UNAVAILABLE": 0,
    "DEADLINE_EXCEEDED": 408,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "INVALID_ARGUMENT": 400,
    "RESOURCE_EXHAUSTED": 429,
    "ALREADY_EXISTS": 409,
    "INTERNAL": 500,
}


def _unanswered(source: Exception, request: str, place: Place) -> RetouchError:
    import httpx

    if isinstance(source, httpx.TimeoutException) and not isinstance(source, httpx.ConnectTimeout):
        return _retry(ServerProblem.SLOW, type(source).__name__, request, place)
    if isinstance(source, httpx.TransportError):
        return _retry(ServerProblem.UNREACHABLE, type(source).__name__, request, place)
    return _retry(ServerProblem.FAILED, f"an answer that cannot be read: {type(source).__name__}", request, place)


def _answered(status: int, text: str, request: str, place: Place, shown: str = "") -> RetouchError:
    shown, lower = shown or str(status), text.lower()
    if "no space left" in lower or "not enough space" in lower or status == 507:
        return _retry(ServerProblem.OUT_OF_DISK, shown, request, place)
    if status == 0:
        return _retry(ServerProblem.UNREACHABLE, shown, request, place)
    if status == 401:
        return _retry(ServerProblem.WRONG_KEY, shown, request, place)
    if status == 403 and _lacks_a_named_right(lower):
        return _retry(ServerProblem.WRONG_KEY, shown, request, place)
    if status == 403:
        return _retry(ServerProblem.NO_RIGHT, _detail(shown, text), request, place)
    if status == 429:
        return _retry(ServerProblem.BUSY, shown, request, place)
    if status == 400 and ("help:" in lower or "strict mode" in lower):
        return _retry(ServerProblem.STRICT_MODE, _detail(shown, text), request, place)
    if status >= 500 and ("replica" in lower or "read operations failed" in lower):
        return _retry(ServerProblem.REPLICAS, shown, request, place)
    if status in (408, 504) or (status >= 500 and "timeout" in lower):
        return _retry(ServerProblem.SLOW, shown, request, place)
    if status >= 500:
        return _retry(ServerProblem.FAILED, shown, request, place)
    if status == 404:
        return CannotContinue(f"{place} is gone ({shown}, {request}); the next start of this process creates it and fills it from the topic")
    return CannotContinue(f"{place} does not accept the request ({shown}, {request}); check that index.url leads to a Qdrant server of the client's version")


def _lacks_a_named_right(lower: str) -> bool:
    """Some versions answer a wrong key with 403, as gateways before them do, but without naming the right that the key lacks."""
    return "access" not in lower and "forbidden:" not in lower


def _detail(shown: str, text: str) -> str:
    return f"{shown}: {text[:SHOWN]}" if text else shown


def _retry(problem: ServerProblem, detail: str, request: str, place: Place, after_s: float = 1.0) -> RetryLater:
    kind = DependencyBlocked if problem in BLOCKING else RetryLater
    return kind(f"{place}, {request}: {_TEXTS[problem].format(detail=f' ({detail})' if detail else '')}", after_s=after_s, cause=problem)


def _text_of(content: bytes) -> str:
    """The error text of a REST answer. Empty if it has none, as the pages of proxies."""
    try:
        answer = json.loads(content)
        return str(answer["status"]["error"])
    except (ValueError, KeyError, TypeError):
        text = content.decode(errors="replace").strip()
        return "" if text.startswith("<") else text
