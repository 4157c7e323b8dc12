from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from infra.errors import CannotContinue, RetryLater
from schemas.history import Interaction
from schemas.topics import INTERACTIONS
from streams.index.history import HistoryIndex, Point, Scope
from streams.index.lazy_index import LateIndex
from streams.service import index_or_late
from tests.unit.streams.fakes import NOON, ListIndex, arrive, interaction

SCOPE = Scope("acme", "alice")


def point() -> Point:
    arrival = arrive(INTERACTIONS.name, interaction("sea"))
    return Point(arrival.read(Interaction)[0], arrival.source, np.ones(1, dtype=np.float32))


class Store:
    """Opens `index` when it is there."""

    def __init__(self, index: ListIndex) -> None:
        self.index = index
        self.there = False
        self.opened = 0

    async def open(self) -> HistoryIndex:
        if not self.there:
            raise RetryLater("away")
        self.opened += 1
        return self.index


async def test_an_index_that_is_there_is_used_as_it_is() -> None:
    store = Store(ListIndex())
    store.there = True
    assert await index_or_late(store.open) is store.index


async def test_an_index_that_is_away_asks_to_be_tried_later_until_it_is_there_and_is_opened_once() -> None:
    store = Store(ListIndex())
    await store.index.upsert([point()])
    late = await index_or_late(store.open)
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


async def test_an_index_that_comes_up_empty_ends_the_process_which_then_fills_it_from_the_log() -> None:
    store = Store(ListIndex())
    late = LateIndex(store.open)
    store.there = True
    with pytest.raises(CannotContinue, match="came up empty"):
        await late.upsert([point()])
    assert not store.index.points
