"""The lag of the stack's consumer groups, by topic, from the broker alone.

Online quality is left out: its group commits from where open windows must be re-read, so its committed offset does not say how far it has read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Self

from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.topics import consumer_group

GROUPS = tuple(consumer_group(name) for name in ("streams", "base", "strategies", "profiles", "teacher", "reflection"))


@dataclass(frozen=True)
class TopicLag:
    """A group's position in a topic, over all partitions, in offsets: `end` of the topic, and `lag` behind it. Markers of transactions have offsets too."""

    end: int
    lag: int

    @property
    def handled(self) -> int:
        return self.end - self.lag


#: By group and topic.
GroupLags = Mapping[tuple[str, str], TopicLag]


class LagReader:
    """Reads the lag of GROUPS. Every method raises RetryLater if the broker is away. Not safe between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        with ExitStack() as opened:
            with broker_errors(settings):
                self._admin = opened.enter_context(closing(admin(settings, "bench-soak-lag")))
            self._reader = opened.enter_context(TopicReader(settings, "bench-soak-lag-reader"))
            self._opened = opened.pop_all()

    def read(self) -> dict[tuple[str, str], TopicLag]:
        """A partition counts once its group has committed an offset for it. Committed offsets are read first, so a lag is never too small."""
        with broker_errors(self._settings):
            committed = {group: offsets for group, offsets in self._admin.list_group_offsets(dict.fromkeys(GROUPS)).items() if offsets}
        ends = {place: end for place, (_, end) in self._reader.ranges(*sorted({place.topic for offsets in committed.values() for place in offsets})).items()}
        end_sums, lag_sums = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        for group, offsets in committed.items():
            for place, position in offsets.items():
                end = ends.get(place, 0)
                end_sums[group, place.topic] += end
                lag_sums[group, place.topic] += max(0, end - max(0, position.offset))
        return {key: TopicLag(end, lag_sums[key]) for key, end in end_sums.items()}

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
