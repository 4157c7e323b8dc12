"""The embedded index on a real shard: what only its files show."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from bench.ingest.bare_index import points_of
from bench.ingest.texts import interactions, short
from bench.ingest.vectors_given import ChecksumEmbedder
from streams.index.edge import FLUSH_EVERY_POINTS, FLUSH_SHARE, MOST_UNFLUSHED, UPDATED_AT_ONCE, EdgeIndex, is_flush_due
from streams.index.tenant_filter import IndexPoint, Scope


def test_a_write_does_not_wait_for_a_segment_that_the_log_prepares(tmp_path: Path) -> None:
    """The log renames such a file between our listing and our opening of it; a broken link is in the list and cannot be opened either."""
    embedder = ChecksumEmbedder()
    index = EdgeIndex(tmp_path, dimension=embedder.dimension, embedder=embedder.name)
    (tmp_path / "shard" / "wal" / "tmp-open-9").symlink_to("renamed")
    points = points_of(list(interactions(short(3), users=1)), 0, embedder)
    asyncio.run(_write_and_close(index, points[0].interaction.user, points))


async def _write_and_close(index: EdgeIndex, user: str, points: list[IndexPoint]) -> None:
    await index.upsert(points)
    found = await index.search(Scope("bench", user), points[0].vector, datetime(2100, 1, 1, tzinfo=UTC), points[0].interaction.domain, 6)
    assert len(found) == 3
    await index.close()


def test_a_slow_flush_is_rare_and_a_fast_one_frequent() -> None:
    assert not is_flush_due(FLUSH_EVERY_POINTS - 1, since_s=1e9, last_s=0.0)
    assert is_flush_due(FLUSH_EVERY_POINTS, since_s=1.01, last_s=FLUSH_SHARE)
    assert not is_flush_due(FLUSH_EVERY_POINTS, since_s=0.99, last_s=FLUSH_SHARE)
    assert is_flush_due(MOST_UNFLUSHED, since_s=0.0, last_s=10.0)


def test_a_write_of_several_updates_has_all_points(tmp_path: Path) -> None:
    embedder = ChecksumEmbedder()
    index = EdgeIndex(tmp_path, dimension=embedder.dimension, embedder=embedder.name)
    points = points_of(list(interactions(short(2 * UPDATED_AT_ONCE + 3), users=1)), 0, embedder)
    asyncio.run(index.upsert(points))
    assert asyncio.run(index.count(Scope("bench", points[0].interaction.user))) == len(points)
    asyncio.run(index.close())
