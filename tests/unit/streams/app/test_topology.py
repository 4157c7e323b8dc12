"""Reading history again, against a broker that refuses the way Kafka's does."""

from __future__ import annotations

from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import GroupAuthorizationFailedError, GroupIdNotFoundError, GroupSubscribedToTopicError, KafkaError, NoError, NonEmptyGroupError

from infra.errors import CannotContinue
from infra.kafka.names import KafkaNames
from infra.settings.stream import KafkaSettings
from streams.app.processor import GROUP
from streams.app.topology import delete_offsets

NAMES = KafkaNames(KafkaSettings())
FIRST, SECOND, OTHER = TopicPartition("interactions", 0), TopicPartition("interactions", 1), TopicPartition("drafts", 0)


class Admin:
    """Offsets of one group. `refusals` are met in order: an error of the whole request is raised, one of a partition is returned."""

    def __init__(self, *refusals: KafkaError | dict[TopicPartition, type[KafkaError]]) -> None:
        self.offsets = {FIRST, SECOND, OTHER}
        self.requests: list[set[TopicPartition]] = []
        self._refusals = list(refusals)

    def list_group_offsets(self, groups: dict[str, None]) -> dict[str, dict[TopicPartition, int]]:
        return {GROUP: dict.fromkeys(self.offsets, 7)}

    def delete_group_offsets(self, group: str, partitions: list[TopicPartition]) -> dict[TopicPartition, Any]:
        self.requests.append(set(partitions))
        refusal = self._refusals.pop(0) if self._refusals else {}
        if isinstance(refusal, KafkaError):
            raise refusal
        self.offsets -= set(partitions) - set(refusal)
        return {partition: refusal.get(partition, NoError) for partition in partitions}


def test_only_the_offsets_of_the_named_topic_are_deleted() -> None:
    admin = Admin()
    delete_offsets(admin, NAMES, {"interactions"}, timeout_s=0)
    assert admin.offsets == {OTHER}


def test_refused_partitions_are_retried() -> None:
    admin = Admin(NonEmptyGroupError(), {SECOND: GroupSubscribedToTopicError})
    delete_offsets(admin, NAMES, {"interactions"}, timeout_s=30)
    assert admin.offsets == {OTHER} and admin.requests == [{FIRST, SECOND}, {FIRST, SECOND}, {SECOND}]


def test_a_member_that_stays_in_the_group_ends_the_process() -> None:
    admin = Admin({FIRST: GroupSubscribedToTopicError, SECOND: GroupSubscribedToTopicError})
    with pytest.raises(CannotContinue, match=r"after 0 s the broker still keeps .* \(GroupSubscribedToTopicError\): stop the other members"):
        delete_offsets(admin, NAMES, {"interactions"}, timeout_s=0)
    assert admin.offsets == {FIRST, SECOND, OTHER}


def test_a_group_that_is_gone_has_no_offsets_to_delete() -> None:
    admin = Admin(GroupIdNotFoundError())
    delete_offsets(admin, NAMES, {"interactions"}, timeout_s=0)
    assert len(admin.requests) == 1


def test_a_missing_right_is_not_waited_for() -> None:
    admin = Admin(GroupAuthorizationFailedError())
    with pytest.raises(GroupAuthorizationFailedError):
        delete_offsets(admin, NAMES, {"interactions"}, timeout_s=60)
    assert len(admin.requests) == 1
