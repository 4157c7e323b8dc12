"""Shadow answers: the challenger answers after the user has the response. A bounded queue, a few requests at a time, and only under low load.

Dropped requests are counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from infra.errors import CannotContinue
from infra.telemetry.metrics import SHADOWS, ShadowOutcome
from schemas.contexts import Context, HistoryItem
from schemas.experiments import Assignment
from schemas.shadows import Shadow
from schemas.topics import SHADOWS as TOPIC
from workers.runtime.clock import Clock, SystemClock
from workers.serving.publisher import Publisher

log = logging.getLogger(__name__)

MAX_WAITING = 256
MAX_RUNNING = 4
#: A shadow request starts only while user requests take at most this share of the worker's concurrency.
QUIET_SHARE = 0.5
#: A shadow request that has waited this long is dropped, because quality figures must be current.
MAX_WAIT_S = 30.0
LOAD_CHECK_S = 0.02


@dataclass(frozen=True)
class ShadowRequest:
    """A query whose response has gone out, and the challenger's assignment."""

    context: Context
    shown: Sequence[HistoryItem]
    assignment: Assignment


class ShadowQueue:
    """`answer` makes a shadow answer, or returns None if the version is no longer loaded. `in_flight` is the number of user requests in progress."""

    def __init__(
        self,
        answer: Callable[[ShadowRequest], Awaitable[Shadow | None]],
        publisher: Publisher,
        in_flight: Callable[[], int],
        concurrency: int,
        clock: Clock | None = None,
    ) -> None:
        self._answer = answer
        self._publisher = publisher
        self._in_flight = in_flight
        self._quiet = max(1, int(concurrency * QUIET_SHARE))
        self._clock = clock or SystemClock()
        self._queue: asyncio.Queue[tuple[ShadowRequest, float]] = asyncio.Queue(MAX_WAITING)

    def submit(self, request: ShadowRequest) -> None:
        """Does not wait: drops the request if the queue is full."""
        try:
            self._queue.put_nowait((request, self._clock.monotonic()))
        except asyncio.QueueFull:
            SHADOWS.add(outcome=ShadowOutcome.DROPPED)

    async def run(self) -> None:
        """Runs until cancelled. Raises CannotContinue if the engine has ended."""
        tasks = [asyncio.create_task(self._work()) for _ in range(MAX_RUNNING)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            request, submitted_at = await self._queue.get()
            while self._in_flight() > self._quiet and self._clock.monotonic() - submitted_at < MAX_WAIT_S:
                await self._clock.sleep(LOAD_CHECK_S)
            if self._clock.monotonic() - submitted_at >= MAX_WAIT_S:
                SHADOWS.add(outcome=ShadowOutcome.DROPPED)
            else:
                SHADOWS.add(outcome=await self._answer_and_publish(request))

    async def _answer_and_publish(self, request: ShadowRequest) -> ShadowOutcome:
        try:
            shadow = await self._answer(request)
            if shadow is None:
                return ShadowOutcome.DROPPED
            await self._publisher.send(TOPIC, shadow, shadow.shadow_id)
        except CannotContinue:
            raise
        except Exception as error:
            # No user waits for it, so its errors must not end the worker.
            log.warning("no shadow answer", extra={"query_id": str(request.context.draft.query.query_id), "kind": type(error).__name__})
            return ShadowOutcome.FAILED
        return ShadowOutcome.SENT
