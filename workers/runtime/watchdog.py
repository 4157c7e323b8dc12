"""Publishes a worker's metrics, and ends the worker if there is lag and no progress, or if most records fail through our own fault.

Our own fault is a bug of the handler, or a dependency that stayed away for all retries. Malformed and poison records count as handled well: they are
their writers' fault, and a restart would only read them again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from infra.errors import CannotContinue
from infra.kafka.group_gauges import PUBLISH_EVERY_S, GroupGauges
from infra.telemetry.metrics import (
    WORKER_COMMIT_MS,
    WORKER_COMMITS,
    WORKER_HELD,
    WORKER_IN_FLIGHT,
    WORKER_METADATA_UNREADABLE,
    WORKER_RECORDS,
    CommitOutcome,
)
from schemas.topics import consumer_group, dead_letter_topic
from workers.runtime.broker import Membership, NotConfirmed
from workers.runtime.clock import Clock
from workers.runtime.in_flight import HandlingOutcome, InFlight
from workers.runtime.partition_state import AssignedPartitions
from workers.runtime.pool import HandlerPool


class Watchdog:
    """Progress is an attempt that ended, a commit, or a new assignment. A retry is progress too: a new process would meet the same
    dependency in the same state."""

    def __init__(self, name: str, topic: str, partitions: AssignedPartitions, stall_timeout_s: float, clock: Clock, group: str | None = None) -> None:
        """`group`: the declared name; by default that of the worker's name."""
        self.name = name
        self._topic = topic
        self._partitions = partitions
        self._stall_timeout_s = stall_timeout_s
        self._clock = clock
        self._progress_at = clock.monotonic()
        self._unreadable = 0
        self._gauges = GroupGauges(group or consumer_group(name))
        self._ends: Mapping[int, int] = {}
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
        every_s = min(PUBLISH_EVERY_S, self._stall_timeout_s / 4)
        retries = 0
        while True:
            await self._clock.sleep(every_s)
            if pool.retries > retries:
                retries = pool.retries
                self.progress()
            try:
                self._ends = await membership.ends()
            except NotConfirmed:  # the broker is away, which is no stall of ours
                self._publish(self._unread(), pool)  # records grow older
                continue
            unread = self._unread()
            self._publish(unread, pool)
            self._check_stall(sum(unread.values()), len(membership.awaited))

    def has_read_to(self, ends: Mapping[int, int]) -> bool:
        """Whether all these partitions are assigned and read to these ends."""
        return set(ends) <= self._partitions.numbers and all(self.read_to.get(number, 0) >= end for number, end in ends.items())

    def clear_gauges(self) -> None:
        """The worker has ended: remove its partitions from the group's metrics."""
        self._gauges.clear()

    def _check_stall(self, lag: int, awaited: int) -> None:
        if not lag and not awaited and not self._partitions.held:
            self.progress()
        stalled_s = self._clock.monotonic() - self._progress_at
        if stalled_s > self._stall_timeout_s:
            state = f"{lag} records of {self._topic} unread, {self._partitions.held} in flight, {awaited} partitions without a start position"
            raise CannotContinue(f"worker {self.name} stalls: {state}, no progress for {stalled_s:.0f} s")

    def _unread(self) -> dict[int, int]:
        """Unread offsets of each assigned partition, as of the last ends that the broker returned."""
        return {number: max(0, self._ends.get(number, 0) - self.read_to.get(number, 0)) for number in self._partitions.numbers}

    def _publish(self, unread: Mapping[int, int], pool: HandlerPool) -> None:
        WORKER_IN_FLIGHT.set(pool.running, worker=self.name)
        WORKER_HELD.set(self._partitions.held, worker=self.name)
        partitions = {(self._topic, number): self._partitions.unhandled(number, offsets) for number, offsets in unread.items()}
        self._gauges.publish(partitions, self._clock.now().timestamp() * 1000)
        if self._partitions.unreadable > self._unreadable:
            WORKER_METADATA_UNREADABLE.add(self._partitions.unreadable - self._unreadable)
            self._unreadable = self._partitions.unreadable


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
