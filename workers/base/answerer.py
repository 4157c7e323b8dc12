"""Queries to drafts: `A_base = M_base(q)`. The base model sees only the task, no user and no history.

Every query gives a draft. If no attempt at the endpoint succeeds before the query's deadline, the draft is empty and its status says why
(docs/rules.md, 4). The worker runtime decides how often and how long to retry.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from infra.settings.models import BaseModelSettings
from infra.telemetry.metrics import BASE_UNANSWERED
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.drafts import Draft, DraftStatus, FailureCause
from schemas.ids import derive
from schemas.prompts import base_prompt
from schemas.queries import Query
from schemas.topics import DRAFTS
from workers.endpoints.client import ChatClient, PromptRefused
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, Incoming, Outgoing

log = logging.getLogger(__name__)

_ADVICE = {FailureCause.ONLY_REASONING: "raise base.max_new_tokens, which also counts the reasoning"}


class Answerer:
    """The base worker's handler."""

    def __init__(self, endpoint: ChatClient, settings: BaseModelSettings, clock: Clock | None = None) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._clock = clock or SystemClock()

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        """Raises RetryLater if the endpoint does not answer, and DependencyBlocked if it refuses every prompt."""
        query = incoming.message
        prompt = base_prompt(query, self._settings.prompt_style, WELL_KNOWN_MARKS)
        started = self._clock.monotonic()
        try:
            answer = await self._endpoint.complete(prompt, max_tokens=self._settings.max_new_tokens, key=query.key)
        except PromptRefused as error:
            return self._empty(query, DraftStatus.BASE_FAILED, error.cause, str(error))
        base_ms = (self._clock.monotonic() - started) * 1000
        return _outgoing(Draft(query=query, answer=answer.text.strip(), base_model=self._settings.model, usage=answer.usage, base_ms=base_ms))

    def degraded(self, incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
        """The draft of a query without a base answer. It names the last failure."""
        is_late = reason is DegradeReason.EXPIRED
        cause = incoming.last_failure or (FailureCause.DEADLINE if is_late else FailureCause.OTHER)
        return self._empty(incoming.message, DraftStatus.EXPIRED if is_late else DraftStatus.BASE_FAILED, cause, reason)

    def _empty(self, query: Query, status: DraftStatus, cause: str, reason: str) -> Sequence[Outgoing]:
        known = FailureCause(cause) if cause in set(FailureCause) else FailureCause.OTHER
        BASE_UNANSWERED.add(cause=known)
        fields = {"query_id": str(query.query_id), "status": status, "cause": known, "reason": reason, "advice": _ADVICE.get(known)}
        log.warning("no base answer", extra=fields)
        return _outgoing(Draft(query=query, answer="", base_model=self._settings.model, status=status, base_ms=0.0, failure=known))


def _outgoing(draft: Draft) -> Sequence[Outgoing]:
    return [Outgoing(DRAFTS, draft, derive("draft", draft.query.query_id))]
