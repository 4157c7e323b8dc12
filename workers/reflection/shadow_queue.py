"""Shadow answers: the challenger answers after the user has the response. A bounded queue, a few requests at a time, and only under low load."""

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

WAITING = 256
AT_ONCE = 4
#: An unseen answer begins only while at most this share of the places is taken by users.
QUIET_SHARE = 0.5
#: One that found no quiet moment within this time is dropped: figures are of now.
PATIENCE_S = 30.0
LOOK_S = 0.02


@dataclass(frozen=True)
class ShadowRequest:
    """A question whose shown answer has gone out, and whom to ask besides."""

    context: Context
    shown: Sequence[HistoryItem]
    assignment: Assignment


class ShadowQueue:
    """`answer` makes one, or None where the version has gone; `in_flight` is how many users' answers are under way."""

    def __init__(
        self,
        answer: Callable[[ShadowRequest], Awaitable[Shadow | None]],
        messages: Publisher,
        in_flight: Callable[[], int],
        concurrency: int,
        clock: Clock | None = None,
    ) -> None:
        self._answer = answer
        self._messages = messages
        self._in_flight = in_flight
        self._quiet = max(1, int(concurrency * QUIET_SHARE))
        self._clock = clock or SystemClock()
        self._queue: asyncio.Queue[tuple[ShadowRequest, float]] = asyncio.Queue(WAITING)

    def offer(self, unseen: ShadowRequest) -> None:
        """Never waits."""
        try:
            self._queue.put_nowait((unseen, self._clock.monotonic()))
        except asyncio.QueueFull:
            SHADOWS.add(outcome=ShadowOutcome.DROPPED)

    async def work(self) -> None:
        """Runs until cancelled. Raises CannotContinue when the engine is gone."""
        tasks = [asyncio.create_task(self._work()) for _ in range(AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            unseen, offered_at = await self._queue.get()
            while self._in_flight() > self._quiet and self._clock.monotonic() - offered_at < PATIENCE_S:
                await self._clock.sleep(LOOK_S)
            if self._clock.monotonic() - offered_at >= PATIENCE_S:
                SHADOWS.add(outcome=ShadowOutcome.DROPPED)
            else:
                SHADOWS.add(outcome=await self._one(unseen))

    async def _one(self, unseen: ShadowRequest) -> ShadowOutcome:
        try:
            shadow = await self._answer(unseen)
            if shadow is None:
                return ShadowOutcome.DROPPED
            await self._messages.send(TOPIC, shadow, shadow.shadow_id)
        except CannotContinue:
            raise
        except Exception as error:
            # Nobody waits for it, and whatever it ran into must not end what users wait for.
            log.warning("no unseen answer", extra={"query_id": str(unseen.context.draft.query.query_id), "kind": type(error).__name__})
            return ShadowOutcome.FAILED
        return ShadowOutcome.SENT
