"""The history index inside this process: a Qdrant Edge shard in a directory. One process opens it at a time.

Durability, measured 2026-11-21 on qdrant-edge-py 0.9.0: `update` writes to the write-ahead log before it returns, so
an update survives kill -9. An fsync of that log (5 ms) makes it survive a crash of the machine. `flush` persists the segments, to bound the log that the next
start replays (3,000 points: 0.2 s). It holds the GIL: at 300,000 points for 23 ms after 1,000 new points, 51 ms after 4,000, 160 ms after 10,000 (2026-12-01).

Edge reads a payload from its file when a search needs it, and for a filter on a field without an index those of all the user's items. So every field of the
filters is indexed, which halves a search, and the files are read once before the shard is opened. Without both, each of the first 300 searches waited 69 times
for the disk; with the indexes 9 times; with both never (300,000 points of 3,000 users, nothing in the page cache, 2026-12-01).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.errors import CannotContinue
from infra.settings.stream import Similarity
from schemas.contexts import HistoryItem
from streams.index.history_index import SearchRequest
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
    import qdrant_edge

#: A flush stops every query of the process. It is short after few points, but about 100 of its writes wait for the disk (65 msync, 34 fsync), so on a slow disk
#: it takes hundreds of milliseconds whatever it writes. So a flush starts after FLUSH_EVERY_POINTS points if flushes take at most FLUSH_SHARE of the time, and
#: after MOST_UNFLUSHED points in any case, because the next start replays them.
FLUSH_EVERY_POINTS, MOST_UNFLUSHED = 2_000, 20_000
FLUSH_SHARE = 0.03
#: Points of one update. It holds the GIL for 35 us a point; between two the event loop runs.
UPDATED_AT_ONCE = 32
#: Segments that a thread of the log prepares, and renames at any time. No record is in one.
PREPARED = "tmp-"
#: Payloads that are read before the shard is opened, at most: those of two million items of 450 bytes.
READ_BYTES = 1 << 30
#: Points that are read in time order on the event loop.
SCROLLED_AT_ONCE = 20


class EdgeIndex:
    """Opens or creates the shard below `directory`. Blocks while it replays the log. Close it to unlock the directory."""

    def __init__(self, directory: Path, *, dimension: int, embedder: str, similarity: Similarity = Similarity.COSINE) -> None:
        self._directory = directory
        self._unflushed = 0
        self._flushed_at, self._flush_s = 0.0, 0.0  # end (monotonic) and duration of the last flush
        self._writing = asyncio.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        _check_embedder(directory / "embedder.json", {"name": embedder, "dimension": dimension, "similarity": str(similarity)})
        self._shard = _open(directory / "shard", dimension, similarity)

    async def upsert(self, points: Sequence[Point]) -> None:
        if not points:
            return
        async with self._writing:
            await asyncio.to_thread(self._write, points)

    async def stored(self, ids: Sequence[UUID]) -> Mapping[UUID, StoredPoint]:
        # On the event loop: a call takes less than a change of thread.
        if not ids:
            return {}
        points = self._shard.retrieve(list(ids), with_payload=True, with_vector=False)
        return {UUID(str(point.id)): stored_point(point.payload or {}) for point in points}

    async def search(self, scope: Scope, vector: Vector, before: datetime, domain: str, limit: int) -> list[HistoryItem]:
        return self._search(SearchRequest(scope, vector, before, domain, limit))

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        """Searches one after another on the event loop, which others get in between.

        Edge's `query` and `query_batch` hold the GIL until they return, so a thread would not free the event loop. `query_batch` takes as much CPU for one
        search and a tenth less for each of 16, but holds the GIL for all of them at once (300,000 points, 2026-12-01).
        """
        found: list[list[HistoryItem]] = []
        for request in requests:
            if found:
                await asyncio.sleep(0)
            found.append(self._search(request))
        return found

    def _search(self, request: SearchRequest) -> list[HistoryItem]:
        import qdrant_edge as edge

        query = edge.Query.Nearest(request.vector.tolist())
        asked = edge.QueryRequest(limit=request.limit, query=query, filter=_edge_filter(request.filter), with_payload=True)
        return best_first((hit.score, hit.payload or {}) for hit in self._shard.query(asked))

    async def in_time_order(self, scope: Scope, before: datetime, domain: str, limit: int, *, newest_first: bool = False) -> list[HistoryItem]:
        return await ends_of_history(self._scroll, scope.before(before, domain), limit, newest_first=newest_first)

    async def _scroll(self, index_filter: IndexFilter, limit: int, newest_first: bool) -> list[Mapping[str, Any]]:
        # 1,000 points take 7 ms, so more than a few are read in a thread.
        if limit <= SCROLLED_AT_ONCE:
            return self._scrolled(index_filter, limit, newest_first)
        return await asyncio.to_thread(self._scrolled, index_filter, limit, newest_first)

    def _scrolled(self, index_filter: IndexFilter, limit: int, newest_first: bool) -> list[Mapping[str, Any]]:
        import qdrant_edge as edge

        order = edge.OrderBy(OCCURRED_AT, edge.Direction.Desc if newest_first else edge.Direction.Asc)
        points, _ = self._shard.scroll(edge.ScrollRequest(limit=limit, filter=_edge_filter(index_filter), order_by=order, with_payload=True))
        return [point.payload or {} for point in points]

    async def count(self, scope: Scope) -> int:
        return self._count(scope.everything())

    async def count_before(self, scope: Scope, before: datetime, domain: str) -> int:
        return self._count(scope.before(before, domain))

    def _count(self, index_filter: IndexFilter) -> int:
        import qdrant_edge as edge

        return int(self._shard.count(edge.CountRequest(filter=_edge_filter(index_filter), exact=True)))

    async def is_empty(self) -> bool:
        return int(self._shard.info().points_count) == 0

    async def close(self) -> None:
        async with self._writing:
            self._shard.flush()
            self._shard.close()

    def _write(self, points: Sequence[Point]) -> None:
        import qdrant_edge as edge

        for start in range(0, len(points), UPDATED_AT_ONCE):
            rows = [edge.Point(point.id, point.vector.tolist(), point.payload()) for point in points[start : start + UPDATED_AT_ONCE]]
            self._shard.update(edge.UpdateOperation.upsert_points(rows))
            time.sleep(0)  # releases the GIL
        self._sync_log()
        self._unflushed += len(points)
        if is_flush_due(self._unflushed, time.monotonic() - self._flushed_at, self._flush_s):
            began = time.monotonic()
            self._shard.flush()
            self._flushed_at = time.monotonic()
            self._unflushed, self._flush_s = 0, self._flushed_at - began

    def _sync_log(self) -> None:
        for segment in (self._directory / "shard" / "wal").iterdir():
            if segment.name.startswith(PREPARED):
                continue
            descriptor = os.open(segment, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def is_flush_due(unflushed: int, since_s: float, last_s: float) -> bool:
    """`since_s`: since the end of the last flush, which took `last_s`."""
    return unflushed >= MOST_UNFLUSHED or (unflushed >= FLUSH_EVERY_POINTS and last_s <= FLUSH_SHARE * since_s)


def _open(path: Path, dimension: int, similarity: Similarity) -> qdrant_edge.EdgeShard:
    import qdrant_edge as edge

    try:
        if (path / "edge_config.json").exists():
            read_payloads(path)
            shard = edge.EdgeShard.load(str(path))
        else:
            distance = edge.Distance.Cosine if similarity is Similarity.COSINE else edge.Distance.Dot
            shard = edge.EdgeShard.create(str(path), edge.EdgeConfig(vectors=edge.EdgeVectorParams(size=dimension, distance=distance)))
    except Exception as error:  # the binding raises bare Exception for everything
        if "WouldBlock" in str(error):
            raise CannotContinue(f"index {path}: another process has opened it; stop that process, or set stack.dir to another directory") from error
        raise CannotContinue(f"index {path} cannot be opened: {error}; remove the directory, and the next start fills it from the topic") from error
    keyword = edge.PayloadSchemaType.Keyword
    times = edge.IntegerIndexParams(lookup=False, range=True)  # no filter asks for one time; an index for that would make writes slower
    indexed: dict[str, Any] = {TENANT: keyword, USER: keyword, DOMAIN: keyword, OCCURRED_AT: times, BLANK: keyword}
    for field in indexed.keys() - shard.info().payload_schema.keys():
        shard.update(edge.UpdateOperation.create_field_index(field, indexed[field]))
    return shard


def read_payloads(shard: Path, most: int = READ_BYTES) -> int:
    """Reads the payload files into the page cache, at most `most` bytes. Returns how many. Blocks: 136 MB take 0.1 s from a fast disk."""
    left = most
    with suppress(OSError):  # a search reads what is missing
        for file in sorted(shard.glob("segments/*/payload_storage/*")):
            with file.open("rb", buffering=0) as payloads:
                while left > 0 and (read := len(payloads.read(min(left, 1 << 20)))):
                    left -= read
    return most - left


def _edge_filter(index_filter: IndexFilter) -> qdrant_edge.Filter:
    import qdrant_edge as edge

    conditions: list[Any] = [edge.FieldCondition(field, match=edge.MatchValue(value)) for field, value in index_filter.equal.items()]
    if index_filter.before_us is not None:
        conditions.append(edge.FieldCondition(OCCURRED_AT, range=edge.RangeFloat(gte=index_filter.from_us, lt=index_filter.before_us)))
    return edge.Filter(must=conditions, must_not=None if index_filter.blank else [edge.FieldCondition(BLANK, match=edge.MatchValue(IS_BLANK))])


def _check_embedder(path: Path, embedder: dict[str, object]) -> None:
    """Vectors of two models cannot be compared, so the directory stores the name of the embedder, and the similarity that its shard computes."""
    if not path.exists():
        path.write_text(json.dumps(embedder))
    elif (stored := {"similarity": str(Similarity.COSINE)} | json.loads(path.read_text())) != embedder:  # older files have no similarity
        raise CannotContinue(
            f"index {path.parent} has vectors of {stored}, not of {embedder}; remove the directory, and the next start fills it from the topic"
        )
