"""Looks after one worker: publishes what is read of it, and ends it when there is lag and no progress."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from infra.errors import CannotContinue
from workers.runtime.books import Batch, Books
from workers.runtime.broker import Membership, NotTaken
from workers.runtime.clock import Clock

if TYPE_CHECKING:
    from workers.runtime.pool import Pool

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0


class Watchdog:
    """Progress is a try that has ended, a commit, or a partition that was assigned. A record that is tried again and again is progress too:
    whoever it waits for would be just as far away for a new process."""

    def __init__(self, name: str, topic: str, books: Books, stall_timeout_s: float, clock: Clock) -> None:
        self._name = name
        self._topic = topic
        self._books = books
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._progress_at = clock.monotonic()
        self.read_to: Mapping[int, int] = {}

    def progress(self) -> None:
        self._progress_at = self._clock.monotonic()

    def committed(self, batch: Batch, seconds: float) -> None:
        self.progress()

    async def watch(self, membership: Membership, pool: Pool, read_to: Mapping[int, int]) -> None:
        """Raises CannotContinue for a worker that stands still before records."""
        self.read_to = read_to
        every_s = min(LOOK_EVERY_S, self._stall_timeout_s / 4)
        retries = 0
        while True:
            await self._clock.sleep(every_s)
            if pool.retries > retries:
                retries = pool.retries
                self.progress()
            try:
                ends = await membership.ends()
            except NotTaken:
                continue  # the broker is away: nothing to do, and nothing wrong with us
            lag = self._lag(ends)
            stood_s = self._clock.monotonic() - self._progress_at
            if (lag or self._books.held) and stood_s > self._stall_timeout_s:
                raise CannotContinue(
                    f"worker {self._name} stands still: {lag} records of {self._topic} unread, {self._books.held} in hand, no progress for {stood_s:.0f} s"
                )
            if not lag and not self._books.held:
                self.progress()

    def _lag(self, ends: Mapping[int, int]) -> int:
        """Records of our partitions that were not read yet."""
        return sum(max(0, ends.get(number, 0) - self.read_to.get(number, 0)) for number in self._books.partitions)
