"""The consumer group of online quality: each member reads the same partitions of three topics, from their checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import CommitFailedError, RetriableError

from infra.errors import CannotContinue
from infra.kafka.errors import broker_errors, missing_topics
from infra.kafka.group_consumer import GroupConsumer
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import Use
from infra.kafka.rights_check import require_rights
from infra.settings import Settings
from schemas.topics import consumer_group
from streams.quality.checkpoint import PartitionCheckpoint
from streams.quality.partition_metrics import TOPICS

GROUP = consumer_group("quality")
REQUEST_S = 15.0
CLOSE_S = 3.0
POLL_RECORDS = 500


class QualityConsumer:
    """Every call blocks within a bound. Not safe between threads. Raises CannotContinue if the process cannot continue."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        """Raises CannotContinue if `stop` is set while the broker is away."""
        self._settings = settings
        self._consumer = GroupConsumer(settings, GROUP, RangePartitionAssignor, stop=stop)
        self._consumer.connect()
        require_rights(settings, "streams quality")
        check_partitions(settings, {topic: len(self._consumer.partitions_of(topic)) for topic in TOPICS})
        self._consumer.subscribe(TOPICS)

    @property
    def is_member(self) -> bool:
        return self._consumer.is_member

    def poll(self, timeout_s: float) -> list[Any]:
        """Records in the order of each partition. None while the group forms or the broker is away."""
        return self._consumer.poll(POLL_RECORDS, timeout_s) or []

    def partitions(self) -> set[int]:
        """The assigned partitions. Raises CannotContinue if they differ between topics: two processes would count halves of an answer."""
        assignment = self._consumer.assignment()
        by_topic = {topic: {partition.partition for partition in assignment if partition.topic == topic} for topic in TOPICS}
        if len({frozenset(numbers) for numbers in by_topic.values()}) > 1:
            needs = "the topics need equally many, and all members the same assignor"
            raise CannotContinue(f"group {self._consumer.group_on_broker} assigned different partitions of {', '.join(TOPICS)}: {needs}")
        return by_topic[TOPICS[0]]

    def checkpoints(self, number: int) -> dict[str, PartitionCheckpoint]:
        """The committed checkpoints by topic, adjusted if records that they need are deleted."""
        partitions = [TopicPartition(topic, number) for topic in TOPICS]
        committed = self._consumer.committed(partitions, REQUEST_S)
        first = self._consumer.beginnings(partitions, REQUEST_S)
        checkpoints = {partition.topic: PartitionCheckpoint.parse(metadata) for partition, (_, metadata) in committed.items()}
        if any(offset < first[partition] for partition, (offset, _) in committed.items()):
            return {topic: checkpoint.after_data_loss() for topic, checkpoint in checkpoints.items()}
        return checkpoints

    def positions(self, number: int) -> dict[str, int]:
        """The next offset of each topic. Topics without a position are left out."""
        positions = {topic: self._consumer.position(TopicPartition(topic, number)) for topic in TOPICS}
        return {topic: offset for topic, offset in positions.items() if offset is not None}

    def ends(self, number: int) -> dict[str, int]:
        """The end of each topic, as of the last fetch."""
        ends = {topic: self._consumer.highwater(TopicPartition(topic, number)) for topic in TOPICS}
        return {topic: end for topic, end in ends.items() if end is not None}

    def pause_only(self, paused: Collection[tuple[str, int]]) -> None:
        self._consumer.pause_only([TopicPartition(topic, number) for topic, number in paused])

    def commit(self, checkpoints: Mapping[tuple[str, int], tuple[int, PartitionCheckpoint]]) -> bool:
        """Returns False if the broker did not confirm. A later commit then covers this one."""
        if not checkpoints or not self.is_member:
            return False
        positions = {TopicPartition(*partition): (offset, checkpoint.model_dump_json()) for partition, (offset, checkpoint) in checkpoints.items()}
        with broker_errors(self._settings, CannotContinue, "commit checkpoints", Use(group=self._consumer.group_on_broker)):
            try:
                self._consumer.commit(positions, REQUEST_S)
            except (CommitFailedError, RetriableError):
                return False
        return True

    def close(self) -> None:
        self._consumer.close(CLOSE_S, leave=False)


def check_partitions(settings: Settings, counts: Mapping[str, int]) -> None:
    """All topics need the same number of partitions, so that a user's records have one partition number. Raises CannotContinue."""
    missing = [topic for topic, count in counts.items() if not count]
    if missing:
        raise missing_topics(settings, missing)
    if len(set(counts.values())) > 1:
        on_broker = KafkaNames(settings.kafka).topic
        listed = ", ".join(f"{on_broker(topic)} {count}" for topic, count in counts.items())
        raise CannotContinue(f"topics {', '.join(map(on_broker, counts))} must have equally many partitions, not {listed}")
