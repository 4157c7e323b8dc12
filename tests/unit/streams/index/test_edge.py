"""The embedded index on a real shard: what only its files show."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from bench.ingest.bare_index import points_of
from bench.ingest.texts import interactions, short
from bench.ingest.vectors_given import ChecksumEmbedder
from streams.index.edge import EdgeIndex
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
