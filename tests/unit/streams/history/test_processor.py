from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest

from infra.errors import RetryLater
from infra.kafka.forwarding import Forwarder, partition_of
from schemas.dead_letters import is_id_conflict
from schemas.interactions import Interaction
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import INTERACTIONS, JOIN_STATE_CHANGELOG, MAX_MESSAGE_BYTES
from streams.app.processor import LooksAhead
from streams.embedding.embedder import Matrix
from streams.history.forward_once import ForwardOnce
from streams.history.processor import HistoryProcessor, text_of
from streams.index.tenant_filter import IndexPoint, LoggedInteraction, Point, Scope, StoredPoint, best_first
from tests.support.streams_fakes import MemoryIndex, UnavailableIndex, WordEmbedder, consumed_record, interaction


async def test_interactions_reach_the_index_with_their_offset() -> None:
    index = MemoryIndex()
    history = HistoryProcessor(WordEmbedder(), index, batch=8)
    assert await history.handle([consumed_record(INTERACTIONS.name, interaction("sea"), partition=3, offset=41)]) == []
    (point,) = index.points.values()
    assert (point.source.topic, point.source.partition, point.source.offset) == ("interactions", 3, 41)
    assert point.interaction.response == "comedy"


async def test_a_batch_is_one_background_call_and_a_repeat_adds_nothing() -> None:
    index, embedder = MemoryIndex(), WordEmbedder()
    history = HistoryProcessor(embedder, index, batch=8)
    batch = [consumed_record(INTERACTIONS.name, interaction(name), offset=n) for n, name in enumerate(("sea", "war"))]
    await history.handle(batch)
    await history.handle(batch)
    assert await index.count(Scope("acme", "alice")) == 2
    assert [urgent for _, urgent in embedder.calls] == [False, False]


async def test_of_two_interactions_with_one_id_the_first_stays_and_the_second_is_set_aside() -> None:
    index = MemoryIndex()
    history = HistoryProcessor(WordEmbedder(), index, batch=8)
    first = interaction("sea")
    other = first.model_copy(update={"response": "drama"})
    in_one_batch = [consumed_record(INTERACTIONS.name, each, offset=offset) for offset, each in enumerate((first, other, first), 3)]
    (letter,) = await history.handle(in_one_batch)
    (later,) = await history.handle([consumed_record(INTERACTIONS.name, each, offset=offset) for offset, each in enumerate((first, other), 6)])
    for each in (letter, later):
        assert each.topic == "interactions-dlt" and is_id_conflict(each.headers)
        assert dict(each.headers)["kafka_dlt-exception-message"].endswith(b"other content: interactions/1/3")
    (point,) = index.points.values()
    assert (point.interaction.response, point.source.offset) == ("comedy", 3)


async def test_another_users_interaction_with_the_same_id_is_another_one() -> None:
    index = MemoryIndex()
    mine = interaction("sea")
    theirs = mine.model_copy(update={"user": "bob", "response": "drama"})
    records = [consumed_record(INTERACTIONS.name, each, offset=offset) for offset, each in enumerate((mine, theirs))]
    assert await HistoryProcessor(WordEmbedder(), index, batch=8).handle(records) == []
    assert len(index.points) == 2


async def test_a_repeat_is_not_embedded_but_a_record_read_again_is_written_again() -> None:
    index, embedder = MemoryIndex(), WordEmbedder()
    history = HistoryProcessor(embedder, index, batch=8)
    for offset, embedded in ((3, 1), (5, 1), (3, 2)):
        assert await history.handle([consumed_record(INTERACTIONS.name, interaction("sea"), offset=offset)]) == []
        assert sum(len(texts) for texts, _ in embedder.calls) == embedded
    assert [point.source.offset for point in index.points.values()] == [3]


async def test_a_batch_is_not_embedded_again_after_a_failed_write() -> None:
    index, embedder = UnavailableIndex(times=2), WordEmbedder()
    history = HistoryProcessor(embedder, index, batch=8)
    batch = [consumed_record(INTERACTIONS.name, interaction("sea"))]
    for _ in range(2):
        with pytest.raises(RetryLater):
            await history.handle(batch)
    await history.handle(batch)
    await history.handle([consumed_record(INTERACTIONS.name, interaction("war"))])
    assert [texts for texts, _ in embedder.calls] == [["about sea\ncomedy"], ["about war\ncomedy"]]
    assert await index.count(Scope("acme", "alice")) == 2


