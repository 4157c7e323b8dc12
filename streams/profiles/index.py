"""The index of profile entries: a second index of the same kind as the history's, so that the same filter on tenant, user, domain and time guards it.

It is a cache of the `profiles` topic. An entry's time is the end of the history that it was made from, so a query finds only entries made from items before
it (docs/rules.md, 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from schemas.contexts import Source
from schemas.ids import derive
from schemas.profiles import ProfileEntry, ProfileKind, Summary
from streams.index.history_index import HistoryIndex
from streams.index.tenant_filter import DOMAIN, OCCURRED_AT, SOURCE, TENANT, USER, Scope, Vector, microseconds


@dataclass(frozen=True)
class ProfilePoint:
    """An entry as it is stored. Its fields are those of a history item: `content` holds the entry as JSON."""

    entry: ProfileEntry
    source: Source
    vector: Vector

    @property
    def id(self) -> UUID:
        return derive("profile-point", self.entry.tenant, self.entry.user, self.entry.entry_id)

    def payload(self) -> dict[str, Any]:
        entry = self.entry
        return {
            TENANT: entry.tenant,
            USER: entry.user,
            DOMAIN: _domain(entry.content.kind, entry.domain),
            OCCURRED_AT: microseconds(entry.content.until),
            "interaction_id": str(entry.entry_id),
            "content": entry.model_dump_json(),
            "response": "",
            SOURCE: self.source.model_dump(),
        }


class ProfileIndex:
    """Profile entries of all users. Methods raise what `HistoryIndex` raises."""

    def __init__(self, index: HistoryIndex, dimension: int) -> None:
        self._index = index
        self._no_vector = np.eye(1, dimension, dtype=np.float32)[0]  # entries that no search compares

    async def put(self, entries: Sequence[tuple[ProfileEntry, Source]]) -> None:
        """Write entries; replace those with the same id."""
        await self._index.upsert([ProfilePoint(entry, source, self._no_vector) for entry, source in entries])

    async def summary(self, scope: Scope, domain: str, before: datetime) -> Summary | None:
        """The newest summary that was made only from items before `before`."""
        items = await self._index.in_time_order(scope, before, _domain(ProfileKind.SUMMARY, domain), 1, newest_first=True)
        content = ProfileEntry.from_bytes(items[0].content.encode()).content if items else None
        return content if isinstance(content, Summary) else None


def _domain(kind: ProfileKind, domain: str) -> str:
    """The field that the filter compares. A domain has no colon."""
    return f"{kind}:{domain}"
