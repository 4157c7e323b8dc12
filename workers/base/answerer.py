"""Queries become drafts: the base model is asked for `A_base = M_base(q)` and sees the task alone, no user and no history.

A query always goes on. When no try at the endpoint succeeds, or the query's deadline passes before, its draft says so and is empty
(docs/rules.md, 4). How often and how long to try is the runtime's affair.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from infra.settings import BaseModelSettings
from schemas.drafts import Draft, DraftStatus
from schemas.ids import derive
from schemas.prompts import base_prompt
from schemas.queries import Query
from schemas.topics import DRAFTS
from workers.base.breaker import Breaker
from workers.endpoints.client import ChatAnswer, PromptRefused
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, Incoming, Outgoing

log = logging.getLogger(__name__)


class Asks(Protocol):
    """What is needed of an endpoint (workers.endpoints.client)."""

    async def complete(self, prompt: str, *, max_tokens: int) -> ChatAnswer: ...


class Answerer:
    """The base worker's handler."""

    def __init__(self, endpoint: Asks, settings: BaseModelSettings, breaker: Breaker, clock: Clock | None = None) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._breaker = breaker
        self._clock = clock or SystemClock()

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        """Raises RetryLater while the endpoint is away, CannotContinue when it would refuse every query."""
        query = incoming.message
        prompt = base_prompt(query, self._settings.prompt_style)
        began = self._clock.monotonic()
        try:
            with self._breaker.call():
                completion = await self._endpoint.complete(prompt, max_tokens=self._settings.max_new_tokens)
        except PromptRefused as error:
            return self._failed(query, DraftStatus.BASE_FAILED, str(error))
        base_ms = (self._clock.monotonic() - began) * 1000
        return _outgoing(Draft(query=query, answer=completion.text.strip(), base_model=self._settings.model, usage=completion.usage, base_ms=base_ms))

    def degraded(self, incoming: Incoming[Query], why: DegradeReason) -> Sequence[Outgoing]:
        """The draft of a query that gets no answer."""
        return self._failed(incoming.message, DraftStatus.EXPIRED if why is DegradeReason.EXPIRED else DraftStatus.BASE_FAILED, why)

    def _failed(self, query: Query, status: DraftStatus, reason: str) -> Sequence[Outgoing]:
        log.warning("no base answer", extra={"query_id": str(query.query_id), "reason": reason})
        return _outgoing(Draft(query=query, answer="", base_model=self._settings.model, status=status, base_ms=0.0))


def _outgoing(draft: Draft) -> Sequence[Outgoing]:
    return [Outgoing(DRAFTS, draft, derive("draft", draft.query.query_id))]
