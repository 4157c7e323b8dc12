"""A collection of a Qdrant server with what a rebuild needs beside the index: all points, aliases, and the rebuild's progress in the collection's metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.errors import CannotContinue
from infra.settings.stream import IndexSettings, Similarity
from streams.index.collection_layout import Embedding
from streams.index.server import ServerIndex
from streams.index.tenant_filter import StoredPoint, stored_point

if TYPE_CHECKING:
    from qdrant_client import models

#: Points of one read. Less than the limits that servers in strict mode are commonly given.
PAGE = 256
#: Key of the progress in the metadata of a collection, beside the embedder's name.
REBUILD = "rebuild"

_LAYOUT = ("shards", "replication_factor", "write_consistency_factor", "vectors_on_disk", "payload_on_disk", "quantization")


class Progress(BaseModel):
    """How far a collection is filled. `serving`: the collection that it is compared with."""

    model_config = ConfigDict(frozen=True)

    serving: str
    positions: dict[int, int] = {}  # by partition: everything below is in the collection
    is_done: bool = False  # the alias leads to it, and it has all that the serving collection got until then


class Collection(ServerIndex):
    """By its own name or by an alias."""

    async def pages(self) -> AsyncIterator[Mapping[UUID, StoredPoint]]:
        """Every point, in the server's order."""
        offset: Any = None
        while True:
            points, offset = await self._send("read all points", self._page_from(offset))
            yield {UUID(str(point.id)): stored_point(point.payload or {}) for point in points}
            if offset is None:
                return

    def _page_from(self, offset: Any) -> Callable[[], Awaitable[tuple[list[models.Record], Any]]]:
        return lambda: self._client.scroll(self._collection, limit=PAGE, offset=offset, with_payload=True, with_vectors=False)

    async def exists(self) -> bool:
        return await self._exists()

    async def embedding(self) -> Embedding:
        """Raises CannotContinue for a collection that no streams process created."""
        config = (await self._info()).config
        name, vectors = (config.metadata or {}).get("embedder"), config.params.vectors
        if not isinstance(name, str) or vectors is None or isinstance(vectors, Mapping):
            raise CannotContinue(f"{self._place} is not a history index: its metadata names no embedder, or it has named vectors")
        return Embedding(name, vectors.size, Similarity(vectors.distance.value.lower()))

    async def progress(self) -> Progress | None:
        """None for a collection that no rebuild fills."""
        stored = ((await self._info()).config.metadata or {}).get(REBUILD)
        try:
            return None if stored is None else Progress.model_validate(stored)
        except ValidationError as error:
            raise CannotContinue(f"{self._place} has a progress in its metadata that this version cannot read: delete the collection") from error

    async def save(self, progress: Progress) -> None:
        metadata = {REBUILD: progress.model_dump(mode="json")}
        await self._send("store the progress", lambda: self._client.update_collection(self._collection, metadata=metadata))

    async def switch(self, targets: Mapping[str, str]) -> None:
        """Let each alias lead to its collection, all at once. Requests that the server has begun end on the former one."""
        from qdrant_client import models

        present = await self.targets()
        actions: list[models.AliasOperations] = []
        for alias, collection in targets.items():
            if alias in present:
                actions.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
            actions.append(models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias)))
        await self._send("switch the aliases", lambda: self._client.update_collection_aliases(actions))


def name_of(settings: IndexSettings, embedding: Embedding) -> str:
    """The alias with a digest of embedder and layout, so that the same settings continue the same collection."""
    fields = [*embedding, *(getattr(settings, field) for field in _LAYOUT)]
    return f"{settings.collection}-{hashlib.sha256(json.dumps(fields, default=str).encode()).hexdigest()[:8]}"
