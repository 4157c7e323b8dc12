"""A clock that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta


class ManualClock:
    """Moves only by `advance`. Sleepers wake in the order of their times."""

    def __init__(self, now: datetime = datetime(2026, 11, 20, tzinfo=UTC)) -> None:
        self._start = now
        self._elapsed_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        heapq.heappush(self._sleepers, (self._elapsed_s + seconds, next(self._order), event))
        await event.wait()

    async def advance(self, seconds: float) -> None:
        """Move the clock. Each sleeper wakes at its time and runs before the clock moves on."""
        end_s = self._elapsed_s + seconds
        while self._sleepers and self._sleepers[0][0] <= end_s:
            self._elapsed_s, _, event = heapq.heappop(self._sleepers)
            event.set()
            await settle()
        self._elapsed_s = end_s


async def settle(turns: int = 20) -> None:
    """Run everything that is ready on this event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
