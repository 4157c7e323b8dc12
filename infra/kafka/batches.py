"""Decodes fetched record batches for both Kafka clients. A batch that cannot be decoded raises UnreadableBatch.

The clients decode a batch inside a poll, and raise every error of codecs and parsers unchanged. After such an error kafka-python's next poll never returns,
and aiokafka fetches the batch again without end. Here each of these errors becomes UnreadableBatch, of any type: decoding depends on the fetched bytes
alone, so a retry fails too. Errors of requests, which a retry may solve, are not raised here (`infra.kafka.errors`).

Two things are not left to the clients: decompression, which has a limit here (`infra.kafka.compression`), and header names that are not UTF-8. Both clients
cannot decode a batch with such a name. Here each wrong byte becomes `\\x` and two hexadecimal digits, and the record is read.

A poll returns few records if they are large (POLL_BYTES): both clients count records alone, and each batch of a poll may be as large as the limit.

`kafka.skip_batches` names batches to skip if they cannot be decoded. A named batch that can be decoded is read like any other.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, SupportsIndex

from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBase, DefaultRecordBatch
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from infra.errors import UnreadableBatch
from infra.kafka.compression import TooLarge, codec_name, decompressed
from infra.kafka.names import KafkaNames
from infra.settings.stream import KafkaSettings
from infra.telemetry.metrics import KAFKA_BATCHES_SKIPPED

log = logging.getLogger(__name__)

HEADER: struct.Struct = DefaultRecordBase.HEADER_STRUCT
#: Index of the attributes among the header's fields.
ATTRIBUTES = 5
#: Maximum number of headers of a record in a compressed batch. Both clients keep headers in a list, where a header of two bytes takes 64 bytes. Without
#: compression the broker's limit of a batch's bytes (1 MiB) allows 524,288.
MAX_RECORD_HEADERS = 500_000
#: The headers of smaller records are not counted.
CHECKED_RECORD_BYTES = 1 << 20
#: A poll returns no further record once its records hold this many bytes. A worker holds four times as many before it stops reading.
POLL_BYTES = 32 << 20
#: What a header takes in memory beside its value, and a record beside its key and value.
OVERHEAD_BYTES = 128


class TooManyHeaders(ValueError):
    """A record has more than MAX_RECORD_HEADERS."""


def held_bytes(record: Any) -> int:
    """What a record of either client, or a message of Faust, takes in memory, about."""
    headers = sum(OVERHEAD_BYTES + len(value or b"") for _, value in record.headers or ())
    return OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"") + headers


class BatchDecoding:
    """How the batches of one consumer, of either client, are decoded."""

    def __init__(self, settings: KafkaSettings, highwater: Callable[[Any], int | None], names: KafkaNames | None = None) -> None:
        """`highwater` returns the end of a partition as of the last fetch, or None. Partitions have the broker's names; errors and logs the declared ones."""
        self.names = names or KafkaNames(settings)
        self._named = frozenset(settings.skip_batches)
        self._limit = settings.max_decompressed_bytes
        self._highwater = highwater
        self._polled_bytes = 0

    def begin_poll(self) -> None:
        self._polled_bytes = 0

    @property
    def poll_is_full(self) -> bool:
        return self._polled_bytes > POLL_BYTES

    def count(self, record: Any) -> None:
        """Count a record as part of the present poll."""
        self._polled_bytes += held_bytes(record)

    def records(
        self,
        state: Any,
        partition: Any,
        batches: Any,
        content: bytes,
        unpack: Callable[[Any], Iterator[Any]],
        placeholders: Callable[[int], Iterable[Any]] = lambda offset: (),
    ) -> Iterator[Any]:
        """The records that the client's `unpack` yields from `batches` of a partition. For a skipped batch, what `placeholders` returns for its last offset.

        `state` is an object of the client: its `next_fetch_offset` is the reader's position. `content` holds the bytes of `batches`. Raises only
        UnreadableBatch.
        """
        tracked = _Batches(batches, content, self._limit)
        while True:
            try:
                yield from unpack(tracked)
                return
            except Exception as error:
                state.next_fetch_offset = self._offset_after(error, partition, tracked.opened, state.next_fetch_offset)
                yield from placeholders(state.next_fetch_offset - 1)

    def _offset_after(self, error: Exception, partition: Any, batch: _Batch | None, position: int) -> int:
        """The offset after this batch, if it may be skipped; raises UnreadableBatch otherwise. `batch` is None if it has no header."""
        topic, number = self.names.declared(partition.topic), partition.partition
        too_large = f"more than kafka.max_decompressed_bytes={self._limit} bytes"
        reason = too_large if isinstance(error, TooLarge) else type(error).__name__  # its text may hold a user's
        if batch is None:
            raise UnreadableBatch(topic, number, position, reason, is_damaged=True) from error
        first, end = batch.base_offset, batch.next_offset
        highwater = self._highwater(partition)
        is_damaged = not (first < end and position <= end <= (end if highwater is None else highwater))
        reason += f", codec {codec_name(batch.compression_type)}"
        if is_damaged or f"{topic}/{number}/{first}" not in self._named:
            raise UnreadableBatch(topic, number, first, reason, is_damaged=is_damaged) from error
        place = {"topic": topic, "partition": number, "offset": first, "last_offset": end - 1}
        log.error("skipping a batch that cannot be decoded", extra={**place, "reason": reason})
        KAFKA_BATCHES_SKIPPED.add(topic=topic)
        return end


