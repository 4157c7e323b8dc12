"""`retouch index rebuild` beside a running streams process, on a real Kafka and a stub of a Qdrant server, with the real embedder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from kafka import TopicPartition

from infra.kafka.clients import admin
from infra.settings import Settings, load
from schemas.interactions import Interaction
from schemas.topics import INTERACTIONS
from streams.index.server import open_client
from streams.index.tenant_filter import StoredPoint, point_id
from streams.rebuild.collections import Collection
from tests.support.own_broker import own_broker
from tests.support.qdrant_stub import QdrantStub, qdrant_stub
from tests.support.streams_process import WAIT_S, StreamsClient, StreamsProcess

pytestmark = [pytest.mark.integration, pytest.mark.long("starts processes and commands one after another"), pytest.mark.timeout(900)]

COMMAND_S = 300.0
#: The stub is slow while the machine is busy.
PATIENT = {"RETOUCH_INDEX__TIMEOUT_S": "60"}
LIVE = {"RETOUCH_INDEX__COLLECTION": "live"}


@dataclass
class Deployment:
    settings: Settings
    stub: QdrantStub
    client: StreamsClient
    streams: StreamsProcess
    sent: list[Interaction]

    def start(self, **environment: str) -> None:
        self.streams = self.process(**environment)
        self.streams.start()

    def process(self, **environment: str) -> StreamsProcess:
        return StreamsProcess(self.settings, QDRANT_URL=self.stub.url, **PATIENT, **environment)

    def send(self, *names: str) -> None:
        interactions = [self.client.interaction(name, user=f"user-{number % 5}") for number, name in enumerate(names)]
        self.client.send(INTERACTIONS, *interactions)
        self.sent += interactions

    def begin(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        own = {"KAFKA_BOOTSTRAP_SERVERS": self.settings.bootstrap_servers(), "QDRANT_URL": self.stub.url, "RETOUCH_STACK__DIR": str(self.settings.stack.dir)}
        command = [sys.executable, "-c", "from cli.app import main; main()", "index", *arguments, "--json"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | own | PATIENT | environment)

    def run(self, *arguments: str, **environment: str) -> tuple[int, Any]:
        """The exit code, with the JSON or the error."""
        begun = self.begin(*arguments, **environment)
        output, error = begun.communicate(timeout=COMMAND_S)
        return begun.returncode, json.loads(output) if output else error

    def points(self, collection: str) -> dict[UUID, StoredPoint]:
        async def read() -> dict[UUID, StoredPoint]:
            index = load(index={"url": self.stub.url}).index
            opened = Collection(open_client(index), collection, index)
            found: dict[UUID, StoredPoint] = {}
            if await opened.exists():
                async for page in opened.pages():
                    found |= page
            await opened.close()
            return found

        return asyncio.run(read())

    def target(self) -> str:
        async def read() -> str:
            opened = Collection(open_client(load(index={"url": self.stub.url}).index), "live", self.settings.index)
            found = await opened.targets()
            await opened.close()
            return found["live"]

        return asyncio.run(read())

    def wait_until_all_serve(self) -> None:
        wanted = {point_id(interaction) for interaction in self.sent}
        wait_for(lambda: wanted <= self.points("live").keys())


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Served through the alias `live`, which the streams process uses since its second start."""
    with own_broker(tmp_path_factory.mktemp("broker")) as broker, qdrant_stub(tmp_path_factory.mktemp("qdrant")) as stub:
        settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": tmp_path_factory.mktemp("state")})
        client = StreamsClient(settings)
        made = Deployment(settings, stub, client, StreamsProcess(settings), [])
        try:
            made.start()
            made.send(*(f"a film about the sea, part {n}" for n in range(40)))
            wait_for(lambda: len(made.points("history")) == 40)
            code, error = made.run("rebuild")
            assert code == 1 and "'history' on the Qdrant server is a collection, and no alias can have its name" in error
            assert made.run("alias", "live") == (0, {"aliases": {"live": "history", "live-profiles": "history-profiles"}})
            assert made.streams.stop() == 0
            made.start(**LIVE)
            yield made
        finally:
            client.close()
            if made.streams.is_running():
                made.streams.stop(signal.SIGKILL)


