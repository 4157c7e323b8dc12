"""The streams process on a Qdrant server that is killed, wiped, shared, restricted or slow. On a stub, or on the server that QDRANT_URL names."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.broker import Broker
from schemas.contexts import RetrievalStatus
from tests.support.own_broker import own_broker
from tests.support.qdrant_scenarios import USERS, QdrantScenario

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

KEY, READ_ONLY, WRONG = "key-of-the-writer", "key-of-the-reader", "key-of-nobody"
IN_CONTRACT = pytest.mark.long("the contract suite covers this failure; with whole processes each takes half a minute on a busy machine")
RETRIES = "attempt failed; retrying"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A separate broker: each test has a group that reads all interactions."""
    with own_broker(tmp_path_factory.mktemp("qdrant")) as running_broker:
        yield running_broker


@pytest.fixture
def scenario(broker: Broker, tmp_path: Path) -> Iterator[QdrantScenario]:
    scenario = QdrantScenario(broker, tmp_path)
    yield scenario
    scenario.close()


@pytest.mark.parametrize(
    "away_s", [pytest.param(3, id="seconds"), pytest.param(30, id="half a minute", marks=pytest.mark.long("the server stays away for half a minute"))]
)
def test_a_server_that_is_killed_during_ingest_misses_nothing(scenario: QdrantScenario, away_s: float) -> None:
    stub = scenario.only_stub("killed")
    with scenario.process() as streams:
        streams.start()
        scenario.send(400)
        scenario.wait_until(lambda: scenario.indexed() > 0, "ingest has begun")
        stub.kill()
        scenario.send(100)
        back_at = time.monotonic() + away_s
        scenario.wait_for_retrieval(RetrievalStatus.INDEX_AWAY)
        while time.monotonic() < back_at:
            assert scenario.contexts()[0].retrieval is RetrievalStatus.INDEX_AWAY, "answers go out without items"
        stub.start()
        scenario.wait_until_indexed()
        scenario.wait_for_retrieval(RetrievalStatus.SEARCHED)
        assert streams.is_running() and "cannot be reached" in streams.log()
        scenario.wait_until(lambda: all(len(context.items) == 6 for context in scenario.contexts(USERS)), "each user's context has six items")


@pytest.mark.long("processes start and stop for a minute")
def test_a_server_that_was_wiped_is_filled_from_the_log(scenario: QdrantScenario) -> None:
    with scenario.process() as streams:
        streams.start()
        scenario.send(100)
        scenario.wait_until_indexed()
        scenario.drop_collections()
        scenario.send(20)
        assert streams.wait() == 1
        assert "is gone" in streams.log() and scenario.url in streams.log()
        streams.start()
        scenario.wait_until_indexed()


def test_two_processes_share_a_server_and_one_takes_over_from_the_other(scenario: QdrantScenario) -> None:
    with scenario.process("one") as first, scenario.process("two") as second:
        first.launch()
        second.launch()
        first.wait_until_ready()
        second.wait_until_ready()
        scenario.send(200)
        scenario.wait_until_indexed()
        scenario.wait_until(lambda: all(context.items for context in scenario.contexts(USERS)), "each process finds what the other one wrote")
        assert first.stop(signal.SIGKILL) == -signal.SIGKILL
        scenario.send(60)
        scenario.wait_until_indexed()
        assert second.is_running()


@pytest.mark.long("processes start and stop for a minute")
def test_a_member_with_another_collection_is_refused_but_not_one_with_an_alias(scenario: QdrantScenario) -> None:
    other, alias = f"{scenario.collection}-other", f"{scenario.collection}-alias"
    with scenario.process("one") as first, scenario.process("two", collection=other) as second, scenario.process("two", collection=alias) as third:
        first.start()
        second.launch()
        assert second.wait() == 1
        log = second.log()
        assert f"'{other}' at {scenario.url}) cannot join" in log and f"'{scenario.collection}' at {scenario.url}) fills another index" in log
        with scenario.aliases(alias, other):
            third.start()
            assert first.is_running()


