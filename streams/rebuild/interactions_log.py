"""Reads `interactions` as far as the streams processes have indexed it. Commits nothing, and is no member of their group."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from typing import Any, Protocol, Self

from kafka import TopicPartition
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError

from infra.errors import CannotContinue
from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import Use
from infra.kafka.rights import Operation
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.records import ConsumedRecord
from schemas.topics import INTERACTIONS
from streams.app.processor import GROUP

#: By partition: an offset, of the first record or behind the last one.
Positions = Mapping[int, int]

#: How long a broker that has just started may take to load the group's offsets.
COORDINATOR_S = 60.0
POLL_S = 0.25
#: Static members that were stopped stay in the group for their session timeout, and the broker checks for them only from time to time.
LEFT_MARGIN_S = 5.0
NO_MEMBERS = frozenset({"Empty", "Dead"})


class Log(Protocol):
    """What a rebuild needs of the topic and of the group that indexes it."""

    def begins(self) -> Positions:
        """The first offset that each partition still has."""

    def ends(self) -> Positions:
        """The offset behind each partition's last record."""

    def indexed(self) -> Positions:
        """Up to these offsets the streams processes have written the serving index. Raises CannotContinue if they have not yet begun."""

    def records(self, begin: Positions, end: Positions) -> Iterator[ConsumedRecord]:
        """In order within a partition. Offsets that retention has deleted are left out."""

    def wait_until_left(self) -> bool:
        """Whether no streams process is a member of the group. Blocks as long as a stopped one may still be listed."""


class InteractionsLog:
    """`with InteractionsLog(settings) as log:`. Every method raises RetryLater if the broker is away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._group = KafkaNames.of(settings).group(GROUP)
        with ExitStack() as opened:
            self._reader = opened.enter_context(TopicReader(settings, "retouch-index-rebuild", max_poll_records=2_000))
            with broker_errors(settings):
                self._admin = opened.enter_context(closing(admin(settings, "retouch-index-rebuild-admin")))
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def begins(self) -> Positions:
        return {partition.partition: begin for partition, (begin, _) in self._ranges().items()}

    def ends(self) -> Positions:
        return {partition.partition: end for partition, (_, end) in self._ranges().items()}

    def indexed(self) -> Positions:
        ranges = self._ranges()
        committed = self._committed(list(ranges))
        unread = [f"{partition.topic}-{partition.partition}" for partition, (begin, end) in ranges.items() if partition not in committed and begin < end]
        if unread:
            raise CannotContinue(f"group {self._group} has no offset on {', '.join(unread)}: the streams process must have filled the serving collection first")
        return {partition.partition: min(committed.get(partition, end), end) for partition, (_, end) in ranges.items()}

    def records(self, begin: Positions, end: Positions) -> Iterator[ConsumedRecord]:
        ranges = {
            partition: (max(begin.get(partition.partition, 0), first), end.get(partition.partition, 0)) for partition, (first, _) in self._ranges().items()
        }
        for record in self._reader.read(ranges, silence_s=60.0):
            yield ConsumedRecord(record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, tuple(record.headers))

    def wait_until_left(self) -> bool:
        deadline = time.monotonic() + self._settings.kafka.session_timeout_ms / 1000 + LEFT_MARGIN_S
        with broker_errors(self._settings, use=Use(group=self._group, on_group=Operation.DESCRIBE)):
            while (has_left := self._admin.group_members(GROUP)[0] in NO_MEMBERS) is False and time.monotonic() < deadline:
                time.sleep(POLL_S)
        return has_left

    def _ranges(self) -> dict[TopicPartition, tuple[int, int]]:
        return self._reader.ranges(INTERACTIONS.name)

    def _committed(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Without partitions on which the group has committed nothing."""
        deadline = time.monotonic() + COORDINATOR_S
        with broker_errors(self._settings, use=Use(group=self._group, on_group=Operation.DESCRIBE)):
            while True:
                try:
                    found: dict[TopicPartition, Any] = self._admin.list_group_offsets({GROUP: partitions}).get(GROUP, {})
                    return {partition: position.offset for partition, position in found.items() if position.offset >= 0}
                except (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError):
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(POLL_S)
