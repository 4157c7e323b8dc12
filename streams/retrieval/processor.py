"""Turns drafts into contexts: the user's own items nearest to `q + A_base`, from before the query was asked (RPO, section 3.1).

A query never waits for the index (docs/rules.md, 4). If the draft has no answer, its deadline has passed or the index is away, the context goes out
without items, with the reason in its status. A failing index delays one batch by at most ATTEMPTS times SEARCH_S; after that no query waits until the
circuit breaker closes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from infra.errors import PoisonMessage, RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from schemas.contexts import Context, HistoryItem, RetrievalStatus
from schemas.dead_letters import dead_letter
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import Envelope
from schemas.ids import derive
from schemas.messages import Malformed
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import CONTEXTS, DRAFTS, MAX_MESSAGE_BYTES
from streams.app.processor import GROUP, output
from streams.index.embedder import Embedder
from streams.index.history_index import HistoryIndex
from streams.index.tenant_filter import Scope, Vector

log = logging.getLogger(__name__)

#: A response holds its context and an outcome holds the response, each in one record, so a context takes half a record at most.
CONTEXT_BYTES = MAX_MESSAGE_BYTES // 2
#: A search takes milliseconds; one that takes this long has failed. The second attempt is for a stale connection.
SEARCH_S = 2.0
ATTEMPTS = 2
#: The first and the longest pause of the circuit breaker after a failed search.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RetrievalProcessor:
    """`now` is the wall clock, for deadlines."""

    name = "retrieval"
    topics = (DRAFTS.name,)
    batch = 16
    linger_s = 0.001  # takes only records that have arrived, so that no query waits

    def __init__(
        self, embedder: Embedder, index: HistoryIndex, k_max: int, *, now: Callable[[], datetime] = _utc_now, breaker: CircuitBreaker | None = None
    ) -> None:
        self._embedder = embedder
        self._index = index
        self._k_max = k_max
        self._now = now
        self._breaker = breaker or CircuitBreaker(FIRST_PAUSE_S, LONGEST_PAUSE_S)

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """One context for each readable draft, in order, and dead letters for the others. Never raises RetryLater."""
        started = time.perf_counter()
        drafts: list[tuple[ConsumedRecord, Draft, Envelope]] = []
        dead_letters: list[ProducedRecord] = []
        for record in records:
            try:
                drafts.append((record, *record.read(Draft)))
            except Malformed as error:
                dead_letters.append(dead_letter(record, GROUP, error))
        skips = [self._skip_reason(draft) for _, draft, _ in drafts]
        texts = [query_text(draft) for (_, draft, _), skip in zip(drafts, skips, strict=True) if skip is None]
        vectors = iter(await self._embedder.embed(texts, urgent=True) if texts else ())
        contexts: list[ProducedRecord] = []
        for (record, draft, envelope), skip in zip(drafts, skips, strict=True):
            items, status = await self._search(draft, next(vectors)) if skip is None else ([], skip)
            context = context_of(draft, items, self._k_max, status, retrieve_ms=(time.perf_counter() - started) * 1000)
            try:
                contexts.append(output(CONTEXTS, context, id=derive("context", draft.query.query_id), traceparent=envelope.traceparent))
            except PoisonMessage as error:
                dead_letters.append(dead_letter(record, GROUP, error))
        return contexts + dead_letters

    def _skip_reason(self, draft: Draft) -> RetrievalStatus | None:
        """Why this draft's context goes out at once, without a search. None if the index is to be searched."""
        if draft.status is not DraftStatus.DRAFTED:
            return RetrievalStatus.NOT_NEEDED
        if self._left_s(draft) <= 0:
            return RetrievalStatus.DEADLINE_PASSED
        return RetrievalStatus.INDEX_AWAY if self._breaker.pause_left_s else None

    async def _search(self, draft: Draft, vector: Vector) -> tuple[list[HistoryItem], RetrievalStatus]:
        query, reason = draft.query, ""
        for _ in range(ATTEMPTS):
            if (skip := self._skip_reason(draft)) is not None:
                return [], skip
            left_s = self._left_s(draft)
            try:
                async with asyncio.timeout(min(SEARCH_S, left_s)):
                    items = await self._index.search(Scope(query.tenant, query.user), vector, query.asked_at, query.domain, self._k_max)
            except RetryLater as error:
                reason = str(error)
            except TimeoutError:
                if left_s < SEARCH_S:  # the deadline was too near to blame the index
                    return [], RetrievalStatus.DEADLINE_PASSED
                reason = f"no answer within {SEARCH_S:g} s"
            else:
                self._breaker.succeeded()
                return items, RetrievalStatus.SEARCHED
        log.warning("the index is away; contexts go out without history", extra={"reason": reason, "for_s": self._breaker.failed()})
        return [], RetrievalStatus.INDEX_AWAY

    def _left_s(self, draft: Draft) -> float:
        deadline = draft.query.deadline
        return float("inf") if deadline is None else (deadline - self._now()).total_seconds()


def query_text(draft: Draft) -> str:
    """The text of a query that is embedded: `q + A_base`."""
    return f"{draft.query.text}\n{draft.answer}"


def context_of(draft: Draft, items: Sequence[HistoryItem], k_max: int, retrieval: RetrievalStatus, retrieve_ms: float) -> Context:
    """The context with as many of the best items as CONTEXT_BYTES hold. Only items of tens of kilobytes are ever left out."""
    context = Context(draft=draft, items=tuple(items), k_max=k_max, retrieve_ms=retrieve_ms, retrieval=retrieval)
    while context.items and len(context.to_bytes()) > CONTEXT_BYTES:
        context = context.model_copy(update={"items": context.items[:-1]})
    return context
