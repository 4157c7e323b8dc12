"""The index of profile entries: a second index of the same kind as the history's, so that the same filter on tenant, user, domain and time guards it.

It is a cache of the `profiles` topic. An entry's time is the end of the history that it was made from, so a query finds only entries made from items before
it (docs/rules.md, 2). Items with features have the embedding of their features' text as vector, and the rounded vector of each feature beside the entry: a
process that starts again folds exactly the same factors.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

from schemas.contexts import HistoryItem
from schemas.features import ItemFeatures
from schemas.ids import derive
from schemas.positions import Source
from schemas.profiles import ExtractedFeatures, ProfileEntry, ProfileKind, Reasoning, Summary, reasoning_id
from streams.index.history_index import HistoryIndex
from streams.index.tenant_filter import DOMAIN, OCCURRED_AT, SOURCE, TENANT, USER, Scope, Vector, microseconds
from streams.profiles.centroids import Rounded

#: Items that are read at once.
PAGE = 2_000
#: Later than every item.
_END = datetime(9999, 1, 1, tzinfo=UTC)


class EmbeddedItem(NamedTuple):
    """An entry with the features of an item. `vector` is that of the features' text, `vectors` has a row for each feature."""

    entry: ProfileEntry
    source: Source
    vector: Vector
    vectors: Rounded


class CountableItem(NamedTuple):
    """What `FactorHistory.add` takes."""

    item: ItemFeatures
    vectors: Rounded


@dataclass(frozen=True)
class ProfilePoint:
    """An entry as it is stored. Its fields are those of a history item: `content` holds the entry as JSON, `response` the vectors of features in base64."""

    entry: ProfileEntry
    source: Source
    vector: Vector
    vectors: str = ""

    @property
    def id(self) -> UUID:
        content = self.entry.content
        if isinstance(content, ExtractedFeatures):
            return features_point(Scope(self.entry.tenant, self.entry.user), content.item.interaction_id)
        return _point(Scope(self.entry.tenant, self.entry.user), self.entry.entry_id)

    def payload(self) -> dict[str, Any]:
        entry = self.entry
        return {
            TENANT: entry.tenant,
            USER: entry.user,
            DOMAIN: _domain(entry.content.kind, entry.domain),
            OCCURRED_AT: microseconds(entry.content.until),
            "interaction_id": str(entry.entry_id),
            "content": entry.model_dump_json(),
            "response": self.vectors,
            SOURCE: self.source.model_dump(),
        }


class ProfileIndex:
    """Profile entries of all users. Methods raise what `HistoryIndex` raises."""

    def __init__(self, index: HistoryIndex, dimension: int) -> None:
        self._index = index
        self.dimension = dimension
        self.no_vector = np.eye(1, dimension, dtype=np.float32)[0]  # entries that no search compares

    async def put(self, entries: Sequence[tuple[ProfileEntry, Source]]) -> None:
        """Write entries without vectors; replace those with the same id."""
        await self._index.upsert([ProfilePoint(entry, source, self.no_vector) for entry, source in entries])

    async def put_items(self, items: Sequence[EmbeddedItem]) -> None:
        """Write items with features; replace those with the same interaction id."""
        await self._index.upsert([ProfilePoint(each.entry, each.source, each.vector, _encoded(each.vectors)) for each in items])

    async def sources(self, ids: Sequence[UUID]) -> dict[UUID, Source]:
        """Where the stored points with these ids come from in the log."""
        return {id: point.source for id, point in (await self._index.stored(ids)).items()}

    async def summary(self, scope: Scope, domain: str, before: datetime) -> Summary | None:
        """The newest summary that was made only from items before `before`."""
        items = await self._index.in_time_order(scope, before, _domain(ProfileKind.SUMMARY, domain), 1, newest_first=True)
        content = _entry(items[0].content).content if items else None
        return content if isinstance(content, Summary) else None

    async def items(self, scope: Scope, domain: str) -> list[CountableItem]:
        """All items with features, oldest first. Items that are written meanwhile may be missing, or there."""
        stored = await self._all_before(scope, _END, _domain(ProfileKind.FEATURES, domain))
        return await asyncio.to_thread(
            lambda: [CountableItem(_extracted(each.content).item, _decoded(each.response, self.dimension)) for each in reversed(stored)]
        )

    async def _all_before(self, scope: Scope, before: datetime, domain: str) -> list[HistoryItem]:
        """Newest first, in pages. A page may end between items of one time, so those of its oldest time are read again with the next page."""
        found: list[HistoryItem] = []
        limit = PAGE
        while len(page := await self._index.in_time_order(scope, before, domain, limit, newest_first=True)) == limit:
            cut_at = page[-1].occurred_at
            whole = [item for item in page if item.occurred_at > cut_at]
            found += whole
            before = cut_at + timedelta(microseconds=1)
            if not whole:  # all items of the page have one time
                limit *= 2
        return found + page

    async def has_items(self, scope: Scope, domain: str) -> bool:
        return bool(await self._index.count_before(scope, _END, _domain(ProfileKind.FEATURES, domain)))

    async def similar_items(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        """The `limit` items from before `before` whose features' text is nearest, best first, as items of the history. Some have no features."""
        found = await self._index.search(scope, vector, before, _domain(ProfileKind.FEATURES, domain), limit)
        return await asyncio.to_thread(lambda: [_history_item(_extracted(hit.content), hit.score) for hit in found])

    async def reasoning(self, scope: Scope, interaction_ids: Collection[UUID]) -> dict[UUID, Reasoning]:
        """The reasoning paths of these items, by interaction id. Items without one are missing."""
        ids = [_point(scope, reasoning_id(scope.tenant, scope.user, id)) for id in interaction_ids]
        contents = [_entry(point.content["content"]).content for point in (await self._index.stored(ids)).values()]
        return {content.interaction_id: content for content in contents if isinstance(content, Reasoning)}


def features_point(scope: Scope, interaction_id: UUID) -> UUID:
    """One for each item, whichever extractor found its features."""
    return derive("profile-point", scope.tenant, scope.user, ProfileKind.FEATURES, interaction_id)


def _point(scope: Scope, entry_id: UUID) -> UUID:
    return derive("profile-point", scope.tenant, scope.user, entry_id)


def _history_item(extracted: ExtractedFeatures, score: float) -> HistoryItem:
    return HistoryItem.of(extracted.item, score, extracted.source)


def _entry(content: str) -> ProfileEntry:
    return ProfileEntry.from_bytes(content.encode())


def _extracted(content: str) -> ExtractedFeatures:
    extracted = _entry(content).content
    assert isinstance(extracted, ExtractedFeatures)  # the filter compares the kind
    return extracted


def _encoded(vectors: Rounded) -> str:
    return base64.b64encode(vectors.astype("<i2").tobytes()).decode()


def _decoded(text: str, dimension: int) -> Rounded:
    return np.frombuffer(base64.b64decode(text), dtype="<i2").astype(np.int16).reshape(-1, dimension)


def _domain(kind: ProfileKind, domain: str) -> str:
    """The field that the filter compares. A domain has no colon."""
    return f"{kind}:{domain}"
