"""Spans, joined across processes by the W3C `traceparent` that records and requests carry.

Without an exporter a span costs about a microsecond, records nothing and passes the incoming traceparent through, so that whoever traces behind us sees
whoever traced before us. Attributes have the names of OpenTelemetry's semantic conventions for messaging, which tools know, and are a closed
set: nothing in it comes from users. Errors are recorded by type alone, for their texts may hold users' words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from enum import StrEnum
from types import TracebackType
from typing import Literal, Protocol, TypedDict

from schemas.envelope import new_traceparent

Attributes = TypedDict(
    "Attributes",
    {
        "messaging.system": str,
        "messaging.operation.name": str,
        "messaging.operation.type": str,
        "messaging.destination.name": str,
        "messaging.destination.partition.id": str,
        "messaging.consumer.group.name": str,
        "messaging.kafka.offset": int,
        "messaging.batch.message_count": int,
        "retouch.outcome": str,
        "retouch.retries": int,
    },
    total=False,
)

#: The conventions' types of operations.
Operation = Literal["create", "send", "receive", "process", "settle"]


class SpanKind(StrEnum):
    INTERNAL = "internal"
    CONSUMER = "consumer"
    PRODUCER = "producer"
    CLIENT = "client"


class ActiveSpan(Protocol):
    """The span one is in. `traceparent` goes into the records and requests that it causes."""

    @property
    def traceparent(self) -> str: ...

    def add(self, attributes: Attributes) -> None:
        """What is known only later, such as the outcome."""
        ...

    def end(self, error: BaseException | None) -> None: ...


class SpanRecorder(Protocol):
    """Where spans go. `parent` is a traceparent from anywhere: one that is not valid begins a new trace."""

    def start(self, name: str, parent: str | None, kind: SpanKind, attributes: Attributes) -> ActiveSpan: ...


class _PassedThrough:
    """What a span is while nobody records it."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def add(self, attributes: Attributes) -> None:
        pass

    def end(self, error: BaseException | None) -> None:
        pass


_spans: SpanRecorder | None = None
_here: ContextVar[ActiveSpan | None] = ContextVar("here", default=None)


class _Entered:
    """A span as a context manager; a class, since generators cost twice as much."""

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token")

    def __init__(self, name: str, parent: str | None, kind: SpanKind, attributes: Attributes) -> None:
        self._name, self._parent, self._kind, self._attributes = name, parent, kind, attributes

    def __enter__(self) -> ActiveSpan:
        parent = self._parent or current_traceparent()
        self._span: ActiveSpan = (
            _PassedThrough(parent or new_traceparent()) if _spans is None else _spans.start(self._name, parent, self._kind, self._attributes)
        )
        self._token: Token[ActiveSpan | None] = _here.set(self._span)
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _here.reset(self._token)
        self._span.end(error)


def span(name: str, traceparent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None) -> _Entered:
    """`with span("process queries", incoming, Kind.CONSUMER, messaging("process", "queries")) as here:`.

    A child of `traceparent`; without one, of the span around it; without either, the root of a new trace. Whether it is recorded, the
    sampled flag of its parent says. `name` is constant text. Enter and leave it in one task; tasks started inside inherit it.
    """
    return _Entered(name, traceparent, kind, attributes or {})


def current_traceparent() -> str | None:
    """For the header `traceparent` of a request made here; None outside any span."""
    here = _here.get()
    return None if here is None else here.traceparent


def messaging(operation: Operation, topic: str, *, group: str | None = None, partition: int | None = None, offset: int | None = None) -> Attributes:
    """The attributes of an operation on Kafka. A span of it is called `{operation} {topic}`."""
    attributes: Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
    }
    if group is not None:
        attributes["messaging.consumer.group.name"] = group
    if partition is not None:
        attributes["messaging.destination.partition.id"] = str(partition)
    if offset is not None:
        attributes["messaging.kafka.offset"] = offset
    return attributes


@contextmanager
def recorded_by(spans: SpanRecorder) -> Iterator[None]:
    """All spans of this process go to `spans` meanwhile; one recorder at a time."""
    global _spans
    before, _spans = _spans, spans
    try:
        yield
    finally:
        _spans = before
