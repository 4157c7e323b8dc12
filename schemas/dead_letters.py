"""Dead letters: an unusable record, unchanged on `<topic>-dlt`, with Spring Kafka's headers, which tools read."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.envelope import header_values
from schemas.messages import IdConflict
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import MAX_MESSAGE_BYTES, dead_letter_topic

#: Maximum length of an exception's text in a header. It names fields and kinds of error, never users' text.
MESSAGE_LIMIT = 1000
#: Key, value and headers of a record that its dead letter holds. Its topic takes 64 KiB more than the record's, half of them are for the reason.
RECORD_LIMIT = MAX_MESSAGE_BYTES + 32_768
#: Bytes that Kafka adds to a header, at most.
HEADER_OVERHEAD = 10
#: Names the parts that a dead letter has no room for. Such a dead letter is not redriven: the record itself is at its original position.
LEFT_OUT = "retouch_dlt-left-out"


def dead_letter(record: ConsumedRecord, group: str, error: BaseException) -> ProducedRecord:
    """The dead letter of a record that `group` sets aside: its key, value and headers, and the reason as more headers.

    Integers are big-endian, as Spring Kafka's DeadLetterPublishingRecoverer writes them. What our clients cannot write becomes empty: a header
    whose value is null (kafka-python 3.0.12 refuses it), and the value of a record with neither key nor value (aiokafka and kafka-python refuse it).

    A broker measures compressed batches, so a record may be many times larger than any topic takes. Its largest parts are left out, and LEFT_OUT says which.
    """
    reason = {
        "kafka_dlt-original-topic": record.topic.encode(),
        "kafka_dlt-original-partition": record.partition.to_bytes(4, "big", signed=True),
        "kafka_dlt-original-offset": record.offset.to_bytes(8, "big", signed=True),
        "kafka_dlt-original-timestamp": record.timestamp_ms.to_bytes(8, "big", signed=True),
        "kafka_dlt-original-consumer-group": group.encode(),
        "kafka_dlt-exception-fqcn": _class_name(type(error)).encode(),
        "kafka_dlt-exception-message": str(error)[:MESSAGE_LIMIT].encode(),
    }
    key, original = record.key, [(name, b"" if content is None else content) for name, content in record.headers]
    written = b"" if record.key is None and record.value is None else record.value
    if left_out := _left_out({"key": len(key or b""), "value": len(written or b""), "headers": _size(original)}):
        key = None if "key" in left_out else key
        written = b"" if "value" in left_out else written
        named = ", ".join(f"{part} of {size} bytes" for part, size in left_out.items())
        original = [*([] if "headers" in left_out else original), (LEFT_OUT, named.encode())]
    return ProducedRecord(dead_letter_topic(record.topic), key, b"" if key is None and written is None else written, [*original, *reason.items()])


def _size(headers: Iterable[tuple[str, bytes]]) -> int:
    return sum(len(name.encode()) + len(content) + HEADER_OVERHEAD for name, content in headers)


def _left_out(sizes: dict[str, int]) -> dict[str, int]:
    """The largest parts, as few as possible, without which the others fit."""
    left_out: dict[str, int] = {}
    for part in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sum(sizes.values()) - sum(left_out.values()) <= RECORD_LIMIT:
            break
        left_out[part] = sizes[part]
    return left_out


def is_id_conflict(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether a dead letter was set aside because of a conflict (IdConflict)."""
    return header_values(headers).get("kafka_dlt-exception-fqcn") == _class_name(IdConflict).encode()


def _class_name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def original_position(headers: Iterable[tuple[str, bytes | None]]) -> tuple[str, int, int] | None:
    """Topic, partition and offset of a dead letter's original record; the last ones if it failed twice. None for other records."""
    by_name = header_values(headers)
    topic, partition, offset = (by_name.get(f"kafka_dlt-original-{part}") for part in ("topic", "partition", "offset"))
    if not topic or partition is None or offset is None:
        return None
    return topic.decode(errors="replace"), int.from_bytes(partition, "big", signed=True), int.from_bytes(offset, "big", signed=True)
