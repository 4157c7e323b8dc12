"""The interface of the processors to the app that runs them, and the records that they return. Imports neither Faust nor a Kafka client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from infra.errors import PoisonMessage
from infra.telemetry.tracing import sending
from schemas.messages import Message
from schemas.records import ConsumedRecord, ProducedRecord, produced_record
from schemas.topics import MAX_MESSAGE_BYTES, Topic, consumer_group

GROUP = consumer_group("streams")
SOURCE = "/streams"
#: Maximum bytes that Kafka's framing and the headers add to a value.
FRAMING_BYTES = 4_096


class Processor(Protocol):
    """If `handle` raises RetryLater, it is called again with the same batch. Any other exception ends the process.

    When `handle` returns, its effects on stores are durable. The batch is acknowledged once the produced records are durable too.
    """

    @property
    def name(self) -> str: ...

    @property
    def topics(self) -> tuple[str, ...]: ...

    @property
    def batch(self) -> int:
        """Maximum number of records in a batch. A batch of large records has fewer, see `streams.app.batches`."""

    @property
    def linger_s(self) -> float:
        """How long a batch that is not full waits for more records."""

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]: ...


@runtime_checkable
class LooksAhead(Protocol):
    """A processor that begins slow work on the next batch, such as embedding, while a batch is handled."""

    def look_ahead(self, records: Sequence[ConsumedRecord]) -> None:
        """The next call of `handle` for another batch gets these records, or fewer or others after a rebalance. Has no effects on stores, and raises nothing:
        `handle` reports what fails.
        """


def output(topic: Topic, message: Message, *, id: object, traceparent: str, links: Sequence[str] = ()) -> ProducedRecord:
    """The record of one message, with a span that ends when it is sent. `links` are the traceparents of other records that it is made from.

    Raises PoisonMessage if it is larger than the topic's limit.
    """
    sent = sending(topic.name, traceparent)
    sent.link(links)
    record = produced_record(topic, message, id=id, source=SOURCE, traceparent=sent.traceparent, on_sent=sent.end)
    size = len(record.value or b"")
    if size > MAX_MESSAGE_BYTES - FRAMING_BYTES:
        raise PoisonMessage(f"its {topic.name} message would have {size} bytes, more than the topic allows")
    return record
