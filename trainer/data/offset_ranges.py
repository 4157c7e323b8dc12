"""Offset ranges: which part of each partition a run read. `end` is exclusive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from infra.kafka.topic_reader import TopicReader
from schemas.topics import Topic

#: topic -> partition -> (start, end).
Ranges = Mapping[str, Mapping[int, tuple[int, int]]]


def offset_ranges(reader: TopicReader, topics: Iterable[Topic]) -> Ranges:
    """The first and the last stable offset of every partition. A topic that does not exist yet has no partitions."""
    return {topic.name: {partition.partition: offsets for partition, offsets in reader.ranges(topic.name).items()} for topic in topics}


def ranges_json(ranges: Ranges) -> dict[str, dict[str, list[int]]]:
    """The ranges as JSON: partition numbers are text."""
    return {topic: {str(number): list(ends) for number, ends in sorted(parts.items())} for topic, parts in sorted(ranges.items())}


def offsets_beyond(ranges: Ranges, before: Mapping[str, Mapping[str, Sequence[int]]], topic: Topic) -> int:
    """The number of offsets of a topic that `ranges` contains and the earlier ranges (as JSON) do not."""
    seen = before.get(topic.name, {})
    return sum(max(0, end - max(start, seen.get(str(number), (0, start))[1])) for number, (start, end) in ranges.get(topic.name, {}).items())
