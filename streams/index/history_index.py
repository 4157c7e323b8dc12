"""The history index: a user's history items, searched by embedding. A cache of the `interactions` topic; every item names its offset there.

This is the interface. `streams.index.tenant_filter` defines what a point stores, and makes the filter of every search from its `Scope`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from infra.errors import CannotContinue
from schemas.contexts import HistoryItem
from streams.index.tenant_filter import IndexFilter, Point, Scope, StoredPoint, Vector


@dataclass(frozen=True)
class SearchRequest:
    """The scope's nearest items in `domain` with `occurred_at` before `before`, at most `limit`."""

    scope: Scope
    vector: Vector
    before: datetime
    domain: str
    limit: int

    @property
    def filter(self) -> IndexFilter:
        return self.scope.before(self.before, self.domain)


class HistoryReader(Protocol):
    """What a query needs of a history index. Items without a response are not found, except those that versions before the flag BLANK wrote."""

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        """One result for each request, in order, best item first. Raises for all of them if one cannot be answered."""

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        """The scope's oldest items in `domain` with `occurred_at` before `before`, oldest first, at most `limit`, with score 0.

        With `newest_first` the newest items, newest first. Items of one time are in the order of the log, or in its reverse.
        """


class HistoryIndex(HistoryReader, Protocol):
    """Adapters raise RetryLater if the store is away, and CannotContinue if its configuration is wrong."""

    async def upsert(self, points: Sequence[Point]) -> None:
        """Write points; replace those with the same id. Returns when they survive a crash of the process."""

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        """The result of one `SearchRequest`."""

    async def stored(self, ids: Sequence[UUID]) -> Mapping[UUID, StoredPoint]:
        """The points with these ids that the index has. Only to compare them with points to write: ids are derived from tenant and user."""

    async def count(self, scope: Scope) -> int:
        """Number of the scope's items, of all domains and times, also of those without a response."""

    async def count_before(self, scope: Scope, before: datetime, domain: str) -> int:
        """Number of the scope's items in `domain` with `occurred_at` before `before`, of which `in_time_order` returns the ends."""

    async def is_empty(self) -> bool:
        """Whether the index has no point at all. An empty index is filled from the topic."""

    async def close(self) -> None: ...


class LazyIndex:
    """A history index whose store is away when the process starts. The first call that reaches the store opens it; until then the other processors work.

    Every method raises RetryLater while `open_index` does.
    """

    def __init__(self, open_index: Callable[[], Awaitable[HistoryIndex]]) -> None:
        self._open_index = open_index
        self._opening = asyncio.Lock()
        self._index: HistoryIndex | None = None

    @property
    def opened(self) -> HistoryIndex | None:
        """The index that was opened. None while the store is away."""
        return self._index

    async def upsert(self, points: Sequence[Point]) -> None:
        await (await self._opened()).upsert(points)

    async def stored(self, ids: Sequence[UUID]) -> Mapping[UUID, StoredPoint]:
        return await (await self._opened()).stored(ids)

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        return await (await self._opened()).search(scope, vector, before, domain, limit)

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        return await (await self._opened()).search_batch(requests)

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        return await (await self._opened()).in_time_order(scope, before, domain, limit, newest_first=newest_first)

    async def count(self, scope: Scope) -> int:
        return await (await self._opened()).count(scope)

    async def count_before(self, scope: Scope, before: datetime, domain: str) -> int:
        return await (await self._opened()).count_before(scope, before, domain)

    async def is_empty(self) -> bool:
        """False while the store is away. If the store turns out to be empty, the first call ends the process, and the next start fills the index."""
        return self._index is not None and await self._index.is_empty()

    async def close(self) -> None:
        if self._index is not None:
            await self._index.close()

    async def _opened(self) -> HistoryIndex:
        async with self._opening:
            if self._index is None:
                index = await self._open_index()
                if await index.is_empty():
                    await index.close()
                    raise CannotContinue("the index was away and is empty now; the next start of this process fills it from the topic")
                self._index = index
            return self._index
