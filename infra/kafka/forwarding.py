"""Forwards records from partitions that a foreign partitioner chose to the partition of their user.

All records of a user must lie on one partition number of every topic, because one process joins them and holds the user's history. Our producers place a key
as Kafka's Java client does (murmur2). Platforms use other clients, such as librdkafka, whose default is CRC32, and some send no key. The first process
that reads such a record of a topic in PLATFORM_TOPICS writes it again under the user's key, and handles nothing else of it.

The partition follows from tenant and user in the message, not from the record's own key. A forwarded record keeps its value and headers, and so its ids, and
gets one header, FORWARDED_FROM; with it, it is never forwarded again. One producer's records of a user are forwarded in their order, as long as they are on
one partition.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

from kafka.partitioner.default import murmur2

from infra.errors import PoisonMessage
from schemas.envelope import header_values
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import MAX_MESSAGE_BYTES, PLATFORM_TOPICS

log = logging.getLogger(__name__)

#: `partition/offset` of the record that was forwarded, in the same topic.
FORWARDED_FROM = "retouch_forwarded-from"
#: Maximum bytes that Kafka's framing and FORWARDED_FROM add to a record.
ADDED_BYTES = 4_096
#: One warning for each topic in this time.
WARN_EVERY_S = 60.0

_FORWARDED = {topic.name for topic in PLATFORM_TOPICS}


@lru_cache(maxsize=16_384)  # murmur2 in Python takes 4 us (2026-12-01)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's Java client, kafka-python and aiokafka choose by default."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def is_forwarded(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    return FORWARDED_FROM in header_values(headers)


class Forwarder:
    """`partitions` returns the present number of partitions of a topic, 0 if it is not known; then nothing is forwarded."""

    def __init__(self, partitions: Callable[[str], int], now: Callable[[], float] = time.monotonic) -> None:
        self._partitions = partitions
        self._now = now
        self._warned_at: dict[str, float] = {}
        self._unreported: dict[str, int] = {}

    def is_misplaced(self, record: ConsumedRecord, key: bytes) -> bool:
        """Whether a record whose message belongs under `key` lies on another partition than that of the key, and was not forwarded.

        A forwarded record stays where it is: two processes that see different numbers of partitions would otherwise forward it for ever.
        """
        partitions = self._partitions(record.topic) if record.topic in _FORWARDED else 0
        return partitions > 1 and partition_of(key, partitions) != record.partition and not is_forwarded(record.headers)

    def forward(self, record: ConsumedRecord, key: bytes) -> ProducedRecord:
        """The record to write for a misplaced one. Raises PoisonMessage if it is too large to be written again (its batch was compressed)."""
        kept = [(name, value) for name, value in record.headers if value is not None]  # a null header counts as missing, and our clients cannot write it
        origin = f"{record.partition}/{record.offset}".encode()
        forwarded = ProducedRecord(record.topic, key, record.value, [*kept, (FORWARDED_FROM, origin)])
        if forwarded.size_bytes > MAX_MESSAGE_BYTES - ADDED_BYTES:
            raise PoisonMessage(f"it is not on its user's partition, and with {forwarded.size_bytes} bytes too large to be written there")
        self._warn(record)
        return forwarded

    def _warn(self, record: ConsumedRecord) -> None:
        topic, now = record.topic, self._now()
        self._unreported[topic] = self._unreported.get(topic, 0) + 1
        if now - self._warned_at.get(topic, float("-inf")) < WARN_EVERY_S:
            return
        fields = {"topic": topic, "partition": record.partition, "offset": record.offset, "records": self._unreported.pop(topic)}
        log.warning("records are not on their user's partition and are forwarded: set the producer's partitioner to murmur2_random", extra=fields)
        self._warned_at[topic] = now
