"""Two streams processes with an index inside each are one too many. Two state directories and instance names stand for two hosts."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.topics import INTERACTIONS
from tests.support.own_broker import own_broker
from tests.support.streams_process import StreamsClient, StreamsProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

MODULE = "tests.support.small_streams"
SESSION_MS = 6_000
WITHIN_S = 120.0
#: In the log of a process that begins to consume, and of a member whose group another process joins.
CONSUMER_STARTS, REBALANCE = "BufferedConsumer]: Starting", "because it is rebalancing"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A separate broker: these tests leave members in the streams' group."""
    with own_broker(tmp_path_factory.mktemp("one-index")) as running_broker:
        yield running_broker


def on_host(broker: Broker, directory: Path, host: str) -> Settings:
    kafka = {"bootstrap_servers": broker.bootstrap_servers, "instance": host, "session_timeout_ms": SESSION_MS}
    return load(kafka=kafka, stack={"dir": directory / host})


def process(settings: Settings, module: str = MODULE) -> StreamsProcess:
    more = {"RETOUCH_KAFKA__INSTANCE": settings.kafka.instance or "", "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": str(SESSION_MS)}
    return StreamsProcess(settings, module, **more)


def refusal_of(refused: StreamsProcess) -> str:
    """The log of a process that ends by itself with exit code 1."""
    assert refused.wait(WITHIN_S) == 1, refused.log()
    return refused.log()


def assert_names_both(log: str, first: StreamsProcess, first_host: str, refused: StreamsProcess, refused_host: str) -> None:
    assert first.process and refused.process
    assert f"this process ({refused_host}, pid {refused.process.pid}, with the index in" in log
    assert f"its member ({first_host}, pid {first.process.pid}, with the index in" in log
    assert "set index.url (QDRANT_URL) and index.collection of both to one collection" in log


@pytest.mark.parametrize(("second", "joins"), [(MODULE, False), (f"{MODULE} unchecked", True)], ids=["before it joins", "by the leader"])
def test_a_second_embedded_index_is_refused_and_the_first_goes_on(broker: Broker, tmp_path: Path, second: str, joins: bool) -> None:
    one, two = on_host(broker, tmp_path, "one"), on_host(broker, tmp_path, "two")
    with ExitStack() as ending:
        first = process(one)
        ending.callback(first.end)
        first.start()
        refused = process(two, second)
        ending.callback(refused.end)
        refused.launch()
        assert_names_both(refusal_of(refused), first, "one", refused, "two")
        client = StreamsClient(one)
        ending.callback(client.close)
        items = [client.interaction(f"about {n}") for n in range(12)]
        client.send(INTERACTIONS, *items)
        assert len(client.context_with(client.query("about"), 6).items) == 6
        assert first.is_running()
        assert (CONSUMER_STARTS in refused.log()) is joins and CONSUMER_STARTS in first.log()
        assert (REBALANCE in first.log()) is joins, first.log()


def test_of_two_that_start_at_once_one_is_refused(broker: Broker, tmp_path: Path) -> None:
    hosts = {host: process(on_host(broker, tmp_path, host)) for host in ("three", "four")}
    with ExitStack() as ending:
        for each in hosts.values():
            ending.callback(each.end)
            each.launch()
        deadline = time.monotonic() + WITHIN_S
        while all(each.is_running() for each in hosts.values()):
            assert time.monotonic() < deadline, {host: each.log() for host, each in hosts.items()}
            time.sleep(0.1)
        (refused,) = (host for host, each in hosts.items() if not each.is_running())
        (first,) = hosts.keys() - {refused}
        assert_names_both(refusal_of(hosts[refused]), hosts[first], first, hosts[refused], refused)
        hosts[first].wait_until_ready()


def test_a_process_that_was_killed_starts_again(broker: Broker, tmp_path: Path) -> None:
    settings = on_host(broker, tmp_path, "five")
    with ExitStack() as ending:
        first = process(settings)
        ending.callback(first.end)
        first.start()
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        first.start()


def test_another_host_takes_over_once_the_session_of_the_killed_one_ends(broker: Broker, tmp_path: Path) -> None:
    with ExitStack() as ending:
        killed = process(on_host(broker, tmp_path, "six"))
        ending.callback(killed.end)
        killed.start()
        assert killed.stop(signal.SIGKILL) == -signal.SIGKILL
        heir = process(on_host(broker, tmp_path, "seven"))
        ending.callback(heir.end)
        heir.start()
