"""Membership in a consumer group on Kafka, as workers and online quality share it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka import TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor

from infra.errors import CannotContinue
from infra.kafka.clients import admin, producer
from infra.kafka.group_consumer import GroupConsumer
from infra.settings import Settings
from schemas.topics import consumer_group

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WAIT_S = 60.0


@pytest.fixture
def topic(settings: Settings) -> str:
    """A topic with two partitions and three records in each."""
    name = f"g{uuid.uuid4().hex[:10]}"
    client = admin(settings)
    client.create_topics({name: {"num_partitions": 2, "replication_factor": 1}})
    client.wait_for_topics([name])
    client.close()
    to = producer(settings, "test")
    for number in range(6):
        to.send(name, value=b"%d" % number, partition=number % 2)
    to.close()
    return name


@pytest.fixture
def member(settings: Settings, topic: str) -> Iterator[Callable[[], GroupConsumer]]:
    """Makes members of one group with one name."""
    members: list[GroupConsumer] = []

    def connected() -> GroupConsumer:
        member = GroupConsumer(settings, consumer_group(topic), RangePartitionAssignor)
        members.append(member)
        member.connect()
        member.subscribe([topic])
        return member

    yield connected
    for member in members:
        member.close(2.0, leave=True)


def poll_until(member: GroupConsumer, condition: Callable[[list[bytes]], bool], paused: tuple[TopicPartition, ...] = ()) -> list[bytes]:
    """The values read until the condition holds for them."""
    values: list[bytes] = []
    deadline = time.monotonic() + WAIT_S
    while not condition(values):
        assert time.monotonic() < deadline
        values += [record.value for record in member.poll(100, 0.1, lambda: member.pause_only(paused)) or ()]
    return values


def test_a_restarted_member_continues_at_its_committed_offset_with_metadata(topic: str, member: Callable[[], GroupConsumer]) -> None:
    first = member()
    assert sorted(poll_until(first, lambda values: len(values) == 6)) == [b"%d" % number for number in range(6)]
    partition = TopicPartition(topic, 0)
    first.commit({partition: (2, "metadata")}, WAIT_S)
    first.close(2.0, leave=False)
    second = member()
    assert b"4" in poll_until(second, lambda values: b"4" in values)
    assert second.committed([partition, TopicPartition(topic, 1)], WAIT_S) == {partition: (2, "metadata")}
    assert second.position(partition) == 3


def test_a_paused_partition_is_not_read_until_it_is_resumed(topic: str, member: Callable[[], GroupConsumer]) -> None:
    reader = member()
    poll_until(reader, lambda values: reader.is_member and len(reader.assignment()) == 2, paused=(TopicPartition(topic, 0), TopicPartition(topic, 1)))
    assert set(poll_until(reader, lambda values: len(values) == 3, paused=(TopicPartition(topic, 0),))) == {b"1", b"3", b"5"}
    assert set(poll_until(reader, lambda values: len(values) == 3)) == {b"0", b"2", b"4"}


def test_a_member_whose_name_another_process_takes_ends_with_the_setting_to_change(member: Callable[[], GroupConsumer]) -> None:
    first = member()
    poll_until(first, bool)
    second = member()
    poll_until(second, lambda values: second.is_member)
    with pytest.raises(CannotContinue, match=r"kafka\.instance"):
        poll_until(first, lambda values: False)
