"""Queries to drafts: `A_base = M_base(q)`. The base model sees only the task, no user and no history.

Every query gives a draft. If no attempt at the endpoint succeeds before the query's deadline, the draft is empty and its status says why
(docs/rules.md, 4). The worker runtime decides how often and how long to retry.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from infra.process.circuit_breaker import CircuitBreaker
from infra.settings.models import BaseModelSettings
from schemas.drafts import Draft, DraftStatus
from schemas.ids import derive
from schemas.prompts import base_prompt
from schemas.queries import Query
from schemas.topics import DRAFTS
from workers.endpoints.client import ChatClient, PromptRefused
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, Incoming, Outgoing

log = logging.getLogger(__name__)

#: The breaker's longest pause, as a multiple of `base.breaker_open_s`.
LONGEST_PAUSE = 8


def base_breaker(settings: BaseModelSettings, now: Callable[[], float] = time.monotonic) -> CircuitBreaker:
    open_s = settings.breaker_open_s
    return CircuitBreaker(open_s, LONGEST_PAUSE * open_s, failures=settings.breaker_failures, endpoint="base", now=now)


class Answerer:
    """The base worker's handler."""

    def __init__(self, endpoint: ChatClient, settings: BaseModelSettings, breaker: CircuitBreaker, clock: Clock | None = None) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._breaker = breaker
        self._clock = clock or SystemClock()

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        """Raises RetryLater if the endpoint does not answer, CannotContinue if it would refuse every query."""
        query = incoming.message
        prompt = base_prompt(query, self._settings.prompt_style)
        started = self._clock.monotonic()
        try:
            with self._breaker.call():
                answer = await self._endpoint.complete(prompt, max_tokens=self._settings.max_new_tokens)
        except PromptRefused as error:
            return self._empty(query, DraftStatus.BASE_FAILED, str(error))
        base_ms = (self._clock.monotonic() - started) * 1000
        return _outgoing(Draft(query=query, answer=answer.text.strip(), base_model=self._settings.model, usage=answer.usage, base_ms=base_ms))

    def degraded(self, incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
        """The draft of a query without a base answer."""
        return self._empty(incoming.message, DraftStatus.EXPIRED if reason is DegradeReason.EXPIRED else DraftStatus.BASE_FAILED, reason)

    def _empty(self, query: Query, status: DraftStatus, reason: str) -> Sequence[Outgoing]:
        log.warning("no base answer", extra={"query_id": str(query.query_id), "reason": reason})
        return _outgoing(Draft(query=query, answer="", base_model=self._settings.model, status=status, base_ms=0.0))


def _outgoing(draft: Draft) -> Sequence[Outgoing]:
    return [Outgoing(DRAFTS, draft, derive("draft", draft.query.query_id))]
