"""Decoding with kafka-python: any bytes give records, or UnreadableBatch with the place of the batch."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from infra.errors import BadSetting, UnreadableBatch
from infra.kafka.batches import MAX_RECORD_HEADERS, BatchDecoding
from infra.kafka.clients import LAST_TIMESTAMP, NO_TIMESTAMP, DecodedRecords, _appended
from infra.kafka.compression import CODECS
from infra.settings.loading import load
from infra.telemetry.metrics import KAFKA_BATCHES_SKIPPED
from tests.support.record_batches import (
    PARTITION,
    batch,
    damaged_at_random,
    decoding,
    headers_alone,
    java_batch,
    java_records,
    large_batches,
    legacy_batch,
    with_damage,
    with_wrong_name,
)
from tests.support.segment_files import broken_payload, set_checksum, unknown_codec, wrong_checksum

NAME, SERIES = "queries/3/2", (("topic", "queries"),)
LIMIT = 1 << 20
#: Position of the first record's time in a batch.
FIRST_TIMESTAMP_AT = struct.calcsize(">qiibIhi")


def fetched(content: bytes, by: BatchDecoding) -> Any:
    return DecodedRecords(by, 0, PARTITION, MemoryRecords(content), isolation_level=IsolationLevel.READ_COMMITTED)


def values(records: Any) -> list[bytes]:
    read: list[bytes] = []
    while records:
        read += [record.value for record in records.take(100)]
    return read


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_batch_of_kafkas_own_producer_is_read(codec: str) -> None:
    records = fetched(java_batch(codec), decoding()).take(100)
    assert [(record.key, record.value, record.headers) for record in records] == java_records()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", [broken_payload, unknown_codec, wrong_checksum])
def test_a_batch_that_cannot_be_decoded_is_named_after_the_records_before_it(damage: Callable[[bytearray], None], codec: str) -> None:
    records = fetched(with_damage(damage, codec), decoding())
    assert [record.value for record in records.take(100)] == [b"0", b"1"]
    for _ in range(3):  # a reader that goes on does not hang, and does not get past it
        with pytest.raises(UnreadableBatch, match=rf"{NAME} cannot be decoded .* codec .*; kafka.skip_batches=\[\"{NAME}\"\] skips it") as raised:
            records.take(100)
        assert (raised.value.topic, raised.value.partition, raised.value.offset) == ("queries", 3, 2)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", [broken_payload, unknown_codec, wrong_checksum])
def test_a_named_batch_is_passed_over_logged_and_counted(damage: Callable[[bytearray], None], codec: str, caplog: pytest.LogCaptureFixture) -> None:
    before = KAFKA_BATCHES_SKIPPED.values().get(SERIES, 0)
    assert values(fetched(with_damage(damage, codec), decoding(NAME, end=6))) == [b"0", b"1", b"4", b"5"]
    assert KAFKA_BATCHES_SKIPPED.values()[SERIES] == before + 1
    [line] = caplog.records
    assert (line.topic, line.partition, line.offset, line.last_offset) == ("queries", 3, 2, 3)  # type: ignore[attr-defined]  # fields of the log line


def test_the_last_batch_of_a_partition_can_be_passed_over() -> None:
    last = batch(2, [b"2", b"3"])
    broken_payload(last)
    records = fetched(bytes(batch(0, [b"0", b"1"]) + last), decoding(NAME, end=4))
    assert values(records) == [b"0", b"1"] and records.next_fetch_offset == 4


def test_a_named_batch_that_can_be_decoded_is_read() -> None:
    assert values(fetched(with_damage(lambda batch: None), decoding(NAME, end=6))) == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_batch_whose_header_names_an_impossible_end_is_not_passed_over() -> None:
    with pytest.raises(UnreadableBatch, match=rf"{NAME} .*; restore the partition from a replica"):
        values(fetched(with_damage(broken_payload), decoding(NAME, end=3)))


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_batch_that_decompresses_beyond_the_limit_is_named(codec: str) -> None:
    content = bytes(batch(0, [b"0", b"1"]) + batch(2, [bytes(LIMIT), b"3"], codec) + batch(4, [b"4"]))
    assert len(content) < LIMIT / 10
    records = fetched(content, decoding(limit=LIMIT))
    assert [record.value for record in records.take(100)] == [b"0", b"1"]
    with pytest.raises(UnreadableBatch, match=rf"{NAME} .*more than kafka.max_decompressed_bytes={LIMIT} bytes, codec {codec}.*skips it"):
        records.take(100)
    assert values(fetched(content, decoding(NAME, end=5, limit=LIMIT))) == [b"0", b"1", b"4"]
    assert values(fetched(content, decoding(limit=LIMIT + 1000))) == [b"0", b"1", bytes(LIMIT), b"3", b"4"]


def test_a_poll_of_large_records_ends_at_its_limit() -> None:
    """Without it 500 batches of a few kilobytes could take 500 times the limit of one."""
    by, polls = decoding(), []
    records = fetched(large_batches(9), by)
    while records:
        by.begin_poll()
        polls.append([record.offset for record in records.take(500)])
    assert polls == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_a_full_poll_asks_no_further_partition() -> None:
    by, drained = decoding(), list[Any]()

    def append(drained: list[Any], part: Any, max_records: int, update_offsets: bool) -> int:
        before = len(drained)
        drained += part.take(max_records)
        return len(drained) - before

    parts = [fetched(large_batches(count), by) for count in (2, 3)]
    assert [_appended(append, by, drained, part, 500, update_offsets=True) for part in parts] == [2, 500]
    assert len(drained) == 4


def test_batches_without_compression_have_no_limit() -> None:
    assert values(fetched(bytes(batch(0, [bytes(LIMIT)])), decoding(limit=LIMIT))) == [bytes(LIMIT)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_whose_name_is_not_utf8_is_read_with_escapes(codec: str) -> None:
    records = fetched(with_wrong_name(codec), decoding()).take(100)
    assert [record.value for record in records] == [b"0", b"1", b"2", b"3"]
    assert [record.headers[1][0] for record in records] == ["ce_source", "ce_source", "\\xe9\\xff_source", "ce_source"]
    assert {record.headers[1][1] for record in records} == {"/caf\u00e9".encode()}


def test_a_record_with_too_many_headers_is_named_before_they_are_read() -> None:
    [record] = fetched(headers_alone(1_000, "zstd"), decoding()).take(100)
    assert record.headers == [("a", None)] * 1_000
    with pytest.raises(UnreadableBatch, match=r"queries/3/0 cannot be decoded \(TooManyHeaders, codec zstd\)"):
        values(fetched(headers_alone(MAX_RECORD_HEADERS + 1, "zstd"), decoding()))


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", CODECS[:3])
def test_a_batch_of_an_old_format_is_read_up_to_the_limit(codec: str, magic: int) -> None:
    content = legacy_batch(0, [b"0", b"1"] if codec != "none" else [b"0"], codec, magic) + legacy_batch(2, [bytes(LIMIT)], codec, magic)
    assert values(fetched(content, decoding()))[-1] == bytes(LIMIT)
    if codec != "none":
        assert values(fetched(content, decoding()))[:-1] == [b"0", b"1"]
        with pytest.raises(UnreadableBatch, match=r"queries/3/2 .*more than kafka.max_decompressed_bytes"):
            values(fetched(content, decoding(limit=LIMIT)))
        assert values(fetched(content, decoding(NAME, end=3, limit=LIMIT))) == [b"0", b"1"]


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_a_record_of_the_oldest_format_has_no_time(codec: str) -> None:
    [record] = fetched(legacy_batch(0, [b"0"], codec, 0), decoding()).take(100)
    assert record.timestamp == NO_TIMESTAMP


def test_a_time_beyond_64_bits_counts_as_none() -> None:
    """A dead letter of such a record could not be written."""
    builder = MemoryRecordsBuilder(2, 0, 1 << 20)
    for at in (0, 1):
        builder.append(at, b"key", b"value")
    builder.close()
    content = bytearray(builder.buffer())
    struct.pack_into(">q", content, FIRST_TIMESTAMP_AT, LAST_TIMESTAMP)
    set_checksum(content)
    assert [record.timestamp for record in fetched(bytes(content), decoding()).take(100)] == [LAST_TIMESTAMP, NO_TIMESTAMP]


@pytest.mark.parametrize("offsets", [[0, 1 << 40, 2], [0, 0, 1], [1, 0, 2], [0, -5, 2]], ids=["beyond the batch", "twice", "back", "before the batch"])
def test_an_offset_that_does_not_grow_inside_its_batch_ends_reading(offsets: list[int]) -> None:
    """The reader would go on from that offset: records would be left out, or read again."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 20)
    for offset in offsets:
        builder.append(offset, 1_700_000_000_000, b"key", b"%d" % offset, [])
    records = fetched(bytes(builder.build()), decoding())
    assert [record.offset for record in records.take(100)] == offsets[:1]
    assert records.next_fetch_offset == offsets[0] + 1
    with pytest.raises(UnreadableBatch, match=r"queries/3/0 .*CorruptRecordError"):
        records.take(100)


