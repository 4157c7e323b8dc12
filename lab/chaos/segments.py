"""The fate of every offset, from the broker's own log files: committed, aborted, or open because its transaction never ended.

Readers at read_committed are compared with this, so no Kafka client is involved. Record batches of format 2 and their control records
follow "Message Format" of the Kafka documentation (section 5.3). Records, which may be compressed, are not opened.
The broker must have stopped.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infra.kafka.compression import CODECS

#: baseOffset, batchLength, partitionLeaderEpoch, magic, crc, attributes, lastOffsetDelta, two timestamps, producerId, producerEpoch, baseSequence, records.
HEADER = struct.Struct(">qiibIhiqqqhii")
#: `batchLength` counts the bytes after itself.
BEFORE_LENGTH = 12
CODEC, TRANSACTIONAL, CONTROL = 0x07, 0x10, 0x20
ABORT, COMMIT = 0, 1
_MARKER = struct.Struct(">hh")  # version, type


class RecordFate(StrEnum):
    COMMITTED = "committed"
    ABORTED = "aborted"
    OPEN = "open"  # its transaction has no end in the log: no reader at read_committed may get it


@dataclass(frozen=True)
class RecordBatch:
    """A control batch contains no data records; its `marker` is ABORT or COMMIT if it ends a transaction."""

    first: int
    last: int
    producer_id: int
    is_transactional: bool
    is_control: bool
    codec: str = "none"
    marker: int | None = None


def fates(partition: Path) -> dict[int, RecordFate]:
    """The fate of every record in a partition's directory, by offset. Control records have none."""
    fates: dict[int, RecordFate] = {}
    open_of: dict[int, list[int]] = {}
    for batch in batches(partition):
        if batch.is_control:
            if batch.marker is not None:
                fate = RecordFate.COMMITTED if batch.marker == COMMIT else RecordFate.ABORTED
                fates.update(dict.fromkeys(open_of.pop(batch.producer_id, []), fate))
            continue
        offsets = range(batch.first, batch.last + 1)
        fates.update(dict.fromkeys(offsets, RecordFate.OPEN if batch.is_transactional else RecordFate.COMMITTED))
        if batch.is_transactional:
            open_of.setdefault(batch.producer_id, []).extend(offsets)
    return fates


def batches(partition: Path) -> Iterator[RecordBatch]:
    """All batches in order. A truncated batch at the end of a file, as after a kill, was never acknowledged and is ignored."""
    for segment in sorted(partition.glob("*.log")):
        yield from _batches(segment.read_bytes())


def codecs(partition: Path) -> Counter[str]:
    """Number of batches of data records by codec."""
    return Counter(batch.codec for batch in batches(partition) if not batch.is_control)


def partitions(data: Path, topic: str) -> dict[int, Path]:
    """The directories of a topic in `log.dirs`, by partition. `a-b-3` is partition 3 of topic `a-b`."""
    directories = {}
    for directory in data.glob(f"{topic}-*"):
        number = directory.name.removeprefix(f"{topic}-")
        if number.isdigit():
            directories[int(number)] = directory
    return dict(sorted(directories.items()))


def _batches(content: bytes) -> Iterator[RecordBatch]:
    position = 0
    while position + HEADER.size <= len(content):
        first, length, _, magic, _, attributes, last_delta, _, _, producer_id, _, _, _ = HEADER.unpack_from(content, position)
        end = position + BEFORE_LENGTH + length
        if length <= 0 or end > len(content):
            return
        if magic != 2:
            raise ValueError(f"a record batch of format {magic}: expected format 2")
        is_control = bool(attributes & CONTROL)
        marker = _marker(content, position + HEADER.size) if is_control else None
        yield RecordBatch(first, first + last_delta, producer_id, bool(attributes & TRANSACTIONAL), is_control, _codec(attributes), marker)
        position = end


def _codec(attributes: int) -> str:
    number = attributes & CODEC
    return CODECS[number] if number < len(CODECS) else str(number)


def _marker(content: bytes, position: int) -> int | None:
    """The type in the key of a control batch's only record; None for types that end no transaction."""
    _, position = _varint(content, position)  # length
    position += 1  # attributes
    for _ in range(3):  # timestamp delta, offset delta, key length
        _, position = _varint(content, position)
    _, kind = _MARKER.unpack_from(content, position)
    return int(kind) if kind in (ABORT, COMMIT) else None


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint, and the position of the next field."""
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), position
