"""A worker: reads one topic in a consumer group, handles many records at once, and commits results and positions together.

Every record is answered, and a reader of committed records sees each answer once, whatever process dies (docs/runtime.md: guarantees,
limits, tests). Records finish in any order, or in order per key. A slow record, or one that waits for its next attempt, holds up only the
watermark. No key starves another. The worker stops reading while it holds too much.

Everything runs on one event loop; Kafka clients block separate threads (`workers.runtime.kafka`). Reading, committing and watching are
three tasks. The first failure of one of them, or of a background task, ends the worker without another commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from infra.errors import UnreadableBatch
from infra.kafka.forwarding import Forwarder
from infra.process.loop_guard import guarded_event_loop
from infra.settings import Settings
from infra.settings.stream import DeliveryMode, KeyOrder
from schemas.topics import consumer_group
from workers.runtime.broker import BrokerClient, Committer, Membership
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.commit_loop import CommitLoop
from workers.runtime.handler import HandlerSpec
from workers.runtime.in_flight import HandlingOutcome, InFlight
from workers.runtime.partition_state import AssignedPartitions, PartitionState
from workers.runtime.pool import HandlerPool
from workers.runtime.processor import RecordProcessor
from workers.runtime.watchdog import FailureLimit, Watchdog

log = logging.getLogger(__name__)

M = TypeVar("M")

Lifespan = Callable[[], contextlib.AbstractAsyncContextManager[object]]
Background = Callable[[], Awaitable[None]]

POLL_RECORDS = 500
#: How long a poll waits for records.
POLL_S = 0.2
#: How often the worker serves the group while it does not read.
FULL_S = 0.1
#: Reading stops at this many waiting records for each slot.
AHEAD_PER_SLOT = 2
#: Records of one poll for each slot. A poll returns one partition's records first, and a small poll returns only those.
POLLED_PER_SLOT = 8
#: How long records are parsed before other tasks get a turn: 500 contexts take 70 ms.
TURN_S = 0.01
#: Above this many held bytes, the parsed messages of further records are dropped, and parsed again by the attempt: they take up to five times their bytes.
PARSED_HELD_BYTES = 16 << 20
MAX_HELD = 20_000
MAX_HELD_BYTES = 128 << 20
TOPIC_WITHIN_S = 30.0


@dataclass
class WorkerCounts:
    """Counts of a worker since it started. `abandoned` records were in flight when their partition went away or the process stopped."""

    read: int = 0
    produced: int = 0
    degraded: int = 0
    expired: int = 0
    set_aside: int = 0
    repeats: int = 0
    conflicts: int = 0  # set aside as conflicts with an earlier record
    forwarded: int = 0  # written again on their user's partition
    skipped: int = 0  # read again, although the commit's metadata marks them as finished
    retries: int = 0
    abandoned: int = 0
    commits: int = 0
    not_confirmed: int = 0  # commits that the broker refused or did not confirm


class Worker(Generic[M]):
    """`lifespan` is entered before the first record and left after the last. `background` tasks run beside them; a failure of one ends the worker.

    `broker` None connects to Kafka.
    """

    def __init__(
        self,
        settings: Settings,
        spec: HandlerSpec[M],
        *,
        concurrency: int = 64,
        lifespan: Lifespan = contextlib.nullcontext,
        background: Sequence[Background] = (),
        broker: BrokerClient | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._name = spec.name
        self._label = spec.worker
        self._input = spec.topic
        self._topic = spec.topic.name
        self._concurrency = concurrency
        self._lifespan = lifespan
        self._background = background
        self._broker = broker
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  # jitter, no secret
        self._processor = RecordProcessor(spec, self._clock, self._rng, Forwarder(lambda _: self._membership.partition_count))
        self._grace_s = settings.stack.stop_timeout_s / 2
        self._partitions = AssignedPartitions(remember=settings.workers.remember, metadata_bytes=settings.workers.metadata_bytes)
        self._failure_limit = FailureLimit(self._topic)
        self._stopping = False
        self._failed = False
        self._is_connected = False
        self._read_count = self._abandoned = 0
        self._has_capacity = asyncio.Event()
        self._tasks: list[asyncio.Future[None]] = []
        self._pool: HandlerPool
        self._watchdog: Watchdog
        self._membership: Membership
        self._committer: Committer
        self._commits: CommitLoop | None = None

    @property
    def counts(self) -> WorkerCounts:
        outcomes, commits = self._partitions.outcomes, self._commits
        return WorkerCounts(
            read=self._read_count,
            produced=outcomes[HandlingOutcome.PRODUCED],
            degraded=outcomes[HandlingOutcome.DEGRADED],
            expired=outcomes[HandlingOutcome.EXPIRED],
            set_aside=outcomes[HandlingOutcome.SET_ASIDE],
            repeats=outcomes[HandlingOutcome.REPEAT],
            conflicts=outcomes[HandlingOutcome.CONFLICT],
            forwarded=outcomes[HandlingOutcome.FORWARDED],
            skipped=self._partitions.skipped,
            retries=self._pool.retries if commits else 0,
            abandoned=self._abandoned,
            commits=commits.commits if commits else 0,
            not_confirmed=commits.not_confirmed if commits else 0,
        )

    def run(self, stop: threading.Event, on_ready: Callable[[], None]) -> None:
        """Blocks until `stop` is set, then finishes the records in flight within half of `stack.stop_timeout_s`.

        Calls `on_ready` once the group is joined. Raises CannotContinue or the error of a failed task; then nothing more is committed.
        """

        async def stop_is_set() -> None:
            while not stop.is_set():  # noqa: ASYNC110  # a signal handler outside the loop sets it
                await asyncio.sleep(0.05)

        async def guarded() -> None:
            with guarded_event_loop(self._settings.workers.stall_timeout_s, "the worker's loop hangs: a handler blocks it"):
                serving, stopping = asyncio.ensure_future(self.serve(stop_is_set, on_ready)), asyncio.ensure_future(stop_is_set())
                await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if not self._is_connected and serving.cancel():  # it would wait for a broker that is away
                    await asyncio.gather(serving, return_exceptions=True)
                else:
                    await serving

        asyncio.run(guarded())

    def drain(self, timeout_s: float = 60.0) -> WorkerCounts:
        """Handle everything that the topic holds now, and return the counts. Raises TimeoutError."""

        async def drained() -> None:
            ends = await self._membership.ends()
            while self._partitions.held or not self._watchdog.has_read_to(ends):  # noqa: ASYNC110  # two conditions of two tasks
                await asyncio.sleep(0.01)

        async def bounded() -> None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self.serve(drained)
            except TimeoutError:
                raise TimeoutError(f"worker {self._label} had not drained {self._topic} after {timeout_s:g} s: {self.counts}") from None

        asyncio.run(bounded())
        return self.counts

    async def serve(self, until: Callable[[], Awaitable[None]], on_ready: Callable[[], None] = lambda: None) -> None:
        """Like `run`, on the running event loop, until `until` returns."""
        async with self._lifespan():
            commits = await self._connect()
            self._is_connected = True
            try:
                await self._serve_until(until, commits, on_ready)
                await self._finish(commits)
            except BaseException:
                self._failed = True
                await self._disconnect(for_good=False)
                raise
            else:
                await self._disconnect(for_good=True)
        log.info("worker ended", extra={"worker": self._label, **vars(self.counts)})

    async def _connect(self) -> CommitLoop:
        if self._broker is None:
            from workers.runtime.kafka.transactions import KafkaBrokerClient

            self._broker = KafkaBrokerClient(self._settings)
        workers, partitions = self._settings.workers, self._partitions
        ordered = workers.order is KeyOrder.KEY
        self._pool = HandlerPool(self._processor.attempt, self._concurrency, ordered=ordered, clock=self._clock, on_finished=self._on_finished)
        self._watchdog = Watchdog(self._label, self._topic, partitions, workers.stall_timeout_s, self._clock, consumer_group(self._name))
        exactly_once = workers.delivery is DeliveryMode.EXACTLY_ONCE
        self._committer = self._broker.exactly_once(self._name) if exactly_once else self._broker.at_least_once(self._name)
        self._membership = self._broker.membership(self._name, self._input, workers.remember)
        parts = (partitions, self._committer, self._membership, self._failure_limit, self._watchdog)
        commits = self._commits = CommitLoop(*parts, every_s=workers.commit_every_ms / 1000, clock=self._clock, rng=self._rng)
        try:
            await asyncio.gather(commits.start_committer(), self._membership.join(self, TOPIC_WITHIN_S))
        except BaseException:
            await self._disconnect(for_good=False)
            raise
        return commits

    async def _serve_until(self, until: Callable[[], Awaitable[None]], commits: CommitLoop, on_ready: Callable[[], None]) -> None:
        """Raises the first failure of a task. Cancels the background tasks; reading continues until `_disconnect`."""
        own = (self._read(commits, on_ready), commits.run(), self._watchdog.watch(self._membership, self._pool))
        self._tasks = [asyncio.ensure_future(task) for task in own]
        background = [asyncio.ensure_future(task()) for task in self._background]
        end = asyncio.ensure_future(until())
        waiting: set[asyncio.Future[None]] = {*self._tasks, *background, end, self._pool.failure}
        try:
            while not end.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (end, *background):
                task.cancel()
            await asyncio.gather(end, *background, return_exceptions=True)

    async def _finish(self, commits: CommitLoop) -> None:
        """Begin no more records, wait for the running ones within the grace period, commit."""
        self._stopping = True
        self._pool.stop_new_attempts()
        deadline = self._clock.monotonic() + self._grace_s
        while self._pool.running and self._clock.monotonic() < deadline:
            _raise_failures([*self._tasks, self._pool.failure])
            await self._clock.sleep(0.01)
        await commits.commit_rest()

    async def _disconnect(self, *, for_good: bool) -> None:
        """Cancel all tasks, leave the group, close the committer. `for_good` frees the partitions at once; else they wait for this instance."""
        self._abandon(self._partitions.assignments(self._partitions.numbers))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watchdog.clear_gauges()
        if self._pool.failure.done():
            self._pool.failure.exception()
        await self._membership.leave(for_good=for_good)
        await self._committer.close()

    # Reading

    async def _read(self, commits: CommitLoop, on_ready: Callable[[], None]) -> None:
        ready = False
        unreadable: UnreadableBatch | None = None
        while True:
            self._has_capacity.clear()
            max_records = 0 if unreadable else self._max_records()
            try:
                polled = await self._membership.poll(max_records, POLL_S, self._partitions.far_ahead)
            except UnreadableBatch as error:  # finish first what was read: otherwise each restart would handle, and pay for, the same records again
                log.error("a batch cannot be decoded; finishing what was read before it", extra={"worker": self._label, "reason": str(error)})
                unreadable = error
                continue
            for number, resume in polled.assigned.items():
                self._partitions.assign(number, resume)
                self._watchdog.progress()
            await self._admit(polled.records)
            self._partitions.read_to(polled.read_to)
            self._watchdog.read_to = polled.read_to
            commits.notify()
            if not ready and self._membership.joined:
                ready = True
                on_ready()
            if unreadable and not self._partitions.held:
                raise unreadable
            if not max_records:
                await self._wait_for_capacity()

    async def _admit(self, records: Sequence[InFlight]) -> None:
        began = self._clock.monotonic()
        for record in records:
            if self._clock.monotonic() - began > TURN_S:
                await asyncio.sleep(0)
                began = self._clock.monotonic()
            self._read_count += 1
            self._processor.parse(record)
            if self._partitions.held_bytes > PARSED_HELD_BYTES:
                record.parsed = None
            if self._partitions.admit(record):
                self._pool.submit(record)

    def _max_records(self) -> int:
        if self._stopping or self._partitions.held >= MAX_HELD or self._partitions.held_bytes >= MAX_HELD_BYTES:
            return 0
        return min(POLL_RECORDS, POLLED_PER_SLOT * self._concurrency) if self._pool.depth < AHEAD_PER_SLOT * self._concurrency else 0

    async def _wait_for_capacity(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FULL_S):
                await self._has_capacity.wait()

    def _on_finished(self, record: InFlight) -> None:
        assert self._commits
        self._watchdog.progress()
        if self._partitions.finish(record):
            self._failure_limit.count(our_fault=bool(record.finished and record.finished.our_fault))
            self._commits.notify()
        if self._failure_limit.is_reached:  # begin no more, and commit what was set aside: a restart continues after it
            self._pool.stop_new_attempts()
            self._commits.commit_now()
        if self._pool.depth <= self._concurrency:
            self._has_capacity.set()

    # Rebalances

    async def revoked(self, partitions: Set[int]) -> None:
        """Commit finished records, and drop the others: the partitions' next owner handles them."""
        assert self._commits
        revoked = self._partitions.assignments(partitions)
        try:
            if not self._failed:
                await self._commits.commit()  # if it takes longer than the group waits, the partitions may be assigned again already
        finally:
            self._abandon(revoked)

    def lost(self, partitions: Set[int]) -> None:
        self._abandon(self._partitions.assignments(partitions))

    def _abandon(self, assignments: Sequence[PartitionState]) -> None:
        dropped = self._partitions.drop(assignments)
        self._abandoned += len(dropped)
        self._pool.abandon(dropped.__contains__)


def _raise_failures(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()