@IN_CONTRACT
def test_strict_mode_takes_what_the_streams_ask(scenario: QdrantScenario) -> None:
    with scenario.process() as streams:
        streams.start()
        scenario.be_strict(largest_limit=1_000)  # retrieval.scan_items
        scenario.send(100)
        scenario.wait_until_indexed()
        (context,) = scenario.contexts()
        assert context.retrieval is RetrievalStatus.SEARCHED and len(context.items) == 6
        scenario.be_strict(largest_limit=5)  # a context has 6
        scenario.wait_for_retrieval(RetrievalStatus.INDEX_AWAY)
        assert "strict mode refuses it" in streams.log() and streams.is_running()
        scenario.be_strict(largest_limit=1_000)
        scenario.wait_for_retrieval(RetrievalStatus.SEARCHED)


@IN_CONTRACT
def test_with_a_read_only_key_history_waits_and_searches_go_on(scenario: QdrantScenario) -> None:
    stub = scenario.only_stub("given keys")
    with scenario.process(api_key=KEY) as streams:
        streams.start()
        scenario.send(100)
        scenario.wait_until_indexed()
        assert streams.stop() == 0
    stub.behave(read_only_key=READ_ONLY)
    with scenario.process(api_key=READ_ONLY) as streams:
        streams.start()
        scenario.send(20)
        scenario.wait_until(lambda: RETRIES in streams.log(), "history retries its write")
        assert "the API key lacks the right" in streams.log()
        scenario.wait_until(lambda: all(context.items for context in scenario.contexts(USERS)), "searches go on")
        assert scenario.indexed() == 100
        stub.behave()
        scenario.wait_until_indexed()
        assert READ_ONLY not in streams.log()


@IN_CONTRACT
def test_with_a_wrong_key_answers_go_out_and_nothing_is_lost(scenario: QdrantScenario) -> None:
    stub = scenario.only_stub("given keys")
    stub.behave(api_key=KEY)
    with scenario.process(api_key=WRONG) as streams:
        streams.start()
        scenario.send(100)
        assert {context.retrieval for context in scenario.contexts(USERS)} == {RetrievalStatus.INDEX_AWAY}
        scenario.wait_until(lambda: RETRIES in streams.log(), "history retries its write")
        assert "does not accept the API key (401); correct index.api_key" in streams.log() and WRONG not in streams.log()
        assert streams.stop() == 0
    with scenario.process(api_key=KEY) as streams:
        streams.start()
        stub.behave()
        scenario.wait_until_indexed()


@pytest.mark.parametrize(
    ("behaviour", "text", "status"),
    [
        pytest.param({"replicas_answer": False}, "too few replicas answer", RetrievalStatus.INDEX_AWAY, id="replicas", marks=IN_CONTRACT),
        pytest.param({"slow_s": 60.0}, "no answer in time", RetrievalStatus.INDEX_AWAY, id="slow", marks=IN_CONTRACT),
        pytest.param({"is_busy": True}, "too many requests", RetrievalStatus.INDEX_AWAY, id="busy", marks=IN_CONTRACT),
        pytest.param({"disk_is_full": True}, "its disk is full", RetrievalStatus.SEARCHED, id="disk", marks=IN_CONTRACT),
    ],
)
def test_a_server_in_trouble_is_named_and_misses_nothing(scenario: QdrantScenario, behaviour: dict[str, Any], text: str, status: RetrievalStatus) -> None:
    stub = scenario.only_stub("disturbed")
    with scenario.process(timeout_s="5") as streams:
        streams.start()
        scenario.send(60)
        scenario.wait_until_indexed()
        stub.behave(**behaviour)
        scenario.send(60)
        scenario.wait_until(lambda: text in streams.log(), f"the log has {text!r}")
        assert {context.retrieval for context in scenario.contexts(USERS)} == {status}
        assert streams.is_running()
        stub.behave()
        scenario.wait_until_indexed()
        scenario.wait_for_retrieval(RetrievalStatus.SEARCHED)
