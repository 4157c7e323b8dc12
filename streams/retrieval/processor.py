"""Drafts into contexts: the user's own items nearest to `q + A_base`, before the query was asked (RPO, section 3.1).

A query waits for nobody (docs/rules.md, 4): where there is no use in items any more, or the index is away, its context goes out without them and
says why. An index that is away costs the queries of one batch at most TRIES times SEARCH_S, then nobody until it is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from infra.errors import PoisonMessage, RetryLater
from schemas.contexts import Context, HistoryItem, RetrievalStatus
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import Envelope
from schemas.ids import derive
from schemas.messages import Malformed
from schemas.topics import CONTEXTS, DRAFTS, MAX_MESSAGE_BYTES
from streams.app.records import Arrival, Outgoing, outgoing, set_aside
from streams.index.embedder import Embedder
from streams.index.history import HistoryIndex, Scope, Vector
from streams.retrieval.breaker import Breaker

log = logging.getLogger(__name__)

#: A response carries its context and an outcome carries the response, each in one record: a context leaves them half the room.
CONTEXT_BYTES = MAX_MESSAGE_BYTES // 2
#: A search takes milliseconds; one that takes this long counts as failed. The second try is for a connection that had grown stale.
SEARCH_S = 2.0
TRIES = 2


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Retrieval:
    """`now` is the wall clock, for deadlines."""

    name = "retrieval"
    topics = (DRAFTS.name,)
    batch = 16
    linger_s = 0.001  # only what is already there: a query waits for nobody

    def __init__(self, embedder: Embedder, index: HistoryIndex, k_max: int, *, now: Callable[[], datetime] = _utc_now, breaker: Breaker | None = None) -> None:
        self._embedder = embedder
        self._index = index
        self._k_max = k_max
        self._now = now
        self._breaker = breaker or Breaker()

    async def handle(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """One context a readable draft, in order; dead letters for the others. Never raises RetryLater."""
        started = time.perf_counter()
        drafts: list[tuple[Arrival, Draft, Envelope]] = []
        letters: list[Outgoing] = []
        for arrival in arrivals:
            try:
                drafts.append((arrival, *arrival.read(Draft)))
            except Malformed as error:
                letters.append(set_aside(arrival, error))
        passed = [self._passes(draft) for _, draft, _ in drafts]
        texts = [query_text(draft) for (_, draft, _), status in zip(drafts, passed, strict=True) if status is None]
        vectors = iter(await self._embedder.embed(texts, urgent=True) if texts else ())
        contexts: list[Outgoing] = []
        for (arrival, draft, envelope), status in zip(drafts, passed, strict=True):
            items, outcome = await self._search(draft, next(vectors)) if status is None else ([], status)
            context = context_of(draft, items, self._k_max, outcome, retrieve_ms=(time.perf_counter() - started) * 1000)
            try:
                contexts.append(outgoing(CONTEXTS, context, id=derive("context", draft.query.query_id), traceparent=envelope.traceparent))
            except PoisonMessage as error:
                letters.append(set_aside(arrival, error))
        return contexts + letters

    def _passes(self, draft: Draft) -> RetrievalStatus | None:
        """Why this draft's context goes out at once, without a look at the index; None where it is worth one."""
        if draft.status is not DraftStatus.DRAFTED:
            return RetrievalStatus.NOT_NEEDED
        if self._left_s(draft) <= 0:
            return RetrievalStatus.DEADLINE_PASSED
        return RetrievalStatus.INDEX_AWAY if self._breaker.is_open else None

    async def _search(self, draft: Draft, vector: Vector) -> tuple[list[HistoryItem], RetrievalStatus]:
        query, reason = draft.query, ""
        for _ in range(TRIES):
            if (passes := self._passes(draft)) is not None:
                return [], passes
            left_s = self._left_s(draft)
            try:
                async with asyncio.timeout(min(SEARCH_S, left_s)):
                    items = await self._index.search(Scope(query.tenant, query.user), vector, query.asked_at, query.domain, self._k_max)
            except RetryLater as error:
                reason = str(error)
            except TimeoutError:
                if left_s < SEARCH_S:  # too short a time to hold against the index
                    return [], RetrievalStatus.DEADLINE_PASSED
                reason = f"no answer within {SEARCH_S:g} s"
            else:
                self._breaker.worked()
                return items, RetrievalStatus.SEARCHED
        log.warning("the index is away; contexts go out without history", extra={"reason": reason, "for_s": self._breaker.failed()})
        return [], RetrievalStatus.INDEX_AWAY

    def _left_s(self, draft: Draft) -> float:
        deadline = draft.query.deadline
        return float("inf") if deadline is None else (deadline - self._now()).total_seconds()


def query_text(draft: Draft) -> str:
    """What is embedded of a query: `q + A_base`."""
    return f"{draft.query.text}\n{draft.answer}"


def context_of(draft: Draft, items: Sequence[HistoryItem], k_max: int, retrieval: RetrievalStatus, retrieve_ms: float) -> Context:
    """The context with as many of the best items as CONTEXT_BYTES hold; only items of tens of kilobytes ever go missing."""
    context = Context(draft=draft, items=tuple(items), k_max=k_max, retrieve_ms=retrieve_ms, retrieval=retrieval)
    while context.items and len(context.to_bytes()) > CONTEXT_BYTES:
        context = context.model_copy(update={"items": context.items[:-1]})
    return context
