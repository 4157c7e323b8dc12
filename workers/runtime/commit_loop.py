"""Commits finished records with the positions behind them, and recovers from commits that the broker did not confirm."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from infra.errors import CannotContinue
from workers.runtime.broker import Committer, Membership, NotConfirmed
from workers.runtime.clock import Clock
from workers.runtime.partition_state import AssignedPartitions, CommitBatch
from workers.runtime.watchdog import FailureLimit, Watchdog

log = logging.getLogger(__name__)

#: A commit begins early once this many records have finished. It is also the maximum number of records of a commit.
COMMIT_AT = 500
#: Timeout of one transaction.
COMMIT_WITHIN_S = 5.0
#: How long a broker may be away before the process stops. Neither waiting nor stopping loses a record.
RECOVER_WITHIN_S = 60.0


class CommitLoop:
    """One commit at a time. Other tasks may call `commit` beside `run`."""

    def __init__(
        self,
        partitions: AssignedPartitions,
        committer: Committer,
        membership: Membership,
        failure_limit: FailureLimit,
        watchdog: Watchdog,
        *,
        every_s: float,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._partitions = partitions
        self._committer = committer
        self._membership = membership
        self._failure_limit = failure_limit
        self._watchdog = watchdog
        self._every_s = every_s
        self._clock = clock
        self._rng = rng
        self._has_finished = asyncio.Event()
        self._is_due = asyncio.Event()
        self._committing = asyncio.Lock()
        self._began_at = float("-inf")
        self._unconfirmed_since: float | None = None  # start of the first commit in the current row of unconfirmed ones
        self._recovered_at = float("-inf")
        self.commits = 0
        self.not_confirmed = 0

    def notify(self) -> None:
        """Records have finished, or a watermark may have moved."""
        if self._partitions.finished or self._partitions.is_behind:
            self._has_finished.set()
        if self._partitions.finished >= COMMIT_AT:
            self._is_due.set()

    def commit_now(self) -> None:
        """Begin the next commit now."""
        self._is_due.set()

    async def run(self) -> None:
        """One commit every `every_s`, from start to start, while there is something to commit."""
        while True:
            await self._has_finished.wait()
            left_s = self._began_at + self._every_s - self._clock.monotonic()
            if left_s > 0 and not self._is_due.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._is_due.wait()
            self._has_finished.clear()
            self._is_due.clear()
            if await self.commit():  # else no finished record fits into the metadata, and the next one that finishes notifies
                self.notify()

    async def commit(self) -> bool:
        """Commit finished records. Returns False if there was nothing to commit. Raises CannotContinue after the last commit if too many records failed."""
        async with self._committing:
            self._began_at = self._clock.monotonic()
            too_many_failed = self._failure_limit.is_reached
            batch = self._partitions.batch(COMMIT_AT)
            if not batch.is_empty:
                await self._commit_batch(batch)
        if too_many_failed and (batch.is_empty or not self._partitions.finished):  # else the next commit takes the rest
            self._failure_limit.check()
        return not batch.is_empty

    async def commit_rest(self) -> None:
        """Commit batch after batch, and do not retry one that is refused. Gives up if the broker is away."""
        try:
            async with asyncio.timeout(COMMIT_WITHIN_S + 1):
                before = self._partitions.finished + 1
                while self._partitions.finished < before:
                    before = self._partitions.finished
                    await self.commit()
        except TimeoutError:
            log.warning("stopped without a last commit: the broker is away", extra={"worker": self._watchdog.name, "records": self._partitions.finished})

    async def start_committer(self, since: float | None = None) -> None:
        """Raises CannotContinue if the broker is away for too long, counted from now or from `since`."""
        began = self._clock.monotonic() if since is None else since
        while True:
            try:
                await self._committer.start(2 * COMMIT_WITHIN_S)
            except NotConfirmed as error:
                await self._pause_or_stop(began, error)
            else:
                return

    async def _commit_batch(self, batch: CommitBatch) -> None:
        try:
            await self._committer.commit(batch.outputs, batch.positions, self._membership, COMMIT_WITHIN_S)
        except NotConfirmed as error:
            self.not_confirmed += 1
            self._watchdog.not_confirmed(error)
            log.warning("a commit is not confirmed", extra={"worker": self._watchdog.name, "reason": str(error), "records": len(batch.records)})
            # If the partitions of unconfirmed results moved away, nothing was left to commit for a while. Then this commit is the first of a new row.
            if self._unconfirmed_since is None or self._began_at - self._recovered_at > RECOVER_WITHIN_S:
                self._unconfirmed_since = self._began_at
            self._stop_if_late(self._unconfirmed_since, error)
            await self._recover()
            self._recovered_at = self._clock.monotonic()
        else:
            self._unconfirmed_since = None
            self.commits += 1
            self._watchdog.committed(self._partitions.committed(batch), self._clock.monotonic() - self._began_at)

    async def _recover(self) -> None:
        """Start a new producer, which ends the unconfirmed transaction, then read the committed positions from the broker."""
        since = self._unconfirmed_since
        assert since is not None
        await self.start_committer(since)
        while True:
            try:
                committed = await self._membership.committed(set(self._partitions.numbers), COMMIT_WITHIN_S)
            except NotConfirmed as error:
                await self._pause_or_stop(since, error)
            else:
                if taken := self._partitions.reconcile(committed):  # the commit succeeded, and its answer was lost
                    self._unconfirmed_since = None
                self._watchdog.count(taken)
                return

    def _stop_if_late(self, since: float, error: NotConfirmed) -> None:
        """Raises CannotContinue if the broker is away for too long."""
        if self._clock.monotonic() - since > RECOVER_WITHIN_S:
            raise CannotContinue(f"the broker took no results for {RECOVER_WITHIN_S:g} s: {error}") from error

    async def _pause_or_stop(self, since: float, error: NotConfirmed) -> None:
        self._stop_if_late(since, error)
        await self._clock.sleep(0.1 + self._rng.random() / 10)
