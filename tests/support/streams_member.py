"""`python -m tests.support.streams_member`: the streams process with a small embedder and an index in a file that several members share.

A file beside the index turns a fault on: `away` (calls raise RetryLater), `hangs` (a write does not return), `late` (a write begins once the file is
gone), `breaks` (a write raises an error), `still` (no records are fetched), `slow-seek` (after it sought to the committed offsets, the consumer takes two more
seconds to return).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.errors import RetryLater
from infra.process.lifecycle import run_process
from infra.settings import Settings
from schemas.contexts import HistoryItem
from streams.app.transport import BufferedConsumer
from streams.index.history_index import SearchRequest
from streams.index.tenant_filter import Point
from streams.service import Stores, open_or_lazy, serve
from tests.support.streams_fakes import MemoryIndex, WordEmbedder


class FileIndex(MemoryIndex):
    """Searches the points of this member. `points.jsonl` has a line per point of all members, one write per batch."""

    def __init__(self, directory: Path, member: str) -> None:
        super().__init__()
        self._member = member
        self._directory = directory
        self._check_available()
        self._file = os.open(directory / "points.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def upsert(self, points: Sequence[Point]) -> None:
        self._check_available()
        if self._has("hangs"):
            await asyncio.Event().wait()
        while self._has("late"):  # noqa: ASYNC110  # the test's process removes the file
            await asyncio.sleep(0.02)
        if self._has("breaks"):
            raise ValueError("a bug")
        await super().upsert(points)
        rows = ({"id": str(point.payload()["interaction_id"]), "by": self._member} for point in points)
        os.write(
            self._file, b"".join(b"\n" + json.dumps(row).encode() for row in rows) + b"\n"
        )  # begins with a line end: a kill may have truncated the last line

    async def search_batch(self, requests: Sequence[SearchRequest]) -> list[list[HistoryItem]]:
        self._check_available()
        return await super().search_batch(requests)

    async def is_empty(self) -> bool:
        return False  # no reading from the beginning

    def _check_available(self) -> None:
        if self._has("away"):
            raise RetryLater("the index is away")

    def _has(self, fault: str) -> bool:
        return (self._directory / fault).exists()


def run(settings: Settings, stop: threading.Event) -> None:
    directory = settings.stack.dir.parent
    getmany, perform_seek = BufferedConsumer._getmany, BufferedConsumer.perform_seek

    async def no_records_while_still(self: Any, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's signature
        if (directory / "still").exists():
            await asyncio.sleep(timeout)
            return {}
        return await getmany(self, active_partitions, timeout)

    async def slow_seek(self: Any) -> None:
        await perform_seek(self)
        if (directory / "slow-seek").exists():
            await asyncio.sleep(2)

    BufferedConsumer._getmany = no_records_while_still  # type: ignore[method-assign]
    BufferedConsumer.perform_seek = slow_seek
    asyncio.run(_serve(settings, stop, directory))


async def _serve(settings: Settings, stop: threading.Event, directory: Path) -> None:
    async def open_index() -> FileIndex:
        return FileIndex(directory, settings.kafka.instance or "")

    await serve(settings, stop, WordEmbedder(), Stores(await open_or_lazy(open_index), MemoryIndex()))


if __name__ == "__main__":
    sys.exit(run_process("streams-member", run))
