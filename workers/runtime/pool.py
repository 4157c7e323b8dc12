"""Handlers at work on the worker's loop: a bounded number of tries at once, fair between keys, in order within a key where asked.

A record that waits for its next try holds no place; when its pause is over it goes before records that have not begun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from workers.runtime.clock import Clock
from workers.runtime.fair_queue import COUNTED_PER_KEY, FairQueue
from workers.runtime.in_flight import Delivery, Finished, TryAgain

Attempt = Callable[[Delivery, int], Awaitable[Finished | TryAgain]]


@dataclass(eq=False)
class InFlight:
    """A record on its way, from reading to durable. Each reading of a record is a flight of its own."""

    delivery: Delivery
    failures: int = 0
    has_place: bool = False
    finished: Finished | None = None


class HandlerPool:
    """`landed` is called for each flight that has finished. A failure that is no record's is kept for `failure`."""

    def __init__(self, attempt: Attempt, concurrency: int, *, ordered: bool, clock: Clock, landed: Callable[[InFlight], None]) -> None:
        self._attempt = attempt
        self._concurrency = concurrency
        self._ordered = ordered
        self._clock = clock
        self._landed = landed
        # With few places the flood of one key must not look like enough to do either.
        self._schedule: FairQueue[InFlight] = FairQueue(ordered=ordered, counted=max(1, min(COUNTED_PER_KEY, concurrency // 8)))
        self._returning: deque[tuple[InFlight, asyncio.Future[None]]] = deque()
        self._tasks: dict[InFlight, asyncio.Task[None]] = {}
        self._running = 0
        self.retries = 0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> int:
        """Tries under way."""
        return self._running

    @property
    def depth(self) -> int:
        """Records that wait for a place and could begin soon."""
        return self._schedule.depth + len(self._returning)

    def submit(self, flight: InFlight) -> None:
        self._schedule.add(self._key(flight), flight)
        self._pump()

    def abandon(self, unwanted: Callable[[InFlight], bool]) -> None:
        """Forget those that wait and cancel those under way; neither ever lands."""
        self._schedule.discard(unwanted)
        for flight, task in list(self._tasks.items()):
            if unwanted(flight):
                task.cancel()

    def keep_running(self) -> None:
        """Hand back all that have no place: those that have not begun and those between two tries."""
        self._concurrency = 0
        self._schedule.discard(lambda flight: True)

    def _key(self, flight: InFlight) -> Hashable:
        """Records without a key have no order and no owner: each is its own."""
        key = flight.delivery.key
        return flight if key is None else (flight.delivery.origin.partition, key)

    def _pump(self) -> None:
        while self._running < self._concurrency:
            while self._returning:
                returning, place = self._returning.popleft()
                if not place.done():  # abandoned
                    self._running += 1
                    returning.has_place = True
                    place.set_result(None)
                    break
            else:
                if (turn := self._schedule.take()) is None:
                    return
                self._begin(*turn)

    def _begin(self, key: Hashable, flight: InFlight) -> None:
        self._running += 1
        flight.has_place = True
        task = self._tasks[flight] = asyncio.ensure_future(self._fly(flight))
        task.add_done_callback(lambda _: self._ended(key, flight))  # a task that is cancelled before its first step runs no code of its own

    def _ended(self, key: Hashable, flight: InFlight) -> None:
        del self._tasks[flight]
        self._give_back(flight)
        self._schedule.release(key)
        self._pump()

    def _give_back(self, flight: InFlight) -> None:
        self._running -= flight.has_place
        flight.has_place = False

    async def _fly(self, flight: InFlight) -> None:
        try:
            while isinstance(outcome := await self._attempt(flight.delivery, flight.failures), TryAgain):
                flight.failures += 1
                self.retries += 1
                self._give_back(flight)
                self._pump()
                await self._clock.sleep(outcome.pause_s)
                await self._place(flight)
            flight.finished = outcome
            self._landed(flight)
        except Exception as error:
            if not self.failure.done():
                self.failure.set_exception(error)

    async def _place(self, flight: InFlight) -> None:
        """Wait for a place, before those that have not begun."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append((flight, place))
        self._pump()
        await place
