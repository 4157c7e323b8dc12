"""Reads back the fingerprints of the last records that a group handled, so that a worker recognizes repeats after a restart."""

from __future__ import annotations

import time
from collections.abc import Mapping

from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.dead_letters import original_position
from schemas.envelope import read_fingerprint
from schemas.messages import Fingerprint
from schemas.topics import Topic, dead_letter_topic

WITHIN_S = 8.0


def read_recent_fingerprints(settings: Settings, client_id: str, topic: Topic, offsets: Mapping[int, range], count: int) -> dict[int, dict[int, Fingerprint]]:
    """The fingerprints of the records at these offsets, by partition and offset.

    Leaves out records that are among the last `count` of a partition of the dead-letter topic: they were not answered, and are handled if they
    are redriven. Blocks. Raises RetryLater.
    """
    if not any(offsets.values()):
        return {}
    deadline = time.monotonic() + WITHIN_S
    dlt = dead_letter_topic(topic.name)
    recent: dict[int, dict[int, Fingerprint]] = {}
    with TopicReader(settings, f"{client_id}-recent-fingerprints", timeout_s=WITHIN_S, max_poll_records=count) as reader:
        stored = reader.ranges(topic.name, dlt)
        records = {
            partition: (max(start, offsets[partition.partition].start), offsets[partition.partition].stop)
            for partition, (start, _) in stored.items()
            if partition.topic == topic.name and partition.partition in offsets
        }
        for record in reader.read(records, timeout_s=deadline - time.monotonic()):
            if fingerprint := read_fingerprint(topic.message, record.headers, record.value):
                recent.setdefault(record.partition, {})[record.offset] = fingerprint
        last_dead_letters = {partition: (max(start, end - count), end) for partition, (start, end) in stored.items() if partition.topic == dlt}
        for dead_letter in reader.read(last_dead_letters, timeout_s=deadline - time.monotonic()):
            source = original_position(dead_letter.headers)
            if source and source[0] == topic.name:
                recent.get(source[1], {}).pop(source[2], None)
    return recent
