"""One suite for every history index: Qdrant Edge, qdrant-client's local mode, a stub of a Qdrant server, and a real server where QDRANT_URL is set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import CannotContinue
from infra.settings.stream import IndexSettings, Similarity
from schemas.interactions import Interaction
from schemas.positions import Source
from streams.index.edge import EdgeIndex, read_payloads
from streams.index.history_index import HistoryIndex, SearchRequest
from streams.index.server import ServerIndex
from streams.index.tenant_filter import BLANK, DOMAIN, OCCURRED_AT, SOURCE, TENANT, USER, IndexPoint, LoggedInteraction, Scope, StoredPoint, Vector, content_of
from tests.support.qdrant_stub import QdrantStub, qdrant_stub

DIMENSION = 8
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ALICE = Scope("acme", "alice")
SERVER_COLLECTIONS = "retouch-contract-test-"


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantStub]:
    with qdrant_stub(tmp_path_factory.mktemp("qdrant")) as running:
        yield running


@pytest.fixture(params=["edge", "local", "stub", "server"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[HistoryIndex]:
    if request.param == "stub":
        opened: HistoryIndex = await open_server(request.getfixturevalue("stub").url)
    else:
        opened = await open_index(request.param, tmp_path)
    yield opened
    if request.param == "server":
        await forget_server_collections()
    await opened.close()


async def open_index(kind: str, directory: Path, similarity: Similarity = Similarity.COSINE) -> HistoryIndex:
    if kind == "edge":
        return EdgeIndex(directory / "index", dimension=DIMENSION, embedder="test", similarity=similarity)
    if kind == "local":
        from qdrant_client import AsyncQdrantClient

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Payload indexes have no effect", UserWarning)  # local mode has none, so it is for tests only
            client = AsyncQdrantClient(location=":memory:")
            return await ServerIndex.open(client, "history", dimension=DIMENSION, embedder="test", similarity=similarity)
    if not (url := os.environ.get("QDRANT_URL")):
        pytest.skip("QDRANT_URL is not set: no Qdrant server to test against")
    return await open_server(url, similarity)


async def open_server(url: str, similarity: Similarity = Similarity.COSINE) -> HistoryIndex:
    settings = IndexSettings(url=url, collection=f"{SERVER_COLLECTIONS}{uuid.uuid4().hex}")
    return await ServerIndex.connect(settings, dimension=DIMENSION, embedder="test", similarity=similarity)


async def forget_server_collections() -> None:
    from qdrant_client import AsyncQdrantClient

    client = AsyncQdrantClient(url=os.environ["QDRANT_URL"])
    for collection in (await client.get_collections()).collections:
        if collection.name.startswith(SERVER_COLLECTIONS):
            await client.delete_collection(collection.name)
    await client.close()


def axis(number: int) -> Vector:
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[number] = 1
    return vector


def toward(cosine: float) -> Vector:
    """A unit vector with this cosine to `axis(0)`."""
    vector = axis(0) * cosine
    vector[1] = np.sqrt(1 - cosine**2)
    return vector


def point(
    name: object,
    scope: Scope = ALICE,
    *,
    vector: Vector | None = None,
    at: datetime = NOON,
    domain: str = "movie_tag",
    response: str = "comedy",
    offset: int = 7,
) -> IndexPoint:
    interaction = Interaction.observed(
        tenant=scope.tenant, user=scope.user, source_id=name, domain=domain, content=f"content {name}", response=response, occurred_at=at
    )
    logged = LoggedInteraction(interaction, Source(topic="interactions", partition=2, offset=offset))
    return IndexPoint(logged, axis(0) if vector is None else vector)


async def found(
    index: HistoryIndex, scope: Scope = ALICE, *, before: datetime = NOON + timedelta(days=1), domain: str = "movie_tag", limit: int = 6
) -> list[str]:
    return [item.content.removeprefix("content ") for item in await index.search(scope, axis(0), before, domain, limit)]


async def oldest(index: HistoryIndex, limit: int = 6, *, before: datetime = NOON + timedelta(days=1), newest_first: bool = False) -> list[str]:
    items = await index.in_time_order(ALICE, before, "movie_tag", limit, newest_first=newest_first)
    return [item.content.removeprefix("content ") for item in items]


async def test_the_items_before_a_time_are_counted_by_user_and_domain(index: HistoryIndex) -> None:
    others = [point(4, Scope("acme", "bob")), point(5, domain="tweet"), point(6, at=NOON + timedelta(hours=1))]
    await index.upsert([point(1), point(2), *others])
    assert await index.count_before(ALICE, NOON + timedelta(hours=1), "movie_tag") == 2
    assert await index.count_before(ALICE, NOON, "movie_tag") == 0


async def test_a_new_index_is_empty_and_a_written_one_is_not(index: HistoryIndex) -> None:
    assert await index.is_empty()
    await index.upsert([point(1)])
    assert not await index.is_empty()


async def test_an_item_is_returned_complete(index: HistoryIndex) -> None:
    written = point(1, vector=toward(0.5), at=NOON + timedelta(microseconds=1))
    await index.upsert([written])
    (item,) = await index.search(ALICE, axis(0), NOON + timedelta(days=1), "movie_tag", 6)
    assert item.interaction_id == written.interaction.interaction_id
    assert (item.content, item.response) == ("content 1", "comedy")
    assert item.occurred_at == NOON + timedelta(microseconds=1)
    assert item.source == Source(topic="interactions", partition=2, offset=7)
    assert item.score == pytest.approx(0.5, abs=1e-5)


async def test_a_second_write_replaces_the_first(index: HistoryIndex) -> None:
    await index.upsert([point(1), point(1)])
    await index.upsert([point(1, response="drama")])
    assert await index.count(ALICE) == 1
    assert [item.response for item in await index.search(ALICE, axis(0), NOON + timedelta(days=1), "movie_tag", 6)] == ["drama"]


async def test_stored_points_are_found_by_id_with_content_and_source(index: HistoryIndex) -> None:
    written, theirs, missing = point(1), point(1, Scope("acme", "bob")), point(2)
    assert await index.stored([]) == await index.stored([missing.id]) == {}
    await index.upsert([written, theirs])
    stored = await index.stored([missing.id, theirs.id, written.id])
    assert stored == {each.id: StoredPoint(each.source, content_of(each.interaction)) for each in (written, theirs)}
    assert stored[written.id].content != content_of(point(1, response="drama").interaction)


async def test_writing_no_points_is_allowed(index: HistoryIndex) -> None:
    await index.upsert([])
    assert await index.count(ALICE) == 0


@pytest.mark.parametrize("other", [Scope("acme", "bob"), Scope("globex", "alice"), Scope("alice", "acme"), Scope("acme", "Alice"), Scope("acme", "alice ")])
async def test_no_scope_sees_the_items_of_another(index: HistoryIndex, other: Scope) -> None:
    await index.upsert([point(1, ALICE)])
    assert await found(index, other) == []
    assert await index.count(other) == 0


async def test_another_users_record_with_the_same_id_overwrites_nothing(index: HistoryIndex) -> None:
    own = point(1, ALICE)
    stolen = own.interaction.model_copy(update={"tenant": "globex", "content": "content forged"})
    await index.upsert([own, IndexPoint(LoggedInteraction(stolen, own.source), own.vector)])
    assert await found(index, ALICE) == ["1"]
    assert await found(index, Scope("globex", "alice")) == ["forged"]


async def test_the_time_filter_is_strict_to_the_microsecond(index: HistoryIndex) -> None:
    tick = timedelta(microseconds=1)
    await index.upsert([point("before", at=NOON - tick), point("at", at=NOON), point("after", at=NOON + tick)])
    assert await found(index, before=NOON) == ["before"]
    assert set(await found(index, before=NOON + tick)) == {"before", "at"}


async def test_times_before_1970_and_in_other_zones_are_compared_correctly(index: HistoryIndex) -> None:
    await index.upsert([point(1, at=datetime.fromisoformat("1950-01-01T00:00:00+09:00"))])
    assert await found(index, before=datetime(1949, 12, 31, 15, 0, 0, 1, tzinfo=UTC)) == ["1"]
    assert await found(index, before=datetime(1949, 12, 31, 15, tzinfo=UTC)) == []


async def test_only_the_domain_of_the_query_is_searched(index: HistoryIndex) -> None:
    await index.upsert([point("tag"), point("title", domain="scholarly_title")])
    assert await found(index, domain="scholarly_title") == ["title"]
    assert await index.count(ALICE) == 2


async def test_the_nearest_items_come_first_up_to_the_limit(index: HistoryIndex) -> None:
    await index.upsert([point(cosine, vector=toward(cosine)) for cosine in (0.2, 0.9, -0.5, 0.6)])
    assert await found(index) == ["0.9", "0.6", "0.2", "-0.5"]
    assert await found(index, limit=2) == ["0.9", "0.6"]


async def test_items_without_a_response_take_no_place_and_are_counted_among_all(index: HistoryIndex) -> None:
    written = [("comedy", 0.7), (" ", 1.0), ("", 0.9), ("\u200b", 0.8), ("drama", 0.6), ("comedy", 0.5)]
    points = [point(n, response=response, at=NOON - timedelta(days=n), vector=toward(cosine)) for n, (response, cosine) in enumerate(written)]
    await index.upsert(points)
    assert await found(index, limit=2) == ["0", "4"]
    assert (await oldest(index, 2), await oldest(index, 2, newest_first=True)) == (["5", "4"], ["0", "4"])
    assert await index.count_before(ALICE, NOON + timedelta(days=1), "movie_tag") == 3
    assert await index.count(ALICE) == 6
    stored = await index.stored([each.id for each in points])
    assert all(stored[each.id].content == content_of(each.interaction) for each in points)


@dataclass(frozen=True)
class OlderPoint:
    """As versions before the flag wrote it."""

    written: IndexPoint

    @property
    def id(self) -> uuid.UUID:
        return self.written.id

    @property
    def vector(self) -> Vector:
        return self.written.vector

    def payload(self) -> dict[str, Any]:
        return {**content_of(self.written.interaction), SOURCE: self.written.source.model_dump()}


async def test_points_of_older_versions_are_found(index: HistoryIndex) -> None:
    blank = point(2, response="", vector=toward(0.5))
    await index.upsert([OlderPoint(point(1)), OlderPoint(blank)])
    assert await found(index) == ["1", "2"]
    assert await oldest(index) == ["1", "2"]
    await index.upsert([blank])  # read again from the topic
    assert (await found(index), await oldest(index)) == (["1"], ["1"])


async def test_edge_indexes_each_field_that_its_filters_compare(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "index", dimension=DIMENSION, embedder="test")
    assert index._shard.info().payload_schema.keys() == {TENANT, USER, DOMAIN, OCCURRED_AT, BLANK}
    await index.close()


async def test_edge_indexes_the_fields_that_an_older_version_did_not(tmp_path: Path) -> None:
    import qdrant_edge as edge

    older = await open_index("edge", tmp_path)
    await older.upsert([point(1), point(2, domain="tweet")])
    older._shard.update(edge.UpdateOperation.delete_field_index(DOMAIN))  # type: ignore[attr-defined]
    await older.close()
    index = EdgeIndex(tmp_path / "index", dimension=DIMENSION, embedder="test")
    assert DOMAIN in index._shard.info().payload_schema
    assert (await found(index), await found(index, domain="tweet")) == (["1"], ["2"])
    await index.close()


async def test_edge_reads_the_payloads_before_it_opens_them_within_a_bound(tmp_path: Path) -> None:
    assert read_payloads(tmp_path / "index" / "shard") == 0
    index = await open_index("edge", tmp_path)
    await index.upsert([point(1)])
    await index.close()
    assert read_payloads(tmp_path / "index" / "shard", 1_000) == 1_000 < read_payloads(tmp_path / "index" / "shard")


async def test_each_search_of_a_batch_has_its_own_user_vector_time_domain_and_limit(index: HistoryIndex) -> None:
    bob, tick = Scope("acme", "bob"), timedelta(microseconds=1)
    await index.upsert([point("near", vector=toward(0.9)), point("far", vector=toward(0.1)), point("tweet", domain="tweet"), point("theirs", bob)])
    await index.upsert([point("late", at=NOON + tick, vector=toward(0.95))])
    asked = [
        SearchRequest(ALICE, axis(0), NOON + tick, "movie_tag", 6),
        SearchRequest(ALICE, axis(0), NOON + timedelta(hours=1), "movie_tag", 1),
        SearchRequest(ALICE, axis(1), NOON + tick, "movie_tag", 1),
        SearchRequest(ALICE, axis(0), NOON + tick, "tweet", 6),
        SearchRequest(bob, axis(0), NOON + tick, "movie_tag", 6),
        SearchRequest(Scope("globex", "alice"), axis(0), NOON + tick, "movie_tag", 6),
    ]
    expected = [["near", "far"], ["late"], ["far"], ["tweet"], ["theirs"], []]
    assert [[item.content.removeprefix("content ") for item in items] for items in await index.search_batch(asked)] == expected
    assert await index.search_batch([]) == []


async def test_equal_scores_are_ordered_newest_first(index: HistoryIndex) -> None:
    await index.upsert([point(age, at=NOON - timedelta(days=age)) for age in (3, 1, 2)])
    assert await found(index) == ["1", "2", "3"]


@pytest.mark.parametrize("kind", ["edge", "local", "server"])
async def test_the_dot_product_counts_the_length_of_vectors_and_the_cosine_does_not(kind: str, tmp_path: Path) -> None:
    points = [point("long", vector=3 * toward(0.5)), point("near", vector=toward(0.9)), point("against", vector=5 * toward(-0.4))]
    for similarity, expected in (
        (Similarity.DOT, {"long": 3.0, "near": 1.8, "against": -4.0}),
        (Similarity.COSINE, {"near": 0.9, "long": 0.5, "against": -0.4}),
    ):
        index = await open_index(kind, tmp_path / similarity, similarity)
        await index.upsert(points)
        items = await index.search(ALICE, 2 * axis(0), NOON + timedelta(days=1), "movie_tag", 6)
        scores = {item.content.removeprefix("content "): item.score for item in items}
        if kind == "server":
            await forget_server_collections()
        await index.close()
        assert list(scores) == list(expected)
        assert scores == pytest.approx(expected, abs=1e-4)


async def test_the_ends_of_a_history_are_read_in_time_order(index: HistoryIndex) -> None:
    await index.upsert([point(n, at=NOON + timedelta(minutes=n), vector=toward(-0.5)) for n in (3, 1, 4, 2)])
    assert [await oldest(index, limit) for limit in (0, 2, 9)] == [[], ["1", "2"], ["1", "2", "3", "4"]]
    assert await oldest(index, 3, newest_first=True) == ["4", "3", "2"]
    (item,) = await index.in_time_order(ALICE, NOON + timedelta(days=1), "movie_tag", 1)
    assert (item.response, item.occurred_at, item.score) == ("comedy", NOON + timedelta(minutes=1), 0)


async def test_the_ends_of_a_history_are_the_users_own_from_strictly_before(index: HistoryIndex) -> None:
    tick = timedelta(microseconds=1)
    others = [point("bobs", Scope("acme", "bob")), point("globex", Scope("globex", "alice")), point("tweet", domain="tweet")]
    await index.upsert([*others, point("before", at=NOON - tick), point("at", at=NOON), point("after", at=NOON + tick)])
    for newest_first in (False, True):
        assert await oldest(index, before=NOON, newest_first=newest_first) == ["before"]


@pytest.mark.parametrize("limit", [1, 2, 5, 30, 41])
async def test_items_of_one_time_are_in_the_order_of_the_log(index: HistoryIndex, limit: int) -> None:
    first, same, last = point("first", at=NOON - timedelta(days=1)), [point(n, offset=n) for n in range(40)], point("last", at=NOON + timedelta(hours=1))
    await index.upsert([last, *same[20:], first, *reversed(same[:20])])
    expected = ["first", *(str(n) for n in range(40)), "last"]
    assert await oldest(index, limit) == expected[:limit]
    assert await oldest(index, limit, newest_first=True) == expected[::-1][:limit]


@pytest.mark.parametrize("user", ["*", "o'neill", '"; DROP', "アリス", "a\\b", "null", "%", "{user}", "é", "e\u0301", "👩\u200d🚀", "x" * 128])
async def test_unusual_user_ids_are_plain_ids(index: HistoryIndex, user: str) -> None:
    scope = Scope("acme", user)
    odd = point(1).interaction.model_copy(update={"user": user})
    await index.upsert([point(2, ALICE), IndexPoint(LoggedInteraction(odd, Source(topic="interactions", partition=0, offset=0)), axis(0))])
    assert await found(index, scope) == ["1"]
    assert await found(index, ALICE) == ["2"]


users = st.builds(Scope, st.sampled_from(["acme", "globex", "*"]), st.sampled_from(["alice", "bob", "*", "アリス"]))
rows = st.lists(st.tuples(users, st.integers(0, 20), st.sampled_from(["movie_tag", "tweet"]), st.floats(-1, 1, width=32)), max_size=30)


@pytest.mark.timeout(400)  # each example waits for the disk several times, which others may be using
@pytest.mark.parametrize("kind", ["edge", "local"])
@given(rows=rows, scope=users, wall=st.integers(0, 21), limit=st.integers(1, 10))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_search_returns_only_the_users_own_items_from_before(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: list[tuple[Scope, int, str, float]], scope: Scope, wall: int, limit: int
) -> None:
    index = await open_index(kind, tmp_path_factory.mktemp("index"))
    try:
        points = [point(n, who, vector=toward(cosine), at=NOON + timedelta(hours=hour), domain=domain) for n, (who, hour, domain, cosine) in enumerate(rows)]
        await index.upsert(points)
        items = await index.search(scope, axis(0), NOON + timedelta(hours=wall), "movie_tag", limit)
    finally:
        await index.close()
    allowed = {
        p.interaction.interaction_id: float(p.vector[0])
        for p in points
        if (p.interaction.tenant, p.interaction.user, p.interaction.domain) == (scope.tenant, scope.user, "movie_tag")
        and p.interaction.occurred_at < NOON + timedelta(hours=wall)
    }
    assert {item.interaction_id for item in items} <= allowed.keys()
    best = sorted(allowed.values(), reverse=True)[:limit]
    assert [item.score for item in items] == pytest.approx(best, abs=1e-4)


async def test_edge_keeps_its_items_after_a_restart(tmp_path: Path) -> None:
    first = await open_index("edge", tmp_path)
    await first.upsert([point(1)])
    await first.close()
    reopened = await open_index("edge", tmp_path)
    assert await found(reopened) == ["1"]
    await reopened.close()


async def test_edge_keeps_written_items_after_kill_9(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, signal, sys; from pathlib import Path; from tests.contract.test_index import open_index, point\n"
        "async def main():\n"
        "    index = await open_index('edge', Path(sys.argv[1]))\n"
        "    await index.upsert([point(1)])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], timeout=60, check=False).returncode == -9  # noqa: ASYNC221
    reopened = await open_index("edge", tmp_path)
    assert await found(reopened) == ["1"]
    await reopened.close()


async def test_edge_names_its_directory_if_another_process_has_opened_it(tmp_path: Path) -> None:
    held = await open_index("edge", tmp_path)
    with pytest.raises(CannotContinue, match="another process has opened it") as caught:
        await open_index("edge", tmp_path)
    assert str(tmp_path) in str(caught.value)
    await held.close()


async def test_edge_refuses_vectors_of_another_model(tmp_path: Path) -> None:
    await (await open_index("edge", tmp_path)).close()
    with pytest.raises(CannotContinue, match="has vectors of"):
        EdgeIndex(tmp_path / "index", dimension=DIMENSION, embedder="another")
    with pytest.raises(CannotContinue, match=r"'similarity': 'cosine'.* not of .*'similarity': 'dot'"):
        EdgeIndex(tmp_path / "index", dimension=DIMENSION, embedder="test", similarity=Similarity.DOT)


async def test_edge_opens_a_directory_of_a_version_that_knew_only_cosine(tmp_path: Path) -> None:
    await (await open_index("edge", tmp_path)).close()
    stored = tmp_path / "index" / "embedder.json"
    stored.write_text(json.dumps({"name": "test", "dimension": DIMENSION}))
    await (await open_index("edge", tmp_path)).close()
    with pytest.raises(CannotContinue, match="has vectors of"):
        EdgeIndex(tmp_path / "index", dimension=DIMENSION, embedder="test", similarity=Similarity.DOT)


async def test_the_server_index_refuses_vectors_of_another_model() -> None:
    from qdrant_client import AsyncQdrantClient

    client = AsyncQdrantClient(location=":memory:")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Payload indexes have no effect", UserWarning)
        await ServerIndex.open(client, "history", dimension=DIMENSION, embedder="test")
    with pytest.raises(CannotContinue, match=r"embedder\.model=another, but the collection has test"):
        await ServerIndex.open(client, "history", dimension=DIMENSION, embedder="another")
    with pytest.raises(CannotContinue, match=r"embedder\.similarity=dot, but the collection has cosine"):
        await ServerIndex.open(client, "history", dimension=DIMENSION, embedder="test", similarity=Similarity.DOT)
    await client.close()
