"""Dead letters: an unusable record, unchanged on `<topic>-dlt`, with Spring Kafka's headers, which tools read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.produced_records import ProducedRecord
from schemas.topics import dead_letter_topic

#: Maximum length of an exception's text in a header. It names fields and kinds of error, never users' text.
MESSAGE_LIMIT = 1000


@dataclass(frozen=True)
class RecordOrigin:
    """The origin of a dead letter: position of the record, its own timestamp, and the consumer group that set it aside."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    group: str


def dead_letter(
    origin: RecordOrigin, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]], error: BaseException
) -> ProducedRecord:
    """The dead letter of a record: its key, value and headers, and the reason as more headers.

    Integers are big-endian, as Spring Kafka's DeadLetterPublishingRecoverer writes them. What our clients cannot write becomes empty: a header
    whose value is null (kafka-python 3.0.12 refuses it), and the value of a record with neither key nor value (aiokafka and kafka-python refuse it).
    """
    reason = {
        "kafka_dlt-original-topic": origin.topic.encode(),
        "kafka_dlt-original-partition": origin.partition.to_bytes(4, "big", signed=True),
        "kafka_dlt-original-offset": origin.offset.to_bytes(8, "big", signed=True),
        "kafka_dlt-original-timestamp": origin.timestamp_ms.to_bytes(8, "big", signed=True),
        "kafka_dlt-original-consumer-group": origin.group.encode(),
        "kafka_dlt-exception-fqcn": f"{type(error).__module__}.{type(error).__qualname__}".encode(),
        "kafka_dlt-exception-message": str(error)[:MESSAGE_LIMIT].encode(),
    }
    original = [(name, b"" if content is None else content) for name, content in headers]
    written = b"" if key is None and value is None else value
    return ProducedRecord(dead_letter_topic(origin.topic), key, written, [*original, *reason.items()])


def original_position(headers: Iterable[tuple[str, bytes | None]]) -> tuple[str, int, int] | None:
    """Topic, partition and offset of a dead letter's original record; the last ones if it failed twice. None for other records."""
    by_name = dict(headers)
    topic, partition, offset = (by_name.get(f"kafka_dlt-original-{part}") for part in ("topic", "partition", "offset"))
    if not topic or partition is None or offset is None:
        return None
    return topic.decode(errors="replace"), int.from_bytes(partition, "big", signed=True), int.from_bytes(offset, "big", signed=True)
