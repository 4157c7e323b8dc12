"""The ids of the records that a group has answered last, read back from the log itself: what a repeat is known by after a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors

from infra.kafka.clients import groupless_consumer
from infra.settings import Settings
from schemas.dead_letters import original_place
from schemas.envelope import record_id
from schemas.topics import dead_letter_topic

WITHIN_S = 8.0


def recall(settings: Settings, client_id: str, topic: str, wanted: Mapping[int, range], most: int) -> dict[int, dict[int, str]]:
    """By partition and offset, the `ce_id` of the records that are wanted.

    Left out are records that stand among the last `most` on a partition of the dead-letter topic: they were not answered, and whoever sends
    them again wants them handled.
    Blocks. Raises KafkaTimeoutError.
    """
    if not any(wanted.values()):
        return {}
    deadline = time.monotonic() + WITHIN_S
    found: dict[int, dict[int, str]] = {}
    client = groupless_consumer(settings, f"{client_id}-recall", max_poll_records=most)
    try:
        ranges = {TopicPartition(topic, number): (offsets.start, offsets.stop) for number, offsets in wanted.items()}
        for record in _records(client, ranges, deadline):
            if id := record_id(record.headers):
                found.setdefault(record.partition, {})[record.offset] = id
        letters = [TopicPartition(dead_letter_topic(topic), number) for number in client.partitions_for_topic(dead_letter_topic(topic)) or ()]
        ends = client.end_offsets(letters) if letters else {}
        for record in _records(client, {letter: (end - most, end) for letter, end in ends.items()}, deadline):
            place = original_place(record.headers)
            if place and place[0] == topic:
                found.get(place[1], {}).pop(place[2], None)
    finally:
        client.close()
    return found


def _records(client: Any, ranges: Mapping[TopicPartition, tuple[int, int]], deadline: float) -> Iterator[Any]:
    """The records of `[start, end)` of each partition, starts no lower than the log."""
    first = client.beginning_offsets(list(ranges)) if ranges else {}
    left = {partition: end for partition, (_, end) in ranges.items() if end > first[partition]}
    client.assign(list(left))
    for partition in left:
        client.seek(partition, max(first[partition], ranges[partition][0]))
    while left:
        if time.monotonic() > deadline:
            raise kafka_errors.KafkaTimeoutError("recall")
        for partition, records in client.poll(timeout_ms=100).items():
            yield from (record for record in records if record.offset < ranges[partition][1])
        left = {partition: end for partition, end in left.items() if client.position(partition) < end}
