"""The ids of the records that a group has answered last, read back from the log itself: what a repeat is known by after a restart."""

from __future__ import annotations

import time
from collections.abc import Mapping

from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.dead_letters import original_place
from schemas.envelope import record_id
from schemas.topics import dead_letter_topic

WITHIN_S = 8.0


def recall(settings: Settings, client_id: str, topic: str, wanted: Mapping[int, range], most: int) -> dict[int, dict[int, str]]:
    """By partition and offset, the `ce_id` of the records that are wanted.

    Left out are records that stand among the last `most` on a partition of the dead-letter topic: they were not answered, and whoever sends
    them again wants them handled.
    Blocks. Raises RetryLater.
    """
    if not any(wanted.values()):
        return {}
    deadline = time.monotonic() + WITHIN_S
    found: dict[int, dict[int, str]] = {}
    with TopicReader(settings, f"{client_id}-recall", timeout_s=WITHIN_S, max_poll_records=most) as reader:
        kept = {partition: first for partition, (first, _) in reader.ranges(topic).items() if partition.partition in wanted}
        ranges = {partition: (max(first, wanted[partition.partition].start), wanted[partition.partition].stop) for partition, first in kept.items()}
        for record in reader.read(ranges, timeout_s=deadline - time.monotonic()):
            if id := record_id(record.headers):
                found.setdefault(record.partition, {})[record.offset] = id
        letters = {place: (max(first, end - most), end) for place, (first, end) in reader.ranges(dead_letter_topic(topic)).items()}
        for record in reader.read(letters, timeout_s=deadline - time.monotonic()):
            place = original_place(record.headers)
            if place and place[0] == topic:
                found.get(place[1], {}).pop(place[2], None)
    return found
