"""Reads topics without a consumer group: partitions are assigned, committed records are returned, nothing is committed.

A reader follows topics (`follow`, then `poll` or `read_to_end`) or reads offset ranges (`read`). Every wait has a bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from kafka import TopicPartition

from infra.errors import RetryLater
from infra.kafka.clients import groupless_consumer
from infra.kafka.connections import REACH_S
from infra.kafka.errors import broker_errors
from infra.settings import Settings

#: By partition: the first offset, and the offset behind the last record.
OffsetRanges = dict[TopicPartition, tuple[int, int]]
POLL_S = 0.2


class TopicReader:
    """`with TopicReader(settings, client_id) as reader:`. Every method raises RetryLater for errors of the Kafka client, and AccessRefused if the broker
    refuses the client. Not safe between threads.

    The methods that return records raise UnreadableBatch at a batch that cannot be decoded, after the records before it.

    `timeout_s` bounds the connection, which REACH_S bounds too, and each request for offsets; `options` are those of kafka-python's consumer.
    """

    def __init__(self, settings: Settings, client_id: str, *, timeout_s: float = 15.0, **options: Any) -> None:
        self._settings = settings
        self._timeout_ms = int(timeout_s * 1000)
        self._followed: list[TopicPartition] = []
        with broker_errors(settings):
            self._consumer = groupless_consumer(settings, client_id, bootstrap_timeout_ms=int(1000 * min(timeout_s, REACH_S)), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        with broker_errors(self._settings):
            self._consumer.close()

    def topics(self) -> frozenset[str]:
        """All topics of the broker."""
        with broker_errors(self._settings):
            return frozenset(self._consumer.topics())

    def partitions(self, *topics: str) -> list[TopicPartition]:
        """The partitions of those topics that exist, in order."""
        with broker_errors(self._settings):
            return [TopicPartition(topic, number) for topic in topics for number in sorted(self._consumer.partitions_for_topic(topic) or ())]

    def ranges(self, *topics: str, since_ms: int = 0) -> OffsetRanges:
        """First offset and last stable offset of each partition. With `since_ms`, from the first record of that Unix time or later."""
        if not (partitions := self.partitions(*topics)):
            return {}
        with broker_errors(self._settings):
            starts = self._consumer.beginning_offsets(partitions, timeout_ms=self._timeout_ms)
            ends = self._consumer.end_offsets(partitions, timeout_ms=self._timeout_ms)
            if since_ms > 0:
                at_time = self._consumer.offsets_for_times(dict.fromkeys(partitions, since_ms), timeout_ms=self._timeout_ms)
                starts = {partition: at_time[partition].offset if at_time.get(partition) else ends[partition] for partition in partitions}
        return {partition: (starts[partition], ends[partition]) for partition in partitions}

    def follow(self, *topics: str, from_end: bool = False, positions: Mapping[TopicPartition, int] | None = None) -> list[TopicPartition]:
        """Assign the partitions of `topics`, to read from `positions`, else from the beginning or the present end. Returns the partitions.

        With `from_end` a record that is written after this call is read. Does nothing if these partitions are followed already, so call it again for
        topics that may be created later.
        """
        partitions = self.partitions(*topics)
        if partitions == self._followed:
            return partitions
        with broker_errors(self._settings):
            self._consumer.assign(partitions)
            self._consumer.resume(*partitions)  # an earlier `read` paused them
            starts = self._consumer.end_offsets(partitions, timeout_ms=self._timeout_ms) if from_end and partitions else {}
            for partition, offset in {**starts, **(positions or {})}.items():
                self._consumer.seek(partition, offset)
            unpositioned = [partition for partition in partitions if partition not in starts and partition not in (positions or {})]
            if unpositioned:
                self._consumer.seek_to_beginning(*unpositioned)
        self._followed = partitions
        return partitions

    def restart(self) -> None:
        """The next `follow` reads its topics from the start again. Does not block."""
        self._followed = []

    def poll(self, timeout_s: float) -> list[Any]:
        """Records that have arrived. Blocks for at most `timeout_s` until there are some."""
        with broker_errors(self._settings):
            return [record for batch in self._consumer.poll(timeout_ms=int(timeout_s * 1000)).values() for record in batch]

    def ends(self) -> dict[TopicPartition, int]:
        """The last stable offset of each followed partition."""
        with broker_errors(self._settings):
            return dict(self._consumer.end_offsets(self._followed, timeout_ms=self._timeout_ms)) if self._followed else {}

    def has_reached(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether everything before `ends` was polled. A transaction's marker has an offset but is no record, so only the position shows it."""
        return all(self._position(partition) >= end for partition, end in ends.items())

    def read_to_end(self, timeout_s: float) -> Iterator[Any]:
        """Poll the followed topics up to their present ends. Raises RetryLater if that takes longer than `timeout_s`."""
        ends, deadline = self.ends(), time.monotonic() + timeout_s
        while not self.has_reached(ends):
            if time.monotonic() > deadline:
                raise RetryLater(f"the topics could not be read to their ends within {timeout_s:g} s; is the broker up?")
            yield from self.poll(POLL_S)

    def read(
        self,
        ranges: Mapping[TopicPartition, tuple[int, int]],
        *,
        silence_s: float = 15.0,
        timeout_s: float = math.inf,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[Any]:
        """Every record inside the ranges, in order within a partition. Ends an earlier `follow`. Calls `check` before each poll.

        Raises RetryLater if no record arrives for `silence_s`, or if reading takes longer than `timeout_s`.
        """
        ends = {partition: end for partition, (start, end) in ranges.items() if start < end}
        self._begin({partition: ranges[partition][0] for partition in ends})
        began = progressed = time.monotonic()
        while ends:
            check()
            records = self.poll(POLL_S)
            yield from (record for record in records if record.offset < ranges[TopicPartition(record.topic, record.partition)][1])
            finished = [partition for partition, end in ends.items() if self._position(partition) >= end]
            for partition in finished:
                del ends[partition]
                self._consumer.pause(partition)
            now = time.monotonic()
            if records or finished:
                progressed = now
            elif now - progressed > silence_s:
                raise RetryLater(f"no records for {silence_s:g} s although {len(ends)} partitions hold more; is the broker up?")
            if ends and now - began > timeout_s:
                topics = ", ".join(sorted({partition.topic for partition in ends}))
                raise RetryLater(f"{topics} could not be read to the end within {timeout_s:g} s; is the broker up?")

    def _begin(self, positions: Mapping[TopicPartition, int]) -> None:
        self._followed = []
        if not positions:
            return
        with broker_errors(self._settings):
            self._consumer.assign(list(positions))
            self._consumer.resume(*positions)
            for partition, offset in positions.items():
                self._consumer.seek(partition, offset)

    def _position(self, partition: TopicPartition) -> int:
        with broker_errors(self._settings):
            position: int | None = self._consumer.position(partition, timeout_ms=self._timeout_ms)
        return -1 if position is None else position
