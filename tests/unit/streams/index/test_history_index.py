from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from infra.errors import CannotContinue, RetryLater
from schemas.interactions import Interaction
from schemas.topics import INTERACTIONS
from streams.index.history_index import HistoryIndex, LazyIndex
from streams.index.tenant_filter import IndexPoint, LoggedInteraction, Scope
from streams.service import open_or_lazy
from tests.support.streams_fakes import NOON, MemoryIndex, consumed_record, interaction

SCOPE = Scope("acme", "alice")


def point() -> IndexPoint:
    arrival = consumed_record(INTERACTIONS.name, interaction("sea"))
    return IndexPoint(LoggedInteraction(arrival.read(Interaction)[0], arrival.source), np.ones(1, dtype=np.float32))


class Store:
    """Opens `index` when it is there."""

    def __init__(self, index: MemoryIndex) -> None:
        self.index = index
        self.there = False
        self.opened = 0

    async def open(self) -> HistoryIndex:
        if not self.there:
            raise RetryLater("away")
        self.opened += 1
        return self.index


async def test_an_available_index_is_used_directly() -> None:
    store = Store(MemoryIndex())
    store.there = True
    assert await open_or_lazy(store.open) is store.index


async def test_an_index_that_is_away_raises_retry_later_and_is_opened_once() -> None:
    store = Store(MemoryIndex())
    await store.index.upsert([point()])
    late = await open_or_lazy(store.open)
    assert not await late.is_empty(), "what is not known to be empty is not filled again"
    with pytest.raises(RetryLater):
        await late.upsert([point()])
    with pytest.raises(RetryLater):
        await late.search(SCOPE, np.ones(1, dtype=np.float32), NOON, "movie_tag", 6)
    store.there = True
    await late.upsert([point()])
    assert len(await late.search(SCOPE, np.ones(1, dtype=np.float32), NOON + timedelta(days=1), "movie_tag", 6)) == 1
    assert (await late.count(SCOPE), await late.is_empty(), store.opened) == (1, False, 1)
    await late.close()


async def test_an_index_that_turns_out_to_be_empty_ends_the_process() -> None:
    store = Store(MemoryIndex())
    late = LazyIndex(store.open)
    store.there = True
    with pytest.raises(CannotContinue, match="is empty now"):
        await late.upsert([point()])
    assert not store.index.points
