"""Queries become drafts: the base model is asked for `A_base = M_base(q)` and sees the task alone, no user and no history.

A query always goes on. When the endpoint has not answered within `base.attempts` tries or before the query's deadline, the draft says
`base_failed` and is empty (DESIGN rule 4).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Protocol

from infra.errors import RetryLater
from infra.settings import Base
from schemas.drafts import Draft, DraftStatus
from schemas.ids import derive
from schemas.prompts import base_prompt
from schemas.queries import Query
from schemas.topics import DRAFTS
from workers.endpoint.client import Completion, Refused
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import Incoming, Outgoing
from workers.runtime.retry import Backoff

log = logging.getLogger(__name__)


class Asks(Protocol):
    """What is needed of an endpoint (workers.endpoint.client)."""

    async def complete(self, prompt: str, *, max_tokens: int) -> Completion: ...


class Answerer:
    """The base worker's handler."""

    def __init__(self, endpoint: Asks, settings: Base, clock: Clock | None = None) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._clock = clock or SystemClock()
        self._backoff = Backoff(attempts=settings.attempts, first_s=0.2, longest_s=5.0)
        self._rng = random.Random()  # noqa: S311  # jitter, no secret

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        query = incoming.message
        draft = await self._draft(query)
        return [Outgoing(DRAFTS, draft, derive("draft", query.query_id))]

    async def _draft(self, query: Query) -> Draft:
        """Raises CannotContinue when the endpoint would refuse every query."""
        prompt = base_prompt(query, self._settings.prompt_style)
        for failures in range(1, self._settings.attempts + 1):
            left_s = self._left_s(query)
            if left_s <= 0:
                return self._failed(query, "the deadline has passed")
            began = self._clock.monotonic()
            try:
                async with asyncio.timeout(min(left_s, self._settings.timeout_s)):
                    completion = await self._endpoint.complete(prompt, max_tokens=self._settings.max_new_tokens)
                base_ms = (self._clock.monotonic() - began) * 1000
                return Draft(query=query, answer=completion.text.strip(), base_model=self._settings.model, usage=completion.usage, base_ms=base_ms)
            except Refused as error:
                return self._failed(query, str(error))
            except (RetryLater, TimeoutError) as error:
                reason = str(error) or "no answer in time"
                pause_s = self._backoff.pause_s(failures, getattr(error, "after_s", 0.0), self._rng)
            if failures == self._settings.attempts or pause_s >= self._left_s(query):
                break
            await self._clock.sleep(pause_s)
        return self._failed(query, reason)

    def _left_s(self, query: Query) -> float:
        """Until the deadline; without one there is no end."""
        return float("inf") if query.deadline is None else (query.deadline - self._clock.now()).total_seconds()

    def _failed(self, query: Query, reason: str) -> Draft:
        log.warning("no base answer", extra={"query_id": str(query.query_id), "reason": reason})
        return Draft(query=query, answer="", base_model=self._settings.model, status=DraftStatus.BASE_FAILED, base_ms=0.0)
