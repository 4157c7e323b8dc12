"""The topic reader on a real broker: transactions, offsets by time, and a broker that is away."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from kafka import TopicPartition

from infra.errors import RetryLater
from infra.kafka.batches import POLL_BYTES
from infra.kafka.clients import admin, producer
from infra.kafka.topic_reader import TopicReader
from infra.process.ports import free_port
from infra.settings import Settings, load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def later_ms() -> int:
    """Unix ms behind the transaction markers' times, which the broker sets to the present of this test."""
    return int(time.time() * 1000) + 600_000


@pytest.fixture
def partition(settings: Settings, later_ms: int) -> TopicPartition:
    """The one partition of a new topic: a committed transaction (records 0, 1, marker 2), an aborted one (3, marker 4), and a committed one (5, marker 6)."""
    topic = f"read-{uuid4().hex[:8]}"
    client = admin(settings)
    client.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    client.close()
    sender = producer(settings, "test", transactional_id=topic)
    sender.init_transactions()
    for values, is_committed in (((b"a", b"b"), True), ((b"c",), False), ((b"d",), True)):
        sender.begin_transaction()
        for value in values:
            sender.send(topic, value=value, timestamp_ms=later_ms + value[0]).get(timeout=30)
        sender.commit_transaction() if is_committed else sender.abort_transaction()
    sender.close()
    return TopicPartition(topic, 0)


def test_a_topic_is_read_to_the_marker_at_its_end(settings: Settings, partition: TopicPartition) -> None:
    with TopicReader(settings, "test") as reader:
        ranges = reader.ranges(partition.topic)
        assert ranges == {partition: (0, 7)}
        assert [record.value for record in reader.read(ranges)] == [b"a", b"b", b"d"]
        assert [record.value for record in reader.read({partition: (1, 5)})] == [b"b"]
        assert list(reader.read({partition: (6, 7)})) == []


def test_offsets_by_time(settings: Settings, partition: TopicPartition, later_ms: int) -> None:
    with TopicReader(settings, "test") as reader:
        assert reader.ranges(partition.topic, since_ms=later_ms + ord("d")) == {partition: (5, 7)}
        assert reader.ranges(partition.topic, since_ms=later_ms + ord("d") + 1) == {partition: (7, 7)}


def test_following_reads_to_the_end_then_what_comes(settings: Settings, partition: TopicPartition) -> None:
    with TopicReader(settings, "test") as whole, TopicReader(settings, "test") as new:
        whole.follow(partition.topic)
        new.follow(partition.topic, from_end=True)
        assert [record.value for record in whole.read_to_end(timeout_s=30.0)] == [b"a", b"b", b"d"]
        sender = producer(settings, "test")
        sender.send(partition.topic, value=b"e").get(timeout=30)
        sender.close()
        for reader in (whole, new):
            assert [record.value for record in reader.read_to_end(timeout_s=30.0)] == [b"e"]


def test_a_poll_returns_few_large_records_and_none_is_lost(settings: Settings, partition: TopicPartition) -> None:
    large = bytes(POLL_BYTES // 4 + 1)
    sender = producer(settings, "test", compression_type="zstd", max_request_size=2 * len(large))
    for _ in range(9):
        sender.send(partition.topic, value=large, partition=0).get(timeout=30)
    sender.close()
    with TopicReader(settings, "test") as reader:
        reader.follow(partition.topic, positions={partition: 7})
        ends, polls = reader.ends(), list[int]()
        while not reader.has_reached(ends):
            polls.append(len(reader.poll(1.0)))
    assert sum(polls) == 9 and max(polls) <= 4


def test_a_topic_that_is_created_later_is_followed(settings: Settings) -> None:
    topic = f"read-{uuid4().hex[:8]}"
    with TopicReader(settings, "test") as reader:
        assert reader.follow(topic) == [] and reader.poll(0.1) == []
        client = admin(settings)
        client.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
        client.close()
        assert reader.follow(topic) == [TopicPartition(topic, 0), TopicPartition(topic, 1)]


def test_no_broker_is_an_error_within_the_bound() -> None:
    settings = load(kafka={"bootstrap_servers": f"127.0.0.1:{free_port('127.0.0.1')}"})
    began = time.monotonic()
    with pytest.raises(RetryLater, match=r"nothing is reached at 127\.0\.0\.1:\d+ \(111 ECONNREFUSED\)"):
        TopicReader(settings, "test", timeout_s=0.5)
    assert time.monotonic() - began < 20
