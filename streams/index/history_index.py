"""The history index: a user's history items, searched by embedding. A cache of the `interactions` topic; every item names its offset there.

A search takes a `Scope`; `streams.index.tenant_filter` makes the filter from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from infra.errors import CannotContinue
from schemas.contexts import HistoryItem, Source
from schemas.ids import derive
from schemas.interactions import Interaction
from streams.index.tenant_filter import DOMAIN, EPOCH, OCCURRED_AT, TENANT, USER, Scope, microseconds

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class IndexPoint:
    """An interaction with its normalised embedding and its position in the topic."""

    interaction: Interaction
    source: Source
    vector: Vector

    @property
    def id(self) -> UUID:
        """Derived from tenant and user too, so that another user's record with the same interaction id does not overwrite this one."""
        return derive("history-point", self.interaction.tenant, self.interaction.user, self.interaction.interaction_id)

    def payload(self) -> dict[str, Any]:
        interaction = self.interaction
        return {
            TENANT: interaction.tenant,
            USER: interaction.user,
            DOMAIN: interaction.domain,
            OCCURRED_AT: microseconds(interaction.occurred_at),
            "interaction_id": str(interaction.interaction_id),
            "content": interaction.content,
            "response": interaction.response,
            "source": self.source.model_dump(),
        }


class HistoryIndex(Protocol):
    """Adapters raise RetryLater if the store is away, and CannotContinue if its configuration is wrong."""

    async def upsert(self, points: Sequence[IndexPoint]) -> None:
        """Write points; replace those with the same id. Returns when they survive a crash of the process."""

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        """The scope's nearest items in `domain` with `occurred_at` before `before`, best first, at most `limit`."""

    async def count(self, scope: Scope) -> int:
        """Number of the scope's items, of all domains and times."""

    async def is_empty(self) -> bool:
        """Whether the index has no point at all. An empty index is filled from the topic."""

    async def close(self) -> None: ...


def best_first(hits: Iterable[tuple[float, Mapping[str, Any]]]) -> list[HistoryItem]:
    """Items from scores and payloads: highest score first, then the newest, then by id, so that all adapters break ties alike."""
    items = [_item(score, payload) for score, payload in hits]
    return sorted(items, key=lambda item: (-item.score, -microseconds(item.occurred_at), item.interaction_id))


def _item(score: float, payload: Mapping[str, Any]) -> HistoryItem:
    return HistoryItem(
        interaction_id=UUID(payload["interaction_id"]),
        content=payload["content"],
        response=payload["response"],
        occurred_at=EPOCH + timedelta(microseconds=payload[OCCURRED_AT]),
        score=score,
        source=Source(**payload["source"]),
    )


class LazyIndex:
    """A history index whose store is away when the process starts. The first call that reaches the store opens it; until then the other processors work.

    Every method raises RetryLater while `open_index` does.
    """

    def __init__(self, open_index: Callable[[], Awaitable[HistoryIndex]]) -> None:
        self._open_index = open_index
        self._opening = asyncio.Lock()
        self._index: HistoryIndex | None = None

    async def upsert(self, points: Sequence[IndexPoint]) -> None:
        await (await self._opened()).upsert(points)

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        return await (await self._opened()).search(scope, vector, before, domain, limit)

    async def count(self, scope: Scope) -> int:
        return await (await self._opened()).count(scope)

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
