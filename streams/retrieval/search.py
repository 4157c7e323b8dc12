"""Finds the items of the user's own history that a query's strategy reads, all from before the query was asked.

A query never waits for the index (docs/rules.md, 4). If nothing is to be read, the deadline has passed, or the index or the
embedder is away, the result has no items, with
the reason in its status. A failing index delays one batch by at most ATTEMPTS times SEARCH_S; after that no query waits until the circuit breaker closes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from infra.errors import RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from infra.settings.stream import RetrievalSettings, Retriever
from schemas.contexts import AfterStatus, HistoryItem, RetrievalStatus
from schemas.lookups import ItemOrder, Reads
from schemas.queries import Query
from schemas.strategies import Strategy
from streams.embedding.embedder import Embedder
from streams.index.history_index import HistoryReader
from streams.index.tenant_filter import Scope, Vector
from streams.retrieval.retrievers import drawn, most_similar_by_bm25

log = logging.getLogger(__name__)

#: A search takes milliseconds; one that takes this long has failed. The second attempt is for a stale connection.
SEARCH_S = 2.0
ATTEMPTS = 2
#: The first and the longest pause of the circuit breakers, after a failed search and a failed call of the embedder.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
#: Retrievers that choose among `retrieval.scan_items` items.
SCANNING = frozenset({Retriever.BM25, Retriever.RANDOM})


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Wanted:
    """What is to be found for one query. `text`: what ItemOrder.SIMILAR compares items with."""

    query: Query
    strategy: Strategy
    reads: Reads
    text: str


class Found(NamedTuple):
    items: list[HistoryItem]
    status: RetrievalStatus
    took_ms: float  # since the batch began, or the query's wait
    after: AfterStatus | None = None  # None: the query did not wait


class HistorySearch:
    """All processors that search share one, and with it the circuit breakers.

    `query_prefix` precedes each text that is embedded. `now` is the wall clock, for deadlines.
    """

    def __init__(
        self,
        embedder: Embedder,
        index: HistoryReader,
        settings: RetrievalSettings,
        *,
        query_prefix: str = "",
        now: Callable[[], datetime] = utc_now,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._embedder = embedder
        self._index = index
        self._settings = settings
        self._query_prefix = query_prefix
        self._now = now
        self._breaker = breaker or CircuitBreaker(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._embedder_breaker = CircuitBreaker(FIRST_PAUSE_S, LONGEST_PAUSE_S)

    async def find(self, batch: Sequence[Wanted]) -> list[Found]:
        """One result for each, in order. One call embeds all texts. Never raises RetryLater."""
        started = time.perf_counter()
        skips = [self._skip_reason(wanted) for wanted in batch]
        embeds = [skip is None and self.retriever_of(wanted) is Retriever.EMBEDDING for wanted, skip in zip(batch, skips, strict=True)]
        texts = [self._query_prefix + wanted.text for wanted, embed in zip(batch, embeds, strict=True) if embed]
        vectors = iter(await self._vectors(texts) if texts else ())
        found: list[Found] = []
        for wanted, skip, embed in zip(batch, skips, embeds, strict=True):
            vector = next(vectors) if embed else None
            if embed and vector is None:
                skip = RetrievalStatus.INDEX_AWAY
            items, status = await self._search(wanted, vector) if skip is None else ([], skip)
            items = await self._chosen(wanted, items) if items else []
            found.append(Found(items, status, (time.perf_counter() - started) * 1000))
        return found

    async def _vectors(self, texts: Sequence[str]) -> Sequence[Vector | None]:
        """None for each text while the embedder's endpoint is away."""
        if not self._embedder_breaker.pause_left_s:
            try:
                vectors = list(await self._embedder.embed(texts, urgent=True))
            except RetryLater as error:
                extra = {"reason": str(error), "for_s": self._embedder_breaker.failed()}
                log.warning("the embedder is away; queries go on without similar items", extra=extra)
            else:
                self._embedder_breaker.succeeded()
                return vectors
        return [None] * len(texts)

    def _skip_reason(self, wanted: Wanted) -> RetrievalStatus | None:
        """Why the result goes out at once, without a search. None if the index is to be searched."""
        if wanted.reads.items is None or wanted.reads.k == 0:
            return RetrievalStatus.NOT_NEEDED
        if self._left_s(wanted.query) <= 0:
            return RetrievalStatus.DEADLINE_PASSED
        return RetrievalStatus.INDEX_AWAY if self._breaker.pause_left_s else None

    async def _search(self, wanted: Wanted, vector: Vector | None) -> tuple[list[HistoryItem], RetrievalStatus]:
        reason = ""
        for _ in range(ATTEMPTS):
            if (skip := self._skip_reason(wanted)) is not None:
                return [], skip
            left_s = self._left_s(wanted.query)
            try:
                async with asyncio.timeout(min(SEARCH_S, left_s)):
                    items = await self._read(wanted, vector)
            except RetryLater as error:
                reason = str(error)
            except TimeoutError:
                if left_s < SEARCH_S:  # the deadline was too near to blame the index
                    return [], RetrievalStatus.DEADLINE_PASSED
                reason = f"no answer within {SEARCH_S:g} s"
            else:
                self._breaker.succeeded()
                return items, RetrievalStatus.SEARCHED
        log.warning("the index is away; queries go on without history", extra={"reason": reason, "for_s": self._breaker.failed()})
        return [], RetrievalStatus.INDEX_AWAY

    async def _read(self, wanted: Wanted, vector: Vector | None) -> list[HistoryItem]:
        query, k = wanted.query, wanted.reads.k
        scope = Scope(query.tenant, query.user)
        if vector is not None:
            return await self._index.search(scope, vector, query.asked_at, query.domain, k)
        retriever = self.retriever_of(wanted)
        limit = self._settings.scan_items if retriever in SCANNING else k
        return await self._index.in_time_order(scope, query.asked_at, query.domain, limit, newest_first=retriever is not None)

    async def _chosen(self, wanted: Wanted, items: list[HistoryItem]) -> list[HistoryItem]:
        """What the retriever chooses of the items that were read. Not part of the search's time, because a long ranking is no failure of the index."""
        query, k = wanted.query, wanted.reads.k
        match self.retriever_of(wanted):
            case Retriever.BM25:
                return await asyncio.to_thread(most_similar_by_bm25, wanted.text, items, query.task, k)
            case Retriever.RANDOM:
                return drawn(items, query.query_id, k)
            case _:
                return items

    def retriever_of(self, wanted: Wanted) -> Retriever | None:
        """None if the items do not depend on a retriever."""
        if wanted.reads.items is not ItemOrder.SIMILAR:
            return None
        return self._settings.by_strategy.get(wanted.strategy, self._settings.retriever)

    def _left_s(self, query: Query) -> float:
        return float("inf") if query.deadline is None else (query.deadline - self._now()).total_seconds()
