"""Time as the workers read it, and one that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The wall clock, aware, UTC: for deadlines that travel in messages."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back: for measuring."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.perf_counter()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """Stands still until `advance`. Sleepers wake in the order of their times."""

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

    def next_wake_s(self) -> float | None:
        """How long until the first sleeper wakes; None when nobody sleeps."""
        return self._sleepers[0][0] - self._elapsed_s if self._sleepers else None

    async def advance(self, seconds: float) -> None:
        """Move on, waking sleepers on the way and letting each run."""
        end_s = self._elapsed_s + seconds
        while self._sleepers and self._sleepers[0][0] <= end_s:
            self._elapsed_s, _, event = heapq.heappop(self._sleepers)
            event.set()
            await settle()
        self._elapsed_s = end_s


async def settle(turns: int = 20) -> None:
    """Let everything that can run on this loop run."""
    for _ in range(turns):
        await asyncio.sleep(0)
