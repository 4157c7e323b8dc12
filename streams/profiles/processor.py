"""Stores what the profiles worker has written. Features of items also change the user's factors, and give the task of writing the item's reasoning."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from infra.errors import PoisonMessage
from schemas.dead_letters import dead_letter
from schemas.messages import Malformed
from schemas.positions import Source
from schemas.profiles import ExtractedFeatures, ProfileEntry, ProfileTask, ReasoningWork
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.rpm_prompts import shown_factors
from schemas.topics import PROFILE_TASKS, PROFILES
from streams.app.processor import GROUP, output
from streams.embedding.embedder import Embedder
from streams.index.tenant_filter import Scope
from streams.profiles.embedding import item_vectors
from streams.profiles.factors import FactorHistory
from streams.profiles.histories import FactorHistories
from streams.profiles.index import EmbeddedItem, ProfileIndex, features_point


class _Found(NamedTuple):
    """Features of an item, as they came from the log."""

    record: ConsumedRecord
    entry: ProfileEntry
    content: ExtractedFeatures
    traceparent: str

    @property
    def scope(self) -> Scope:
        return Scope(self.entry.tenant, self.entry.user)


class ProfileProcessor:
    name = "profiles"
    topics = (PROFILES.name,)
    batch = 64
    linger_s = 0.02

    def __init__(self, profiles: ProfileIndex, embedder: Embedder, histories: FactorHistories) -> None:
        self._profiles, self._embedder, self._histories = profiles, embedder, histories

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """Stores every readable entry. Returns the tasks of reasoning, and dead letters for the others. Raises RetryLater while the store is away."""
        entries: list[tuple[ProfileEntry, Source]] = []
        found: list[_Found] = []
        outputs: list[ProducedRecord] = []
        for record in records:
            try:
                entry, envelope = record.read(ProfileEntry)
            except Malformed as error:
                outputs.append(dead_letter(record, GROUP, error))
                continue
            if isinstance(entry.content, ExtractedFeatures):
                found.append(_Found(record, entry, entry.content, envelope.traceparent))
            else:
                entries.append((entry, record.source))
        await self._profiles.put(entries)
        return [*outputs, *await self._count(await self._first_ones(found))]

    async def _first_ones(self, found: Sequence[_Found]) -> list[_Found]:
        """Of several features of one item the first ones stay: statistics and reasoning already cite them. Those of the same offset are written again."""
        sources = await self._profiles.sources([features_point(each.scope, each.content.item.interaction_id) for each in found])
        first: list[_Found] = []
        for each in found:
            point = features_point(each.scope, each.content.item.interaction_id)
            if sources.setdefault(point, each.record.source) == each.record.source:
                first.append(each)
        return first

    async def _count(self, found: Sequence[_Found]) -> list[ProducedRecord]:
        vectors = await item_vectors([each.content.item for each in found], self._embedder)
        pairs = list(zip(found, vectors, strict=True))
        no_vector = self._profiles.no_vector
        await self._profiles.put_items(
            [EmbeddedItem(each.entry, each.record.source, no_vector if own.text is None else own.text, own.features) for each, own in pairs]
        )
        outputs: list[ProducedRecord] = []
        for each, own in pairs:
            async with self._histories.history(each.scope, each.entry.domain) as history:
                await asyncio.to_thread(history.add, each.content.item, own.features)
                work = await asyncio.to_thread(_reasoning_work, each.content, history)
            if work:
                outputs.append(_task_record(each, work))
        return outputs


def _reasoning_work(content: ExtractedFeatures, history: FactorHistory) -> ReasoningWork | None:
    """None for an item without features, which is no example. The work names the version of all statistics, and has those that its prompt shows."""
    item = content.item
    if not item.features:
        return None
    features, factors = history.features_of(item.interaction_id), history.factors_through(item.interaction_id, content.task)
    return ReasoningWork(task=content.task, item=item, features=features, factors=factors.part(shown_factors(features, factors)))


def _task_record(found: _Found, work: ReasoningWork) -> ProducedRecord:
    """A dead letter for an item that is too large for a task."""
    entry = found.entry
    task = ProfileTask.reasoning(entry.tenant, entry.user, entry.domain, work)
    try:
        return output(PROFILE_TASKS, task, id=task.task_id, traceparent=found.traceparent)
    except PoisonMessage as error:
        return dead_letter(found.record, GROUP, error)
