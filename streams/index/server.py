"""The history index on a Qdrant server: one collection for all tenants, in the layout that Qdrant recommends for multitenancy.

There is no global HNSW graph (`m=0`) but one per user (`payload_m=16`). `tenant` and `user` are tenant keys, so the server stores one user's points together.
The server does not separate tenants: the filter of a `Scope` is the only boundary.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from infra.errors import BadSetting, CannotContinue, RetryLater
from infra.settings.stream import IndexSettings, Similarity
from infra.urls import without_user
from schemas.contexts import HistoryItem
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


class ServerIndex:
    """Use `connect` or `open`, which create the collection if it is missing."""

    def __init__(self, client: AsyncQdrantClient, collection: str) -> None:
        self._client = client
        self._collection = collection

    @classmethod
    async def connect(cls, settings: IndexSettings, *, dimension: int, embedder: str, similarity: Similarity = Similarity.COSINE) -> Self:
        from qdrant_client import AsyncQdrantClient

        api_key = settings.api_key.get_secret_value() if settings.api_key else None
        try:
            client = AsyncQdrantClient(url=settings.url, api_key=api_key, timeout=max(1, round(settings.timeout_s)), check_compatibility=False)
        except ValueError as error:
            raise BadSetting(f"index.url={without_user(settings.url or '')!r}: {error}") from error
        try:
            return await cls.open(client, settings.collection, dimension=dimension, embedder=embedder, similarity=similarity)
        except BaseException:
            await client.close()
            raise

    @classmethod
    async def open(cls, client: AsyncQdrantClient, collection: str, *, dimension: int, embedder: str, similarity: Similarity = Similarity.COSINE) -> Self:
        index = cls(client, collection)
        async with _server_errors():
            await index._ensure(dimension, embedder, similarity)
        return index

    async def upsert(self, points: Sequence[Point]) -> None:
        from qdrant_client import models

        if not points:
            return
        rows = [models.PointStruct(id=str(point.id), vector=point.vector.tolist(), payload=point.payload()) for point in points]
        async with _server_errors():
            await self._client.upsert(self._collection, points=rows, wait=True)

    async def stored(self, ids: Sequence[UUID]) -> Mapping[UUID, StoredPoint]:
        if not ids:
            return {}
        async with _server_errors():
            points = await self._client.retrieve(self._collection, ids=[str(id) for id in ids], with_payload=True, with_vectors=False)
        return {UUID(str(point.id)): stored_point(point.payload or {}) for point in points}

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        async with _server_errors():
            result = await self._client.query_points(
                self._collection, query=vector.tolist(), query_filter=_server_filter(scope.before(before, domain)), limit=limit, with_payload=True
            )
        return best_first((hit.score, hit.payload or {}) for hit in result.points)

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        return await ends_of_history(self._scroll, scope.before(before, domain), limit, newest_first=newest_first)

    async def _scroll(self, index_filter: IndexFilter, limit: int, newest_first: bool) -> list[Mapping[str, Any]]:
        from qdrant_client import models

        order = models.OrderBy(key=OCCURRED_AT, direction=models.Direction.DESC if newest_first else models.Direction.ASC)
        async with _server_errors():
            points, _ = await self._client.scroll(
                self._collection, scroll_filter=_server_filter(index_filter), limit=limit, order_by=order, with_payload=True, with_vectors=False
            )
        return [point.payload or {} for point in points]

    async def count(self, scope: Scope) -> int:
        return await self._count(scope.everything())

    async def count_before(self, scope: Scope, before: datetime, domain: str) -> int:
        return await self._count(scope.before(before, domain))

    async def _count(self, index_filter: IndexFilter) -> int:
        async with _server_errors():
            return int((await self._client.count(self._collection, count_filter=_server_filter(index_filter), exact=True)).count)

    async def is_empty(self) -> bool:
        async with _server_errors():
            return int((await self._client.count(self._collection, exact=True)).count) == 0

    async def close(self) -> None:
        await self._client.close()

    async def _ensure(self, dimension: int, embedder: str, similarity: Similarity) -> None:
        from qdrant_client import models

        if await self._client.collection_exists(self._collection):
            await self._check(dimension, embedder, similarity)
        else:
            await self._client.create_collection(
                self._collection,
                vectors_config=models.VectorParams(size=dimension, distance=models.Distance(similarity.capitalize())),
                hnsw_config=models.HnswConfigDiff(m=0, payload_m=16),
                quantization_config=models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)),
                metadata={"embedder": embedder},
            )
        await self._index_fields()

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
        for field in indexed.keys() - (await self._client.get_collection(self._collection)).payload_schema.keys():
            await self._client.create_payload_index(self._collection, field, field_schema=indexed[field], wait=True)

    async def _check(self, dimension: int, embedder: str, similarity: Similarity) -> None:
        config = (await self._client.get_collection(self._collection)).config
        distance = getattr(config.params.vectors, "distance", None)
        stored = {
            "name": (config.metadata or {}).get("embedder"),
            "dimension": getattr(config.params.vectors, "size", None),
            "similarity": distance and distance.value.lower(),
        }
        wanted = {"name": embedder, "dimension": dimension, "similarity": str(similarity)}
        if stored != wanted:
            raise CannotContinue(f"collection {self._collection!r} has vectors of {stored}, not of {wanted}: choose another index.collection")


@asynccontextmanager
async def _server_errors() -> AsyncIterator[None]:
    """Turns client errors into ours: RetryLater for no connection, too many requests and server errors, CannotContinue for the rest."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResponseHandlingException as error:
        raise RetryLater(f"the Qdrant server does not answer: {type(error.source).__name__}") from error
    except UnexpectedResponse as error:
        if error.status_code == 429 or (error.status_code or 0) >= 500:
            raise RetryLater(f"the Qdrant server answers {error.status_code}") from error
        raise CannotContinue(f"the Qdrant server refuses: {error.status_code} {error.reason_phrase}") from error


def _server_filter(index_filter: IndexFilter) -> models.Filter:
    from qdrant_client import models

    conditions: list[Any] = [models.FieldCondition(key=field, match=models.MatchValue(value=value)) for field, value in index_filter.equal.items()]
    if index_filter.before_us is not None:
        conditions.append(models.FieldCondition(key=OCCURRED_AT, range=models.Range(gte=index_filter.from_us, lt=index_filter.before_us)))
    blank = models.FieldCondition(key=BLANK, match=models.MatchValue(value=IS_BLANK))
    return models.Filter(must=conditions, must_not=None if index_filter.blank else [blank])
