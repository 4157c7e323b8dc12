"""What a consumer group has not handled yet, as metrics. Each member publishes them for its own partitions, from its own positions.

So the figures need no rights beyond those of reading, and end with their member: a partition that no member owns has no series.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from infra.telemetry.metrics import GROUP_LAG, GROUP_OLDEST_AGE

#: How often a member publishes.
PUBLISH_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Unhandled:
    """One assigned partition. `unread`: offsets that were not read yet, transaction markers among them; `held`: records that are read and not committed.

    Times are the records' timestamps, Unix time in milliseconds: of the oldest held record, and of the last one that was read. None, or negative: unknown.
    """

    unread: int
    held: int = 0
    oldest_held_ms: int | None = None
    last_read_ms: int | None = None


class GroupGauges:
    """The gauges of one member of `group`, the declared name. Not safe between threads."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._assigned_ms: dict[tuple[str, int], float] = {}  # by partition
        self._all_handled_ms: dict[tuple[str, int], float] = {}  # the last time at which nothing was unhandled, if ever

    def publish(self, partitions: Mapping[tuple[str, int], Unhandled], now_ms: float | None = None) -> None:
        """Publish the figures of these partitions, by topic and number, and remove all others. `now_ms` is Unix time; None: the system's clock."""
        now_ms = time.time() * 1000 if now_ms is None else now_ms
        for topic, number in self._assigned_ms.keys() - partitions.keys():
            del self._assigned_ms[topic, number]
            self._all_handled_ms.pop((topic, number), None)
            for gauge in (GROUP_LAG, GROUP_OLDEST_AGE):
                gauge.remove(group=self._group, topic=topic, partition=str(number))
        for (topic, number), unhandled in partitions.items():
            labels = {"group": self._group, "topic": topic, "partition": str(number)}
            GROUP_LAG.set(unhandled.unread + unhandled.held, **labels)
            GROUP_OLDEST_AGE.set(self._age_s((topic, number), unhandled, now_ms), **labels)

    def clear(self) -> None:
        """Remove all series: the membership has ended."""
        self.publish({})

    def _age_s(self, partition: tuple[str, int], unhandled: Unhandled, now_ms: float) -> float:
        assigned_ms = self._assigned_ms.setdefault(partition, now_ms)
        if not unhandled.unread and not unhandled.held:
            self._all_handled_ms[partition] = now_ms
        since_ms = self._since_ms(partition, unhandled)
        return max(0.0, now_ms - (assigned_ms if since_ms is None else since_ms)) / 1000

    def _since_ms(self, partition: tuple[str, int], unhandled: Unhandled) -> float | None:
        """No unhandled record is older. Exact for a held one; unread ones are younger than the last one that was read. None before anything is known."""
        if unhandled.held and unhandled.oldest_held_ms is not None and unhandled.oldest_held_ms >= 0:
            return unhandled.oldest_held_ms
        read_ms = None if unhandled.held else unhandled.last_read_ms
        return max((at for at in (self._all_handled_ms.get(partition), read_ms) if at is not None), default=None)
