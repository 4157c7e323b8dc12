"""Records as they come from a topic and as they go to one, free of any Kafka client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from infra.errors import PoisonMessage
from schemas.contexts import Source
from schemas.dead_letters import Origin, dead_letter
from schemas.envelope import Envelope, Headers, read, seal
from schemas.messages import Malformed, Message
from schemas.topics import MAX_MESSAGE_BYTES, Topic, consumer_group

M = TypeVar("M", bound=Message)

GROUP = consumer_group("streams")
SOURCE = "/streams"
#: What Kafka's framing and the headers may add to a value.
FRAMING_BYTES = 4_096


@dataclass(frozen=True)
class Arrival:
    """A consumed record, byte for byte."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def source(self) -> Source:
        return Source(topic=self.topic, partition=self.partition, offset=self.offset)

    def read(self, expected: type[M]) -> tuple[M, Envelope]:
        """Raises Malformed."""
        return read(expected, self.headers, self.value)


@dataclass(frozen=True)
class Outgoing:
    """A record to produce. `partition` None: by its key. A `value` of None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


def outgoing(topic: Topic, message: Message, *, id: object, traceparent: str) -> Outgoing:
    """Seal one message under its own key. Raises PoisonMessage when it is larger than its topic takes."""
    value = message.to_bytes()
    if len(value) > MAX_MESSAGE_BYTES - FRAMING_BYTES:
        raise PoisonMessage(f"its {topic.name} message would have {len(value)} bytes, more than the topic takes")
    key: bytes = message.key  # type: ignore[attr-defined]  # every message on a topic has one
    return Outgoing(topic.name, key, value, seal(message, id=id, source=SOURCE, traceparent=traceparent))


def set_aside(arrival: Arrival, error: Malformed | PoisonMessage) -> Outgoing:
    """The dead letter of a record that can never be handled."""
    origin = Origin(arrival.topic, arrival.partition, arrival.offset, arrival.timestamp_ms, GROUP)
    letter = dead_letter(origin, arrival.key, arrival.value, arrival.headers, error)
    return Outgoing(letter.topic, letter.key, letter.value, letter.headers)
