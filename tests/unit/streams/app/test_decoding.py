"""Decoding with aiokafka: any bytes give records, or the failure that ends the streams process."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import UnreadableBatch
from infra.kafka.compression import CODECS
from infra.kafka.names import KafkaNames
from infra.settings.stream import KafkaSettings
from streams.app.transport import DecodedRecords, FetchedRecords, checked_send
from tests.support.record_batches import (
    PARTITION,
    batch,
    damaged_at_random,
    decoding,
    java_batch,
    java_records,
    large_batches,
    legacy_batch,
    with_damage,
    with_wrong_name,
)
from tests.support.segment_files import broken_payload, unknown_codec, wrong_checksum

NAME = "queries/3/2"
READ_COMMITTED = 1
LIMIT = 1 << 20


class Transport:
    def __init__(self) -> None:
        self.names = KafkaNames(KafkaSettings())
        self.failure: UnreadableBatch | None = None

    def fail(self, error: UnreadableBatch) -> None:
        assert self.failure is None
        self.failure = error


def read(content: bytes, *skip: str, end: int | None = None, limit: int = 64 << 20) -> tuple[list[Any], UnreadableBatch | None]:
    """The records, and the failure at their end."""
    transport = Transport()
    fetched: tuple[Any, ...] = (TopicPartition(*PARTITION), FetchedRecords(content), [], 0, None, None, True, READ_COMMITTED)
    records = DecodedRecords(transport, decoding(*skip, end=end, limit=limit), *fetched)  # type: ignore[arg-type]  # all that it uses of the transport
    return list(records), transport.failure


def test_a_poll_of_large_records_ends_at_its_limit() -> None:
    by, polls = decoding(), list[list[int]]()

    def records_from(offset: int) -> Any:
        content = FetchedRecords(large_batches(9, first=offset))
        fetched: tuple[Any, ...] = (TopicPartition(*PARTITION), content, [], offset, None, None, True, READ_COMMITTED)
        return DecodedRecords(Transport(), by, *fetched)  # type: ignore[arg-type]

    offset = 0
    for _ in range(3):
        by.begin_poll()
        records = records_from(offset)
        polls.append([record.offset for record in records])
        offset = records.next_fetch_offset
        assert not by.poll_is_full or list(records_from(0)) == [], "another partition waits for the next poll"
    assert polls == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


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


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_batch_that_decompresses_beyond_the_limit_is_named(codec: str) -> None:
    content = bytes(batch(0, [b"0", b"1"]) + batch(2, [bytes(LIMIT), b"3"], codec) + batch(4, [b"4"]))
    records, failure = read(content, limit=LIMIT)
    assert values(records) == [b"0", b"1"] and f"more than kafka.max_decompressed_bytes={LIMIT} bytes, codec {codec}" in str(failure)
    records, failure = read(content, NAME, end=5, limit=LIMIT)
    assert values(records) == [b"0", b"1", b"4"] and failure is None
    records, failure = read(content, limit=LIMIT + 1000)
    assert values(records) == [b"0", b"1", bytes(LIMIT), b"3", b"4"] and failure is None


@pytest.mark.parametrize("codec", CODECS)
def test_a_header_whose_name_is_not_utf8_is_read_with_escapes(codec: str) -> None:
    records, failure = read(with_wrong_name(codec))
    assert values(records) == [b"0", b"1", b"2", b"3"] and failure is None
    assert [record.headers[1][0] for record in records] == ["ce_source", "ce_source", "\\xe9\\xff_source", "ce_source"]
    assert {record.headers[1][1] for record in records} == {"/caf\u00e9".encode()}


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", CODECS[1:3])
def test_a_batch_of_an_old_format_is_read_up_to_the_limit(codec: str, magic: int) -> None:
    content = legacy_batch(0, [b"0", b"1"], codec, magic) + legacy_batch(2, [bytes(LIMIT)], codec, magic)
    assert values(read(content)[0]) == [b"0", b"1", bytes(LIMIT)]
    records, failure = read(content, limit=LIMIT)
    assert values(records) == [b"0", b"1"] and NAME in str(failure)
    records, failure = read(content, NAME, end=3, limit=LIMIT)
    assert values(records) == [b"0", b"1"] and failure is None


async def test_a_partition_without_a_complete_batch_ends_reading_with_its_place() -> None:
    transport, whole = Transport(), bytes(batch(0, [b"0"]))

    async def send(node_id: int, request: FetchRequest) -> Any:
        return SimpleNamespace(topics=[("queries", [(0, 0, 9, None, whole), (1, 0, 9, None, b""), (3, 0, 9, None, whole[:-1])])])

    request = FetchRequest(50, 1, 1 << 20, READ_COMMITTED, [("queries", [(0, 5, 99), (1, 6, 99), (3, 7, 99)])])
    with pytest.raises(KafkaError):  # the fetcher tries again
        await checked_send(send, transport, 1, request)  # type: ignore[arg-type]  # all that it uses of the transport
    assert str(transport.failure).startswith("the batch at queries/3/7 cannot be decoded")


@given(st.integers(0, 1 << 32), st.booleans())
@settings(max_examples=300)
def test_any_bytes_give_records_or_the_named_error(seed: int, is_named: bool) -> None:
    records, failure = read(damaged_at_random(seed), *["queries/3/3"] * is_named, end=9)
    assert len(records) <= 9
    assert failure is None or ((failure.topic, failure.partition) == PARTITION and "queries/3/" in str(failure))