async def test_a_bad_record_is_dead_lettered_and_its_batch_is_indexed() -> None:
    index = MemoryIndex()
    good = consumed_record(INTERACTIONS.name, interaction("sea"))
    bad = consumed_record(INTERACTIONS.name, interaction("war"), offset=1).__class__("interactions", 1, 1, 0, b"k", b"{", good.headers)
    (dead_letter,) = await HistoryProcessor(WordEmbedder(), index, batch=8).handle([bad, good])
    assert (dead_letter.topic, dead_letter.key, dead_letter.value) == ("interactions-dlt", b"k", b"{")
    assert await index.count(Scope("acme", "alice")) == 1


async def test_a_time_beyond_the_calendar_is_dead_lettered() -> None:
    index = MemoryIndex()
    good = consumed_record(INTERACTIONS.name, interaction("sea"))
    assert good.value and b'"2026-05-01T12:00:00Z"' in good.value
    bad = replace(good, value=good.value.replace(b'"2026-05-01T12:00:00Z"', b'"0001-01-01T00:00:00+01:00"'))
    (dead_letter,) = await HistoryProcessor(WordEmbedder(), index, batch=8).handle([bad])
    assert dead_letter.topic == "interactions-dlt" and await index.is_empty()


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_every_valid_time_survives_the_index_payload(at: datetime) -> None:
    kept = consumed_record(INTERACTIONS.name, interaction("sea", at=at))
    point = IndexPoint(LoggedInteraction(kept.read(Interaction)[0], kept.source), np.zeros(1, dtype=np.float32))
    (item,) = best_first([(0.5, point.payload())])
    assert item.occurred_at == at


def test_content_and_response_are_embedded_unless_blank() -> None:
    assert text_of(interaction("sea")) == "about sea\ncomedy"
    for blank in ("", "  ", "\u200b\u3164"):
        assert text_of(interaction("sea", content=blank)) == "comedy"


class Partitions:
    """A processor over four partitions, and what a restart finds again: the changelog's entries."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.restart()

    def restart(self) -> None:
        """With an empty index."""
        self.index = MemoryIndex()
        forwarding = ForwardOnce(Forwarder(lambda topic: 4), dict(self.entries), 4)
        self.history = HistoryProcessor(WordEmbedder(), self.index, batch=8, forwarding=forwarding)

    async def handle(self, *records: ConsumedRecord) -> list[ProducedRecord]:
        """What goes to topics other than the changelog."""
        produced = await self.history.handle(records)
        self.entries |= {record.key: record.value for record in produced if record.topic == JOIN_STATE_CHANGELOG and record.key and record.value}
        return [record for record in produced if record.topic != JOIN_STATE_CHANGELOG]


HOME = partition_of(b"acme/alice", 4)


async def test_a_misplaced_interaction_is_forwarded_and_indexed_from_its_copy_only() -> None:
    partitions = Partitions()
    records = [consumed_record(INTERACTIONS.name, interaction(name), partition=(HOME + 1) % 4, offset=n) for n, name in enumerate(("sea", "war"))]
    copies = await partitions.handle(*records)
    assert [(copy.topic, copy.key, copy.value) for copy in copies] == [("interactions", b"acme/alice", record.value) for record in records]
    assert not partitions.index.points
    read = [replace(record, partition=HOME, headers=copy.headers) for record, copy in zip(records, copies, strict=True)]
    assert await partitions.handle(*read) == []
    assert {point.source.partition for point in partitions.index.points.values()} == {HOME}


async def test_a_reread_for_an_empty_index_forwards_nothing_again() -> None:
    """Neither is an interaction lost that had no copy, because the topic had fewer partitions when it was read."""
    partitions = Partitions()
    misplaced = consumed_record(INTERACTIONS.name, interaction("sea"), partition=(HOME + 1) % 4, offset=5)
    before = consumed_record(INTERACTIONS.name, interaction("war"), partition=(HOME + 1) % 4, offset=4)
    (copy,) = await partitions.handle(misplaced)
    partitions.restart()
    assert await partitions.handle(before, misplaced, replace(misplaced, partition=HOME, headers=copy.headers)) == []
    assert len(partitions.index.points) == 2
    later = consumed_record(INTERACTIONS.name, interaction("sky"), partition=(HOME + 1) % 4, offset=6)
    assert len(await partitions.handle(later)) == 1


async def test_a_misplaced_interaction_that_cannot_be_written_again_is_set_aside() -> None:
    record = consumed_record(INTERACTIONS.name, interaction("sea"), partition=(HOME + 1) % 4)
    (letter,) = await Partitions().handle(replace(record, headers=(*record.headers, ("large", bytes(MAX_MESSAGE_BYTES)))))
    assert letter.topic == "interactions-dlt"
    assert b"not on its user's partition" in dict(letter.headers)["kafka_dlt-exception-message"]


class SlowEmbedder(WordEmbedder):
    """Answers once `may_answer` is set. The first `failures` calls raise RetryLater."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.may_answer, self._failures = asyncio.Event(), failures

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        vectors = await super().embed(texts, urgent=urgent)
        await self.may_answer.wait()
        if len(self.calls) <= self._failures:
            raise RetryLater("the embedder is away")
        return vectors


