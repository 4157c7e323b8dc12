"""Records as a processor consumes and produces them, without a Kafka client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from infra.errors import PoisonMessage
from schemas.contexts import Source
from schemas.dead_letters import RecordOrigin, dead_letter
from schemas.envelope import Envelope, read_message
from schemas.messages import Malformed, Message
from schemas.produced_records import ProducedRecord, produced_record
from schemas.topics import MAX_MESSAGE_BYTES, Topic, consumer_group

M = TypeVar("M", bound=Message)

GROUP = consumer_group("streams")
SOURCE = "/streams"
#: Maximum bytes that Kafka's framing and the headers add to a value.
FRAMING_BYTES = 4_096


@dataclass(frozen=True)
class ConsumedRecord:
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
        return read_message(expected, self.headers, self.value)


def output(topic: Topic, message: Message, *, id: object, traceparent: str) -> ProducedRecord:
    """The record of one message. Raises PoisonMessage if it is larger than the topic's limit."""
    record = produced_record(topic, message, id=id, source=SOURCE, traceparent=traceparent)
    size = len(record.value or b"")
    if size > MAX_MESSAGE_BYTES - FRAMING_BYTES:
        raise PoisonMessage(f"its {topic.name} message would have {size} bytes, more than the topic allows")
    return record


def dead_letter_for(record: ConsumedRecord, error: Malformed | PoisonMessage) -> ProducedRecord:
    """The dead letter of a record that can never be handled."""
    origin = RecordOrigin(record.topic, record.partition, record.offset, record.timestamp_ms, GROUP)
    return dead_letter(origin, record.key, record.value, record.headers, error)
