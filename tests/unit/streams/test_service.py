"""What ends the process. Nothing here connects: the app is made, not started."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings, load
from streams.service import Stores, StreamsService
from tests.support.streams_fakes import MemoryIndex, WordEmbedder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(kafka={"bootstrap_servers": "127.0.0.1:1"}, stack={"dir": tmp_path}, streams={"stall_timeout_s": 0.3})


async def supervised(service: StreamsService) -> None:
    await asyncio.wait_for(service.supervise(threading.Event()), 30)


async def test_a_failed_processor_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    service._fail(KeyError("bug"))
    with pytest.raises(CannotContinue, match="streaming failed: KeyError"):
        await supervised(service)


async def test_a_call_that_does_not_return_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    service._runners[1].attempt_since = time.monotonic() - 1
    with pytest.raises(CannotContinue, match="retrieval made no progress"):
        await supervised(service)


async def test_a_group_that_never_settles_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    with pytest.raises(CannotContinue, match="did not settle"):
        await supervised(service)


async def test_a_crash_of_faust_ends_the_service(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    await service._app.crash(ConnectionError("gone"))
    with pytest.raises(CannotContinue, match="ConnectionError"):
        await supervised(service)


async def test_a_stop_is_not_a_failure(settings: Settings) -> None:
    service = StreamsService(settings, WordEmbedder(), Stores(MemoryIndex(), MemoryIndex()), partitions=2)
    stop = threading.Event()
    stop.set()
    await service.supervise(stop)
