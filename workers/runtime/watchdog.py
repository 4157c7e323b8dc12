"""Publishes a worker's metrics, and ends the worker if there is lag and no progress, or if most records fail through our own fault.

Our own fault is a bug of the handler, or a dependency that stayed away for all retries. Malformed and poison records count as handled well: they are
their writers' fault, and a restart would only read them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from infra.errors import CannotContinue
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
from schemas.topics import dead_letter_topic
from workers.runtime.broker import Membership, NotConfirmed
from workers.runtime.clock import Clock
from workers.runtime.in_flight import HandlingOutcome, InFlight
from workers.runtime.partition_state import AssignedPartitions
from workers.runtime.pool import HandlerPool

CHECK_EVERY_S = 5.0


class Watchdog:
    """Progress is an attempt that ended, a commit, or a new assignment. A retry is progress too: a new process would meet the same
    dependency in the same state."""

    def __init__(self, name: str, topic: str, partitions: AssignedPartitions, stall_timeout_s: float, clock: Clock) -> None:
        self.name = name
        self._topic = topic
        self._partitions = partitions
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._progress_at = clock.monotonic()
        self._unreadable = 0
        self._published: set[int] = set()
        self.read_to: Mapping[int, int] = {}

    def progress(self) -> None:
        self._progress_at = self._clock.monotonic()

    def committed(self, records: Sequence[InFlight], seconds: float) -> None:
        self.progress()
        WORKER_COMMITS.add(worker=self.name, outcome=CommitOutcome.COMMITTED)
        WORKER_COMMIT_MS.record(seconds * 1000, worker=self.name)
        self.count(records)

    def not_confirmed(self, error: NotConfirmed) -> None:
        outcome = CommitOutcome.UNKNOWN if isinstance(error.__cause__, TimeoutError) else CommitOutcome.ABORTED
        WORKER_COMMITS.add(worker=self.name, outcome=outcome)

    def count(self, records: Sequence[InFlight]) -> None:
        """Count committed records."""
        for record in records:
            WORKER_RECORDS.add(worker=self.name, outcome=record.finished.outcome if record.finished else HandlingOutcome.PRODUCED)

    async def watch(self, membership: Membership, pool: HandlerPool) -> None:
        """Raises CannotContinue for a worker that stalls."""
        every_s = min(CHECK_EVERY_S, self._stall_timeout_s / 4)
        retries = 0
        while True:
            await self._clock.sleep(every_s)
            if pool.retries > retries:
                retries = pool.retries
                self.progress()
            try:
                lags = self._lags(await membership.ends())
            except NotConfirmed:
                continue  # the broker is away, which is no stall of ours
            self._publish(lags, pool)
            self._check_stall(sum(lags.values()), len(membership.awaited))

    def has_read_to(self, ends: Mapping[int, int]) -> bool:
        """Whether all these partitions are assigned and read to these ends."""
        return set(ends) <= self._partitions.numbers and all(self.read_to.get(number, 0) >= end for number, end in ends.items())

    def clear_lags(self) -> None:
        """The worker has ended: remove its partitions from the lag metric."""
        self._publish_lags({})

    def _check_stall(self, lag: int, awaited: int) -> None:
        if not lag and not awaited and not self._partitions.held:
            self.progress()
        stalled_s = self._clock.monotonic() - self._progress_at
        if stalled_s > self._stall_timeout_s:
            state = f"{lag} records of {self._topic} unread, {self._partitions.held} in flight, {awaited} partitions without a start position"
            raise CannotContinue(f"worker {self.name} stalls: {state}, no progress for {stalled_s:.0f} s")

    def _lags(self, ends: Mapping[int, int]) -> dict[int, int]:
        """Unread offsets of each assigned partition."""
        return {number: max(0, ends.get(number, 0) - self.read_to.get(number, 0)) for number in self._partitions.numbers}

    def _publish(self, lags: Mapping[int, int], pool: HandlerPool) -> None:
        oldest_ms = self._partitions.oldest_ms
        WORKER_OLDEST.set(max(0.0, datetime.now(UTC).timestamp() - oldest_ms / 1000) if oldest_ms else 0.0, topic=self._topic)
        WORKER_IN_FLIGHT.set(pool.running, worker=self.name)
        WORKER_HELD.set(self._partitions.held, worker=self.name)
        self._publish_lags({number: lag + self._partitions.held_of(number) for number, lag in lags.items()})
        if self._partitions.unreadable > self._unreadable:
            WORKER_METADATA_UNREADABLE.add(self._partitions.unreadable - self._unreadable)
            self._unreadable = self._partitions.unreadable

    def _publish_lags(self, lags: Mapping[int, int]) -> None:
        for number in self._published - lags.keys():
            WORKER_LAG.remove(topic=self._topic, partition=str(number))
        for number, lag in lags.items():
            WORKER_LAG.set(lag, topic=self._topic, partition=str(number))
        self._published = set(lags)


class FailureLimit:
    """Share of failures through our own fault among the last `window` records of `topic`. It is never reached before `at_least` records."""

    def __init__(self, topic: str, window: int = 100, at_least: int = 20, share: float = 0.5) -> None:
        self._topic = topic
        self._last: deque[bool] = deque(maxlen=window)
        self._at_least = at_least
        self._share = share

    def count(self, *, our_fault: bool) -> None:
        """Count one finished record."""
        self._last.append(our_fault)

    @property
    def is_reached(self) -> bool:
        return len(self._last) >= self._at_least and sum(self._last) > self._share * len(self._last)

    def check(self) -> None:
        """Raises CannotContinue if the limit is reached."""
        if self.is_reached:
            raise CannotContinue(
                f"the handler failed on {sum(self._last)} of the last {len(self._last)} records of {self._topic}: "
                f"the reasons are in this process's log and in the headers of the records on {dead_letter_topic(self._topic)}"
            )
