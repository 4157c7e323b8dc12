from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from infra.kafka.forwarding import partition_of
from schemas.contexts import AfterStatus
from schemas.positions import Source
from schemas.queries import Query
from schemas.records import ConsumedRecord
from schemas.topics import INTERACTIONS
from streams.index.progress import CHECK_S, WAIT_SHARE, IndexProgress
from tests.support.streams_fakes import consumed_record, interaction, query

PARTITIONS = 4
OWN = partition_of(query().key, PARTITIONS)
LONG_S = 60.0


class FixedLog:
    """Implements `HistoryLog`. `fetched` is when the partition was fetched last."""

    def __init__(self, *, read: set[int] | None = None, committed: int = 0, end: int | None = 1_000, fetched: float = 0.0) -> None:
        self.read = {OWN} if read is None else read
        self.committed_to, self.end_at, self.fetched = committed, end, fetched

    def is_history(self, topic: str) -> bool:
        return topic == INTERACTIONS.name

    def partitions(self) -> int:
        return PARTITIONS

    def is_read(self, partition: int) -> bool:
        return partition in self.read

    def committed(self, partition: int) -> int:
        return self.committed_to

    def end(self, partition: int) -> int | None:
        return self.end_at

    def fetched_at(self, partition: int) -> float:
        return self.fetched


def after(offset: int, *, partition: int = OWN, topic: str = INTERACTIONS.name) -> Source:
    return Source(topic=topic, partition=partition, offset=offset)


async def waited(progress: IndexProgress, wanted: Source, asked: Query | None = None) -> AfterStatus:
    async with asyncio.timeout(30):
        return await progress.wait_for(asked or query(), wanted)


def batch(*offsets: int, partition: int = OWN) -> list[ConsumedRecord]:
    return [consumed_record(INTERACTIONS.name, interaction(f"{offset}"), partition=partition, offset=offset) for offset in offsets]


async def test_a_query_waits_until_its_event_is_indexed() -> None:
    progress = IndexProgress(FixedLog(), LONG_S)
    waiting = asyncio.ensure_future(waited(progress, after(7)))
    await asyncio.sleep(2 * CHECK_S)
    progress.indexed(batch(5, 6))
    progress.indexed(batch(7, 8, partition=OWN + 1))
    await asyncio.sleep(2 * CHECK_S)
    assert not waiting.done()
    progress.indexed(batch(7, 8))
    assert await waiting is AfterStatus.INDEXED
    assert await waited(progress, after(8)) is AfterStatus.INDEXED


async def test_what_was_committed_before_a_restart_needs_no_batch() -> None:
    assert await waited(IndexProgress(FixedLog(committed=8), LONG_S), after(7)) is AfterStatus.INDEXED


@pytest.mark.parametrize(
    ("wanted", "log"),
    [
        (after(7, partition=(OWN + 1) % PARTITIONS), FixedLog(read=set(range(PARTITIONS)), committed=100)),
        (after(7), FixedLog(read=set(), committed=100)),
        (after(7, topic="orders"), FixedLog(committed=100)),
    ],
    ids=["another user's partition", "another process reads it", "another topic"],
)
async def test_an_event_that_never_gets_here_is_not_waited_for(wanted: Source, log: FixedLog) -> None:
    assert await waited(IndexProgress(log, LONG_S), wanted) is AfterStatus.NOT_READ_HERE


async def test_an_offset_past_the_end_is_not_waited_for_once_a_later_fetch_shows_it() -> None:
    log = FixedLog(end=7)
    waiting = asyncio.ensure_future(waited(IndexProgress(log, LONG_S), after(7)))
    await asyncio.sleep(2 * CHECK_S)
    assert not waiting.done()
    log.fetched = datetime.now(UTC).timestamp()
    assert await waiting is AfterStatus.PAST_END


@pytest.mark.parametrize(("bound_s", "deadline_s", "most_s"), [(3.0, None, 3.0), (LONG_S, 6.0, 6.0 * WAIT_SHARE), (LONG_S, -1.0, 0.0)])
async def test_the_wait_ends_at_the_bound_or_half_way_to_the_deadline(bound_s: float, deadline_s: float | None, most_s: float) -> None:
    clock = 1_000_000.0

    def now() -> float:  # each look takes a tenth of a second
        nonlocal clock
        clock += 0.1
        return clock

    began = clock
    deadline = None if deadline_s is None else datetime.fromtimestamp(clock + deadline_s, UTC)
    progress = IndexProgress(FixedLog(), bound_s, now)
    progress._pause = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign]
    assert await waited(progress, after(7), query(deadline=deadline)) is AfterStatus.TIMED_OUT
    assert clock - began <= most_s + 0.5


async def test_a_wait_leaves_nothing_behind() -> None:
    progress = IndexProgress(FixedLog(), 0.05)
    assert await waited(progress, after(7)) is AfterStatus.TIMED_OUT
    assert not any(progress._waiting.values())
