"""A group consumer whose broker is away, or refuses it. tests/contract/test_group_consumer.py has the rest, on a broker."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import GroupAuthorizationFailedError, KafkaConnectionError, KafkaError, KafkaTimeoutError

from infra.errors import CannotContinue, RetryLater
from infra.kafka.group_consumer import GroupConsumer
from infra.settings import load

SETTINGS = load(kafka={"bootstrap_servers": "127.0.0.1:9", "instance": "one"})


class Coordinator:
    def __init__(self, error: KafkaError) -> None:
        self._error = error
        self._join_task = None

    def need_rejoin(self) -> bool:
        return True

    def poll(self, timeout_ms: int) -> None:
        raise self._error


class Client:
    """A kafka-python consumer that raises each of `errors` once, then answers."""

    def __init__(self, errors: list[KafkaError]) -> None:
        self._errors = errors
        self._coordinator = Coordinator(GroupAuthorizationFailedError())

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        if self._errors:
            raise self._errors.pop()
        return {0, 1} if topic == "queries" else None

    def group_metadata(self) -> Any:
        return type("Metadata", (), {"state": "<unjoined>"})


class Member(GroupConsumer):
    """Cannot connect as long as there are `failures`."""

    def __init__(self, failures: list[KafkaError], errors: list[KafkaError], connect_s: float) -> None:
        super().__init__(SETTINGS, "retouch-base", RangePartitionAssignor, connect_s)
        self._failures, self._client = failures, Client(errors)

    def _make(self) -> Any:
        if self._failures:
            raise self._failures.pop()
        return self._client


def test_a_broker_that_is_away_during_the_start_is_waited_for() -> None:
    member = Member([KafkaTimeoutError()], [KafkaConnectionError(), KafkaTimeoutError()], 60.0)
    member.connect()
    assert member.partitions_of("queries") == {0, 1} and member.partitions_of("none") == set()


def test_a_broker_that_stays_away_is_named() -> None:
    with pytest.raises(CannotContinue, match=r"the broker at 127.0.0.1:9 did not answer \(KafkaTimeoutError\): is it up"):
        Member([KafkaTimeoutError()] * 3, [], -1.0).connect()
    member = Member([], [KafkaConnectionError()], -1.0)
    member.connect()
    with pytest.raises(RetryLater, match=r"the broker at 127.0.0.1:9 did not answer \(KafkaConnectionError\): is it up"):
        member.partitions_of("queries")


def test_a_refused_member_names_what_to_check() -> None:
    member = Member([], [], 60.0)
    member.connect()
    with pytest.raises(CannotContinue, match=r"127.0.0.1:9 refuses retouch-base-one .*\(GroupAuthorizationFailedError\): User:ANONYMOUS lacks READ on group"):
        member.poll(1, 0.0)
