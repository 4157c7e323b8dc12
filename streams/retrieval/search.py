"""Finds the items of the user's own history that a query's strategy reads, all from before the query was asked.

A query never waits for the index (docs/rules.md, 4). If nothing is to be read, the deadline has passed, or the index or the
embedder is away, the result has no items, with
the reason in its status. All similar items of a batch are one call of the index. A failing index delays that call, and each read in time order, by at most
ATTEMPTS times SEARCH_S; after that no query waits until the circuit breaker closes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from infra.errors import RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from infra.settings.stream import RetrievalSettings, Retriever
from schemas.contexts import AfterStatus, HistoryItem, RetrievalStatus
from schemas.lookups import ItemOrder, Reads
from schemas.queries import Query
from schemas.strategies import Strategy
from streams.embedding.embedder import Embedder
from streams.index.history_index import HistoryReader, SearchRequest
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


#: What the index gave for one query, and how it went.
Answer = tuple[list[HistoryItem], RetrievalStatus]
#: One call of the index: gets the positions in a batch, and returns the items of each.
Read = Callable[[Sequence[int]], Awaitable[list[list[HistoryItem]]]]


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
        """One result for each, in order. One call embeds all texts, and one searches. Never raises RetryLater."""
        started = time.perf_counter()
        skips = [self._skip_reason(wanted) for wanted in batch]
        similar = [n for n, skip in enumerate(skips) if skip is None and self.retriever_of(batch[n]) is Retriever.EMBEDDING]
        answers = dict(zip(similar, await self._similar([batch[n] for n in similar]), strict=True))
        found: list[Found] = []
        for n, (wanted, skip) in enumerate(zip(batch, skips, strict=True)):
            if skip is not None:
                answers[n] = [], skip
            elif n not in answers:
                (answers[n],) = await self._answers([wanted], partial(self._in_time_order, wanted))
            items, status = answers[n]
            items = await self._chosen(wanted, items) if items else []
            found.append(Found(items, status, (time.perf_counter() - started) * 1000))
        return found

    async def _similar(self, batch: Sequence[Wanted]) -> list[Answer]:
        vectors = await self._vectors([self._query_prefix + wanted.text for wanted in batch]) if batch else []
        if vectors is None:
            return [([], RetrievalStatus.INDEX_AWAY)] * len(batch)
        requests = [_request(wanted, vector) for wanted, vector in zip(batch, vectors, strict=True)]
        return await self._answers(batch, lambda waiting: self._index.search_batch([requests[n] for n in waiting]))

    async def _vectors(self, texts: Sequence[str]) -> Sequence[Vector] | None:
        """None while the embedder's endpoint is away."""
        if self._embedder_breaker.pause_left_s:
            return None
        try:
            vectors = list(await self._embedder.embed(texts, urgent=True))
        except RetryLater as error:
            extra = {"reason": str(error), "for_s": self._embedder_breaker.failed()}
            log.warning("the embedder is away; queries go on without similar items", extra=extra)
            return None
        self._embedder_breaker.succeeded()
        return vectors

    def _skip_reason(self, wanted: Wanted) -> RetrievalStatus | None:
        """Why the result goes out at once, without a search. None if the index is to be searched."""
        if wanted.reads.items is None or wanted.reads.k == 0:
            return RetrievalStatus.NOT_NEEDED
        if self._left_s(wanted.query) <= 0:
            return RetrievalStatus.DEADLINE_PASSED
        return RetrievalStatus.INDEX_AWAY if self._breaker.pause_left_s else None

    async def _answers(self, batch: Sequence[Wanted], read: Read) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for _ in range(ATTEMPTS):
            if (failure := await self._attempt(batch, answers, read)) is None:
                break
        else:
            log.warning("the index is away; queries go on without history", extra={"reason": failure, "for_s": self._breaker.failed()})
        return [answers.get(n, ([], RetrievalStatus.INDEX_AWAY)) for n in range(len(batch))]

    async def _attempt(self, batch: Sequence[Wanted], answers: dict[int, Answer], read: Read) -> str | None:
        """Adds the missing answers. Returns why it could not. The index gets all queries in one call, which ends at the latest deadline or after SEARCH_S."""
        waiting = self._waiting(batch, answers)
        if not waiting:
            return None
        latest_s = max(waiting.values())
        try:
            async with asyncio.timeout(min(SEARCH_S, latest_s)):
                found = await read(list(waiting))
        except RetryLater as error:
            return str(error)
        except TimeoutError:
            answers |= {n: ([], RetrievalStatus.DEADLINE_PASSED) for n, left_s in waiting.items() if left_s < SEARCH_S}
            return f"no answer within {SEARCH_S:g} s" if latest_s >= SEARCH_S else None  # those deadlines were too near to blame the index
        self._breaker.succeeded()
        answers |= {n: (items, RetrievalStatus.SEARCHED) for n, items in zip(waiting, found, strict=True)}
        return None

    def _waiting(self, batch: Sequence[Wanted], answers: dict[int, Answer]) -> dict[int, float]:
        """The positions of the queries without an answer, with the seconds left to each deadline. Adds the answers of those that need no search any more."""
        for n, wanted in enumerate(batch):
            if n not in answers and (skip := self._skip_reason(wanted)) is not None:
                answers[n] = [], skip
        return {n: self._left_s(wanted.query) for n, wanted in enumerate(batch) if n not in answers}

    async def _in_time_order(self, wanted: Wanted, _: Sequence[int]) -> list[list[HistoryItem]]:
        query, retriever = wanted.query, self.retriever_of(wanted)
        limit = self._settings.scan_items if retriever in SCANNING else wanted.reads.k
        scope = Scope(query.tenant, query.user)
        return [await self._index.in_time_order(scope, query.asked_at, query.domain, limit, newest_first=retriever is not None)]

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


def _request(wanted: Wanted, vector: Vector) -> SearchRequest:
    query = wanted.query
    return SearchRequest(Scope(query.tenant, query.user), vector, query.asked_at, query.domain, wanted.reads.k)