def test_an_old_compressed_batch_with_a_negative_length_inside_ends_its_reader() -> None:
    """kafka-python alone would read that record for ever, and keep it each time."""
    inside = bytearray(legacy_batch(0, [b"0"], "none", 1))
    struct.pack_into(">i", inside, 8, -12)
    content = bytearray(legacy_batch(0, [gzip.compress(inside)], "none", 1))
    content[17] |= CODECS.index("gzip")
    struct.pack_into(">I", content, 12, zlib.crc32(content[16:]))
    with pytest.raises(UnreadableBatch, match=r"queries/3/0 .*CorruptRecordError"):
        values(fetched(bytes(content), decoding()))


@given(st.integers(0, 1 << 32), st.booleans())
@settings(max_examples=300)
def test_any_bytes_give_records_or_the_named_error(seed: int, is_named: bool) -> None:
    try:
        error = None
        assert len(values(fetched(damaged_at_random(seed), decoding(*["queries/3/3"] * is_named, end=9)))) <= 9
    except UnreadableBatch as raised:
        error = raised
    assert error is None or ((error.topic, error.partition) == PARTITION and "queries/3/" in str(error))


@pytest.mark.parametrize("batch", ["queries", "queries/0", "queries/0/-1", "queries/0/01", "a b/0/1", "queries/0/1/2", ""])
def test_a_setting_that_names_no_batch_is_refused(batch: str) -> None:
    with pytest.raises(BadSetting, match=r"kafka.skip_batches.*topic/partition/offset"):
        load(kafka={"skip_batches": [batch]})
