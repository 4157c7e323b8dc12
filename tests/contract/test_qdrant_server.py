"""What the adapter reports of a Qdrant server, over HTTP: layouts, refusals and failures, each with its own cause. On a stub of the server."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock

import grpc
import httpx
import numpy as np
import pytest
from pydantic import ValidationError
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from infra.errors import CannotContinue, DependencyBlocked, RetryLater
from infra.process.ports import free_port
from infra.settings import load
from infra.settings.stream import IndexSettings, Quantization, Similarity
from schemas.positions import Source
from streams.index.collection_layout import Embedding, creation
from streams.index.history_index import SearchRequest
from streams.index.server import ServerIndex, open_client
from streams.index.server_errors import BLOCKING, Place, ServerProblem
from streams.index.server_errors import problem_of as problem_of_client
from streams.index.tenant_filter import IndexPoint, LoggedInteraction, Scope
from streams.service import Stores
from tests.support.qdrant_stub import QdrantStub, qdrant_stub
from tests.support.streams_fakes import NOON, interaction

ALICE = Scope("acme", "alice")
AXIS = np.eye(8, dtype=np.float32)[0]
PLACE = Place("http://user:secret@q:6333", "history")
KEY, READ_ONLY = "key-of-the-writer", "key-of-the-reader"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantStub]:
    with qdrant_stub(tmp_path_factory.mktemp("qdrant")) as running:
        yield running


@pytest.fixture
def stub(server: QdrantStub) -> Iterator[QdrantStub]:
    server.behave()
    yield server
    server.behave()


def settings_for(stub: QdrantStub, **settings: Any) -> IndexSettings:
    return IndexSettings(**({"url": stub.url, "collection": uuid.uuid4().hex} | settings))


@asynccontextmanager
async def opened(settings: IndexSettings, *, dimension: int = 8, embedder: str = "test", **options: Any) -> AsyncIterator[ServerIndex]:
    index = await ServerIndex.connect(settings, dimension=dimension, embedder=embedder, **options)
    try:
        yield index
    finally:
        await index.close()


def point(name: str) -> IndexPoint:
    return IndexPoint(LoggedInteraction(interaction(name), Source(topic="interactions", partition=0, offset=1)), AXIS)


async def write(index: ServerIndex) -> None:
    await index.upsert([point("sea"), point("war")])


async def search(index: ServerIndex) -> list[str]:
    return [item.content for item in await index.search(ALICE, AXIS, NOON + timedelta(days=1), "movie_tag", 6)]


async def problem_of(index: ServerIndex, *, of_write: bool = True) -> RetryLater:
    with pytest.raises(RetryLater) as caught:
        await (write(index) if of_write else search(index))
    assert isinstance(caught.value, DependencyBlocked) == (caught.value.cause in BLOCKING)
    assert KEY not in str(caught.value) and READ_ONLY not in str(caught.value)
    return caught.value


async def test_a_collection_is_created_with_the_layout_of_the_settings(stub: QdrantStub) -> None:
    layout = {"shards": 3, "replication_factor": 2, "write_consistency_factor": 2, "vectors_on_disk": True, "payload_on_disk": False}
    async with opened(settings_for(stub, **layout, quantization="binary")) as index:
        config = (await index._info()).config
    params = config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor, params.on_disk_payload) == (3, 2, 2, False)
    assert params.vectors.on_disk and config.quantization_config.binary.always_ram
    assert (config.hnsw_config.m, config.hnsw_config.payload_m) == (0, 16)


async def test_the_defaults_leave_the_layout_to_the_server_and_quantize_to_int8(stub: QdrantStub) -> None:
    settings = settings_for(stub)
    async with opened(settings) as index:
        assert (await index._info()).config.quantization_config.scalar.type == "int8"
    sent = stub.creation_of(settings.collection)
    left_out = [sent.get(name) for name in ("shard_number", "replication_factor", "write_consistency_factor", "on_disk_payload")]
    assert {*left_out, sent["vectors"].get("on_disk")} == {None}


@pytest.mark.parametrize(
    ("made", "wanted", "text"),
    [
        ({}, {"quantization": Quantization.NONE}, "index.quantization=none, but the collection has int8. Set index.quantization=int8, or change"),
        ({}, {"replication_factor": 2}, "index.replication_factor=2, but the collection has 1"),
        ({"replication_factor": 3}, {"replication_factor": 3, "write_consistency_factor": 2}, "index.write_consistency_factor=2, but the collection has 1"),
    ],
)
async def test_a_layout_that_breaks_a_promise_is_refused_by_name(stub: QdrantStub, made: dict[str, Any], wanted: dict[str, Any], text: str) -> None:
    settings = settings_for(stub, **made)
    async with opened(settings):
        pass
    with pytest.raises(CannotContinue) as caught:
        async with opened(settings_for(stub, **wanted, collection=settings.collection)):
            pass
    assert text in str(caught.value) and settings.collection in str(caught.value) and stub.url in str(caught.value)


@pytest.mark.parametrize(
    ("made", "wanted", "text"),
    [
        ({"shards": 2}, {"shards": 4}, "index.shards=4, but the collection has 2"),
        ({}, {"vectors_on_disk": True}, "index.vectors_on_disk=True, but the collection has False"),
        ({}, {"payload_on_disk": False}, "index.payload_on_disk=False, but the collection has True"),
        ({"replication_factor": 3}, {"replication_factor": 2}, "index.replication_factor=2, but the collection has 3"),
    ],
)
async def test_a_layout_that_only_costs_speed_is_a_warning(
    stub: QdrantStub, caplog: pytest.LogCaptureFixture, made: dict[str, Any], wanted: dict[str, Any], text: str
) -> None:
    settings = settings_for(stub, **made)
    async with opened(settings) as index:
        await write(index)
    with caplog.at_level(logging.WARNING):
        async with opened(settings_for(stub, **wanted, collection=settings.collection)) as index:
            assert set(await search(index)) == {"about sea", "about war"}
    assert [record.difference for record in caplog.records if hasattr(record, "difference")] == [text]


async def test_settings_that_are_not_set_are_not_compared(stub: QdrantStub, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_for(stub, shards=3, replication_factor=2, vectors_on_disk=True, payload_on_disk=False)
    for each in (settings, settings_for(stub, collection=settings.collection)):
        with caplog.at_level(logging.WARNING):
            async with opened(each):
                pass
    assert not [record for record in caplog.records if hasattr(record, "difference")]


async def test_another_embedder_dimension_and_similarity_are_told_by_name(stub: QdrantStub) -> None:
    settings = settings_for(stub)
    async with opened(settings):
        pass
    with pytest.raises(CannotContinue) as caught:
        async with opened(settings, dimension=4, embedder="other", similarity=Similarity.DOT):
            pass
    for text in ("embedder.model=other, but the collection has test", "dimension=4, but the collection has 8", "embedder.similarity=dot"):
        assert text in str(caught.value)


def test_more_confirmed_copies_than_copies_are_refused() -> None:
    with pytest.raises(ValidationError, match="write_consistency_factor=3 is more than replication_factor=2"):
        IndexSettings(url="http://127.0.0.1:6333", replication_factor=2, write_consistency_factor=3)


@pytest.mark.parametrize(
    ("behaviour", "problem", "remedy"),
    [
        ({"disk_is_full": True}, ServerProblem.OUT_OF_DISK, "free some space"),
        ({"replicas_answer": False}, ServerProblem.REPLICAS, "too few replicas answer"),
        ({"is_busy": True}, ServerProblem.BUSY, "too many requests (429)"),
        ({"slow_s": 30.0}, ServerProblem.SLOW, "raise index.timeout_s"),
        ({"largest_batch": 1}, ServerProblem.STRICT_MODE, 'Limit exceeded 2 > 1 for "upsert"'),
        ({"api_key": KEY}, ServerProblem.WRONG_KEY, "correct index.api_key"),
        ({"read_only_key": READ_ONLY}, ServerProblem.NO_RIGHT, "set index.api_key to a key that may read and write"),
    ],
)
async def test_each_refusal_and_failure_has_its_name_and_remedy(stub: QdrantStub, behaviour: dict[str, Any], problem: ServerProblem, remedy: str) -> None:
    settings = settings_for(stub, api_key=READ_ONLY, timeout_s=1)
    async with opened(settings) as index:
        stub.behave(**behaviour)
        error = await problem_of(index)
        assert error.cause is problem and remedy in str(error)
        assert f"collection {settings.collection!r} on the Qdrant server {stub.url}, write 2 points:" in str(error)
        stub.behave()
        await write(index)


async def test_a_server_that_refuses_writes_still_answers_searches(stub: QdrantStub) -> None:
    settings = settings_for(stub, api_key=READ_ONLY)
    async with opened(settings) as index:
        await write(index)
    for behaviour in ({"read_only_key": READ_ONLY}, {"disk_is_full": True}):
        stub.behave(**behaviour)
        async with opened(settings) as index:
            assert set(await search(index)) == {"about sea", "about war"}
            assert not await index.is_empty()


async def test_strict_mode_takes_every_filter_of_a_history_and_names_its_limit(stub: QdrantStub) -> None:
    async with opened(settings_for(stub)) as index:
        await write(index)
        stub.behave(largest_limit=6)
        assert len(await search(index)) == await index.count(ALICE) == await index.count_before(ALICE, NOON + timedelta(days=1), "movie_tag") == 2
        stub.behave(largest_limit=5)
        error = await problem_of(index, of_write=False)
    assert error.cause is ServerProblem.STRICT_MODE and 'Limit exceeded 6 > 5 for "limit"' in str(error)


async def test_searches_that_strict_mode_refuses_at_once_are_sent_one_by_one(stub: QdrantStub) -> None:
    searches = [SearchRequest(ALICE, AXIS, NOON + timedelta(days=1), "movie_tag", limit) for limit in (2, 1)]
    async with opened(settings_for(stub)) as index:
        await write(index)
        stub.behave(largest_search_batch=1)
        assert [len(items) for items in await index.search_batch(searches)] == [2, 1]
        stub.behave(largest_search_batch=1, largest_limit=1)
        with pytest.raises(DependencyBlocked, match=r'search: .*Limit exceeded 2 > 1 for "limit"'):
            await index.search_batch(searches)


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(RetryLater) as caught:
        async with opened(IndexSettings(url=f"http://127.0.0.1:{free_port('127.0.0.1')}")):
            pass
    assert caught.value.cause is ServerProblem.UNREACHABLE and "start it, or correct index.url" in str(caught.value)


async def test_a_collection_that_is_gone_ends_the_process(stub: QdrantStub) -> None:
    async with opened(settings_for(stub)) as index:
        await index._client.delete_collection(index._collection)
        with pytest.raises(CannotContinue, match=r"is gone \(404, write 2 points\); the next start of this process creates it"):
            await write(index)


async def test_the_collection_behind_an_alias_is_known_if_it_has_no_id(stub: QdrantStub, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = settings_for(stub)
    live = plain.model_copy(update={"collection": f"{plain.collection}-live"})
    client = open_client(plain)
    layout = creation(plain, Embedding("test", 8, Similarity.COSINE)) | {"metadata": {"embedder": "test"}}
    await client.create_collection(plain.collection, **layout)
    alias = models.CreateAlias(collection_name=plain.collection, alias_name=live.collection)
    await client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    await client.close()
    members = []
    for settings in (plain, live):
        async with opened(settings) as index:
            assert (index.identity, index.target) == (None, plain.collection)
            stores = Stores(index, index)
            members.append(stores.member_index(load(index={"url": stub.url, "collection": settings.collection})))
    assert not members[0].conflicts_with(members[1])
    forbidden = UnexpectedResponse(403, "Forbidden", b'{"status": {"error": "Forbidden: Global access is required"}}', httpx.Headers())
    monkeypatch.setattr(AsyncQdrantClient, "get_aliases", AsyncMock(side_effect=forbidden))
    async with opened(live) as index:
        assert (index.identity, index.target) == (None, None)
    async with opened(settings_for(stub)) as index:
        assert index.identity and index.target is None


async def test_two_processes_that_create_the_collection_at_once_share_it(stub: QdrantStub) -> None:
    settings = settings_for(stub)
    stub.behave(slow_s=0.3)  # both see that the collection is missing
    first, second = await asyncio.gather(*(ServerIndex.connect(settings, dimension=8, embedder="test") for _ in range(2)))
    stub.behave()
    await write(first)
    assert len(await search(second)) == 2
    await asyncio.gather(first.close(), second.close())


class Attempts:
    """A request that fails `times` times for a moment."""

    def __init__(self, times: int) -> None:
        self.left, self.made = times, 0

    async def __call__(self) -> str:
        self.made += 1
        if self.left:
            self.left -= 1
            raise ResponseHandlingException(httpx.ConnectError("refused"))
        return "done"


async def test_a_request_is_repeated_as_often_as_the_setting_says(stub: QdrantStub) -> None:
    async with opened(settings_for(stub, retries=2)) as patient, opened(settings_for(stub)) as default:
        assert await patient._send("try", Attempts(2)) == "done"
        for index, attempts, made in ((patient, Attempts(3), 3), (default, Attempts(1), 1)):
            with pytest.raises(RetryLater, match="cannot be reached"):
                await index._send("try", attempts)
            assert attempts.made == made


async def test_a_refusal_is_not_repeated(stub: QdrantStub) -> None:
    async with opened(settings_for(stub, retries=10)) as index:
        stub.behave(api_key=KEY)
        assert (await asyncio.wait_for(problem_of(index), 5)).cause is ServerProblem.WRONG_KEY


class Aborts(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC server that refuses every request."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self._code, self._text = code, text

    def service(self, handler_call_details: Any) -> Any:
        async def abort(request: bytes, context: Any) -> None:
            await context.abort(self._code, self._text)

        return grpc.unary_unary_rpc_method_handler(abort)


@pytest.mark.parametrize(
    ("code", "text", "problem"),
    [
        ("UNAVAILABLE", "", ServerProblem.UNREACHABLE),
        ("DEADLINE_EXCEEDED", "", ServerProblem.SLOW),
        ("UNAUTHENTICATED", "Invalid API key or JWT", ServerProblem.WRONG_KEY),
        ("PERMISSION_DENIED", "Forbidden: Global manage access is required", ServerProblem.NO_RIGHT),
        ("INVALID_ARGUMENT", 'Index required but not found for "user". Help: Create an index', ServerProblem.STRICT_MODE),
        ("RESOURCE_EXHAUSTED", "Rate limiting exceeded", ServerProblem.BUSY),
        ("INTERNAL", "Service internal error: No space left on device", ServerProblem.OUT_OF_DISK),
        ("INTERNAL", "Service internal error: 1 of 1 read operations failed", ServerProblem.REPLICAS),
        ("INTERNAL", "Service internal error: a bug", ServerProblem.FAILED),
    ],
)
async def test_errors_over_grpc_have_the_same_names(code: str, text: str, problem: ServerProblem) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Aborts(grpc.StatusCode[code], text),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with pytest.raises(RetryLater) as caught:
        async with opened(IndexSettings(url="http://127.0.0.1:6333", grpc_port=port)):
            pass
    await server.stop(None)
    assert caught.value.cause is problem


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (401, b"Must provide an API key or an Authorization bearer token", ServerProblem.WRONG_KEY),
        (403, b"<html>Forbidden</html>", ServerProblem.WRONG_KEY),
        (403, b'{"status":{"error":"Forbidden: Write access to collection history is required"}}', ServerProblem.NO_RIGHT),
        (500, b'{"status":{"error":"Service internal error: 1 of 1 read operations failed"}}', ServerProblem.REPLICAS),
        (500, b'{"status":{"error":"Timeout error: Operation timed out"}}', ServerProblem.SLOW),
        (408, b"", ServerProblem.SLOW),
        (502, b"<html>Bad Gateway</html>", ServerProblem.FAILED),
        (429, b"", ServerProblem.BUSY),
        (507, b"", ServerProblem.OUT_OF_DISK),
    ],
)
def test_answers_of_other_versions_and_of_proxies_are_told_apart(status: int, body: bytes, problem: ServerProblem) -> None:
    error = problem_of_client(UnexpectedResponse(status, "", body, httpx.Headers()), "search", PLACE)
    assert isinstance(error, RetryLater) and error.cause is problem
    assert "<html>" not in str(error) and "user:secret" not in str(error) and "http://q:6333" in str(error)


def test_a_request_that_the_server_does_not_understand_ends_the_process() -> None:
    for status in (400, 405, 422):
        error = problem_of_client(UnexpectedResponse(status, "", b"{}", httpx.Headers()), "search", PLACE)
        assert isinstance(error, CannotContinue) and f"({status}, search)" in str(error)
    assert problem_of_client(ValueError("a bug"), "search", PLACE) is None


def test_over_grpc_too_a_collection_that_exists_is_no_failure_of_the_server() -> None:
    """`_ensure` then compares the collection that another process has just created."""
    refused = grpc.aio.AioRpcError(grpc.StatusCode.ALREADY_EXISTS, grpc.aio.Metadata(), grpc.aio.Metadata(), "already exists")
    assert isinstance(problem_of_client(refused, "create the collection", PLACE), CannotContinue)