class _Batches:
    """The interface of both clients' MemoryRecords. Keeps the batch that the client opened last."""

    def __init__(self, records: Any, content: bytes, limit: int) -> None:
        self._records = records
        self._content = memoryview(content)
        self._position = 0
        self._limit = limit
        self.opened: _Batch | None = None

    def has_next(self) -> bool:
        return bool(self._records.has_next())

    def next_batch(self) -> _Batch | None:
        self.opened = None
        batch = self._records.next_batch()
        if batch is None:
            return None
        begin = self._position
        (length,) = struct.unpack_from(">i", self._content, begin + MemoryRecords.LENGTH_OFFSET)
        self._position = begin + MemoryRecords.LOG_OVERHEAD + length
        self.opened = _Batch(batch, self._content[begin : self._position], self._limit)
        return self.opened


class _Batch:
    """Wraps a batch of either client. It has the batch's attributes and yields its records, which it decompresses itself.

    Neither client sets all four public attributes. In the formats before Kafka 0.11 a batch has one offset, that of its last record.
    """

    def __init__(self, batch: Any, content: memoryview, limit: int) -> None:
        self._batch, self._content, self._limit = batch, content, limit
        self.base_offset: int = struct.unpack_from(">q", content)[0]
        self.magic: int = struct.unpack_from(">b", content, MemoryRecords.MAGIC_OFFSET)[0]
        attributes = content[MemoryRecords.MAGIC_OFFSET + 1] if self.magic < 2 else HEADER.unpack_from(content)[ATTRIBUTES]
        self.compression_type: int = attributes & DefaultRecordBase.CODEC_MASK
        self.next_offset: int = self.base_offset + 1 if self.magic < 2 else batch.next_offset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """The transaction marker of a control batch, which is never compressed. The clients call `next` for it, and do not iterate."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        if self.magic < 2:
            return iter(_CompressedLegacyBatch(self._content, self.magic, self._limit) if self.compression_type else self._batch)
        if not self.compression_type:
            return self._checked(_with_escaped_names(self._batch, self._content))
        content = self._decompressed()
        return self._checked(_with_escaped_names(type(self._batch)(content), content))

    def _checked(self, records: Iterator[Any]) -> Iterator[Any]:
        """Raises CorruptRecordError at a record whose offset does not grow inside the batch: a client would continue from that offset.

        Brokers check the offsets of compressed batches only.
        """
        first = self.base_offset
        for record in records:
            if not first <= record.offset < self.next_offset:
                raise CorruptRecordError(f"a record at {record.offset} between {first} and {self.next_offset}")
            first = record.offset + 1
            yield record

    def _decompressed(self) -> bytes:
        """The same batch without compression. Its checksum is that of the compressed bytes; the clients compare it before they read records."""
        header = list(HEADER.unpack_from(self._content))
        header[ATTRIBUTES] &= ~DefaultRecordBase.CODEC_MASK
        records = decompressed(self.compression_type, bytes(self._content[HEADER.size :]), self._limit)
        if len(records) > CHECKED_RECORD_BYTES:
            _check_headers(records)
        return HEADER.pack(*header) + records


def _check_headers(records: bytes) -> None:
    """Raises TooManyHeaders. Reads the number of headers and no header."""
    position = 0
    while position < len(records):
        length, position = decode_varint(records, position)
        if length < 0:
            raise CorruptRecordError(f"a record of {length} bytes")
        end = position + length
        if length > CHECKED_RECORD_BYTES:
            position += 1  # attributes
            for _ in ("timestamp", "offset"):
                _, position = decode_varint(records, position)
            for _ in ("key", "value"):
                size, position = decode_varint(records, position)
                position += max(0, size)
            count, _ = decode_varint(records, position)
            if count > MAX_RECORD_HEADERS:
                raise TooManyHeaders
        position = end


def _with_escaped_names(batch: Iterable[Any], content: bytes | memoryview) -> Iterator[Any]:
    """The records of a batch that is not compressed. After an error of the client's parser it continues with the slower parser below."""
    read = 0
    try:
        for read, record in enumerate(batch, 1):  # noqa: B007  # read after an error
            yield record
    except Exception:
        yield from islice(_EscapedNamesBatch(content), read, None)


class _EscapedNamesBatch(DefaultRecordBatch):  # type: ignore[misc]  # the client has no types
    """A batch that is not compressed, whose header names may hold any bytes. Slower than the clients' parsers."""

    def __init__(self, content: bytes | memoryview) -> None:
        super().__init__(content)
        self._buffer: bytearray = _EscapingBuffer(content)


class _EscapingBuffer(bytearray):
    """Its slices decode bytes that are not UTF-8 as `\\x` and two hexadecimal digits. Surrogates could not be encoded again in a dead letter."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return _EscapingBuffer(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        return super().decode(encoding, errors)


class _CompressedLegacyBatch(LegacyRecordBatch):  # type: ignore[misc]
    """A compressed batch of the formats before Kafka 0.11, for both clients."""

    def __init__(self, content: memoryview, magic: int, limit: int) -> None:
        super().__init__(content, magic)
        self._limit = limit

    def _decompress(self, key_offset: int) -> bytes:
        _, value = self._read_key_value(key_offset)
        if value is None:
            raise CorruptRecordError("a compressed batch without records")
        return decompressed(self.compression_type, value, self._limit)

    def _read_header(self, pos: int) -> Any:
        """Raises CorruptRecordError for a length with which the client would read the same record for ever."""
        header = super()._read_header(pos)
        if header[1] < self.RECORD_OVERHEAD_V0:
            raise CorruptRecordError(f"a record of {header[1]} bytes")
        return header