def test_the_alias_is_switched_while_interactions_arrive(deployment: Deployment) -> None:
    stop, before = threading.Event(), deployment.streams.process

    def users() -> None:
        number = 0
        while not stop.is_set():
            deployment.send(f"a film that came later, {number}")
            number += 1
            stop.wait(0.5)

    thread = threading.Thread(target=users)
    thread.start()
    try:
        code, report = deployment.run("rebuild", **LIVE, RETOUCH_INDEX__SHARDS="2")
    finally:
        stop.set()
        thread.join()
    assert code == 0, report
    assert deployment.target() == report["collection"] != report["former"] and report["left_out"] == []
    assert deployment.stub.creation_of(report["collection"])["shard_number"] == 2
    deployment.wait_until_all_serve()
    former, new = deployment.points(report["former"]), deployment.points("live")
    assert report["points"] == len(former) and {id: new[id] for id in former} == former
    assert deployment.streams.is_running() and deployment.streams.process is before
    deployment.client.send(INTERACTIONS, deployment.client.interaction("the sea after the switch"))
    context = deployment.client.context_with(deployment.client.query("the sea"), items=1)
    assert [item.content for item in context.items] == ["the sea after the switch"]


def test_a_killed_rebuild_is_continued(deployment: Deployment) -> None:
    deployment.stub.behave(slow_s=0.2)
    killed = deployment.begin("rebuild", "--into", "after-a-kill", **LIVE)
    wait_for(lambda: bool(deployment.points("after-a-kill")) or killed.poll() is not None)
    killed.kill()
    killed.communicate()
    deployment.stub.behave()
    assert deployment.target() != "after-a-kill" and killed.returncode == -signal.SIGKILL
    code, report = deployment.run("rebuild", "--into", "after-a-kill", **LIVE)
    assert code == 0, report
    assert deployment.target() == "after-a-kill" and deployment.points(report["former"]) == deployment.points("after-a-kill")
    assert deployment.run("rebuild", "--into", "after-a-kill", **LIVE)[1]["copied"] == 0


def test_offsets_that_retention_deleted_are_named(deployment: Deployment) -> None:
    deployment.wait_until_all_serve()
    serving = deployment.target()
    gone = [point.source for point in deployment.points("live").values() if point.source.offset < 3]
    client = admin(deployment.settings)
    client._client.delete_records({TopicPartition(INTERACTIONS.name, number): 3 for number in {source.partition for source in gone}})
    client.close()
    code, error = deployment.run("rebuild", "--into", "with-a-gap", **LIVE)
    assert code == 1 and f"the log lacks {len(gone)} items that {serving!r} has" in error
    assert all(f"interactions/{number}/0-2" in error for number in {source.partition for source in gone})
    assert deployment.target() == serving
    deployment.client.send(INTERACTIONS, *deployment.sent)  # the log has them again
    wait_for(lambda: deployment.run("rebuild", "--into", "with-a-gap", **LIVE)[0] == 0)
    assert deployment.target() == "with-a-gap"


def test_another_embedder_is_switched_between_stop_and_start(deployment: Deployment) -> None:
    deployment.send("a film about the war")
    deployment.wait_until_all_serve()
    serving, other = deployment.target(), LIVE | {"RETOUCH_EMBEDDER__DTYPE": "bfloat16"}
    code, error = deployment.run("rebuild", **other)
    assert code == 1 and "The alias is not switched: streams processes run with another embedder" in error
    assert deployment.target() == serving
    assert deployment.streams.stop() == 0
    deployment.send("a film that arrived while no process ran")
    code, report = deployment.run("rebuild", **other)
    assert code == 0, report
    assert report["copied"] == 0 and deployment.target() == report["collection"]
    deployment.start(**other)
    deployment.wait_until_all_serve()
    context = deployment.client.context_with(deployment.client.query("about the war", user="user-0"), items=6)
    assert "a film about the war" in {item.content for item in context.items}
