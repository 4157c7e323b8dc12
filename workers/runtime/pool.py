"""Runs handlers on the worker's event loop: a bounded number at once, fair between keys, and with `ordered` in order within a key.

A user with 10,000 records gets every n-th free slot while n users wait, wherever in the partition the records are.
A record that waits for its next attempt takes no slot. After its pause it goes before records that have not begun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from workers.runtime.clock import Clock
from workers.runtime.in_flight import Finished, InFlight, TryAgain

Attempt = Callable[[InFlight], Awaitable[Finished | TryAgain]]
T = TypeVar("T")

#: At most this many waiting records of a key count in `depth`: reading continues past one user's flood to other users' records.
COUNTED_PER_KEY = 8


class FairQueue(Generic[T]):
    """Waiting records. Round robin over keys. With `ordered`, `take` closes the key until `release`, and one record of each key counts in `depth`."""

    def __init__(self, *, ordered: bool, counted: int = COUNTED_PER_KEY) -> None:
        self._ordered = ordered
        self._counted = 1 if ordered else counted
        self._waiting: dict[Hashable, deque[T]] = {}
        self._turns: deque[Hashable] = deque()  # keys whose next record may begin
        self._closed: set[Hashable] = set()
        self.depth = 0  # waiting records that could begin soon: at most `counted` of each key

    def add(self, key: Hashable, item: T) -> None:
        queue = self._waiting.get(key)
        if queue is None:
            queue = self._waiting[key] = deque()
            if key not in self._closed:
                self._turns.append(key)
        queue.append(item)
        self.depth += len(queue) <= self._counted

    def take(self) -> tuple[Hashable, T] | None:
        """The next record and its key. None if no record may begin."""
        if not self._turns:
            return None
        key = self._turns.popleft()
        queue = self._waiting[key]
        self.depth -= len(queue) <= self._counted
        item = queue.popleft()
        if self._ordered:
            self._closed.add(key)
        if not queue:
            del self._waiting[key]
        elif not self._ordered:
            self._turns.append(key)
        return key, item

    def release(self, key: Hashable) -> None:
        """The record taken under this key has ended: the key's next one may begin."""
        if key in self._closed:
            self._closed.remove(key)
            if key in self._waiting:
                self._turns.append(key)

    def discard(self, matches: Callable[[T], bool]) -> None:
        """Remove the waiting records that match."""
        for key, queue in list(self._waiting.items()):
            kept = deque(item for item in queue if not matches(item))
            self.depth -= min(len(queue), self._counted) - min(len(kept), self._counted)
            if kept:
                self._waiting[key] = kept
            else:
                del self._waiting[key]
        self._turns = deque(key for key in self._turns if key in self._waiting)


class HandlerPool:
    """Calls `on_finished` for each record that has finished. `failure` holds the first error that does not concern one record."""

    def __init__(self, attempt: Attempt, concurrency: int, *, ordered: bool, clock: Clock, on_finished: Callable[[InFlight], None]) -> None:
        self._attempt = attempt
        self._concurrency = concurrency
        self._clock = clock
        self._on_finished = on_finished
        # With few slots, one key alone must not fill the depth.
        self._queue: FairQueue[InFlight] = FairQueue(ordered=ordered, counted=max(1, min(COUNTED_PER_KEY, concurrency // 8)))
        self._returning: deque[tuple[InFlight, asyncio.Future[None]]] = deque()  # after a pause, waiting for a slot
        self._tasks: dict[InFlight, asyncio.Task[None]] = {}
        self._running = 0
        self.retries = 0
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def running(self) -> int:
        """Attempts that run now."""
        return self._running

    @property
    def depth(self) -> int:
        """Records that wait for a slot and could begin soon."""
        return self._queue.depth + len(self._returning)

    def submit(self, record: InFlight) -> None:
        self._queue.add(self._key(record), record)
        self._fill_slots()

    def abandon(self, matches: Callable[[InFlight], bool]) -> None:
        """Remove waiting records and cancel running ones that match. `on_finished` is not called for them."""
        self._queue.discard(matches)
        for record, task in list(self._tasks.items()):
            if matches(record):
                task.cancel()

    def stop_new_attempts(self) -> None:
        """Let running attempts end. Records that have not begun, or that pause between two attempts, are left."""
        self._concurrency = 0
        self._queue.discard(lambda record: True)

    def _key(self, record: InFlight) -> Hashable:
        """A record without a key has no order and no owner: it is its own key."""
        return record if record.consumed.key is None else (record.consumed.partition, record.consumed.key)

    def _fill_slots(self) -> None:
        while self._running < self._concurrency:
            while self._returning:
                returning, slot = self._returning.popleft()
                if not slot.done():  # not abandoned
                    self._running += 1
                    returning.has_slot = True
                    slot.set_result(None)
                    break
            else:
                if (turn := self._queue.take()) is None:
                    return
                self._begin(*turn)

    def _begin(self, key: Hashable, record: InFlight) -> None:
        self._running += 1
        record.has_slot = True
        task = self._tasks[record] = asyncio.ensure_future(self._run(record))
        task.add_done_callback(lambda _: self._ended(key, record))  # a task that is cancelled before its first step never enters `_run`

    def _ended(self, key: Hashable, record: InFlight) -> None:
        del self._tasks[record]
        self._release_slot(record)
        self._queue.release(key)
        self._fill_slots()

    def _release_slot(self, record: InFlight) -> None:
        self._running -= record.has_slot
        record.has_slot = False

    async def _run(self, record: InFlight) -> None:
        try:
            while isinstance(result := await self._attempt(record), TryAgain):
                record.failures += result.counts
                record.last_failure = result.cause
                self.retries += 1
                self._release_slot(record)
                self._fill_slots()
                await self._clock.sleep(result.pause_s)
                await self._slot(record)
            record.finished = result
            self._on_finished(record)
        except Exception as error:
            if not self.failure.done():
                self.failure.set_exception(error)

    async def _slot(self, record: InFlight) -> None:
        """Wait for a slot, before records that have not begun."""
        slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append((record, slot))
        self._fill_slots()
        await slot
