"""Fakes for tests of the streams: an embedder that counts words, an index in memory, and consumed records with their messages."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from infra.errors import RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from infra.settings.stream import RetrievalSettings
from schemas.contexts import Context, HistoryItem
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import envelope_headers
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.lookups import ItemOrder, Lookup, Reads
from schemas.messages import Message
from schemas.queries import Query
from schemas.records import ConsumedRecord
from schemas.responses import Provenance, Response, ResponseStatus
from schemas.strategies import Strategy, StrategyChoice
from streams.embedding.embedder import Embedder, Matrix
from streams.index.history_index import HistoryIndex, SearchRequest
from streams.index.tenant_filter import (
    BLANK,
    DOMAIN,
    OCCURRED_AT,
    TENANT,
    USER,
    Point,
    Scope,
    StoredPoint,
    Vector,
    best_first,
    item_of,
    microseconds,
    stored_point,
)
from streams.retrieval.search import HistorySearch, utc_now

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
WORDS = ("sea", "war", "love", "space")
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


class WordEmbedder:
    """One axis per word of WORDS, and a constant one. `calls` has the texts of each call, and whether it was urgent."""

    name = "words"
    dimension = len(WORDS) + 1

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], bool]] = []

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        self.calls.append((list(texts), urgent))
        rows = np.array([[text.count(word) for word in WORDS] + [0.1] for text in texts], dtype=np.float32).reshape(len(texts), self.dimension)
        lengths: Matrix = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
        return rows / lengths


class MemoryIndex:
    """A history index in a dict. A search compares every point."""

    def __init__(self) -> None:
        self.points: dict[uuid.UUID, Any] = {}

    async def upsert(self, points: Sequence[Point]) -> None:
        self.points |= {point.id: point for point in points}

    async def stored(self, ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, StoredPoint]:
        return {id: stored_point(self.points[id].payload()) for id in ids if id in self.points}

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        seen = self._before(scope, before, domain)
        return best_first((float(p.vector @ vector), p.payload()) for p in seen)[:limit]

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        return [await MemoryIndex.search(self, each.scope, each.vector, each.before, each.domain, each.limit) for each in requests]

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        items = [item_of(0.0, p.payload()) for p in self._before(scope, before, domain)]
        return sorted(items, key=lambda item: (item.occurred_at, item.source.offset), reverse=newest_first)[:limit]

    async def count(self, scope: Scope) -> int:
        return len(self._of(scope))

    async def count_before(self, scope: Scope, before: datetime, domain: str) -> int:
        return len(self._before(scope, before, domain))

    async def is_empty(self) -> bool:
        return not self.points

    async def close(self) -> None:
        pass

    def _of(self, scope: Scope) -> list[Point]:
        return [p for p in self.points.values() if (p.payload()[TENANT], p.payload()[USER]) == (scope.tenant, scope.user)]

    def _before(self, scope: Scope, before: datetime, domain: str) -> list[Point]:
        payloads = ((p, p.payload()) for p in self._of(scope))
        return [p for p, fields in payloads if fields[DOMAIN] == domain and fields[OCCURRED_AT] < microseconds(before) and not fields.get(BLANK)]


def search(
    embedder: Embedder,
    index: HistoryIndex,
    *,
    query_prefix: str = "",
    breaker: CircuitBreaker | None = None,
    now: Callable[[], datetime] = utc_now,
    **settings: Any,
) -> HistorySearch:
    """With these settings of `retrieval`."""
    return HistorySearch(embedder, index, RetrievalSettings(**settings), query_prefix=query_prefix, now=now, breaker=breaker)


class UnavailableIndex(MemoryIndex):
    """Raises RetryLater in the first `times` calls, then works. With `hangs` those calls do not return."""

    def __init__(self, times: int, *, hangs: bool = False) -> None:
        super().__init__()
        self.failures_left, self.calls, self._hangs = times, 0, hangs

    async def upsert(self, points: Sequence[Point]) -> None:
        await self._check_available()
        await super().upsert(points)

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        await self._check_available()
        return await super().search(scope, vector, before, domain, limit)

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        await self._check_available()
        return await super().search_batch(requests)

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        await self._check_available()
        return await super().in_time_order(scope, before, domain, limit, newest_first=newest_first)

    async def _check_available(self) -> None:
        self.calls += 1
        if self.failures_left:
            self.failures_left -= 1
            if self._hangs:
                await asyncio.Event().wait()
            raise RetryLater("the index is away")


def consumed_record(topic: str, message: Message, *, partition: int = 1, offset: int = 0) -> ConsumedRecord:
    headers = envelope_headers(message, id="any", source="/test", traceparent=TRACE)
    key: bytes = message.key  # type: ignore[attr-defined]
    return ConsumedRecord(topic, partition, offset, 1_700_000_000_000, key, message.to_bytes(), tuple(headers))


def interaction(name: str, *, user: str = "alice", at: datetime = NOON, domain: str = "movie_tag", content: str | None = None) -> Interaction:
    return Interaction.observed(
        tenant="acme",
        user=user,
        source_id=name,
        domain=domain,
        content=f"about {name}" if content is None else content,
        response="comedy",
        occurred_at=at,
    )


def query(text: str = "a film about the sea", *, user: str = "alice", query_id: uuid.UUID | None = None, deadline: datetime | None = None) -> Query:
    asked_at, options = NOON + timedelta(days=1), ("comedy", "drama")
    ids = {"tenant": "acme", "user": user, "domain": "movie_tag"}
    return Query(query_id=query_id or uuid.uuid4(), **ids, text=text, options=options, asked_at=asked_at, deadline=deadline)


def draft(query: Query, answer: str = "drama", status: DraftStatus = DraftStatus.DRAFTED) -> Draft:
    return Draft(query=query, answer=answer, base_model="base", status=status, base_ms=1)


def lookup(query: Query, *, items: ItemOrder | None = ItemOrder.SIMILAR, k: int = 4, strategy: Strategy = Strategy.RAG, step: int = 1) -> Lookup:
    return Lookup(query=query, choice=StrategyChoice(strategy=strategy), reads=Reads(items=items, k=k), step=step)


def response(query: Query, answer: str = "model words") -> Response:
    provenance = Provenance(
        model=None, base_model="base", strategy=Strategy.RPO, k=0, history_ids=(), prompt_digest=None, base_ms=1, retrieve_ms=1, reflect_ms=1
    )
    context = Context(draft=draft(query), items=(), k_max=6, retrieve_ms=1)
    return Response(
        query_id=query.query_id,
        context=context,
        answer=answer,
        reasoning="",
        status=ResponseStatus.NO_HISTORY,
        provenance=provenance,
        answered_at=NOON + timedelta(days=1),
    )


def feedback(query: Query, truth: str | None = "my words", *, user: str | None = None, score: float | None = None) -> Feedback:
    at = NOON + timedelta(days=2)
    return Feedback(feedback_id=uuid.uuid4(), query_id=query.query_id, tenant=query.tenant, user=user or query.user, truth=truth, score=score, occurred_at=at)
