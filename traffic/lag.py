"""Checks whether a consumer group has handled every record of a topic, so that interactions can be retrieved.

Offsets are committed after the effect (docs/rules.md, 3): if the committed offset is past the last record, the effect of every record is durable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Self

from kafka import TopicPartition
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from infra.errors import RetryLater
from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors
from infra.kafka.names import KafkaNames
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.topics import Topic, consumer_group

#: The consumer group of the streams process: history, outcomes and retrieval.
STREAMS_GROUP = consumer_group("streams")
POLL_S = 0.25
#: How long a broker that has just started may take to load the group's offsets.
COORDINATOR_S = 60.0


class GroupLag:
    """Compares a group's committed offsets with the topics' end offsets. Every method raises RetryLater if the broker is away."""

    def __init__(self, settings: Settings, group: str = STREAMS_GROUP) -> None:
        self._group = group
        self._settings = settings
        with ExitStack() as opened:
            with broker_errors(settings):
                self._admin = opened.enter_context(closing(admin(settings, "retouch-lag")))
            self._reader = opened.enter_context(TopicReader(settings, "retouch-lag-reader"))
            self._opened = opened.pop_all()

    def unhandled(self, topics: Sequence[Topic]) -> int:
        """Number of offsets between the group's committed offsets and the topics' ends. 0 if only transaction markers are there."""
        ranges = self._reader.ranges(*(topic.name for topic in topics))
        committed = self._committed(list(ranges))
        positions = {partition: max(0, committed.get(partition, 0)) for partition in ranges}
        behind = {partition: (at, ranges[partition][1]) for partition, at in positions.items() if at < ranges[partition][1]}
        return sum(end - start for partition, (start, end) in behind.items() if self._holds_a_record(partition, start, end))

    def wait(self, topics: Sequence[Topic], *, stall_s: float, stop: threading.Event | None = None, on_lag: Callable[[int], None] | None = None) -> bool:
        """Block until the group has handled every record of the topics. False if `stop` is set first.

        Raises RetryLater if the group makes no progress for `stall_s`.
        """
        least, since = None, time.monotonic()
        while lag := self.unhandled(topics):
            if on_lag:
                on_lag(lag)
            if least is None or lag < least:
                least, since = lag, time.monotonic()
            if time.monotonic() - since > stall_s:
                names, group = ", ".join(topic.name for topic in topics), KafkaNames(self._settings.kafka).group(self._group)
                raise RetryLater(f"group {group} has made no progress for {stall_s:g} s, {lag} records before the end of {names}; is `python -m streams` up?")
            if stop is None:
                time.sleep(POLL_S)
            elif stop.wait(POLL_S):
                return False
        return True

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        deadline = time.monotonic() + COORDINATOR_S
        with broker_errors(self._settings):
            while True:
                try:
                    found = self._admin.list_group_offsets({self._group: partitions}).get(self._group, {})
                    return {partition: position.offset for partition, position in found.items()}
                except (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError):
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(POLL_S)

    def _holds_a_record(self, partition: TopicPartition, start: int, end: int) -> bool:
        """A committed transaction ends with a marker. No consumer gets it, and its offset is seldom committed."""
        try:
            return any(True for _ in self._reader.read({partition: (start, end)}, timeout_s=2.0))
        except RetryLater:
            return True
