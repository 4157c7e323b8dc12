"""Spans, joined across processes by the W3C `traceparent` in records and requests.

Without an exporter a span costs about a microsecond, records nothing and passes the incoming traceparent on, so that other systems' traces stay
connected. Attributes are a closed set with the names of OpenTelemetry's conventions for messaging and generative AI; none comes from users. Errors are
recorded by type only, because their texts may hold users' text. infra/README.md lists the spans.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        "gen_ai.operation.name": str,
        "gen_ai.provider.name": str,
        "gen_ai.request.model": str,
        "gen_ai.response.model": str,
        "gen_ai.request.max_tokens": int,
        "gen_ai.usage.input_tokens": int,
        "gen_ai.usage.output_tokens": int,
        "server.address": str,
        "server.port": int,
        "http.response.status_code": int,
        "retouch.run_id": str,
        "retouch.dataset_digest": str,
        "retouch.version": str,
        "retouch.outcome": str,
        "retouch.retries": int,
        "retouch.processor": str,
    },
    total=False,
)

#: Operation types of the conventions.
Operation = Literal["create", "send", "receive", "process", "settle"]


class SpanKind(StrEnum):
    INTERNAL = "internal"
    CONSUMER = "consumer"
    PRODUCER = "producer"
    CLIENT = "client"


class ActiveSpan(Protocol):
    """A started span. Its `traceparent` goes into the records and requests that it causes."""

    @property
    def traceparent(self) -> str: ...

    def add(self, attributes: Attributes) -> None:
        """Add attributes that are known only after the start, such as the outcome."""

    def link(self, traceparents: Iterable[str]) -> None:
        """Link to spans of other traces. At most 128 in all are kept."""

    def fail(self, kind: str) -> None:
        """The operation failed without an exception. `kind` is one of a closed set."""

    def end(self, error: BaseException | None = None) -> None: ...


class SpanRecorder(Protocol):
    """Records spans. `parent` is a traceparent from any source; an invalid one begins a new trace. `start` makes no span active."""

    def start(self, name: str, parent: str | None, kind: SpanKind, attributes: Attributes) -> ActiveSpan: ...


class _UnrecordedSpan:
    """A span without a recorder."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def add(self, attributes: Attributes) -> None:
        pass

    def link(self, traceparents: Iterable[str]) -> None:
        pass

    def fail(self, kind: str) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


_recorder: SpanRecorder | None = None
_active: ContextVar[ActiveSpan | None] = ContextVar("active_span", default=None)


class _SpanContext:
    """The context manager of a span. A class, because a generator costs twice as much."""

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token")

    def __init__(self, name: str, parent: str | None, kind: SpanKind, attributes: Attributes) -> None:
        self._name, self._parent, self._kind, self._attributes = name, parent, kind, attributes

    def __enter__(self) -> ActiveSpan:
        self._span = start_span(self._name, self._parent, self._kind, self._attributes)
        self._token: Token[ActiveSpan | None] = _active.set(self._span)
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _active.reset(self._token)
        self._span.end(error)


def span(name: str, traceparent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, attributes: Attributes | None = None) -> _SpanContext:
    """`with span("process queries", incoming, SpanKind.CONSUMER, messaging("process", "queries")) as active:`.

    The span is a child of `traceparent`; without one, of the active span; without either, the root of a new trace. The parent's sampled flag
    decides whether it is recorded. `name` is constant text. Enter and leave it in one task; tasks started inside inherit it.
    """
    return _SpanContext(name, traceparent, kind, attributes or {})


def start_span(name: str, traceparent: str | None, kind: SpanKind, attributes: Attributes) -> ActiveSpan:
    """A span that the caller ends, also from another task. It is active in none. The other arguments are those of `span`."""
    parent = traceparent or current_traceparent()
    return _UnrecordedSpan(parent or new_traceparent()) if _recorder is None else _recorder.start(name, parent, kind, attributes)


def is_recording() -> bool:
    """Whether spans are exported. Where spans need more than their own cost, such as parsed headers, check this first."""
    return _recorder is not None


def current_traceparent() -> str | None:
    """The active span's traceparent, for the header of a request; None outside any span."""
    active = _active.get()
    return None if active is None else active.traceparent


def messaging(operation: Operation, topic: str, *, group: str | None = None, partition: int | None = None, offset: int | None = None) -> Attributes:
    """The attributes of an operation on Kafka. Name its span `{operation} {topic}`."""
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


def sending(topic: str, traceparent: str) -> ActiveSpan:
    """The span of one record on its way to `topic`: from its creation to the broker's confirmation. Its traceparent goes into the record."""
    return start_span(f"send {topic}", traceparent, SpanKind.PRODUCER, messaging("send", topic))


@contextmanager
def recorded_by(recorder: SpanRecorder) -> Iterator[None]:
    """Record all spans of this process in `recorder` during the block. One recorder at a time."""
    global _recorder
    before, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = before
