"""A worker: reads one topic in a group, keeps many records in flight at once, and commits only behind durable results.

What it promises: every record is handled at least once, and its results are on the broker before its offset is committed. Records
finish in any order; one that is slow or waits for its next try holds up nothing but the watermark. It reads no more than it can hold.
What it leaves out: exactly-once, order per key.

The thread that calls `run` owns the Kafka clients; handlers run on the pool's loop. Rebalance callbacks come on the client's thread
while the owner waits inside the client, so the state below needs no lock.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from infra.settings import Settings
from schemas.messages import Message
from schemas.topics import Topic
from workers.runtime.ceiling import Ceiling
from workers.runtime.committer import AtLeastOnce, Committer
from workers.runtime.delivery import Delivery, Finished, Outbound
from workers.runtime.handler import Handler
from workers.runtime.membership import Membership
from workers.runtime.offsets import OffsetTracker
from workers.runtime.pool import Background, Lifespan, Pool
from workers.runtime.processor import Processor
from workers.runtime.retry import Backoff

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

#: Finished records wait this long for company before they are committed.
COMMIT_EVERY_S = 0.05
COMMIT_AT = 500
#: How long a poll may block: with results under way, and with nothing to do.
BUSY_POLL_S, IDLE_POLL_S = 0.02, 0.2
#: Reading stops at this many records per handler and goes on at half of it: a pause makes the client fetch again.
HELD_PER_HANDLER = 4
TOPIC_WITHIN_S = 30.0
LIFESPAN_WITHIN_S = 600.0
CLOSE_WITHIN_S = 10.0


@dataclass
class Counts:
    """What a worker has done since it started. `abandoned` records were in flight when their partition went away or the process stopped."""

    read: int = 0
    produced: int = 0
    set_aside: int = 0
    retries: int = 0
    abandoned: int = 0
    commits: int = 0


class Worker(Generic[M]):
    """`lifespan` and `background` are entered and run on the handlers' loop; a background task that fails stops the process."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        topic: Topic,
        handler: Handler[M],
        concurrency: int = 64,
        lifespan: Lifespan = contextlib.nullcontext,
        background: Sequence[Background] = (),
        backoff: Backoff | None = None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._topic = topic
        self._most_held = HELD_PER_HANDLER * concurrency
        self._grace_s = settings.stack.stop_timeout_s / 2
        self._pool = Pool(Processor(name, topic, handler, concurrency, backoff).process, lifespan, background)
        self._ceiling = Ceiling(topic.name)
        self._trackers: dict[int, OffsetTracker] = {}
        self._held: dict[Delivery, OffsetTracker] = {}  # read, and not yet durable
        self._finished: list[Finished] = []
        self._committed_at = 0.0
        self._aborted = False
        self.counts = Counts()
        self._membership: Membership
        self._committer: Committer

    def run(self, stop: threading.Event, on_ready: Callable[[], None]) -> None:
        """Blocks until `stop` is set, then finishes what is in flight within half of `stack.stop_timeout_s`.

        `on_ready` is called once the group is joined. Raises CannotContinue, or whatever failed; then nothing more is committed.
        """
        ready = False
        with self._connected():
            while not stop.is_set():
                self._turn()
                if not ready and self._membership.joined:
                    ready = True
                    on_ready()

    def drain(self, timeout_s: float = 60.0) -> Counts:
        """Run to the end of what the topic holds now, and return what was done. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        with self._connected():
            ends = self._membership.ends()
            while self._held or not self._membership.has_read_to(ends):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"worker {self._name} had not drained {self._topic.name} after {timeout_s:g} s: {self.counts}")
                self._turn()
        return self.counts

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        with contextlib.ExitStack() as parts:
            parts.callback(self._pool.close, CLOSE_WITHIN_S)
            self._pool.start(LIFESPAN_WITHIN_S)
            self._membership = Membership(self._settings, self._name, self._topic.name, self._revoked)
            with contextlib.ExitStack() as group:  # left before the committer closes: leaving may still commit
                group.callback(self._membership.close)
                self._committer = AtLeastOnce(self._settings, self._membership)
                parts.callback(self._committer.close)
                self._membership.subscribe(TOPIC_WITHIN_S)
                try:
                    yield
                    self._finish()
                except BaseException:
                    self._aborted = True
                    raise
        self._pool.check()
        log.info("worker ended", extra={"worker": self._name, **vars(self.counts)})

    def _turn(self) -> None:
        """Read, hand over, collect, commit."""
        self._pool.check()
        room = self._most_held - len(self._held)
        if room <= 0:
            self._membership.pause(True)
        elif room >= self._most_held // 2:
            self._membership.pause(False)
        self._poll(room)
        self._collect()
        # Dead letters and positions first: a restart goes on behind the records that failed instead of failing on them for ever.
        if self._is_due() or self._ceiling.is_reached:
            self._commit()
        self._ceiling.check()

    def _poll(self, room: int) -> None:
        for delivery in self._membership.poll(max(1, room), BUSY_POLL_S if self._held else IDLE_POLL_S):
            tracker = self._trackers.setdefault(delivery.origin.partition, OffsetTracker(delivery.origin.offset))
            tracker.admit(delivery.origin.offset)
            self._held[delivery] = tracker
            self.counts.read += 1
            self._pool.submit(delivery)

    def _collect(self) -> None:
        for finished in self._pool.collect():
            if finished.delivery in self._held:
                self._ceiling.saw(our_fault=finished.our_fault)
                self._finished.append(finished)

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._committed_at >= COMMIT_EVERY_S
        return len(self._finished) >= COMMIT_AT or (waited and (bool(self._finished) or bool(self._positions())))

    def _commit(self) -> None:
        outputs = self._settle(self._finished)
        self._finished = []
        positions = self._positions()
        if self._committer.commit(outputs, positions):
            for partition, position in positions.items():
                if tracker := self._trackers.get(partition):  # it may have gone away while the commit waited
                    tracker.committed(position)
            self.counts.commits += 1
        self._committed_at = time.monotonic()

    def _settle(self, done: Sequence[Finished]) -> list[Outbound]:
        """Take what has finished off the books, and return what must be durable before the positions that follow are."""
        outputs: list[Outbound] = []
        for finished in done:
            tracker = self._held.pop(finished.delivery, None)
            if tracker is None:
                continue  # its partition went away meanwhile
            tracker.finish(finished.delivery.origin.offset)
            outputs += finished.outputs
            self.counts.set_aside += finished.set_aside
            self.counts.produced += 0 if finished.set_aside else len(finished.outputs)
            self.counts.retries += finished.retries
        return outputs

    def _positions(self) -> dict[int, int]:
        positions = {partition: tracker.position() for partition, tracker in self._trackers.items()}
        return {partition: position for partition, position in positions.items() if position is not None}

    async def _revoked(self, partitions: set[int], lost: bool) -> None:
        """Commit what has finished, unless it is too late for that, and drop the rest of these partitions.

        The other partitions' results wait for the next turn: here a produce that fails is forgotten, and would be forgotten for them too.
        """
        if not lost and not self._aborted:
            self._collect()
            outputs = self._settle([finished for finished in self._finished if finished.delivery.origin.partition in partitions])
            self._finished = [finished for finished in self._finished if finished.delivery.origin.partition not in partitions]
            await self._committer.commit_on_revoke(outputs, {p: at for p, at in self._positions().items() if p in partitions})
        self._abandon(partitions)

    def _abandon(self, partitions: set[int]) -> None:
        dropped = {delivery for delivery in self._held if delivery.origin.partition in partitions}
        self._pool.abandon(dropped.__contains__)
        for delivery in dropped:
            del self._held[delivery]
        for partition in partitions:
            self._trackers.pop(partition, None)
        self.counts.abandoned += len(dropped)

    def _finish(self) -> None:
        """Read nothing more, give what is in flight its time, commit."""
        deadline = time.monotonic() + self._grace_s
        self._membership.pause(True)
        while len(self._held) > len(self._finished) and time.monotonic() < deadline:
            self._pool.check()
            self._poll(1)
            self._collect()
        self._collect()
        self._commit()
        self._abandon(set(self._trackers))
