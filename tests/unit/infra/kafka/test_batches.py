"""Decoding with kafka-python: any bytes give records, or UnreadableBatch with the place of the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.protocol.consumer import IsolationLevel
from kafka.record.memory_records import MemoryRecords

from infra.errors import BadSetting, UnreadableBatch
from infra.kafka.batches import CODECS, BatchDecoding
from infra.kafka.clients import DecodedRecords
from infra.settings.loading import load
from infra.telemetry.metrics import KAFKA_BATCHES_SKIPPED
from tests.support.record_batches import PARTITION, batch, damaged_at_random, decoding, java_batch, java_records, with_damage
from tests.support.segment_files import broken_payload, unknown_codec, wrong_checksum

NAME, SERIES = "queries/3/2", (("topic", "queries"),)


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
