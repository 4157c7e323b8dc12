"""Each kind of lookup has a processor, so that no strategy waits for the reads of another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pytest

from infra.settings.profiles import ProfilesSettings
from schemas.contexts import HistoryItem
from schemas.envelope import read_message
from schemas.features import FactoredFeature, Feature
from schemas.lookups import ItemOrder, Lookup, Reads, Retrieval
from schemas.queries import Query
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.strategies import Strategy, StrategyChoice
from schemas.topics import LOOKUPS, RETRIEVALS
from streams.index.tenant_filter import Scope
from streams.profiles.feature_tasks import FeatureTasks
from streams.profiles.histories import FactorHistories
from streams.profiles.index import ProfileIndex
from streams.profiles.lookups import FactorLookups
from streams.profiles.summaries import Summaries
from streams.retrieval.processor import LookupKind, LookupProcessor
from tests.support.streams_fakes import MemoryIndex, WordEmbedder, consumed_record, query, search


class SlowIndex(MemoryIndex):
    """Reads wait for `released`. `waiting`: how many do."""

    def __init__(self) -> None:
        super().__init__()
        self.released, self.arrived = asyncio.Event(), asyncio.Condition()
        self.waiting = 0

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        async with self.arrived:
            self.waiting += 1
            self.arrived.notify_all()
        await self.released.wait()
        return await super().in_time_order(scope, before, domain, limit, newest_first=newest_first)

    async def has_waiting(self, number: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.waiting >= number)


def processors(profiles: MemoryIndex) -> Mapping[LookupKind | None, LookupProcessor]:
    """By kind, and one that takes all lookups."""
    embedder, history, settings = WordEmbedder(), MemoryIndex(), ProfilesSettings()
    index = ProfileIndex(profiles, embedder.dimension)
    factors = FactorLookups(embedder, index, FactorHistories(index, settings), FeatureTasks(history, index, settings))
    shared, summaries = search(embedder, history), Summaries(history, index, settings)
    return {kind: LookupProcessor(shared, summaries, factors, kind) for kind in (None, *LookupKind)}


def asked(strategy: Strategy, reads: Reads, question: Query | None = None, features: tuple[FactoredFeature, ...] | None = None) -> Lookup:
    return Lookup(query=question or query(), choice=StrategyChoice(strategy=strategy), reads=reads, features=features)


SIMILAR, FEATURES = {"items": ItemOrder.SIMILAR, "k": 2}, (FactoredFeature(feature=Feature(name="sea"), factor_id=None),)
#: What the strategies read.
READS: dict[LookupKind, list[Lookup]] = {
    LookupKind.ITEMS: [asked(Strategy.RAG, Reads(**SIMILAR)), asked(Strategy.ICL, Reads(items=ItemOrder.FIRST, k=2)), asked(Strategy.RAG, Reads())],
    LookupKind.RANKING: [asked(Strategy.HYDRA, Reads(**SIMILAR))],
    LookupKind.SUMMARY: [asked(Strategy.PAG, Reads(**SIMILAR, summary=True))],
    LookupKind.FACTORS: [
        asked(Strategy.RPM, Reads(**SIMILAR, factors=True)),
        asked(Strategy.RPM, Reads(k=2, factors=True, examples=True), features=FEATURES),
        asked(Strategy.RPM, Reads(factors=True, summary=True)),
    ],
}


def records(*lookups: Lookup) -> list[ConsumedRecord]:
    return [consumed_record(LOOKUPS.name, each, offset=offset) for offset, each in enumerate(lookups)]


def retrievals(produced: list[ProducedRecord]) -> list[Retrieval]:
    return [read_message(Retrieval, record.headers, record.value)[0] for record in produced if record.topic == RETRIEVALS.name]


@pytest.mark.parametrize("slow", [LookupKind.SUMMARY, LookupKind.FACTORS])
async def test_a_lookup_of_items_is_answered_while_a_read_of_a_profile_in_its_batch_waits(slow: LookupKind) -> None:
    profiles = SlowIndex()
    by_kind = processors(profiles)
    batch = records(READS[slow][0], READS[LookupKind.ITEMS][0])
    waiting = asyncio.create_task(by_kind[slow].handle(batch))
    await profiles.has_waiting(1)
    (answer,) = retrievals(await by_kind[LookupKind.ITEMS].handle(batch))
    assert answer.lookup == READS[LookupKind.ITEMS][0]
    assert not waiting.done()
    profiles.released.set()
    assert [found.lookup for found in retrievals(await waiting)] == [READS[slow][0]]


async def test_lookups_of_one_batch_are_answered_at_the_same_time_and_in_order() -> None:
    profiles = SlowIndex()
    lookups = [asked(Strategy.PAG, Reads(**SIMILAR, summary=True), query(user=user)) for user in ("alice", "bob", "eve")]
    waiting = asyncio.create_task(processors(profiles)[LookupKind.SUMMARY].handle(records(*lookups)))
    await profiles.has_waiting(len(lookups))
    profiles.released.set()
    assert [found.lookup for found in retrievals(await waiting)] == lookups


async def test_each_lookup_is_answered_by_the_processor_of_its_kind_alone() -> None:
    by_kind = processors(MemoryIndex())
    batch = records(*(lookup for lookups in READS.values() for lookup in lookups))
    answered: dict[LookupKind | None, list[Lookup]] = {kind: [found.lookup for found in retrievals(await by_kind[kind].handle(batch))] for kind in by_kind}
    assert answered.pop(None) == [lookup for lookups in READS.values() for lookup in lookups]
    assert answered == READS


async def test_a_record_that_cannot_be_read_becomes_one_dead_letter() -> None:
    broken = replace(records(READS[LookupKind.ITEMS][0])[0], value=b"[]")
    by_kind = processors(MemoryIndex())
    produced = [record.topic for kind in LookupKind for record in await by_kind[kind].handle([broken])]
    assert Counter(produced) == {"lookups-dlt": 1}


async def test_the_processors_have_names_of_their_own() -> None:
    names = [processor.name for processor in processors(MemoryIndex()).values()]
    assert len(set(names)) == len(names)
