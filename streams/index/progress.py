"""How far this process has indexed `interactions`, and the queries that wait for an event of theirs (`Query.after`).

The index has every record of a partition below the larger of two offsets: the end of the last batch that the history processor wrote, and the group's committed
offset. The second is known after a restart, before the first batch. "Has" includes records that were set aside, and repeats.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from infra.kafka.forwarding import partition_of
from schemas.contexts import AfterStatus
from schemas.positions import Source
from schemas.queries import Query
from schemas.records import ConsumedRecord

#: How often a waiting query checks again what no batch reports: the assignment, the committed offset and the end of the log.
CHECK_S = 0.25
#: Share of the time to the query's deadline that it may wait. The rest is for the search, and for the steps after it.
WAIT_SHARE = 0.5


class HistoryLog(Protocol):
    """What this member of the group knows of `interactions` on the broker. No method sends a request."""

    def is_history(self, topic: str) -> bool:
        """Whether this is the topic's declared name, or its name on the broker."""

    def partitions(self) -> int:
        """Number of partitions; 0 if it is not known."""

    def is_read(self, partition: int) -> bool:
        """Whether the partition is assigned to this member."""

    def committed(self, partition: int) -> int:
        """The group's committed offset, 0 without one: all records below it are handled."""

    def end(self, partition: int) -> int | None:
        """The high watermark as last fetched; None if it is not known."""

    def fetched_at(self, partition: int) -> float:
        """Unix time in seconds of the last fetch, 0 without one. A partition with prefetched records is not fetched."""


class IndexProgress:
    """Used on one event loop. `bound_s`: `retrieval.after_timeout_s`. `now` is Unix time in seconds."""

    def __init__(self, log: HistoryLog, bound_s: float, now: Callable[[], float] = time.time) -> None:
        self._log, self._bound_s, self._now = log, bound_s, now
        self._indexed_to: dict[int, int] = {}  # by partition
        self._waiting: dict[int, list[tuple[int, asyncio.Future[None]]]] = {}  # by partition: offset, and what ends the pause

    def indexed(self, records: Sequence[ConsumedRecord]) -> None:
        """The history processor has handled these records, each partition's in order."""
        for partition in {record.partition for record in records}:
            to = 1 + max(record.offset for record in records if record.partition == partition)
            self._indexed_to[partition] = max(to, self._indexed_to.get(partition, 0))
            for offset, woken in self._waiting.get(partition, ()):
                if offset < to and not woken.done():
                    woken.set_result(None)

    async def wait_for(self, query: Query, after: Source) -> AfterStatus:
        """Returns when the index has the event, or at once if it will not get it here, or when the time is over: after `bound_s`, or half of the time that is
        left to the query's deadline.
        """
        began = self._now()
        left_s = self._bound_s if query.deadline is None else WAIT_SHARE * (query.deadline.timestamp() - began)
        until = began + min(self._bound_s, left_s)
        while (status := self._status(query, after, began)) is None:
            if (pause_s := min(until - self._now(), CHECK_S)) <= 0:
                return AfterStatus.TIMED_OUT
            await self._pause(after, pause_s)
        return status

    def _status(self, query: Query, after: Source, began: float) -> AfterStatus | None:
        """None: it is worth waiting."""
        partition, partitions = after.partition, self._log.partitions()
        is_users = self._log.is_history(after.topic) and partitions > 0 and partition_of(query.key, partitions) == partition
        if not is_users or not self._log.is_read(partition):
            return AfterStatus.NOT_READ_HERE
        if after.offset < max(self._indexed_to.get(partition, 0), self._log.committed(partition)):
            return AfterStatus.INDEXED
        end = self._log.end(partition)
        # The broker had the event before the platform could name it, so a fetch after that sees it. CHECK_S is more than a fetch takes.
        is_past_end = end is not None and after.offset >= end and self._log.fetched_at(partition) > began + CHECK_S
        return AfterStatus.PAST_END if is_past_end else None

    async def _pause(self, after: Source, pause_s: float) -> None:
        """Until the event is indexed, or `pause_s` have passed."""
        waiting = self._waiting.setdefault(after.partition, [])
        entry = (after.offset, asyncio.get_running_loop().create_future())
        waiting.append(entry)
        try:
            await asyncio.wait([entry[1]], timeout=pause_s)
        finally:
            waiting.remove(entry)
