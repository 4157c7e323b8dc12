"""A history index that is away when the process starts: opened by the first use that finds it, so that the processors which need none begin at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from infra.errors import CannotContinue
from schemas.contexts import HistoryItem
from streams.index.history import HistoryIndex, Point, Scope, Vector


class LateIndex:
    """`open_index` raises RetryLater while the store is away, and so does every use."""

    def __init__(self, open_index: Callable[[], Awaitable[HistoryIndex]]) -> None:
        self._open_index = open_index
        self._opening = asyncio.Lock()
        self._index: HistoryIndex | None = None

    async def upsert(self, points: Sequence[Point]) -> None:
        await (await self._opened()).upsert(points)

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        return await (await self._opened()).search(scope, vector, before, domain, limit)

    async def count(self, scope: Scope) -> int:
        return await (await self._opened()).count(scope)

    async def is_empty(self) -> bool:
        """Not as far as anybody knows: where it turns out to be, the first use ends the process, and the next start fills it from the log."""
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
                    raise CannotContinue("the index that was away came up empty; started again, this process fills it from the log")
                self._index = index
            return self._index
