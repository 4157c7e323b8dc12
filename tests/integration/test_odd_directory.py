"""State directories of any name. The registry's tests run in such a directory too (tests/unit/infra/registry/test_client.py)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from infra.kafka import clients
from infra.kafka.topic_reader import TopicReader
from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.interactions import Interaction
from schemas.positions import Source
from streams.index.edge import EdgeIndex
from streams.index.tenant_filter import IndexPoint, LoggedInteraction, Scope
from tests.support.odd_names import ODD

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

WAIT_S = 60.0


def test_a_state_directory_of_any_name_works_and_nothing_is_written_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, working, cache = tmp_path / ODD, tmp_path / "working", tmp_path / f"cache {ODD}"
    cache.symlink_to(load().stack.cache_dir.resolve())
    working.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setenv("LC_ALL", "C")  # in which Java would not find a folder whose name is not ASCII
    before = sorted(tmp_path.iterdir())
    settings = load(stack={"dir": directory, "cache_dir": cache})
    with Broker(settings) as broker:
        _send_and_read(settings.changed(kafka={"bootstrap_servers": broker.bootstrap_servers}))
    asyncio.run(_index_and_search(settings))
    assert sorted(tmp_path.iterdir()) == sorted([*before, directory]) and not list(working.iterdir())
    assert {path.name for path in directory.iterdir()} == {"kafka", "logs", "index"}
    assert {path.name for path in (directory / "kafka").iterdir()} == {"data", "jars", "server.properties"}


def _send_and_read(settings: Settings) -> None:
    client = clients.admin(settings)
    client.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    client.close()
    producer = clients.producer(settings, "test")
    producer.send("kept", value=b"v").get(timeout=WAIT_S)
    producer.close()
    with TopicReader(settings, "test") as reader:
        assert [record.value for record in reader.read(reader.ranges("kept"))] == [b"v"]


async def _index_and_search(settings: Settings) -> None:
    ada = {"tenant": "local", "user": "ada", "domain": "movie_tag"}
    interaction = Interaction.observed(**ada, source_id=1, content="a film", response="comedy", occurred_at=datetime.now(UTC))
    point = IndexPoint(LoggedInteraction(interaction, Source(topic="interactions", partition=0, offset=0)), np.full(4, 0.5, dtype=np.float32))
    for _ in range(2):
        index = EdgeIndex(settings.index_dir, dimension=4, embedder="test")
        await index.upsert([point])
        assert await index.count(Scope("local", "ada")) == 1
        await index.close()
