"""Record batches as a broker sends them, damaged ones too, and how each Kafka client reads them, without a broker."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kafka.codec
from kafka import TopicPartition
from kafka.record.default_records import DefaultRecordBase
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import encode_varint

from infra.kafka.batches import POLL_BYTES, BatchDecoding
from infra.kafka.compression import CODECS
from infra.settings.stream import KafkaSettings
from lab.chaos.segments import BEFORE_LENGTH, HEADER
from tests.support.segment_files import set_checksum

SAMPLES = Path(__file__).parents[1] / "samples" / "batches"
PARTITION = TopicPartition("queries", 3)


def batch(first: int, values: list[bytes], codec: str = "none") -> bytearray:
    """One batch with a record for each value."""
    builder = MemoryRecordsBuilder(2, CODECS.index(codec), 64 << 20)
    for value in values:
        builder.append(1_700_000_000_000, b"key", value, [("ce_id", b"an id"), ("ce_source", "/caf\u00e9".encode())])
    builder.close()
    content = bytearray(builder.buffer())
    struct.pack_into(">q", content, 0, first)
    return content


def compressed(content: bytes | bytearray, codec: str) -> bytearray:
    """The same batch with its records, which are not compressed, in this codec."""
    if codec == "none":
        return bytearray(content)
    records = getattr(kafka.codec, f"{codec}_encode")(bytes(content[HEADER.size :]))
    result = bytearray(content[: HEADER.size] + records)
    struct.pack_into(">i", result, MemoryRecords.LENGTH_OFFSET, len(result) - BEFORE_LENGTH)
    result[DefaultRecordBase.ATTRIBUTES_OFFSET + 1] |= CODECS.index(codec)
    set_checksum(result)
    return result


def with_wrong_name(codec: str = "none") -> bytes:
    """Offsets 0 to 3 in three batches. In the second, at offset 2, the name of a header is not UTF-8."""
    second = bytearray(batch(1, [b"1", b"2"]))
    place = second.rindex(b"ce_source")
    second[place : place + 2] = b"\xe9\xff"
    set_checksum(second)
    return bytes(batch(0, [b"0"]) + compressed(second, codec) + batch(3, [b"3"]))


def headers_alone(number: int, codec: str) -> bytes:
    """One batch with one record that has this number of headers, each `a` without a value, and nothing else."""
    content, record, length = bytearray(batch(0, [b""]))[: HEADER.size], bytearray(b"\x00\x00\x00\x01\x01"), bytearray()
    encode_varint(number, record.append)
    record += b"\x02a\x01" * number
    encode_varint(len(record), length.append)
    return bytes(compressed(content + length + record, codec))


def large_batches(end: int, first: int = 0) -> bytes:
    """Compressed batches of one record each, of which four fill a poll. `end`: the offset behind them."""
    return b"".join(batch(number, [bytes(POLL_BYTES // 4 + 1)], "zstd") for number in range(first, end))


def legacy_batch(first: int, values: list[bytes], codec: str, magic: int) -> bytes:
    """One batch in a format before Kafka 0.11. It has the offset of its last record, and is one record if it is not compressed."""
    builder = MemoryRecordsBuilder(magic, CODECS.index(codec), 64 << 20, offset=0 if magic else first)
    for value in values:
        builder.append(1_700_000_000_000, b"key", value)
    builder.close()
    content = bytearray(builder.buffer())
    struct.pack_into(">q", content, 0, first + len(values) - 1)
    return bytes(content)


def with_damage(damage: Callable[[bytearray], None], codec: str = "none") -> bytes:
    """Offsets 0 to 5 in three batches, the second damaged."""
    first, second, third = batch(0, [b"0", b"1"], codec), batch(2, [b"2", b"3"], codec), batch(4, [b"4", b"5"], codec)
    damage(second)
    return bytes(first + second + third)


def damaged_at_random(seed: int) -> bytes:
    """Offsets 0 to 8 in three batches, the second with wrong bytes, or cut off. Mostly its checksum matches."""
    rng = random.Random(seed)
    codec = rng.choice(CODECS)
    first, wrong, last = (batch(3 * number, [rng.randbytes(3) * rng.randrange(100) for _ in range(3)], codec) for number in range(3))
    for _ in range(rng.randint(1, 4)):
        wrong[rng.randrange(rng.choice((HEADER.size, len(wrong))))] = rng.choice((0, 255, rng.randrange(256)))
    if rng.random() < 0.2:
        del wrong[rng.randrange(len(wrong)) :]
    if rng.random() < 0.7 and len(wrong) >= HEADER.size:
        set_checksum(wrong)
    return bytes(first + wrong + last)


def java_batch(codec: str) -> bytes:
    """A batch of Apache Kafka's own producer (tests/samples/batches/Produce.java)."""
    return (SAMPLES / f"java-{codec}.bin").read_bytes()


def java_records() -> list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]]:
    """Key, value and headers of the records in each `java_batch`."""
    keys = (b"a user", None, b"a user")
    values = [f"a caf\u00e9 in Paris, number {number}. ".encode() * 3_500 for number in range(3)]
    headers: list[list[tuple[str, bytes | None]]] = [[("ce_id", b"%d" % number), ("empty", None)] for number in range(3)]
    return [*zip(keys, values, headers, strict=True), (b"a user", None, [])]


class Consumer:
    """What `BatchDecoding` asks a client's consumer."""

    def __init__(self, end: int | None) -> None:
        self._end = end

    def highwater(self, partition: Any) -> int | None:
        return self._end


def decoding(*skip: str, end: int | None = None, limit: int = 64 << 20) -> BatchDecoding:
    """Of a consumer whose partition ends at `end`."""
    return BatchDecoding(KafkaSettings(skip_batches=skip, max_decompressed_bytes=limit), Consumer(end).highwater)
