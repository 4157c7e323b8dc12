"""A record to produce, in bytes and without a Kafka client."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.envelope import Headers, envelope_headers
from schemas.messages import Message
from schemas.topics import Topic

#: Bytes that Kafka's framing adds to key, value and headers.
OVERHEAD_BYTES = 128


@dataclass(frozen=True)
class ProducedRecord:
    """`partition` None: by its key. A `value` of None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None

    @property
    def size_bytes(self) -> int:
        headers = sum(len(name.encode()) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + OVERHEAD_BYTES


def produced_record(topic: Topic, message: Message, *, id: object, source: str, traceparent: str) -> ProducedRecord:
    """The record of one message, under the message's own key."""
    key: bytes = message.key  # type: ignore[attr-defined]  # every message on a topic has one
    return ProducedRecord(topic.name, key, message.to_bytes(), envelope_headers(message, id=id, source=source, traceparent=traceparent))
