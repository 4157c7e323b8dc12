"""A Kafka record as it is consumed and as it is produced, in bytes and without a Kafka client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from schemas.envelope import Envelope, Headers, envelope_headers, read_fingerprint, read_message
from schemas.messages import Fingerprint, Message
from schemas.positions import Source
from schemas.topics import Topic

M = TypeVar("M", bound=Message)

#: Bytes that Kafka's framing adds to key, value and headers.
OVERHEAD_BYTES = 128


@dataclass(frozen=True)
class ConsumedRecord:
    """A consumed record, byte for byte."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    #: Of the span in which the record is processed; what is made from the record continues it. None: the record's own
    traceparent: str | None = field(default=None, compare=False)

    @property
    def source(self) -> Source:
        return Source(topic=self.topic, partition=self.partition, offset=self.offset)

    @property
    def size_bytes(self) -> int:
        """Without headers."""
        return len(self.key or b"") + len(self.value or b"") + OVERHEAD_BYTES

    def read(self, expected: type[M]) -> tuple[M, Envelope]:
        """Raises Malformed for anything but a record of the expected type."""
        message, envelope = read_message(expected, self.headers, self.value)
        return message, replace(envelope, traceparent=self.traceparent) if self.traceparent else envelope

    def fingerprint(self, expected: type[Message]) -> Fingerprint | None:
        """None for an unreadable record, and for messages without an own id."""
        return read_fingerprint(expected, self.headers, self.value)


@dataclass(frozen=True)
class ProducedRecord:
    """`partition` None: by its key. A `value` of None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    #: Called once the broker has confirmed the record. Not part of it
    on_sent: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        headers = sum(len(name.encode()) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + OVERHEAD_BYTES


def produced_record(topic: Topic, message: Message, *, id: object, source: str, traceparent: str, on_sent: Callable[[], None] | None = None) -> ProducedRecord:
    """The record of one message, under the message's own key."""
    key: bytes = message.key  # type: ignore[attr-defined]  # every message on a topic has one
    headers = envelope_headers(message, id=id, source=source, traceparent=traceparent)
    return ProducedRecord(topic.name, key, message.to_bytes(), headers, on_sent=on_sent)
