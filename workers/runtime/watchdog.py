"""Looks after one worker: publishes how it does, ends it when there is lag and no progress, and ends the process when its loop hangs."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from infra.errors import CannotContinue
from infra.process.lifecycle import FAILED
from infra.telemetry.metrics import (
    WORKER_COMMIT_MS,
    WORKER_COMMITS,
    WORKER_HELD,
    WORKER_IN_FLIGHT,
    WORKER_LAG,
    WORKER_METADATA_UNREADABLE,
    WORKER_OLDEST,
    WORKER_RECORDS,
    CommitOutcome,
)
from workers.runtime.broker import Membership, NotConfirmed
from workers.runtime.clock import Clock
from workers.runtime.in_flight import HandlingOutcome
from workers.runtime.partition_state import AssignedPartitions
from workers.runtime.pool import HandlerPool, InFlight

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0


class Watchdog:
    """Progress is a try that has ended, a commit, or a partition that was assigned. A record that is tried again and again is progress too:
    whoever it waits for would be just as far away for a new process."""

    def __init__(self, name: str, topic: str, books: AssignedPartitions, stall_timeout_s: float, clock: Clock) -> None:
        self._name = name
        self._topic = topic
        self._books = books
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._progress_at = clock.monotonic()
        self._unreadable = 0
        self._published: set[int] = set()
        self.read_to: Mapping[int, int] = {}

    def progress(self) -> None:
        self._progress_at = self._clock.monotonic()

    def committed(self, flights: Sequence[InFlight], seconds: float) -> None:
        self.progress()
        WORKER_COMMITS.add(worker=self._name, outcome=CommitOutcome.COMMITTED)
        WORKER_COMMIT_MS.record(seconds * 1000, worker=self._name)
        self.durable(flights)

    def not_confirmed(self, error: NotConfirmed) -> None:
        outcome = CommitOutcome.UNKNOWN if isinstance(error.__cause__, TimeoutError) else CommitOutcome.ABORTED
        WORKER_COMMITS.add(worker=self._name, outcome=outcome)

    def durable(self, flights: Sequence[InFlight]) -> None:
        for flight in flights:
            WORKER_RECORDS.add(worker=self._name, outcome=flight.finished.outcome if flight.finished else HandlingOutcome.PRODUCED)

    async def watch(self, membership: Membership, pool: HandlerPool) -> None:
        """Raises CannotContinue for a worker that stands still before records."""
        every_s = min(LOOK_EVERY_S, self._stall_timeout_s / 4)
        retries = 0
        while True:
            await self._clock.sleep(every_s)
            if pool.retries > retries:
                retries = pool.retries
                self.progress()
            try:
                lags = self._lags(await membership.ends())
            except NotConfirmed:
                continue  # the broker is away: nothing to do, and nothing wrong with us
            self._publish(lags, pool)
            self._bite(sum(lags.values()), len(membership.awaited))

    def forget(self) -> None:
        """The worker has ended: what it last said of its partitions is true no longer."""
        self._publish_lags({})

    def _bite(self, lag: int, awaited: int) -> None:
        if not lag and not awaited and not self._books.held:
            self.progress()
        stood_s = self._clock.monotonic() - self._progress_at
        if stood_s > self._stall_timeout_s:
            seen = f"{lag} records of {self._topic} unread, {self._books.held} in hand, {awaited} partitions not begun"
            raise CannotContinue(f"worker {self._name} stands still: {seen}, no progress for {stood_s:.0f} s")

    def _lags(self, ends: Mapping[int, int]) -> dict[int, int]:
        """Offsets of each of our partitions that were not read yet."""
        return {number: max(0, ends.get(number, 0) - self.read_to.get(number, 0)) for number in self._books.partitions}

    def _publish(self, lags: Mapping[int, int], pool: HandlerPool) -> None:
        oldest = self._books.oldest_ms
        WORKER_OLDEST.set(max(0.0, datetime.now(UTC).timestamp() - oldest / 1000) if oldest else 0.0, topic=self._topic)
        WORKER_IN_FLIGHT.set(pool.running, worker=self._name)
        WORKER_HELD.set(self._books.held, worker=self._name)
        self._publish_lags({number: lag + self._books.held_of(number) for number, lag in lags.items()})
        if self._books.unreadable > self._unreadable:
            WORKER_METADATA_UNREADABLE.add(self._books.unreadable - self._unreadable)
            self._unreadable = self._books.unreadable

    def _publish_lags(self, lags: Mapping[int, int]) -> None:
        for number in self._published - lags.keys():
            WORKER_LAG.forget(topic=self._topic, partition=str(number))
        for number, lag in lags.items():
            WORKER_LAG.set(lag, topic=self._topic, partition=str(number))
        self._published = set(lags)


@contextmanager
def guarded_loop(timeout_s: float) -> Iterator[None]:
    """End the process when the running loop does nothing for `timeout_s`: a handler that blocks it would stop everything and be seen by nobody.

    From a thread, and by `os._exit`: what hangs cannot be asked to end. Nothing more is committed.
    """
    loop, ended, beat = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def guard() -> None:
        while not ended.is_set():
            beat.clear()
            loop.call_soon_threadsafe(beat.set)
            if not beat.wait(timeout_s) and not ended.is_set():
                log.error("the worker's loop hangs: a handler blocks it", extra={"timeout_s": timeout_s})
                os._exit(FAILED)
            ended.wait(timeout_s / 4)

    thread = threading.Thread(target=guard, name="loop-guard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        beat.set()
