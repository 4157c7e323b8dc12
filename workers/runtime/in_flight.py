"""A record on its way through a worker: as it was read, and what it turned into."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from schemas.contexts import Source
from schemas.dead_letters import Origin, dead_letter
from schemas.envelope import Headers, read, record_id, seal
from schemas.messages import Message
from workers.runtime.handler import Incoming, Outgoing

M = TypeVar("M", bound=Message)

#: What a record batch and a record's own framing add to key, value and headers.
OVERHEAD_BYTES = 128


@dataclass(frozen=True, eq=False)
class Delivery:
    """One record as the broker gave it. Each reading of a record is a delivery of its own, equal to no other."""

    origin: Origin
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def id(self) -> str | None:
        """The record's `ce_id`; None where it has none that can be read."""
        return record_id(self.headers)

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"") + OVERHEAD_BYTES

    def open(self, expected: type[M]) -> Incoming[M]:
        """Raises Malformed for anything but a record of the expected type."""
        message, envelope = read(expected, self.headers, self.value)
        return Incoming(message, envelope, Source(topic=self.origin.topic, partition=self.origin.partition, offset=self.origin.offset))

    def set_aside(self, error: BaseException) -> ProducerRecord:
        """This record for its dead-letter topic, byte for byte, with the reason."""
        letter = dead_letter(self.origin, self.key, self.value, self.headers, error)
        return ProducerRecord(letter.topic, letter.key, letter.value, letter.headers)


@dataclass(frozen=True)
class ProducerRecord:
    """One record to produce, in bytes."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]

    @classmethod
    def sealed(cls, outgoing: Outgoing, *, source: str, traceparent: str) -> ProducerRecord:
        """`outgoing` under its own key, in the trace of the record that caused it."""
        key: bytes = outgoing.message.key  # type: ignore[attr-defined]  # every message on a topic has one
        headers = seal(outgoing.message, id=outgoing.id, source=source, traceparent=traceparent)
        return cls(outgoing.topic.name, key, outgoing.message.to_bytes(), headers)

    @property
    def size_bytes(self) -> int:
        headers = sum(len(name.encode()) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + OVERHEAD_BYTES


class HandlingOutcome(StrEnum):
    """How a record ended."""

    PRODUCED = "produced"  # with all that its handler returned, which may be nothing
    DEGRADED = "degraded"  # no try succeeded; it got the lesser answer
    EXPIRED = "expired"  # its deadline had passed; it got the lesser answer
    SET_ASIDE = "set_aside"  # on the dead-letter topic
    REPEAT = "repeat"  # it had been handled before under the same id


@dataclass(frozen=True)
class Finished:
    """What a record turned into, not yet durable."""

    outputs: tuple[ProducerRecord, ...]
    outcome: HandlingOutcome = HandlingOutcome.PRODUCED
    our_fault: bool = False  # a handler's bug or something long away, not the record's own


@dataclass(frozen=True)
class TryAgain:
    """The record's next try may begin after this pause."""

    pause_s: float
