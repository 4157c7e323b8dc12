"""Decodes fetched record batches for both Kafka clients. A batch that cannot be decoded raises UnreadableBatch.

The clients decode a batch inside a poll, and raise every error of codecs and parsers unchanged. After such an error kafka-python's next poll never returns,
and aiokafka fetches the batch again without end. Here each of these errors becomes UnreadableBatch, of any type: decoding depends on the fetched bytes
alone, so a retry fails too. Errors of requests, which a retry may solve, are not raised here (`infra.kafka.errors`).

`kafka.skip_batches` names batches to skip if they cannot be decoded. A named batch that can be decoded is read like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from infra.errors import UnreadableBatch
from infra.settings.stream import KafkaSettings
from infra.telemetry.metrics import KAFKA_BATCHES_SKIPPED

log = logging.getLogger(__name__)

#: By the number in a batch's attributes.
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class BatchDecoding:
    """How the batches of one consumer, of either client, are decoded."""

    def __init__(self, settings: KafkaSettings, consumer: Any) -> None:
        self._named = frozenset(settings.skip_batches)
        self._consumer = consumer

    def records(
        self, state: Any, partition: Any, batches: Any, unpack: Callable[[Any], Iterator[Any]], instead: Callable[[int], Iterable[Any]] = lambda offset: ()
    ) -> Iterator[Any]:
        """What the client's `unpack` yields from `batches` of a partition, and for a skipped batch what `instead` returns for its last offset.

        `state` is the client's: its `next_fetch_offset` is the reader's position. Raises UnreadableBatch and nothing else.
        """
        tracked = _Batches(batches)
        while True:
            try:
                yield from unpack(tracked)
                return
            except Exception as error:
                state.next_fetch_offset = self._behind(error, partition, tracked.opened, state.next_fetch_offset)
                yield from instead(state.next_fetch_offset - 1)

    def _behind(self, error: Exception, partition: Any, batch: Any, position: int) -> int:
        """The offset after this batch, if it may be skipped; raises UnreadableBatch otherwise. `batch` is None if it has no header."""
        topic, number = partition.topic, partition.partition
        reason = type(error).__name__  # its text may hold a user's
        if batch is None:
            raise UnreadableBatch(topic, number, position, reason, is_damaged=True) from error
        first, end = batch.base_offset, getattr(batch, "next_offset", -1)  # a batch of an old format has none
        highwater = self._consumer.highwater(partition)
        is_damaged = not (first < end and position <= end <= (end if highwater is None else highwater))
        reason += f", codec {_codec_name(batch.compression_type)}"
        if is_damaged or f"{topic}/{number}/{first}" not in self._named:
            raise UnreadableBatch(topic, number, first, reason, is_damaged=is_damaged) from error
        place = {"topic": topic, "partition": number, "offset": first, "last_offset": end - 1}
        log.error("skipping a batch that cannot be decoded", extra={**place, "reason": reason})
        KAFKA_BATCHES_SKIPPED.add(topic=topic)
        return int(end)


class _Batches:
    """The interface of both clients' MemoryRecords. Keeps the batch that the client opened last."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.opened: Any = None

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        self.opened = None
        self.opened = self._records.next_batch()
        return self.opened


def _codec_name(number: int) -> str:
    return CODECS[number] if number < len(CODECS) else f"{number}, which Kafka does not have"
