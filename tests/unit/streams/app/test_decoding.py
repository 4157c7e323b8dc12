"""Decoding with aiokafka: any bytes give records, or the failure that ends the streams process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import UnreadableBatch
from infra.kafka.batches import CODECS
from streams.app.transport import DecodedRecords
from tests.support.record_batches import PARTITION, damaged_at_random, decoding, java_batch, java_records, with_damage
from tests.support.segment_files import broken_payload, unknown_codec, wrong_checksum

NAME = "queries/3/2"
READ_COMMITTED = 1


class Transport:
    def __init__(self) -> None:
        self.failure: UnreadableBatch | None = None

    def fail(self, error: UnreadableBatch) -> None:
        assert self.failure is None
        self.failure = error


def read(content: bytes, *skip: str, end: int | None = None) -> tuple[list[Any], UnreadableBatch | None]:
    """The records, and the failure at their end."""
    transport = Transport()
    fetched: tuple[Any, ...] = (TopicPartition(*PARTITION), MemoryRecords(content), [], 0, None, None, True, READ_COMMITTED)
    records = DecodedRecords(transport, decoding(*skip, end=end), *fetched)  # type: ignore[arg-type]  # all that it uses of the transport
    return list(records), transport.failure


def values(records: list[Any]) -> list[bytes]:
    return [record.value for record in records]


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_batch_of_kafkas_own_producer_is_read(codec: str) -> None:
    records, failure = read(java_batch(codec))
    assert failure is None and [(record.key, record.value, list(record.headers)) for record in records] == java_records()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("damage", [broken_payload, unknown_codec, wrong_checksum])
def test_a_batch_that_cannot_be_decoded_ends_reading_unless_it_is_named(damage: Callable[[bytearray], None], codec: str) -> None:
    content = with_damage(damage, codec)
    records, failure = read(content)
    assert values(records) == [b"0", b"1"] and f"{NAME} cannot be decoded" in str(failure)
    records, failure = read(content, NAME, end=6)
    assert values(records) == [b"0", b"1", b"4", b"5"] and failure is None


@given(st.integers(0, 1 << 32), st.booleans())
@settings(max_examples=300)
def test_any_bytes_give_records_or_the_named_error(seed: int, is_named: bool) -> None:
    records, failure = read(damaged_at_random(seed), *["queries/3/3"] * is_named, end=9)
    assert len(records) <= 9
    assert failure is None or ((failure.topic, failure.partition) == PARTITION and "queries/3/" in str(failure))
