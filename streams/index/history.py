"""The history index: what users did, found again by meaning. A cache of the log, so every item names its place in it.

Nothing can ask the index without a `Scope`; `Scope.before` is the one place where a filter is made (docs/rules.md, 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from schemas.contexts import HistoryItem, Source
from schemas.history import Interaction
from schemas.ids import derive

Vector = NDArray[np.float32]

#: Payload fields that filters use; adapters index them.
TENANT, USER, DOMAIN, OCCURRED_AT = "tenant", "user", "domain", "occurred_at_us"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Selection:
    """Which points a query may see: every field equal, and `occurred_at` strictly before the wall where there is one. Made by `Scope` alone."""

    equal: Mapping[str, str]
    before_us: int | None


@dataclass(frozen=True)
class Scope:
    """One user of one tenant. Whoever queries the index holds one."""

    tenant: str
    user: str

    def everything(self) -> Selection:
        return Selection({TENANT: self.tenant, USER: self.user}, None)

    def before(self, wall: datetime, domain: str) -> Selection:
        """What this user did in `domain`, strictly before `wall`."""
        return Selection({TENANT: self.tenant, USER: self.user, DOMAIN: domain}, microseconds(wall))


@dataclass(frozen=True)
class Point:
    """An interaction with its embedding (normalised) and its place in the log."""

    interaction: Interaction
    source: Source
    vector: Vector

    @property
    def id(self) -> UUID:
        """Derived from tenant and user too: a foreign record that reuses an interaction's id cannot overwrite it."""
        return derive("history-point", self.interaction.tenant, self.interaction.user, self.interaction.interaction_id)

    def payload(self) -> dict[str, Any]:
        done = self.interaction
        return {
            TENANT: done.tenant,
            USER: done.user,
            DOMAIN: done.domain,
            OCCURRED_AT: microseconds(done.occurred_at),
            "interaction_id": str(done.interaction_id),
            "content": done.content,
            "response": done.response,
            "source": self.source.model_dump(),
        }


class HistoryIndex(Protocol):
    """Adapters raise RetryLater when their store is briefly away and CannotContinue when it is not what it should be."""

    async def upsert(self, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same id. Returns when they survive a crash of the process."""

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        """The scope's nearest items in `domain` with `occurred_at` before the wall, best first, at most `limit`."""

    async def count(self, scope: Scope) -> int:
        """How many items the scope has, of all domains and times."""

    async def is_empty(self) -> bool:
        """Whether it holds nothing at all: a new index is filled from the log."""

    async def close(self) -> None: ...


def microseconds(at: datetime) -> int:
    """Whole microseconds since 1970, exact as a double until the year 2255."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def best_first(hits: Iterable[tuple[float, Mapping[str, Any]]]) -> list[HistoryItem]:
    """Items from scores and payloads: by score, then the younger first, then by id, so that ties have one order everywhere."""
    items = [_item(score, payload) for score, payload in hits]
    return sorted(items, key=lambda item: (-item.score, -microseconds(item.occurred_at), item.interaction_id))


def _item(score: float, payload: Mapping[str, Any]) -> HistoryItem:
    return HistoryItem(
        interaction_id=UUID(payload["interaction_id"]),
        content=payload["content"],
        response=payload["response"],
        occurred_at=_EPOCH + timedelta(microseconds=payload[OCCURRED_AT]),
        score=score,
        source=Source(**payload["source"]),
    )