class AwayIndex(UnavailableIndex):
    """Its look-up of points fails too."""

    async def stored(self, ids: Sequence[UUID]) -> Mapping[UUID, StoredPoint]:
        await self._check_available()
        return await super().stored(ids)


def batch_of(*interactions: Interaction, offset: int = 0) -> list[ConsumedRecord]:
    return [consumed_record(INTERACTIONS.name, each, offset=at) for at, each in enumerate(interactions, offset)]


def texts(embedder: WordEmbedder) -> list[list[str]]:
    """The words of each call."""
    return [[text.splitlines()[0].removeprefix("about ") for text in call] for call, _ in embedder.calls]


async def test_the_next_batch_is_embedded_while_one_is_handled_and_only_once() -> None:
    index, embedder = MemoryIndex(), SlowEmbedder()
    history, first, second = (
        HistoryProcessor(embedder, index, batch=2),
        batch_of(interaction("sea"), interaction("war")),
        batch_of(interaction("love"), offset=2),
    )
    assert isinstance(history, LooksAhead)
    handling = asyncio.ensure_future(history.handle(first))
    await asyncio.sleep(0)
    history.look_ahead(second)
    await asyncio.sleep(0)
    assert texts(embedder) == [["sea", "war"], ["love"]] and not index.points
    embedder.may_answer.set()
    await handling
    await history.handle([replace(record) for record in second])  # a traced record is another object
    assert len(embedder.calls) == 2
    expected = await WordEmbedder().embed(["about sea\ncomedy", "about war\ncomedy", "about love\ncomedy"])
    assert np.array_equal([point.vector for point in index.points.values()], expected)
    assert [point.source.offset for point in index.points.values()] == [0, 1, 2]


@pytest.mark.parametrize("looks", [False, True])
async def test_unreadable_repeated_and_changed_records_are_the_same_after_a_look_ahead(looks: bool) -> None:
    index, embedder = MemoryIndex(), WordEmbedder()
    history, good = HistoryProcessor(embedder, index, batch=8), interaction("sea")
    changed, other = good.model_copy(update={"response": "x"}), interaction("war")
    await history.handle(batch_of(other, offset=90))
    batch = [replace(batch_of(good)[0], value=b"{"), *batch_of(good, good, changed, other, interaction("love"), offset=1)]
    if looks:
        history.look_ahead(batch)
    letters = await history.handle(batch)
    assert [is_id_conflict(letter.headers) for letter in letters] == [False, True]
    assert [(point.source.offset, point.interaction.response) for point in index.points.values()] == [(90, "comedy"), (1, "comedy"), (5, "comedy")]
    assert texts(embedder) == [["war"], ["sea", "love"]]


async def test_what_the_batch_before_writes_is_a_repeat_for_the_next_one() -> None:
    index, embedder = MemoryIndex(), SlowEmbedder()
    history, sea = HistoryProcessor(embedder, index, batch=2), interaction("sea")
    first, second = batch_of(sea), batch_of(sea, sea.model_copy(update={"response": "x"}), interaction("war"), offset=1)
    history.look_ahead(first)
    handling = asyncio.ensure_future(history.handle(first))
    await asyncio.sleep(0.01)
    history.look_ahead(second)
    await asyncio.sleep(0.01)
    embedder.may_answer.set()
    assert await handling == []
    (letter,) = await history.handle(second)
    assert is_id_conflict(letter.headers)
    assert texts(embedder) == [["sea"], ["war"]] and [point.source.offset for point in index.points.values()] == [0, 3]


@pytest.mark.parametrize("place", ["the embedder", "the index"])
async def test_a_failure_ahead_is_retried_by_the_batch_itself(place: str) -> None:
    embedder = SlowEmbedder(failures=1 if place == "the embedder" else 0)
    index = AwayIndex(times=1 if place == "the index" else 0)
    history, batch = HistoryProcessor(embedder, index, batch=2), batch_of(interaction("sea"), interaction("war"))
    embedder.may_answer.set()
    history.look_ahead(batch)
    with pytest.raises(RetryLater):
        await history.handle(batch)
    assert await history.handle(batch) == []
    assert len(index.points) == 2


