"""Queries to what their strategy needs first: a draft, the response itself, or a lookup. The one reader of `queries`, so a query's strategy is chosen once.

- RPO: a draft, `A_base = M_base(q)`. The base model sees only the task, no user and no history.
- The other strategies that ask first: the response. It costs no retrieval and no other worker.
- The strategies that read the history first: a lookup. The base model is not asked yet.

Every query gives one of them. If no attempt at the endpoint succeeds before the query's deadline, the draft or the response is empty and its status says
why (docs/rules.md, 4). The worker runtime decides how often and how long to retry.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from infra.endpoints.client import ChatClient, PromptRefused
from infra.settings import Settings
from infra.telemetry.metrics import BASE_UNANSWERED
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.drafts import Draft, DraftStatus, FailureCause
from schemas.ids import derive
from schemas.lookups import Lookup
from schemas.prompts import base_prompt
from schemas.queries import Query
from schemas.strategies import Strategy, StrategyChoice, choose_strategy
from schemas.topics import DRAFTS
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, Incoming, Outgoing
from workers.strategies.answerer import Asked, StrategyAnswerer, outgoing
from workers.strategies.answers import base_answer
from workers.strategies.catalog import method_of
from workers.strategies.handler import look_up

log = logging.getLogger(__name__)

_ADVICE = {FailureCause.ONLY_REASONING: "raise base.max_new_tokens, which also counts the reasoning"}


class QueryHandler:
    """The base worker's handler."""

    def __init__(self, endpoint: ChatClient, settings: Settings, clock: Clock | None = None) -> None:
        self._endpoint = endpoint
        self._base = settings.base
        self._strategies = settings.strategies
        self._clock = clock or SystemClock()
        self._answerer = StrategyAnswerer(endpoint, settings, self._clock)

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        """Raises RetryLater if the endpoint does not answer, DependencyBlocked if it refuses every prompt, and PoisonMessage for an unknown strategy."""
        query = incoming.message
        choice = self._choice(query)
        if choice.strategy is Strategy.RPO:
            return _drafted(await self._draft(query, choice))
        if reads := method_of(choice.strategy, self._answerer.methods).reads:
            return [look_up(Lookup(query=query, choice=choice, reads=reads))]
        answer = await self._answerer.answer(Asked(query, choice))
        return [look_up(answer) if isinstance(answer, Lookup) else outgoing(answer)]

    def degraded(self, incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
        """The draft or response of a query without a base answer. It names the last failure."""
        query = incoming.message
        choice = self._choice(query)
        if choice.strategy is not Strategy.RPO:
            return [outgoing(self._answerer.degraded(Asked(query, choice), incoming, reason))]
        is_late = reason is DegradeReason.EXPIRED
        cause = incoming.last_failure or (FailureCause.DEADLINE if is_late else FailureCause.OTHER)
        return _drafted(self._empty(query, choice, DraftStatus.EXPIRED if is_late else DraftStatus.BASE_FAILED, cause, reason))

    def _choice(self, query: Query) -> StrategyChoice:
        own = self._strategies
        return choose_strategy(query.strategy, own.weights, own.experiment, query.tenant, query.user)

    async def _draft(self, query: Query, choice: StrategyChoice) -> Draft:
        prompt = base_prompt(query, self._base.prompt_style, WELL_KNOWN_MARKS)
        started = self._clock.monotonic()
        try:
            answer = await self._endpoint.complete(prompt, max_tokens=self._base.max_new_tokens, key=query.key)
        except PromptRefused as error:
            return self._empty(query, choice, DraftStatus.BASE_FAILED, error.cause, str(error))
        base_ms = (self._clock.monotonic() - started) * 1000
        text = base_answer(query, answer.text)
        return Draft(query=query, answer=text, base_model=self._base.model, usage=answer.usage, base_ms=base_ms, choice=choice)

    def _empty(self, query: Query, choice: StrategyChoice, status: DraftStatus, cause: str, reason: str) -> Draft:
        known = FailureCause(cause) if cause in set(FailureCause) else FailureCause.OTHER
        BASE_UNANSWERED.add(cause=known)
        fields = {"query_id": str(query.query_id), "status": status, "cause": known, "reason": reason, "advice": _ADVICE.get(known)}
        log.warning("no base answer", extra=fields)
        return Draft(query=query, answer="", base_model=self._base.model, status=status, base_ms=0.0, failure=known, choice=choice)


def _drafted(draft: Draft) -> Sequence[Outgoing]:
    return [Outgoing(DRAFTS, draft, derive("draft", draft.query.query_id))]
