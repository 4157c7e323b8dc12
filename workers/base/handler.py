"""Queries to what their strategy needs first: a draft, the response itself, or a lookup. The one reader of `queries`, so a query's strategy is chosen once.

- RPO: a draft, `A_base = M_base(q)`. For it the base model sees only the task, no user and no history.
- The other strategies that ask first: the response. It costs no retrieval and no other worker.
- The strategies that read the history first: a lookup. The base model is not asked yet.

A query without options gets those of its domain's entry here (`schemas.domain_entries`), so that every later message has them.

Every query gives one of them. If no attempt at the endpoint succeeds before the query's deadline, the draft or the response is empty and its status says
why (docs/rules.md, 4). The worker runtime decides how often and how long to retry.
"""

from __future__ import annotations

from collections.abc import Sequence

from infra.endpoints.client import ChatClient, PromptRefused
from infra.settings import Settings
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.drafts import Draft, DraftStatus
from schemas.ids import derive
from schemas.lookups import Lookup
from schemas.prompts import base_prompt, turns_of
from schemas.queries import Query
from schemas.strategies import Strategy, StrategyChoice, choose_strategy
from schemas.topics import DRAFTS
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, Incoming, Outgoing
from workers.strategies.answerer import Asked, StrategyAnswerer, outgoing
from workers.strategies.answers import base_answer
from workers.strategies.base_calls import BaseCalls
from workers.strategies.catalog import method_of
from workers.strategies.handler import look_up
from workers.strategies.strategy import CompletesLookup
from workers.strategies.unanswered import empty_draft, last_failure


class QueryHandler:
    """The base worker's handler."""

    def __init__(self, endpoint: ChatClient, settings: Settings, clock: Clock | None = None) -> None:
        self._endpoint = endpoint
        self._base = settings.base
        self._form = settings.base_form
        self._strategies = settings.strategies
        self._clock = clock or SystemClock()
        self._answerer = StrategyAnswerer(endpoint, settings, self._clock)

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        """Raises RetryLater if the endpoint does not answer, DependencyBlocked if it refuses every prompt, and PoisonMessage for an unknown strategy."""
        query = self._form.domains.completed(incoming.message)
        choice = self._choice(query)
        if choice.strategy is Strategy.RPO:
            return _drafted(await self._draft(query, choice))
        method = method_of(choice.strategy, self._answerer.methods)
        if reads := method.reads(query):
            lookup = Lookup(query=query, choice=choice, reads=reads)
            return [look_up(await method.first_lookup(lookup) if isinstance(method, CompletesLookup) else lookup)]
        answer = await self._answerer.answer(Asked(query, choice))
        return [look_up(answer) if isinstance(answer, Lookup) else outgoing(answer)]

    def degraded(self, incoming: Incoming[Query], reason: DegradeReason) -> Sequence[Outgoing]:
        """The draft or response of a query without a base answer. It names the last failure."""
        query = self._form.domains.completed(incoming.message)
        choice = self._choice(query)
        if choice.strategy is not Strategy.RPO:
            return [outgoing(self._answerer.degraded(Asked(query, choice), incoming, reason))]
        return _drafted(empty_draft(query, choice, self._base.model, *last_failure(incoming, reason), reason))

    def _choice(self, query: Query) -> StrategyChoice:
        own = self._strategies
        return choose_strategy(query.strategy, own.weights, own.experiment, query.tenant, query.user)

    async def _draft(self, query: Query, choice: StrategyChoice) -> Draft:
        prompt, calls = base_prompt(query, self._form, WELL_KNOWN_MARKS), BaseCalls(self._endpoint, query.key, self._clock)
        turns, limit = turns_of(query, prompt, self._form, WELL_KNOWN_MARKS), self._form.domains.max_new_tokens(query.domain, self._base.max_new_tokens)
        try:
            (text, *_) = await calls.texts(turns, max_tokens=limit)
        except PromptRefused as error:
            return empty_draft(query, choice, self._base.model, DraftStatus.BASE_FAILED, error.cause, str(error))
        return Draft(query=query, answer=base_answer(query, text), base_model=self._base.model, usage=calls.usage, base_ms=calls.ms, choice=choice)


def _drafted(draft: Draft) -> Sequence[Outgoing]:
    return [Outgoing(DRAFTS, draft, derive("draft", draft.query.query_id))]