async def test_a_batch_is_not_embedded_again_when_its_retry_follows_a_look_ahead() -> None:
    index, embedder = AwayIndex(times=0), WordEmbedder()
    history, first, second = HistoryProcessor(embedder, index, batch=2), batch_of(interaction("sea")), batch_of(interaction("war"), offset=1)
    history.look_ahead(first)
    await asyncio.sleep(0.01)
    index.failures_left = 1  # its look-up before the write
    with pytest.raises(RetryLater):
        await history.handle(first)
    history.look_ahead(second)
    await asyncio.sleep(0.01)
    for batch in (first, second):
        await history.handle(batch)
    assert texts(embedder) == [["sea"], ["war"]] and len(index.points) == 2


async def test_a_repeat_is_not_embedded_ahead_after_a_retry_of_an_earlier_batch() -> None:
    index, embedder = UnavailableIndex(times=0), SlowEmbedder(failures=1)
    history, war = HistoryProcessor(embedder, index, batch=2), interaction("war")
    first, second, third = batch_of(interaction("sea")), batch_of(war, offset=1), batch_of(war, interaction("love"), offset=2)
    embedder.may_answer.set()
    history.look_ahead(first)
    with pytest.raises(RetryLater):
        await history.handle(first)
    history.look_ahead(second)
    await asyncio.sleep(0.01)
    await history.handle(first)
    index.failures_left = 1
    with pytest.raises(RetryLater):
        await history.handle(second)
    history.look_ahead(third)
    await asyncio.sleep(0.01)
    for batch in (second, third):
        assert await history.handle(batch) == []
    assert texts(embedder) == [["sea"], ["war"], ["sea"], ["love"]] and len(index.points) == 3


async def test_a_batch_is_read_again_when_a_rebalance_took_a_part_of_it() -> None:
    index, embedder = MemoryIndex(), WordEmbedder()
    history, batch = HistoryProcessor(embedder, index, batch=2), batch_of(interaction("sea"), interaction("war"))
    history.look_ahead(batch)
    assert await history.handle(batch[1:]) == []
    assert [point.source.offset for point in index.points.values()] == [1]


class DiscardingIndex(MemoryIndex):
    """Keeps nothing."""

    async def upsert(self, points: Sequence[Point]) -> None:
        pass


class TrackedEmbedder(WordEmbedder):
    """`results` refers to each matrix while it is in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[weakref.ref[Matrix]] = []

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        vectors = await super().embed(texts, urgent=urgent)
        self.results.append(weakref.ref(vectors))
        return vectors


@pytest.mark.parametrize("looks", [False, True])
async def test_nothing_of_a_written_batch_stays_in_memory(looks: bool) -> None:
    embedder = TrackedEmbedder()
    history, batch = HistoryProcessor(embedder, DiscardingIndex(), batch=2), batch_of(interaction("sea"), interaction("war"))
    if looks:
        history.look_ahead(batch)
    await history.handle(batch)
    await asyncio.sleep(0)  # the event loop lets go of the look-ahead's task
    gc.collect()
    assert [result() is None for result in embedder.results] == [True]


async def test_records_to_forward_are_not_embedded_ahead() -> None:
    partitions, embedder = Partitions(), WordEmbedder()
    forwarding = ForwardOnce(Forwarder(lambda topic: 4), {}, 4)
    history = HistoryProcessor(embedder, partitions.index, batch=2, forwarding=forwarding)
    batch = [consumed_record(INTERACTIONS.name, interaction(name), partition=at, offset=9) for name, at in (("sea", HOME), ("war", (HOME + 1) % 4))]
    history.look_ahead(batch)
    copy, _ = await history.handle(batch)
    assert (copy.topic, copy.value) == (INTERACTIONS.name, batch[1].value)
    assert texts(embedder) == [["sea"]] and len(partitions.index.points) == 1


@pytest.mark.parametrize("place", ["the embedder", "the index"])
async def test_a_record_is_forwarded_by_the_retry_of_a_batch_that_failed(place: str) -> None:
    embedder = SlowEmbedder(failures=1 if place == "the embedder" else 0)
    embedder.may_answer.set()
    index = AwayIndex(times=1 if place == "the index" else 0)
    history = HistoryProcessor(embedder, index, batch=2, forwarding=ForwardOnce(Forwarder(lambda topic: 4), {}, 4))
    batch = [consumed_record(INTERACTIONS.name, interaction(name), partition=at, offset=9) for name, at in (("sea", HOME), ("war", (HOME + 1) % 4))]
    with pytest.raises(RetryLater):
        await history.handle(batch)
    copy, _ = await history.handle(batch)
    assert (copy.topic, copy.value) == (INTERACTIONS.name, batch[1].value)
    assert len(index.points) == 1
