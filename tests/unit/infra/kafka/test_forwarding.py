from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import DefaultPartitioner

from infra.errors import PoisonMessage
from infra.kafka.forwarding import FORWARDED_FROM, WARN_EVERY_S, Forwarder, partition_of
from schemas.records import ConsumedRecord
from schemas.topics import MAX_MESSAGE_BYTES

KEY = b"acme/alice"
PARTITIONS = 4
HOME = partition_of(KEY, PARTITIONS)
ELSEWHERE = (HOME + 1) % PARTITIONS


def record(partition: int = ELSEWHERE, topic: str = "feedback", key: bytes | None = KEY, **fields: object) -> ConsumedRecord:
    return replace(ConsumedRecord(topic, partition, 7, 0, key, b"{}", (("ce_id", b"1"),)), **fields)  # type: ignore[arg-type]


@pytest.fixture
def forwarder() -> Forwarder:
    return Forwarder(lambda topic: PARTITIONS)


class Cluster:
    """The metadata that kafka-python's partitioner asks."""

    def __init__(self, partitions: int) -> None:
        self._partitions = set(range(partitions))

    def topics(self) -> set[str]:
        return {"feedback"}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return self._partitions

    available_partitions_for_topic = partitions_for_topic


@given(st.binary(min_size=1, max_size=40), st.integers(1, 64))
def test_the_partition_is_the_one_that_our_producers_choose(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == DefaultPartitioner().partition("feedback", key, key, None, None, Cluster(partitions))


def test_a_record_on_its_users_partition_stays(forwarder: Forwarder) -> None:
    assert not forwarder.is_misplaced(record(HOME), KEY)
    assert forwarder.is_misplaced(record(), KEY)


def test_topics_that_only_we_write_are_never_forwarded(forwarder: Forwarder) -> None:
    assert not forwarder.is_misplaced(record(topic="responses"), KEY)


@pytest.mark.parametrize("partitions", [0, 1])
def test_nothing_is_forwarded_without_another_partition(partitions: int) -> None:
    assert not Forwarder(lambda topic: partitions).is_misplaced(record(1), KEY)


@pytest.mark.parametrize("key", [None, b"alice", KEY])
def test_a_record_is_forwarded_under_its_users_key_with_its_bytes(forwarder: Forwarder, key: bytes | None) -> None:
    forwarded = forwarder.forward(record(key=key, headers=(("ce_id", b"1"), ("ce_time", None))), KEY)
    assert (forwarded.topic, forwarded.key, forwarded.value, forwarded.partition) == ("feedback", KEY, b"{}", None)
    assert forwarded.headers == [("ce_id", b"1"), (FORWARDED_FROM, f"{ELSEWHERE}/7".encode())]


def test_a_forwarded_record_is_not_forwarded_again(forwarder: Forwarder) -> None:
    forwarded = forwarder.forward(record(), KEY)
    assert not forwarder.is_misplaced(record(headers=tuple(forwarded.headers)), KEY)


def test_a_record_that_is_too_large_to_be_written_is_refused(forwarder: Forwarder) -> None:
    with pytest.raises(PoisonMessage, match="too large"):
        forwarder.forward(record(value=bytes(MAX_MESSAGE_BYTES)), KEY)


def test_one_warning_a_minute_counts_the_records(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    forwarder = Forwarder(lambda topic: PARTITIONS, now=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            forwarder.forward(record(), KEY)
        now[0] += WARN_EVERY_S
        forwarder.forward(record(), KEY)
    assert [(r.topic, r.records) for r in caplog.records] == [("feedback", 1), ("feedback", 3)]  # type: ignore[attr-defined]
