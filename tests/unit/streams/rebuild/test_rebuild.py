"""Rebuilds on the client's local mode, with a log in memory that a history processor indexes as the streams process does."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from qdrant_client import AsyncQdrantClient

from infra.errors import BadSetting, CannotContinue, RetryLater
from infra.kafka.forwarding import FORWARDED_FROM, partition_of
from infra.settings import Settings, load
from schemas.interactions import Interaction
from schemas.positions import Source
from schemas.records import ConsumedRecord
from schemas.topics import INTERACTIONS
from streams.embedding.embedder import Matrix
from streams.history.processor import HistoryProcessor
from streams.index.server import ServerIndex
from streams.index.tenant_filter import Scope, StoredPoint, content_of
from streams.rebuild.collections import Collection
from streams.rebuild.interactions_log import Positions
from streams.rebuild.proof import places, point_hash
from streams.rebuild.rebuild import Rebuild, Report, make_aliases
from tests.support.streams_fakes import NOON, WordEmbedder, consumed_record, interaction

ALICE = Scope("acme", "alice")
PARTITIONS = 2


class OtherEmbedder(WordEmbedder):
    name = "other words"


class Log:
    """`interactions` and its group. `streams` indexes what is appended, unless it is behind."""

    def __init__(self) -> None:
        self.partitions: list[list[ConsumedRecord]] = [[] for _ in range(PARTITIONS)]
        self.first = dict.fromkeys(range(PARTITIONS), 0)
        self.streams: HistoryProcessor | None = None
        self.has_members = True
        self.waiting: list[ConsumedRecord] = []

    async def append(self, *messages: Interaction, partition: int | None = None, forwarded: bool = False) -> None:
        for message in messages:
            number = partition_of(message.key, PARTITIONS) if partition is None else partition
            record = consumed_record(INTERACTIONS.name, message, partition=number, offset=len(self.partitions[number]))
            if forwarded:
                record = replace(record, headers=(*record.headers, (FORWARDED_FROM, b"0/0")))
            self.partitions[number].append(record)
            self.waiting.append(record)

    async def index(self) -> None:
        assert self.streams
        await self.streams.handle(self.waiting)
        self.waiting = []

    def begins(self) -> Positions:
        return dict(self.first)

    def ends(self) -> Positions:
        return {number: len(records) for number, records in enumerate(self.partitions)}

    def indexed(self) -> Positions:
        return {number: min((r.offset for r in self.waiting if r.partition == number), default=end) for number, end in self.ends().items()}

    def records(self, begin: Positions, end: Positions) -> Iterator[ConsumedRecord]:
        for number, records in enumerate(self.partitions):
            yield from records[max(begin.get(number, 0), self.first[number]) : end.get(number, 0)]

    def wait_until_left(self) -> bool:
        return not self.has_members


@pytest.fixture
async def client() -> AsyncIterator[AsyncQdrantClient]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # local mode has no payload indexes
        client = AsyncQdrantClient(":memory:")
        yield client
        await client.close()


@pytest.fixture
def settings() -> Settings:
    return load(index={"url": "http://127.0.0.1:1", "collection": "live", "quantization": "none"}, embedder={"batch_size": 1})


@pytest.fixture
async def log(client: AsyncQdrantClient, settings: Settings) -> Log:
    """Served by the collection `history` behind the alias `live`, with the items of two users."""
    log = Log()
    plain = await ServerIndex.open(client, "history", dimension=5, embedder="words")
    await ServerIndex.open(client, "history-profiles", dimension=5, embedder="words")
    await make_aliases(client, with_index(settings, collection="history"), "live")
    log.streams = HistoryProcessor(WordEmbedder(), await serving(client, settings), batch=8)
    await log.append(*(interaction(f"{name}-{n}", user=user) for n in range(6) for name in ("sea", "war") for user in ("alice", "bob")))
    await log.index()
    assert await plain.count(ALICE) == 12
    return log


def with_index(settings: Settings, **fields: Any) -> Settings:
    return settings.model_copy(update={"index": settings.index.model_copy(update=fields)})


async def serving(client: AsyncQdrantClient, settings: Settings) -> ServerIndex:
    """As a streams process opens it, by the alias."""
    return await ServerIndex.open(client, "live", dimension=5, embedder="words")


async def rebuild(client: AsyncQdrantClient, settings: Settings, log: Log, embedder: WordEmbedder | None = None, **options: Any) -> Report:
    return await Rebuild(client, settings, embedder or WordEmbedder(), log, **options).run()


async def points(client: AsyncQdrantClient, settings: Settings, collection: str) -> dict[UUID, StoredPoint]:
    found: dict[UUID, StoredPoint] = {}
    async for page in Collection(client, collection, settings.index).pages():
        found |= page
    return found


async def target(client: AsyncQdrantClient, alias: str = "live") -> str | None:
    return {each.alias_name: each.collection_name for each in (await client.get_aliases()).aliases}.get(alias)


async def test_the_new_collection_is_equal_and_serves_without_a_restart(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    report = await rebuild(client, settings, log)
    assert await target(client) == report.collection == "live-" + report.collection[-8:] and report.former == "history"
    new = await points(client, settings, report.collection)
    assert new == await points(client, settings, "history") and report.points == report.copied == len(new) == 24
    assert report.positions == log.ends() and not report.left_out
    await log.append(interaction("love"))
    await log.index()  # the process that has run all the time
    assert await Collection(client, report.collection, settings.index).count(ALICE) == 13
    found = await (await serving(client, settings)).search(ALICE, (await WordEmbedder().embed(["love"]))[0], NOON + timedelta(days=1), "movie_tag", 1)
    assert [item.content for item in found] == ["about love"]


async def test_a_second_run_with_the_same_settings_does_nothing(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    first = await rebuild(client, settings, log)
    second = await rebuild(client, settings, log)
    assert (second.collection, second.copied, second.digest) == (first.collection, 0, "")
    third = await rebuild(client, settings, log, into="another")
    assert third.former == first.collection and third.digest == first.digest


async def test_another_layout_is_another_collection(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    names = {(await rebuild(client, with_index(settings, shards=shards), log)).collection for shards in (None, 2, 4)}
    assert len(names) == 3


async def test_interactions_that_arrive_during_the_fill_are_in_both(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    class Busy(WordEmbedder):
        async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
            if len(self.calls) < 5:
                await log.append(interaction(f"space-{len(self.calls)}"))
                await log.index()
            return await super().embed(texts, urgent=urgent)

    report = await rebuild(client, settings, log, Busy())
    assert report.positions == log.ends() and report.points == 29
    assert await points(client, settings, report.collection) == await points(client, settings, "history")


async def test_what_arrives_until_the_switch_is_copied_after_it(
    client: AsyncQdrantClient, settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Collection.switch

    async def late(self: Collection, targets: dict[str, str]) -> None:
        await log.append(interaction("love"))
        await log.index()
        await switch(self, targets)

    monkeypatch.setattr(Collection, "switch", late)
    report = await rebuild(client, settings, log)
    assert report.points == 25 and sum(report.positions.values()) == 24
    assert await Collection(client, report.collection, settings.index).count(ALICE) == 13


async def test_interactions_that_are_not_indexed_yet_are_left_to_the_streams_process(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    await log.append(interaction("love"))
    report = await rebuild(client, settings, log)
    assert report.points == 24
    await log.index()
    assert await Collection(client, report.collection, settings.index).count(ALICE) == 13


class Killed(WordEmbedder):
    """Fails in its third call."""

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        if len(self.calls) == 2:
            raise RetryLater("killed")
        return await super().embed(texts, urgent=urgent)


async def test_a_killed_fill_continues_where_it_was(client: AsyncQdrantClient, settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.rebuild.rebuild.SAVE_EVERY_S", 0.0)
    with pytest.raises(RetryLater):
        await rebuild(client, settings, log, Killed())
    assert await target(client) == "history"
    embedder, read = WordEmbedder(), log.records
    begun: list[Positions] = []

    def records(begin: Positions, end: Positions) -> Iterator[ConsumedRecord]:
        begun.append(begin)
        return read(begin, end)

    monkeypatch.setattr(log, "records", records)
    report = await rebuild(client, settings, log, embedder)
    assert sum(begun[0].values()) == 8 and report.points == 24
    assert report.copied == sum(len(texts) for texts, _ in embedder.calls) == 16


async def test_points_that_were_written_before_a_kill_are_not_embedded_again(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    with pytest.raises(RetryLater):
        await rebuild(client, settings, log, Killed())
    assert (await rebuild(client, settings, log)).copied == 16


async def test_a_kill_right_after_the_switch_is_made_good(client: AsyncQdrantClient, settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = Collection.switch

    async def killed(self: Collection, targets: dict[str, str]) -> None:
        await log.append(interaction("love"))
        await log.index()
        await switch(self, targets)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "switch", killed)
        with pytest.raises(KeyboardInterrupt):
            await rebuild(client, settings, log)
    assert await Collection(client, str(await target(client)), settings.index).count(ALICE) == 12
    report = await rebuild(client, settings, log)
    assert report.points == 25 and report.former == "history"
    assert await points(client, settings, report.collection) == await points(client, settings, "history")


async def test_offsets_that_retention_deleted_are_named_and_the_alias_stays(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    number = partition_of(interaction("sea").key, PARTITIONS)
    log.first[number] = 3
    with pytest.raises(CannotContinue) as caught:
        await rebuild(client, settings, log)
    text = str(caught.value)
    assert f"the log lacks 3 items that 'history' has: interactions/{number}/0-2. The log begins at " in text and f"interactions/{number}/3" in text
    assert await target(client) == "history"
    with pytest.raises(CannotContinue, match="the log lacks 3 items"):
        await rebuild(client, settings, log)


async def test_a_repeat_in_the_log_replaces_what_retention_deleted(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    number = partition_of(interaction("sea").key, PARTITIONS)
    await log.append(*(log.partitions[number][n].read(Interaction)[0] for n in range(3)))
    await log.index()
    log.first[number] = 3
    report = await rebuild(client, settings, log)
    assert await points(client, settings, report.collection) == await points(client, settings, "history")


async def test_conflicts_repeats_unreadable_and_forwarded_records_change_nothing(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    first = interaction("love")
    right = partition_of(first.key, PARTITIONS)
    await log.append(first.model_copy(update={"response": "drama"}), partition=1 - right)  # the second one of that id to be indexed
    conflict, log.waiting = log.waiting, []
    await log.append(first, first)
    await log.index()
    log.waiting = conflict
    await log.index()
    copied = interaction("war", user="carol")
    wrong = 1 - partition_of(copied.key, PARTITIONS)
    await log.append(copied, partition=wrong)
    log.waiting = []  # the streams process forwards it, and indexes the copy
    await log.append(copied, forwarded=True)
    await log.index()
    log.partitions[0].append(replace(log.partitions[0][0], value=b"{", offset=len(log.partitions[0])))
    report = await rebuild(client, settings, log)
    assert await points(client, settings, report.collection) == await points(client, settings, "history")
    assert (report.points, report.unreadable, report.left_out) == (26, 1, [])


async def test_what_the_serving_collection_lacks_is_left_out_and_reported(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    await client.delete("history", points_selector=[str(id) for id, point in (await points(client, settings, "history")).items() if point.source.offset == 0])
    report = await rebuild(client, settings, log)
    assert report.left_out == [f"interactions/{number}/0" for number in range(PARTITIONS) if log.partitions[number]]
    assert report.points == 24 - len(report.left_out)


@pytest.mark.parametrize("field", ["user", "tenant", "domain", "response"])
async def test_a_difference_in_one_field_keeps_the_alias(
    client: AsyncQdrantClient, settings: Settings, log: Log, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsert = ServerIndex.upsert

    async def wrong(self: ServerIndex, rows: Sequence[Any]) -> None:
        await upsert(self, rows)
        await client.set_payload(self._collection, {field: "wrong"}, points=[str(rows[0].id)] if rows else [])

    monkeypatch.setattr(ServerIndex, "upsert", wrong)
    with pytest.raises(CannotContinue, match=r"the alias is not switched: .* has 0 points that 'history' lacks, and 6 with another content \(interactions/"):
        await rebuild(client, settings, log)
    assert await target(client) == "history"


async def test_a_point_that_only_the_new_collection_has_keeps_the_alias(
    client: AsyncQdrantClient, settings: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RetryLater):
        await rebuild(client, settings, log, Killed())
    id, point = next(iter((await points(client, settings, (await names(client))[0])).items()))
    await client.delete("history", points_selector=[str(id)])
    with pytest.raises(CannotContinue, match="has 1 points that 'history' lacks"):
        await rebuild(client, settings, log)
    assert await target(client) == "history" and point.source


async def names(client: AsyncQdrantClient) -> list[str]:
    return [each.name for each in (await client.get_collections()).collections if each.name.startswith("live-") and "profiles" not in each.name]


async def test_another_embedder_is_switched_only_without_streams_processes(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    with pytest.raises(CannotContinue, match=r"equals 'history' in 24 points .* run with another embedder \(words\)\. Stop them all"):
        await rebuild(client, settings, log, OtherEmbedder())
    assert await target(client) == "history" and await target(client, "live-profiles") == "history-profiles"
    log.has_members = False
    embedder = OtherEmbedder()
    report = await rebuild(client, settings, log, embedder)
    assert embedder.calls == [] and report.copied == 0 and report.points == 24
    assert (await target(client), await target(client, "live-profiles")) == (report.collection, f"{report.collection}-profiles")
    profiles = await ServerIndex.open(client, "live-profiles", dimension=5, embedder="other words")
    assert await profiles.is_empty()
    with pytest.raises(CannotContinue, match="embedder"):
        await serving(client, settings)


async def test_a_plain_collection_needs_an_alias_of_another_name_once(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    plain = with_index(settings, collection="history")
    with pytest.raises(CannotContinue, match="'history' on the Qdrant server is a collection, and no alias can have its name"):
        await rebuild(client, plain, log)
    assert await make_aliases(client, plain, "served") == {"served": "history", "served-profiles": "history-profiles"}
    report = await rebuild(client, with_index(settings, collection="served"), log)
    assert await target(client, "served") == report.collection and await target(client) == "history"


async def test_names_that_are_taken_are_refused(client: AsyncQdrantClient, settings: Settings, log: Log) -> None:
    with pytest.raises(CannotContinue, match="there is no collection 'nothing'"):
        await rebuild(client, with_index(settings, collection="nothing"), log)
    with pytest.raises(CannotContinue, match="there is no collection 'nothing'"):
        await make_aliases(client, with_index(settings, collection="nothing"), "new")
    with pytest.raises(CannotContinue, match="'history-profiles' is a collection"):
        await make_aliases(client, settings, "history-profiles")
    for name in ("live", "live-profiles"):
        with pytest.raises(BadSetting, match="is an alias"):
            await rebuild(client, settings, log, into=name)
    other = await ServerIndex.open(client, "other", dimension=5, embedder="words")
    await HistoryProcessor(WordEmbedder(), other, batch=8).handle(log.partitions[0] + log.partitions[1])
    with pytest.raises(CannotContinue, match="has points, and no rebuild wrote them"):
        await rebuild(client, settings, log, into="other")
    with pytest.raises(CannotContinue, match="leads to 'history' already"):
        await rebuild(client, settings, log, into="history")


def test_the_hash_of_a_point_names_its_id_place_and_every_field() -> None:
    point = StoredPoint(Source(topic="interactions", partition=0, offset=1), content_of(interaction("sea")))
    others = [point._replace(source=point.source.model_copy(update={"offset": 2}))]
    others += [point._replace(content={**point.content, field: "x"}) for field in point.content]
    ids = [UUID(int=1)] + [UUID(int=1)] * len(others) + [UUID(int=2)]
    assert len({point_hash(id, each) for id, each in zip(ids, [point, *others, point], strict=True)}) == len(ids)


def test_offsets_in_a_row_are_one_range() -> None:
    given = [(1, 7), (0, 3), (0, 1), (0, 2), (1, 9), (0, 2)]
    sources = [Source(topic="interactions", partition=partition, offset=offset) for partition, offset in given]
    assert places(sources) == ["interactions/0/1-3", "interactions/1/7", "interactions/1/9"]
