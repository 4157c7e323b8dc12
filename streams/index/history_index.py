"""The history index: a user's history items, searched by embedding. A cache of the `interactions` topic; every item names its offset there.

A search takes a `Scope`; `streams.index.tenant_filter` makes the filter from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

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
