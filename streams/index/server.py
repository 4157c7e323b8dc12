"""The history index on a Qdrant server: one collection for all tenants, in the layout of `streams.index.collection_layout`.

`tenant` and `user` are tenant keys, so the server stores one user's points together. The server does not separate tenants: the filter of a `Scope` is the
only boundary.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from infra.errors import BadSetting, CannotContinue, DependencyBlocked, RetryLater
from infra.settings.stream import IndexSettings, Similarity
from infra.urls import without_user
from schemas.contexts import HistoryItem
from streams.index.collection_layout import IDENTITY, Embedding, check, creation
from streams.index.history_index import SearchRequest
from streams.index.server_errors import Place, ServerProblem, problem_of
from streams.index.tenant_filter import (
    BLANK,
    DOMAIN,
    IS_BLANK,
    OCCURRED_AT,
    TENANT,
    USER,
    IndexFilter,
    Point,
    Scope,
    StoredPoint,
    Vector,
    best_first,
    stored_point,
)
from streams.index.time_order import ends_of_history

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient, models


log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULTS = IndexSettings()
#: A Qdrant server refuses requests of more than 32 MiB (`service.max_request_size_mb`); a third of that leaves room for what is counted roughly.
REQUEST_BYTES = 10 << 20
#: Of one number of a vector in JSON, at most.
DIGITS = 24
LOCAL_MODE = "in the client's local mode"
#: Pause before the first repeat of a request, and the longest one. A server that names a pause gets it, up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class ServerIndex:
    """Use `connect` or `open`, which create the collection if it is missing. `settings`: its layout, and the retries."""

    def __init__(self, client: AsyncQdrantClient, collection: str, settings: IndexSettings) -> None:
        self._client = client
        self._collection = collection
        self._settings = settings
        self._place = Place(settings.url or LOCAL_MODE, collection)
        #: Of the collection that `open` found or created, also behind an alias. None for a collection without one
        self.identity: str | None = None
        #: For a collection without an id: its own name, to which an alias leads. None if the server does not say it
        self.target: str | None = None

    @classmethod
    async def connect(cls, settings: IndexSettings, *, dimension: int, embedder: str, similarity: Similarity = Similarity.COSINE) -> Self:
        client = open_client(settings)
        try:
            return await cls.open(client, settings.collection, dimension=dimension, embedder=embedder, similarity=similarity, settings=settings)
        except BaseException:
            await client.close()
            raise

    @classmethod
    async def open(
        cls,
        client: AsyncQdrantClient,
        collection: str,
        *,
        dimension: int,
        embedder: str,
        similarity: Similarity = Similarity.COSINE,
        settings: IndexSettings = DEFAULTS,
    ) -> Self:
        index = cls(client, collection, settings)
        await index._ensure(Embedding(embedder, dimension, similarity))
        return index

    async def upsert(self, points: Sequence[Point]) -> None:
        from qdrant_client import models

        for part in requests_of(points):
            rows = [models.PointStruct(id=str(point.id), vector=point.vector.tolist(), payload=point.payload()) for point in part]
            await self._send(f"write {len(rows)} points", partial(self._client.upsert, self._collection, points=rows, wait=True))

    async def stored(self, ids: Sequence[UUID]) -> Mapping[UUID, StoredPoint]:
        if not ids:
            return {}
        wanted = [str(id) for id in ids]
        request = f"read {len(wanted)} points"
        points = await self._send(request, lambda: self._client.retrieve(self._collection, ids=wanted, with_payload=True, with_vectors=False))
        return {UUID(str(point.id)): stored_point(point.payload or {}) for point in points}

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        return (await self.search_batch([SearchRequest(scope, vector, before, domain, limit)]))[0]

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        """In one request. Where the collection's strict mode refuses it, in one for each search: it may limit the batch, or refuse only one of them."""
        if not requests:
            return []
        try:
            return await self._search_at_once(requests)
        except DependencyBlocked as blocked:
            if blocked.cause is not ServerProblem.STRICT_MODE or len(requests) == 1:
                raise
        return [found for request in requests for found in await self._search_at_once([request])]

    async def _search_at_once(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        from qdrant_client import models

        asked = [
            models.QueryRequest(query=request.vector.tolist(), filter=_server_filter(request.filter), limit=request.limit, with_payload=True)
            for request in requests
        ]
        name = "search" if len(asked) == 1 else f"{len(asked)} searches"
        results = await self._send(name, lambda: self._client.query_batch_points(self._collection, requests=asked))
        return [best_first((hit.score, hit.payload or {}) for hit in result.points) for result in results]

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        return await ends_of_history(self._scroll, scope.before(before, domain), limit, newest_first=newest_first)

    async def _scroll(self, index_filter: IndexFilter, limit: int, newest_first: bool) -> list[Mapping[str, Any]]:
        from qdrant_client import models

        order = models.OrderBy(key=OCCURRED_AT, direction=models.Direction.DESC if newest_first else models.Direction.ASC)
        options = {"scroll_filter": _server_filter(index_filter), "limit": limit, "order_by": order, "with_payload": True, "with_vectors": False}
        points, _ = await self._send("read in time order", lambda: self._client.scroll(self._collection, **options))
        return [point.payload or {} for point in points]

    async def count(self, scope: Scope) -> int:
        return await self._count(_server_filter(scope.everything()))

    async def count_before(self, scope: Scope, before: datetime, domain: str) -> int:
        return await self._count(_server_filter(scope.before(before, domain)))

    async def _count(self, count_filter: models.Filter | None) -> int:
        counted = await self._send("count points", lambda: self._client.count(self._collection, count_filter=count_filter, exact=True))
        return int(counted.count)

    async def is_empty(self) -> bool:
        return await self._count(None) == 0

    async def targets(self) -> dict[str, str]:
        """The collection of each alias of the server."""
        found = await self._send("list the aliases", self._client.get_aliases)
        return {alias.alias_name: alias.collection_name for alias in found.aliases}

    async def close(self) -> None:
        await self._client.close()

    async def _ensure(self, embedding: Embedding) -> None:
        if await self._exists():
            check((await self._info()).config, self._settings, embedding, self._place)
        else:
            try:
                await self._send("create the collection", lambda: self._client.create_collection(self._collection, **creation(self._settings, embedding)))
            except CannotContinue:  # perhaps another process has just created it
                if not await self._exists():
                    raise
                check((await self._info()).config, self._settings, embedding, self._place)
        await self._index_fields()

    async def _exists(self) -> bool:
        return bool(await self._send("look for the collection", lambda: self._client.collection_exists(self._collection)))

    async def _info(self) -> models.CollectionInfo:
        return await self._send("read the collection's layout", lambda: self._client.get_collection(self._collection))

    async def _index_fields(self) -> None:
        """Also those that an older version did not index: servers in strict mode refuse filters on fields without an index."""
        from qdrant_client import models

        per_tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        indexed: dict[str, Any] = {
            TENANT: per_tenant,
            USER: per_tenant,
            DOMAIN: models.PayloadSchemaType.KEYWORD,
            OCCURRED_AT: models.PayloadSchemaType.INTEGER,
            BLANK: models.PayloadSchemaType.KEYWORD,
        }
        info = await self._info()
        self.identity = (info.config.metadata or {}).get(IDENTITY)
        self.target = None if self.identity else await self._target()
        for field in indexed.keys() - info.payload_schema.keys():
            await self._send(f"index the field {field}", self._index_of(field, indexed[field]))

    async def _target(self) -> str | None:
        try:
            return (await self.targets()).get(self._collection, self._collection)
        except DependencyBlocked:  # the API key is for single collections
            return None

    def _index_of(self, field: str, schema: Any) -> Callable[[], Awaitable[Any]]:
        return lambda: self._client.create_payload_index(self._collection, field, field_schema=schema, wait=True)

    async def _send(self, request: str, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to `call`, which may be repeated: every request does the same twice as once. Raises what `streams.index.server_errors` names.

        Repeats what may succeed in a moment, `index.retries` times, but only until `index.timeout_s` have passed: a call that takes long counts as a stall.
        """
        deadline = time.monotonic() + self._settings.timeout_s
        for attempt in itertools.count():
            try:
                return await call()
            except Exception as error:
                problem = problem_of(error, request, self._place)
                if problem is None:
                    raise
                is_last = attempt == self._settings.retries or time.monotonic() > deadline
                if is_last or isinstance(problem, DependencyBlocked) or not isinstance(problem, RetryLater):
                    raise problem from error
            pause_s = problem.after_s if problem.cause is ServerProblem.BUSY else FIRST_PAUSE_S * 2**attempt
            await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))
        raise AssertionError  # the loop has no end


def requests_of(points: Sequence[Point], most: int = REQUEST_BYTES) -> Iterator[Sequence[Point]]:
    """The points in order, cut into requests of at most `most` bytes, or of one point that is larger."""
    start = size = 0
    for end, point in enumerate(points):
        own = DIGITS * len(point.vector) + len(json.dumps(point.payload()))
        if end > start and size + own > most:
            yield points[start:end]
            start, size = end, 0
        size += own
    if start < len(points):
        yield points[start:]


def open_client(settings: IndexSettings) -> AsyncQdrantClient:
    """The client of the server at `index.url`. Does not connect. Raises BadSetting for an impossible URL."""
    from qdrant_client import AsyncQdrantClient

    options: dict[str, Any] = {"timeout": max(1, round(settings.timeout_s)), "check_compatibility": False}
    if settings.api_key:
        if not (settings.url or "").startswith("https"):
            log.warning("index.api_key is sent without encryption: index.url does not begin with https", extra={"url": without_user(settings.url or "")})
        options["api_key"] = settings.api_key.get_secret_value()
    if settings.grpc_port:
        options |= {"grpc_port": settings.grpc_port, "prefer_grpc": True}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Api key is used with an insecure connection", UserWarning)  # operators read the log
            return AsyncQdrantClient(url=settings.url, **options)
    except ValueError as error:
        raise BadSetting(f"index.url={without_user(settings.url or '')!r}: {error}") from error


def _server_filter(index_filter: IndexFilter) -> models.Filter:
    from qdrant_client import models

    conditions: list[Any] = [models.FieldCondition(key=field, match=models.MatchValue(value=value)) for field, value in index_filter.equal.items()]
    if index_filter.before_us is not None:
        conditions.append(models.FieldCondition(key=OCCURRED_AT, range=models.Range(gte=index_filter.from_us, lt=index_filter.before_us)))
    blank = models.FieldCondition(key=BLANK, match=models.MatchValue(value=IS_BLANK))
    return models.Filter(must=conditions, must_not=None if index_filter.blank else [blank])
