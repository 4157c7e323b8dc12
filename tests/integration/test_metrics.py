"""What `/metrics` shows of running processes: the records of each processor of streams, and the lag of every consumer group."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from infra.local.broker import Broker
from infra.settings import Settings
from schemas.topics import DRAFTS, FEEDBACK, INTERACTIONS, LOOKUPS, PROFILES, QUERIES, RESPONSES
from streams.app.topology import CONSUMED
from streams.history.processor import HistoryProcessor
from streams.outcomes.processor import OutcomesProcessor
from streams.profiles.processor import ProfileProcessor
from streams.retrieval.processor import LookupKind, RetrievalProcessor
from tests.support.metrics_page import WAIT_S, address, samples, wait_until
from tests.support.openai_server import ScriptedAnswer, completion, serving
from tests.support.own_broker import own_broker
from tests.support.streams_process import StreamsClient, draft, lookup, response, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PROCESSORS = {HistoryProcessor.name, RetrievalProcessor.name, ProfileProcessor.name, OutcomesProcessor.name, *(f"lookups_{kind}" for kind in LookupKind)}
LAG, AGE = "retouch_group_lag_records", "retouch_group_oldest_age_seconds"
PORT = {"RETOUCH_TELEMETRY__HTTP_PORT": "0"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Without records of other tests, which would count too."""
    with own_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def client(settings: Settings) -> Iterator[StreamsClient]:
    with closing(StreamsClient(settings)) as client:
        yield client


def lag(url: str, group: str, topic: str) -> float | None:
    """Of all partitions of the topic. None without a series."""
    return samples(url, LAG, "group", "topic").get((group, topic))


def oldest_s(url: str, topic: str) -> float:
    return max(value for (of, _), value in samples(url, AGE, "topic", "partition").items() if of == topic)


def test_streams_counts_the_records_of_every_processor(client: StreamsClient, settings: Settings) -> None:
    with running(settings, "tests.support.streams_member", **PORT) as process:
        url, query = address(process), client.query("the sea")
        client.send(INTERACTIONS, client.interaction("a storm"), client.interaction("a calm"))
        client.send(DRAFTS, draft(query))
        client.send(LOOKUPS, lookup(query))
        client.send(RESPONSES, response(query))
        client.send(FEEDBACK, client.feedback(query, "comedy"))
        client.send_raw(PROFILES.name, b"not json", [])
        counted = {
            **{(name, "done"): 1.0 for name in PROCESSORS - {"profiles"}},
            ("history", "done"): 3.0,  # the feedback is an interaction too
            ("outcomes", "done"): 2.0,
            ("profiles", "set_aside"): 1.0,
        }
        name = "retouch_streams_records_total"
        wait_until(lambda: samples(url, name, "processor", "outcome") == counted, f"not {counted}")
        assert process.stop() == 0


def test_the_lag_of_streams_grows_while_its_index_is_away_and_ends_after_it(client: StreamsClient, settings: Settings, tmp_path: Path) -> None:
    with running(settings, "tests.support.streams_member", **PORT) as process:
        url, read = address(process), set(CONSUMED)
        wait_until(lambda: lag(url, "retouch-streams", INTERACTIONS.name) == 0, "the lag is not 0 at the start")
        (tmp_path / "away").touch()
        client.send(INTERACTIONS, *(client.interaction(str(number)) for number in range(4)))
        began = time.time()
        wait_until(lambda: lag(url, "retouch-streams", INTERACTIONS.name) == 4, "the lag is not 4 without an index")
        wait_until(lambda: oldest_s(url, INTERACTIONS.name) > 6, "the records grow no older")
        assert oldest_s(url, INTERACTIONS.name) <= time.time() - began + 1
        assert {topic for _, topic in samples(url, LAG, "group", "topic")} <= read
        (tmp_path / "away").unlink()
        wait_until(lambda: lag(url, "retouch-streams", INTERACTIONS.name) == 0, "the lag remains although the index is back")
        wait_until(lambda: oldest_s(url, INTERACTIONS.name) == 0, "an age remains although everything is handled")
        assert process.stop() == 0


def test_the_lag_of_a_worker_grows_while_its_endpoint_does_not_answer(client: StreamsClient, settings: Settings) -> None:
    may_answer = threading.Event()

    def respond(_: object) -> ScriptedAnswer:
        may_answer.wait(WAIT_S)
        return completion("comedy")

    with serving(respond) as endpoint, running(settings, "workers base", OPENAI_BASE_URL=endpoint.url, **PORT) as process:
        url = address(process)
        client.send(QUERIES, *(client.query(str(number)) for number in range(3)))
        wait_until(lambda: lag(url, "retouch-base", QUERIES.name) == 3, "the lag is not 3 without answers")
        wait_until(lambda: oldest_s(url, QUERIES.name) > 0, "the queries grow no older")
        may_answer.set()
        wait_until(lambda: lag(url, "retouch-base", QUERIES.name) == 0, "the lag remains although all are answered")
        assert process.stop() == 0


def test_online_quality_shows_its_lag(client: StreamsClient, settings: Settings) -> None:
    client.send(RESPONSES, *(response(client.query(str(number))) for number in range(3)))
    with running(settings, "streams quality", **PORT) as process:
        url = address(process)
        counted = lambda: samples(url, "retouch_quality_records_total", "topic").get((RESPONSES.name,), 0.0) >= 3  # noqa: E731
        wait_until(counted, "the responses are not counted")
        wait_until(lambda: lag(url, "retouch-quality", RESPONSES.name) == 0, "no lag of responses, or not 0")
        assert process.stop() == 0
