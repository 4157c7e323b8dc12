"""`python -m streams` on a real Kafka, with the real embedder and Qdrant Edge: started, stopped and killed as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from schemas.contexts import AfterStatus
from schemas.envelope import envelope_headers, read_message
from schemas.interactions import Interaction, Origin
from schemas.lookups import ItemOrder
from schemas.outcomes import Outcome
from schemas.topics import DRAFTS, FEEDBACK, INTERACTIONS, LOOKUPS, OUTCOMES, RESPONSES
from tests.support.streams_process import NOW, START_S, StreamsClient, StreamsProcess, draft, lookup, response, running
from traffic.platform import Platform

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def streams(broker: Any, state: Path) -> Iterator[StreamsProcess]:
    """One process for several tests: it takes seconds to load the model."""
    from infra.settings import load

    with running(load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": state})) as process:
        yield process


@pytest.fixture
def client(settings: Settings) -> Iterator[StreamsClient]:
    client = StreamsClient(settings)
    yield client
    client.close()


def test_a_draft_gets_only_its_users_nearest_items(streams: StreamsProcess, client: StreamsClient) -> None:
    other = f"{client.user}-other"
    own = [client.interaction(text) for text in ("a voyage across the stormy sea", "a court case about tax law", "sailors lost on the ocean")]
    later = client.interaction("the sea, seen after the question", at=NOW)
    theirs = [client.interaction(f"the sea, number {n}", user=other) for n in range(3)]
    client.send(INTERACTIONS, *own, later, *theirs)
    context = client.context_with(client.query("a film about the sea and sailors"), items=3)
    retrieved = [item.interaction_id for item in context.items]
    assert set(retrieved) == {interaction.interaction_id for interaction in own}
    assert retrieved[-1] == own[1].interaction_id
    assert [item.score for item in context.items] == sorted((item.score for item in context.items), reverse=True)
    for item in context.items:
        assert item.source.topic == "interactions"
    their_context = client.context_with(client.query("the sea", user=other), items=3)
    assert {item.interaction_id for item in their_context.items} == {interaction.interaction_id for interaction in theirs}


def test_a_query_after_an_interaction_finds_it_behind_others(streams: StreamsProcess, client: StreamsClient, settings: Settings) -> None:
    with Platform(settings) as platform:
        for number in range(5):
            platform.send_interactions(client.interaction(f"scene {n} of film {number}", user=f"{client.user}-{n}") for n in range(60))
            written = client.interaction(f"a voyage across the sea, part {number}")
            after = platform.send_interaction(written)
            query = client.query(written.content).model_copy(update={"after": after})
            client.send(DRAFTS, draft(query))
            client.send(LOOKUPS, asked := lookup(query))
            context, (retrieval, *_) = client.context_of(query), client.retrievals_of(asked)
            for answer in (context, retrieval):
                assert answer.after is AfterStatus.INDEXED
                assert written.interaction_id in {item.interaction_id for item in answer.items}


def test_every_lookup_gets_its_items_under_one_id_though_the_process_is_killed(streams: StreamsProcess, client: StreamsClient) -> None:
    days = ("a court case about tax law", "sailors lost on the ocean", "a voyage across the stormy sea")
    history = [client.interaction(text, at=NOW - timedelta(days=9 - day)) for day, text in enumerate(days)]
    theirs = client.interaction("the sea", user=f"{client.user}-other", at=NOW - timedelta(days=30))
    client.send(INTERACTIONS, *history, theirs, client.interaction("the sea, seen after the question", at=NOW))
    client.context_with(client.query("the sea"), items=3)
    question = "a film about the sea and sailors"
    asked = [lookup(client.query(question), order, k=2) for order in (ItemOrder.SIMILAR, ItemOrder.FIRST) for _ in range(40)]
    client.send(LOOKUPS, *asked[1::2])
    client.retrievals_of(asked[1])
    assert streams.stop(signal.SIGKILL) == -signal.SIGKILL
    client.send(LOOKUPS, *asked[::2])
    streams.start()
    similar, first = {history[1].interaction_id, history[2].interaction_id}, [history[0].interaction_id, history[1].interaction_id]
    for each in asked:
        for retrieval in client.retrievals_of(each):
            found = [item.interaction_id for item in retrieval.items]
            assert set(found) == similar if each.reads.items is ItemOrder.SIMILAR else found == first


def test_response_and_feedback_become_an_outcome_and_history(streams: StreamsProcess, client: StreamsClient) -> None:
    query = client.query("what shall I watch")
    client.send(FEEDBACK, client.feedback(query, "a quiet drama"))
    client.send(RESPONSES, response(query))
    outcome = client.wait_for(OUTCOMES.name, lambda r: Outcome.from_bytes(r.value).response.query_id == query.query_id)
    assert outcome.key == query.key
    assert read_message(Outcome, outcome.headers, outcome.value)[0].truth == "a quiet drama"
    record = client.wait_for(INTERACTIONS.name, lambda r: r.key == query.key)
    interaction = read_message(Interaction, record.headers, record.value)[0]
    assert (interaction.content, interaction.response, interaction.origin) == ("what shall I watch", "a quiet drama", Origin.FEEDBACK)
    later = client.query("what shall I watch").model_copy(update={"asked_at": NOW + timedelta(minutes=2)})
    assert [item.interaction_id for item in client.context_with(later, items=1).items] == [interaction.interaction_id]


def test_an_unreadable_record_is_dead_lettered_byte_for_byte(streams: StreamsProcess, client: StreamsClient) -> None:
    query = client.query("anything")
    headers = envelope_headers(draft(query), id="x", source="/test")
    broken = f"not json {uuid.uuid4()}".encode()
    client.send_raw("drafts", broken, headers)
    client.send_raw("lookups", broken, headers)
    client.send_raw("interactions", broken, [("ce_type", b"unknown.type.v1")])
    for topic in ("drafts-dlt", "lookups-dlt", "interactions-dlt"):
        dead_letter = client.wait_for(topic, lambda r: r.value == broken)
        assert dead_letter.key == b"odd key"
        reason_headers = dict(dead_letter.headers)
        assert reason_headers["kafka_dlt-original-topic"] == topic.removesuffix("-dlt").encode()
        assert reason_headers["kafka_dlt-exception-fqcn"] == b"schemas.messages.Malformed"
    assert list(client.wait_for("drafts-dlt", lambda r: r.value == broken).headers[: len(headers)]) == headers
    client.send(DRAFTS, draft(query))
    assert client.context_of(query).items == ()


def test_feedback_joins_only_its_own_users_query(streams: StreamsProcess, client: StreamsClient) -> None:
    query = client.query("mine alone")
    forged = client.feedback(query, "not mine", user=f"{client.user}-other")
    client.send(RESPONSES, response(query))
    client.send(FEEDBACK, forged, client.feedback(query, "mine"))
    outcome = client.wait_for(OUTCOMES.name, lambda r: r.key == query.key)
    assert Outcome.from_bytes(outcome.value).truth == "mine"
    other = client.query("theirs").model_copy(update={"query_id": query.query_id, "user": forged.user})
    client.send(RESPONSES, response(other))
    outcome = client.wait_for(OUTCOMES.name, lambda r: r.key == other.key)
    assert Outcome.from_bytes(outcome.value).truth == "not mine"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
def test_a_restart_keeps_history_and_pending_joins(streams: StreamsProcess, client: StreamsClient, signum: signal.Signals) -> None:
    response_first, feedback_first = client.query("response first"), client.query("feedback first")
    client.send(INTERACTIONS, client.interaction("a voyage across the sea"))
    client.send(RESPONSES, response(response_first))
    client.send(FEEDBACK, client.feedback(feedback_first, "early words"))
    marker = client.query("marker")  # same user: its outcome shows that the records before it are handled
    client.send(RESPONSES, response(marker))
    client.send(FEEDBACK, client.feedback(marker, "marker"))
    client.wait_for(OUTCOMES.name, lambda r: Outcome.from_bytes(r.value).response.query_id == marker.query_id)
    client.context_with(client.query("the sea"), items=1)
    assert streams.stop(signum) == (0 if signum is signal.SIGTERM else -signal.SIGKILL)
    streams.start()
    client.send(FEEDBACK, client.feedback(response_first, "late words"))
    client.send(RESPONSES, response(feedback_first))
    for query, truth in ((response_first, "late words"), (feedback_first, "early words")):
        outcome = client.wait_for(OUTCOMES.name, lambda r, q=query: Outcome.from_bytes(r.value).response.query_id == q.query_id)  # type: ignore[misc]
        assert Outcome.from_bytes(outcome.value).truth == truth
    assert client.context_with(client.query("the sea"), items=1).items


def test_no_log_holds_users_text(streams: StreamsProcess, client: StreamsClient) -> None:
    secret = f"secret{uuid.uuid4().hex}"
    client.send(INTERACTIONS, client.interaction(secret))
    client.context_with(client.query(secret), items=1)
    client.send_raw("drafts", secret.encode(), [])
    client.wait_for("drafts-dlt", lambda r: r.value == secret.encode())
    assert secret not in streams.log()


def test_a_lost_index_is_filled_again_from_the_topic(settings: Settings, streams: StreamsProcess, client: StreamsClient) -> None:
    client.send(INTERACTIONS, client.interaction("a voyage across the sea"))
    client.context_with(client.query("the sea"), items=1)
    assert streams.stop() == 0
    with running(settings) as elsewhere:  # its state directory is empty
        assert client.context_with(client.query("the sea"), items=1).items
        assert "an index is empty: reading its topic from the beginning" in elsewhere.log()


def test_an_impossible_setting_ends_the_process_with_one_line(tmp_path: Path) -> None:
    env = os.environ | {"RETOUCH_STACK__DIR": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": ""}
    process = subprocess.run([sys.executable, "-m", "streams"], env=env, capture_output=True, timeout=START_S, check=False)
    assert process.returncode == 2
    assert b"kafka.bootstrap_servers" in process.stderr
