"""A worker: reads one topic in a group, keeps many records in flight at once, and makes results and positions durable together.

What it promises (docs/runtime.md says it with limits and tests): every record is answered, and readers of committed records see each answer
once, whatever dies. Records finish in any order, or in order per key; one that is slow or waits for its next try holds up nothing but
the watermark; no key starves another. It reads no more than it can hold.

One event loop runs everything; the Kafka clients block threads of their own (`workers.runtime.kafka`). Reading, committing and watching are
three tasks; the first that fails, or a background task that does, ends the worker with nothing more committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Generic, TypeVar

from infra.errors import CannotContinue
from infra.settings import DeliveryMode, KeyOrder, Settings
from schemas.messages import Message
from workers.runtime.broker import BrokerClient, Committer, Membership, NotConfirmed
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.failure_limit import FailureLimit
from workers.runtime.handler import HandlerSpec
from workers.runtime.in_flight import HandlingOutcome
from workers.runtime.partition_state import AssignedPartitions, CommitBatch, PartitionState
from workers.runtime.pool import HandlerPool, InFlight
from workers.runtime.processor import RecordProcessor
from workers.runtime.retry import Backoff
from workers.runtime.watchdog import Watchdog, guarded_loop

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

Lifespan = Callable[[], contextlib.AbstractAsyncContextManager[object]]
Background = Callable[[], Awaitable[None]]

#: A commit does not wait for its time once so many have finished, and takes no more than so many.
COMMIT_AT = 500
POLL_RECORDS = 500
#: How long a poll waits for records.
POLL_S = 0.2
#: With enough at hand the group is still served this often.
FULL_S = 0.1
#: Records that wait for a place, as a multiple of places: with more of them nothing is read.
AHEAD = 2
#: One poll's records, as a multiple of places: a poll begins with one partition's records, and a small one holds only those.
POLLED = 8
MOST_HELD = 20_000
MOST_HELD_BYTES = 128 << 20
TOPIC_WITHIN_S = 30.0
#: One transaction; then its outcome is in doubt.
COMMIT_WITHIN_S = 5.0
#: How long a broker may be away before the process stops; nothing is lost by waiting or by stopping.
RECOVER_WITHIN_S = 60.0


@dataclass
class WorkerCounts:
    """What a worker has done since it started. `abandoned` records were in flight when their partition went away or the process stopped."""

    read: int = 0
    produced: int = 0
    degraded: int = 0
    expired: int = 0
    set_aside: int = 0
    repeats: int = 0
    skipped: int = 0  # read again, and finished already by what the commit's metadata says
    retries: int = 0
    abandoned: int = 0
    commits: int = 0
    not_confirmed: int = 0  # commits that the broker refused or left in doubt


class Worker(Generic[M]):
    """`lifespan` is entered before the first record and left after the last; `background` runs beside them, and a failure there ends the worker.

    `broker` makes the two ends from inside the loop; None connects to Kafka.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        spec: HandlerSpec[M],
        concurrency: int = 64,
        lifespan: Lifespan = contextlib.nullcontext,
        background: Sequence[Background] = (),
        backoff: Backoff | None = None,
        broker: BrokerClient | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._topic = spec.topic.name
        self._concurrency = concurrency
        self._lifespan = lifespan
        self._background = background
        self._broker = broker
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  # jitter, no secret
        self._attempt = RecordProcessor(name, spec, backoff, self._clock, self._rng).attempt
        self._grace_s = settings.stack.stop_timeout_s / 2
        self._every_s = settings.workers.commit_every_ms / 1000
        self._books = AssignedPartitions(remember=settings.workers.remember, metadata_bytes=settings.workers.metadata_bytes)
        self._ceiling = FailureLimit(self._topic)
        self._watchdog: Watchdog
        self._stopping = False
        self._failed = False
        self._counts = WorkerCounts()
        self._has_finished = asyncio.Event()
        self._is_full = asyncio.Event()
        self._has_room = asyncio.Event()
        self._committing = asyncio.Lock()
        self._committed_at = float("-inf")
        self._tasks: list[asyncio.Future[None]] = []
        self._pool: HandlerPool
        self._membership: Membership
        self._producer: Committer

    @property
    def counts(self) -> WorkerCounts:
        seen = self._books.outcomes
        counts = self._counts
        counts.retries = self._pool.retries if hasattr(self, "_pool") else 0
        counts.produced, counts.degraded, counts.expired = seen[HandlingOutcome.PRODUCED], seen[HandlingOutcome.DEGRADED], seen[HandlingOutcome.EXPIRED]
        counts.set_aside, counts.repeats, counts.skipped = seen[HandlingOutcome.SET_ASIDE], seen[HandlingOutcome.REPEAT], self._books.skipped
        return counts

    def run(self, stop: threading.Event, on_ready: Callable[[], None]) -> None:
        """Blocks until `stop` is set, then finishes what is in flight within half of `stack.stop_timeout_s`.

        `on_ready` is called once the group is joined. Raises CannotContinue, or whatever failed; then nothing more is committed.
        """

        async def asked_to_stop() -> None:
            while not stop.is_set():  # noqa: ASYNC110  # it is set by a signal handler, outside the loop
                await asyncio.sleep(0.05)

        async def guarded() -> None:
            with guarded_loop(self._settings.workers.stall_timeout_s):
                await self.serve(asked_to_stop, on_ready)

        asyncio.run(guarded())

    def drain(self, timeout_s: float = 60.0) -> WorkerCounts:
        """Run to the end of what the topic holds now, and return what was done. Raises TimeoutError."""

        async def drained() -> None:
            ends = await self._membership.ends()
            while self._books.held or not self._has_read_to(ends):  # noqa: ASYNC110  # two conditions of two tasks
                await asyncio.sleep(0.01)

        async def bounded() -> None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self.serve(drained)
            except TimeoutError:
                raise TimeoutError(f"worker {self._name} had not drained {self._topic} after {timeout_s:g} s: {self.counts}") from None

        asyncio.run(bounded())
        return self.counts

    async def serve(self, until: Callable[[], Awaitable[None]], on_ready: Callable[[], None] = lambda: None) -> None:
        """Work until `until` returns, on the running loop; see `run`."""
        async with self._lifespan():
            await self._connect()
            try:
                await self._until_ended(until, on_ready)
                await self._finish()
            except BaseException:
                self._failed = True
                await self._part(for_good=False)
                raise
            else:
                await self._part(for_good=True)
        log.info("worker ended", extra={"worker": self._name, **vars(self.counts)})

    async def _connect(self) -> None:
        if self._broker is None:
            from workers.runtime.kafka.broker import KafkaBrokerClient

            self._broker = KafkaBrokerClient(self._settings)
        workers = self._settings.workers
        self._pool = HandlerPool(self._attempt, self._concurrency, ordered=workers.order is KeyOrder.KEY, clock=self._clock, landed=self._landed)
        self._watchdog = Watchdog(self._name, self._topic, self._books, workers.stall_timeout_s, self._clock)
        exactly = workers.delivery is DeliveryMode.EXACTLY_ONCE
        self._producer = self._broker.exactly_once(self._name) if exactly else self._broker.at_least_once(self._name)
        self._membership = self._broker.membership(self._name, self._topic, workers.remember)
        try:
            await asyncio.gather(self._start_producer(), self._membership.join(self, TOPIC_WITHIN_S))
        except BaseException:
            await self._part(for_good=False)
            raise

    async def _until_ended(self, until: Callable[[], Awaitable[None]], on_ready: Callable[[], None]) -> None:
        """Raises the first failure of any task; what is left of the others is cancelled, reading goes on until the worker parts."""
        own = (self._read(on_ready), self._commit_in_time(), self._watchdog.watch(self._membership, self._pool))
        self._tasks = [asyncio.ensure_future(work) for work in own]
        beside = [asyncio.ensure_future(work()) for work in self._background]
        asked = asyncio.ensure_future(until())
        waiting: set[asyncio.Future[None]] = {*self._tasks, *beside, asked, self._pool.failure}
        try:
            while not asked.done():
                ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
        finally:
            for task in (asked, *beside):
                task.cancel()
            await asyncio.gather(asked, *beside, return_exceptions=True)

    async def _finish(self) -> None:
        """Begin nothing more, give what is under way its time, commit."""
        self._stopping = True
        self._pool.keep_running()
        deadline = self._clock.monotonic() + self._grace_s
        while self._pool.running and self._clock.monotonic() < deadline:
            _raise_failures([*self._tasks, self._pool.failure])
            await self._clock.sleep(0.01)
        try:
            async with asyncio.timeout(COMMIT_WITHIN_S + 1):
                before = self._books.finished + 1
                while self._books.finished < before:  # a batch at a time, and no second try for one that is refused
                    before = self._books.finished
                    await self._commit()
        except TimeoutError:
            log.warning("stopped without a last commit: the broker is away", extra={"worker": self._name, "records": self._books.finished})

    async def _part(self, *, for_good: bool) -> None:
        """Cancel what is left and close both ends. A place that is given up moves its partitions at once; after a failure they wait for us."""
        self._abandon(self._books.assignments(self._books.partitions))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watchdog.forget()
        if self._pool.failure.done():
            self._pool.failure.exception()
        await self._membership.leave(for_good=for_good)
        await self._producer.close()

    # Reading

    async def _read(self, on_ready: Callable[[], None]) -> None:
        ready = False
        while True:
            self._has_room.clear()
            room = self._room()
            polled = await self._membership.poll(room, POLL_S, self._books.far_ahead)
            for number, assigned in polled.assigned.items():
                self._books.assign(number, assigned)
                self._watchdog.progress()
            for delivery in polled.records:
                self._counts.read += 1
                flight = self._books.admit(delivery)
                if flight is not None:
                    self._pool.submit(flight)
            self._books.read_to(polled.read_to)
            self._watchdog.read_to = polled.read_to
            self._tell_committer()
            if not ready and self._membership.joined:
                ready = True
                on_ready()
            if not room:
                await self._wait_for_room()

    def _room(self) -> int:
        """How many records to read now."""
        if self._stopping or self._books.held >= MOST_HELD or self._books.held_bytes >= MOST_HELD_BYTES:
            return 0
        return min(POLL_RECORDS, POLLED * self._concurrency) if self._pool.depth < AHEAD * self._concurrency else 0

    async def _wait_for_room(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FULL_S):
                await self._has_room.wait()

    def _has_read_to(self, ends: Mapping[int, int]) -> bool:
        return set(ends) <= self._books.partitions and all(self._watchdog.read_to.get(number, 0) >= end for number, end in ends.items())

    # Committing

    def _landed(self, flight: InFlight) -> None:
        self._watchdog.progress()
        if self._books.land(flight):
            self._ceiling.saw(our_fault=bool(flight.finished and flight.finished.our_fault))
            self._tell_committer()
        if self._ceiling.is_reached:  # commit what was set aside, so that a restart goes on behind it, and begin nothing more
            self._pool.keep_running()
            self._is_full.set()
        if self._pool.depth <= self._concurrency:
            self._has_room.set()

    def _tell_committer(self) -> None:
        if self._books.finished or self._books.is_behind:
            self._has_finished.set()
        if self._books.finished >= COMMIT_AT:
            self._is_full.set()

    async def _commit_in_time(self) -> None:
        """One commit every `commit_every_ms`, counted from start to start, as long as there is something to commit."""
        while True:
            await self._has_finished.wait()
            left_s = self._committed_at + self._every_s - self._clock.monotonic()
            if left_s > 0 and not self._is_full.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._is_full.wait()
            self._has_finished.clear()
            self._is_full.clear()
            if await self._commit():  # else what has finished does not fit, and the next landing tells
                self._tell_committer()

    async def _commit(self) -> bool:
        """Make durable what has finished, and stop behind it where too much of it has failed through our fault. False where nothing could be."""
        async with self._committing:
            self._committed_at = self._clock.monotonic()
            too_much_failed = self._ceiling.is_reached
            batch = self._books.batch(COMMIT_AT)
            if not batch.is_empty:
                await self._make_durable(batch)
        if too_much_failed and (batch.is_empty or not self._books.finished):  # else the next commit has the rest
            self._ceiling.check()
        return not batch.is_empty

    async def _make_durable(self, batch: CommitBatch) -> None:
        try:
            await self._producer.commit(batch.outputs, batch.positions, self._membership, COMMIT_WITHIN_S)
        except NotConfirmed as error:
            self._counts.not_confirmed += 1
            self._watchdog.not_confirmed(error)
            log.warning("a commit was not taken", extra={"worker": self._name, "reason": str(error), "records": len(batch.flights)})
            await self._recover()
        else:
            self._counts.commits += 1
            self._watchdog.committed(self._books.settle(batch), self._clock.monotonic() - self._committed_at)

    async def _recover(self) -> None:
        """A new producer, which ends the transaction in doubt, and then the truth from the broker."""
        began = self._clock.monotonic()
        await self._start_producer()
        while True:
            try:
                self._watchdog.durable(self._books.learn(await self._membership.committed(set(self._books.partitions), COMMIT_WITHIN_S)))
            except NotConfirmed as error:
                await self._pause_or_stop(began, error)
            else:
                return

    async def _start_producer(self) -> None:
        began = self._clock.monotonic()
        while True:
            try:
                await self._producer.start(2 * COMMIT_WITHIN_S)
            except NotConfirmed as error:
                await self._pause_or_stop(began, error)
            else:
                return

    async def _pause_or_stop(self, began: float, error: NotConfirmed) -> None:
        """Raises CannotContinue when the broker has been away for too long."""
        if self._clock.monotonic() - began > RECOVER_WITHIN_S:
            raise CannotContinue(f"the broker took no results for {RECOVER_WITHIN_S:g} s: {error}") from error
        await self._clock.sleep(0.1 + self._rng.random() / 10)

    # Rebalances

    async def revoked(self, partitions: Set[int]) -> None:
        """Commit what has finished, and drop the rest: their next owner does it."""
        given_up = self._books.assignments(partitions)
        try:
            if not self._failed:
                await self._commit()  # this may take longer than the group waits, and the partitions may have come back by then
        finally:
            self._abandon(given_up)

    def lost(self, partitions: Set[int]) -> None:
        self._abandon(self._books.assignments(partitions))

    def _abandon(self, assignments: Sequence[PartitionState]) -> None:
        dropped = self._books.drop(assignments)
        self._counts.abandoned += len(dropped)
        self._pool.abandon(dropped.__contains__)


def _raise_failures(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()
