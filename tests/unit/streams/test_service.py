"""What ends the process. Nothing here connects: the app is made, not started."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient

from infra.errors import CannotContinue, RetryLater
from infra.settings import Settings, load
from infra.settings.stream import Similarity
from schemas.positions import Source
from schemas.profiles import Author, ExtractedFeatures, ProfileEntry
from schemas.tasks import Task
from schemas.topics import DRAFTS, FEEDBACK, INTERACTIONS, LOOKUPS, PROFILES, RESPONSES
from streams.app.member_index import MemberIndex
from streams.index.history_index import LazyIndex
from streams.index.server import ServerIndex
from streams.index.tenant_filter import IndexPoint, LoggedInteraction, Scope
from streams.profiles.index import EmbeddedItem, ProfileIndex
from streams.retrieval.processor import LookupKind
from streams.service import Stores, StreamsService, idle_topics, open_profile_index
from tests.support.feature_items import at, directions, item
from tests.support.streams_fakes import MemoryIndex, WordEmbedder, interaction


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(kafka={"bootstrap_servers": "127.0.0.1:1"}, stack={"dir": tmp_path}, streams={"stall_timeout_s": 0.3})


async def supervised(service: StreamsService) -> None:
    await asyncio.wait_for(service.supervise(threading.Event()), 30)


@pytest.mark.parametrize("similarity", list(Similarity))
async def test_features_are_compared_by_their_cosine_whatever_the_embedders_similarity(settings: Settings, similarity: Similarity) -> None:
    embedder = WordEmbedder()
    settings = settings.model_copy(update={"embedder": settings.embedder.model_copy(update={"similarity": similarity})})
    index = await open_profile_index(settings, embedder)
    profiles, source = ProfileIndex(index, embedder.dimension), Source(topic="profiles", partition=0, offset=0)
    vectors = {"long": 9 * np.array([1, 1, 0, 0, 0], dtype=np.float32), "near": np.array([1, 0.1, 0, 0, 0], dtype=np.float32)}
    embedded = []
    for number, (response, vector) in enumerate(vectors.items()):
        found = item(number, ["sea"], response)
        content = ExtractedFeatures(task=Task.LABEL, item=found, source=source)
        entry = ProfileEntry(entry_id=found.interaction_id, tenant="acme", user="alice", domain="movie_tag", content=content, author=Author(name="template"))
        embedded.append(EmbeddedItem(entry, source, vector, directions([1, 0, 0, 0, 0])))
    await profiles.put_items(embedded)
    nearest = await profiles.similar_items(Scope("acme", "alice"), np.array([2, 0, 0, 0, 0], dtype=np.float32), at(99), "movie_tag", 2)
    assert [each.response for each in nearest] == ["near", "long"]
    assert nearest[1].score == pytest.approx(0.5**0.5, abs=1e-4)
    await index.close()


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning")  # in the client's local mode
async def test_a_member_joins_with_the_identity_that_is_known_by_then(settings: Settings) -> None:
    server = await ServerIndex.open(AsyncQdrantClient(":memory:"), "history", dimension=5, embedder="words")
    logged = LoggedInteraction(interaction("sea"), Source(topic="interactions", partition=0, offset=1))
    await server.upsert([IndexPoint(logged, np.ones(5, dtype=np.float32))])
    opener = AsyncMock(side_effect=[RetryLater("away"), server])
    history = LazyIndex(opener)
    service = StreamsService(settings, WordEmbedder(), Stores(history, MemoryIndex()), partitions=2)

    def joined_with() -> MemberIndex:
        index = MemberIndex.read(service._app.assignor.metadata({"interactions"}).user_data)
        assert index is not None
        return index

    at_start = joined_with()
    with pytest.raises(RetryLater):
        await history.count(Scope("acme", "alice"))
    assert joined_with() == at_start and at_start.identity is None
    assert await history.count(Scope("acme", "alice")) == 1
    assert server.identity and joined_with() == replace(at_start, identity=server.identity)
    await history.close()


async def test_a_failed_processor_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    service._fail(KeyError("bug"))
    with pytest.raises(CannotContinue, match="streaming failed: KeyError"):
        await supervised(service)


async def test_a_call_that_does_not_return_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    service._runners[1].attempt_since = time.monotonic() - 1
    with pytest.raises(CannotContinue, match="retrieval made no progress"):
        await supervised(service)


async def test_a_topic_is_idle_if_none_of_its_processors_is_busy(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    lookups = [runner for runner in service._runners if runner.processor.topics == (LOOKUPS.name,)]
    assert len(lookups) == len(LookupKind)
    assert LOOKUPS.name in idle_topics(service._runners)
    lookups[0].busy = True
    assert idle_topics(service._runners) == {DRAFTS.name, INTERACTIONS.name, PROFILES.name, RESPONSES.name, FEEDBACK.name}


async def test_a_group_that_never_settles_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    with pytest.raises(CannotContinue, match="did not settle"):
        await supervised(service)


async def test_a_crash_of_faust_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    await service._app.crash(ConnectionError("gone"))
    with pytest.raises(CannotContinue, match="ConnectionError"):
        await supervised(service)


async def test_a_stop_is_not_a_failure(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    stop = threading.Event()
    stop.set()
    await service.supervise(stop)
