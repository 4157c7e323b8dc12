"""`python -m streams` on a real Kafka, with the real embedder and Qdrant Edge: started, fed, stopped and killed as a process."""

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
from schemas.envelope import envelope_headers, read_message
from schemas.interactions import Interaction, Origin
from schemas.outcomes import Outcome
from schemas.topics import DRAFTS, FEEDBACK, INTERACTIONS, OUTCOMES, RESPONSES
from tests.support.streams_process import NOW, START_S, Platform, Streams, draft, response, running

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def streams(broker: Any, state: Path) -> Iterator[Streams]:
    """One process for the tests that leave it running: loading the model takes seconds."""
    from infra.settings import load

    with running(load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": state})) as process:
        yield process


@pytest.fixture
def platform(settings: Settings) -> Iterator[Platform]:
    opened = Platform(settings)
    yield opened
    opened.close()


def test_a_draft_gets_only_its_users_nearest_items(streams: Streams, platform: Platform) -> None:
    other = f"{platform.user}-other"
    mine = [platform.did(text) for text in ("a voyage across the stormy sea", "a court case about tax law", "sailors lost on the ocean")]
    later = platform.did("the sea, seen after the question", at=NOW)
    theirs = [platform.did(f"the sea, number {n}", user=other) for n in range(3)]
    platform.send(INTERACTIONS, *mine, later, *theirs)
    context = platform.context_with(platform.query("a film about the sea and sailors"), items=3)
    found = [item.interaction_id for item in context.items]
    assert set(found) == {each.interaction_id for each in mine}
    assert found[-1] == mine[1].interaction_id
    assert [item.score for item in context.items] == sorted((item.score for item in context.items), reverse=True)
    for item in context.items:
        assert item.source.topic == "interactions"
    their_context = platform.context_with(platform.query("the sea", user=other), items=3)
    assert {item.interaction_id for item in their_context.items} == {each.interaction_id for each in theirs}


def test_response_and_feedback_become_an_outcome_and_history(streams: Streams, platform: Platform) -> None:
    asked = platform.query("what shall I watch")
    told = platform.said(asked, "a quiet drama")
    platform.send(FEEDBACK, told)
    platform.send(RESPONSES, response(asked))
    outcome = platform.wait_for(OUTCOMES.name, lambda r: Outcome.from_bytes(r.value).response.query_id == asked.query_id)
    assert outcome.key == asked.key
    assert read_message(Outcome, outcome.headers, outcome.value)[0].truth == "a quiet drama"
    own = platform.wait_for(INTERACTIONS.name, lambda r: r.key == asked.key)
    words = read_message(Interaction, own.headers, own.value)[0]
    assert (words.content, words.response, words.origin) == ("what shall I watch", "a quiet drama", Origin.FEEDBACK)
    later = platform.query("what shall I watch").model_copy(update={"asked_at": NOW + timedelta(minutes=2)})
    assert [item.interaction_id for item in platform.context_with(later, items=1).items] == [words.interaction_id]


def test_an_unreadable_record_is_dead_lettered_byte_for_byte(streams: Streams, platform: Platform) -> None:
    asked = platform.query("anything")
    headers = envelope_headers(draft(asked), id="x", source="/test")
    broken = f"not json {uuid.uuid4()}".encode()
    platform.send_raw("drafts", broken, headers)
    platform.send_raw("interactions", broken, [("ce_type", b"nobody.knows.v1")])
    for topic in ("drafts-dlt", "interactions-dlt"):
        letter = platform.wait_for(topic, lambda r: r.value == broken)
        assert letter.key == b"odd key"
        reason = dict(letter.headers)
        assert reason["kafka_dlt-original-topic"] == topic.removesuffix("-dlt").encode()
        assert reason["kafka_dlt-exception-fqcn"] == b"schemas.messages.Malformed"
    assert list(platform.wait_for("drafts-dlt", lambda r: r.value == broken).headers[: len(headers)]) == headers
    platform.send(DRAFTS, draft(asked))
    assert platform.context_of(asked).items == ()


def test_feedback_for_another_users_query_is_dead_lettered(streams: Streams, platform: Platform) -> None:
    asked = platform.query("mine alone")
    forged = platform.said(asked, "not mine", user=f"{platform.user}-other")
    platform.send(RESPONSES, response(asked))
    platform.send(FEEDBACK, forged, platform.said(asked, "mine"))
    letter = platform.wait_for("feedback-dlt", lambda r: r.key == forged.key)
    assert letter.value == forged.to_bytes()
    outcome = platform.wait_for(OUTCOMES.name, lambda r: r.key == asked.key)
    assert Outcome.from_bytes(outcome.value).truth == "mine"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
def test_a_restart_keeps_history_and_pending_joins(streams: Streams, platform: Platform, signum: signal.Signals) -> None:
    answered, told = platform.query("answered first"), platform.query("told first")
    platform.send(INTERACTIONS, platform.did("a voyage across the sea"))
    platform.send(RESPONSES, response(answered))
    platform.send(FEEDBACK, platform.said(told, "early words"))
    marker = platform.query("marker")  # joined behind the halves of the same user, so they have been taken in
    platform.send(RESPONSES, response(marker))
    platform.send(FEEDBACK, platform.said(marker, "marker"))
    platform.wait_for(OUTCOMES.name, lambda r: Outcome.from_bytes(r.value).response.query_id == marker.query_id)
    platform.context_with(platform.query("the sea"), items=1)
    assert streams.stop(signum) == (0 if signum is signal.SIGTERM else -signal.SIGKILL)
    streams.start()
    platform.send(FEEDBACK, platform.said(answered, "late words"))
    platform.send(RESPONSES, response(told))
    for asked, truth in ((answered, "late words"), (told, "early words")):
        outcome = platform.wait_for(OUTCOMES.name, lambda r, q=asked: Outcome.from_bytes(r.value).response.query_id == q.query_id)  # type: ignore[misc]
        assert Outcome.from_bytes(outcome.value).truth == truth
    assert platform.context_with(platform.query("the sea"), items=1).items


def test_no_log_holds_users_text(streams: Streams, platform: Platform) -> None:
    secret = f"secret{uuid.uuid4().hex}"
    platform.send(INTERACTIONS, platform.did(secret))
    platform.context_with(platform.query(secret), items=1)
    platform.send_raw("drafts", secret.encode(), [])
    platform.wait_for("drafts-dlt", lambda r: r.value == secret.encode())
    assert secret not in streams.log()


def test_a_lost_index_is_filled_again_from_the_topic(settings: Settings, streams: Streams, platform: Platform) -> None:
    platform.send(INTERACTIONS, platform.did("a voyage across the sea"))
    platform.context_with(platform.query("the sea"), items=1)
    assert streams.stop() == 0
    with running(settings) as elsewhere:  # its state directory is empty
        assert platform.context_with(platform.query("the sea"), items=1).items
        assert "the index is empty: reading interactions from the beginning" in elsewhere.log()


def test_an_impossible_setting_ends_the_process_with_one_line(tmp_path: Path) -> None:
    env = os.environ | {"RETOUCH_STACK__DIR": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": ""}
    done = subprocess.run([sys.executable, "-m", "streams"], env=env, capture_output=True, timeout=START_S, check=False)
    assert done.returncode == 2
    assert b"kafka.bootstrap_servers" in done.stderr
