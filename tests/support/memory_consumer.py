"""A Kafka consumer of records in memory, with as much of kafka-python's interface as `infra.kafka.topic_reader` uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import TopicPartition


@dataclass(frozen=True)
class MemoryRecord:
    topic: str
    partition: int
    offset: int
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass
class MemoryConsumer:
    """`records` by topic and partition; None stands for a transaction's marker. A poll returns records of one partition, at most `batch` of them."""

    records: dict[str, dict[int, list[MemoryRecord | None]]] = field(default_factory=dict)
    batch: int = 2_000
    failure: Exception | None = None  # raised by every poll
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    paused: set[TopicPartition] = field(default_factory=set)
    closed: int = 0

    def add(self, topic: str, partition: int, value: bytes | None = None, headers: Sequence[tuple[str, bytes]] = (), timestamp: int = 0) -> None:
        log = self.records.setdefault(topic, {}).setdefault(partition, [])
        log.append(MemoryRecord(topic, partition, len(log), timestamp, None, value, headers))

    def add_marker(self, topic: str, partition: int) -> None:
        self.records[topic][partition].append(None)

    def topics(self) -> set[str]:
        return set(self.records)

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(self.records.get(topic, {}))

    def beginning_offsets(self, partitions: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 0)

    def end_offsets(self, partitions: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return {partition: len(self._log(partition)) for partition in partitions}

    def offsets_for_times(self, times: dict[TopicPartition, int], timeout_ms: int) -> dict[TopicPartition, MemoryRecord | None]:
        return {partition: next((r for r in self._log(partition) if r and r.timestamp >= since), None) for partition, since in times.items()}

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.positions = {partition: self.positions.get(partition, 0) for partition in partitions}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        self.positions |= dict.fromkeys(partitions, 0)

    def position(self, partition: TopicPartition, timeout_ms: int) -> int:
        return self.positions[partition]

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused -= set(partitions)

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        if self.failure is not None:
            raise self.failure
        for partition in sorted(self.positions.keys() - self.paused):
            start = self.positions[partition]
            if chunk := self._log(partition)[start : start + self.batch]:
                self.positions[partition] += len(chunk)
                return {partition: [record for record in chunk if record]}
        return {}

    def close(self) -> None:
        self.closed += 1

    def _log(self, partition: TopicPartition) -> list[MemoryRecord | None]:
        return self.records[partition.topic][partition.partition]
