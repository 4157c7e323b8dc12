"""A place in the consumer group of online quality: the same partitions of three topics, read from what was committed.

What kafka-python 3.0.12 needs help with, as in the workers' runtime: a join that completes between two short polls is lost, so joins wait in one long poll
and are asked for again; a static member whose name another process took is not told, so its heartbeats are looked at.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import CommitFailedError, FencedInstanceIdError, KafkaError, RetriableError
from kafka.structs import OffsetAndMetadata

from infra.errors import CannotContinue
from infra.kafka.clients import client_options
from infra.settings import Settings
from schemas.topics import consumer_group
from streams.quality.checkpoint import Mark
from streams.quality.partition_metrics import TOPICS

GROUP = consumer_group("quality")
STABLE = "<stable>"
FENCED = f"another process took this one's place in group {GROUP}: two of a kind on one host need two names (kafka.instance)"
JOIN_S = 3.0
CONNECT_S = 60.0
ASK_MS = 15_000
CLOSE_MS = 3_000
POLLED = 500


class Group:
    """Blocks on the broker, each call within a bound. Not safe between threads. Raises CannotContinue where the process cannot go on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer = self._connected()
        check_partitions({topic: len(self._consumer.partitions_for_topic(topic) or ()) for topic in TOPICS})
        self._consumer.subscribe(list(TOPICS))

    @property
    def is_member(self) -> bool:
        return bool(self._consumer.group_metadata().state == STABLE)

    def poll(self, timeout_s: float) -> list[Any]:
        """Records in the order of each topic and partition; none while the group meets or the broker is away."""
        try:
            coordinator = self._consumer._coordinator
            if not self.is_member or coordinator.need_rejoin():
                self._join(coordinator)
            if self.is_member and not coordinator._heartbeat_enabled and not coordinator.rejoining and not coordinator.need_rejoin():
                raise CannotContinue(FENCED)
            polled = self._consumer.poll(timeout_ms=round(timeout_s * 1000), max_records=POLLED)
        except FencedInstanceIdError:
            raise CannotContinue(FENCED) from None
        except RetriableError:
            time.sleep(timeout_s)
            return []
        return [record for batch in polled.values() for record in batch]

    def partitions(self) -> set[int]:
        """Those that are ours. Raises CannotContinue where the topics were not given out alike: halves of an answer would be counted by two processes."""
        ours = {topic: {place.partition for place in self._consumer.assignment() if place.topic == topic} for topic in TOPICS}
        if len({frozenset(numbers) for numbers in ours.values()}) > 1:
            raise CannotContinue(f"group {GROUP} was given different partitions of {', '.join(TOPICS)}: they need equally many, and one assignor in the group")
        return ours[TOPICS[0]]

    def marks(self, partition: int) -> dict[str, Mark]:
        """What was committed; torn where records that it needs are gone."""
        places = [TopicPartition(topic, partition) for topic in TOPICS]
        committed = {place: self._consumer.committed(place, metadata=True, timeout_ms=ASK_MS) for place in places}
        first = self._consumer.beginning_offsets(places, timeout_ms=ASK_MS)
        marks = {place.topic: Mark.of(found.metadata) for place, found in committed.items() if found is not None and found.offset >= 0}
        if any(found is not None and 0 <= found.offset < first[place] for place, found in committed.items()):
            return {topic: mark.torn() for topic, mark in marks.items()}
        return marks

    def positions(self, partition: int) -> dict[str, int]:
        """How far each topic is read; topics of which nobody knows yet are left out."""
        states = self._consumer._subscription.assignment
        found = {topic: states.get(TopicPartition(topic, partition)) for topic in TOPICS}
        return {topic: state.position.offset for topic, state in found.items() if state is not None and state.has_valid_position}

    def ends(self, partition: int) -> dict[str, int]:
        """How far each topic goes, as the last fetches told."""
        ends = {topic: self._consumer.highwater(TopicPartition(topic, partition)) for topic in TOPICS}
        return {topic: end for topic, end in ends.items() if end is not None}

    def hold(self, held: Collection[tuple[str, int]]) -> None:
        """Read on in all our partitions but these."""
        wanted, now = {TopicPartition(*place) for place in held}, set(self._consumer.paused())
        assigned = set(self._consumer.assignment())
        self._consumer.pause(*((wanted & assigned) - now))
        self._consumer.resume(*((now & assigned) - wanted))

    def commit(self, offsets: Mapping[tuple[str, int], tuple[int, Mark]]) -> bool:
        """Whether the broker took them. Where it did not, the next ones say the same and more."""
        if not offsets or not self.is_member:
            return False
        wanted = {TopicPartition(*place): OffsetAndMetadata(offset, mark.model_dump_json(), -1) for place, (offset, mark) in offsets.items()}
        try:
            self._consumer.commit(wanted, timeout_ms=ASK_MS)
        except (CommitFailedError, RetriableError):
            return False
        return True

    def close(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=CLOSE_MS)

    def _join(self, coordinator: Any) -> None:
        task = coordinator._join_task
        if task is not None and task.is_done and not coordinator.need_rejoin() and not self.is_member:
            coordinator.request_rejoin()
        coordinator.poll(timeout_ms=JOIN_S * 1000)

    def _connected(self) -> Any:
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                return self._make()
            except KafkaError as error:
                if time.monotonic() > deadline:
                    address = self._settings.bootstrap_servers()
                    raise CannotContinue(f"the broker at {address} does not answer ({type(error).__name__}): is it up, and is the address right?") from error
                time.sleep(0.5)

    def _make(self) -> Any:
        kafka = self._settings.kafka
        name = f"{GROUP}-{kafka.instance or socket.gethostname()}"
        return KafkaConsumer(
            client_id=name,
            group_id=GROUP,
            group_instance_id=name,
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=min(1000, kafka.session_timeout_ms // 5),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=250,
            bootstrap_timeout_ms=10_000,
            retry_backoff_ms=50,
            **client_options(self._settings),
        )


def check_partitions(counts: Mapping[str, int]) -> None:
    """A user's records must lie on the partition of one number in all topics. Raises CannotContinue."""
    missing = [topic for topic, count in counts.items() if not count]
    if missing:
        raise CannotContinue(f"the broker lacks topics {', '.join(missing)}: create them with `retouch topics apply`")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{topic} {count}" for topic, count in counts.items())
        raise CannotContinue(f"topics {', '.join(counts)} must have equally many partitions, not {found}")
