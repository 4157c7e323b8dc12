"""`python -m streams` on a real Kafka, with the real embedder and Qdrant Edge: started, fed, stopped and killed as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.kafka import producer, reader, send
from infra.settings import Settings
from schemas.contexts import Context
from schemas.drafts import Draft
from schemas.envelope import read, seal
from schemas.feedback import Feedback
from schemas.history import Interaction, Origin
from schemas.ids import derive
from schemas.messages import Message
from schemas.outcomes import Outcome
from schemas.queries import Query, Strategy
from schemas.responses import Provenance, Response, ResponseStatus
from schemas.topics import CONTEXTS, DRAFTS, FEEDBACK, INTERACTIONS, OUTCOMES, RESPONSES, Topic

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NOW = datetime.now(UTC).replace(microsecond=0)
START_S, WAIT_S, STOP_S = 240.0, 90.0, 60.0


class Platform:
    """Writes what a platform and the workers write, and watches what comes out from where it began."""

    def __init__(self, settings: Settings) -> None:
        from kafka import TopicPartition

        self.user = f"user-{uuid.uuid4().hex[:8]}"
        self._producer = producer(settings, "test-platform")
        self._reader = reader(settings, "test-reader")
        watched = (CONTEXTS.name, OUTCOMES.name, INTERACTIONS.name, "interactions-dlt", "drafts-dlt", "feedback-dlt")
        partitions = [TopicPartition(topic, n) for topic in watched for n in self._reader.partitions_for_topic(topic)]
        self._reader.assign(partitions)
        for partition, offset in self._reader.end_offsets(partitions).items():
            self._reader.seek(partition, offset)
        self.seen: list[Any] = []

    def send(self, topic: Topic, *messages: Message) -> None:
        for message in messages:
            send(self._producer, topic, message, id=uuid.uuid4(), source="/test")
        self._producer.flush()

    def send_raw(self, topic: str, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        self._producer.send(topic, key=b"odd key", value=value, headers=headers)
        self._producer.flush()

    def wait_for(self, topic: str, wanted: Callable[[Any], bool], timeout_s: float = WAIT_S) -> Any:
        """The first record of `topic` that is wanted, from all that was seen since the start."""
        until = time.monotonic() + timeout_s
        while True:
            for record in self.seen:
                if record.topic == topic and wanted(record):
                    return record
            assert time.monotonic() < until, f"nothing wanted on {topic} within {timeout_s} s"
            for records in self._reader.poll(timeout_ms=200).values():
                self.seen += records

    def context_of(self, query: Query) -> Context:
        record = self.wait_for(CONTEXTS.name, lambda r: Context.from_bytes(r.value).draft.query.query_id == query.query_id)
        assert record.key == query.key
        context, envelope = read(Context, record.headers, record.value)
        assert envelope.id == str(derive("context", query.query_id))
        return context

    def query(self, text: str, *, user: str | None = None) -> Query:
        options = ("comedy", "drama")
        return Query(query_id=uuid.uuid4(), tenant="acme", user=user or self.user, domain="movie_tag", text=text, options=options, asked_at=NOW)

    def did(self, content: str, *, user: str | None = None, at: datetime = NOW - timedelta(days=1)) -> Interaction:
        who = user or self.user
        return Interaction.observed(tenant="acme", user=who, source_id=content, domain="movie_tag", content=content, response="comedy", occurred_at=at)

    def said(self, query: Query, truth: str, *, user: str | None = None) -> Feedback:
        ids = {"feedback_id": uuid.uuid4(), "query_id": query.query_id}
        return Feedback(**ids, tenant=query.tenant, user=user or query.user, truth=truth, occurred_at=NOW + timedelta(minutes=1))

    def context_with(self, query: Query, items: int) -> Context:
        """Ask until the index has caught up: history and retrieval are two streams."""
        until = time.monotonic() + WAIT_S
        while True:
            again = query.model_copy(update={"query_id": uuid.uuid4()})
            self.send(DRAFTS, draft(again))
            context = self.context_of(again)
            if len(context.items) >= items:
                return context
            assert time.monotonic() < until, f"the index shows {len(context.items)} items, not {items}, after {WAIT_S} s"

    def close(self) -> None:
        self._producer.close()
        self._reader.close()


def draft(query: Query) -> Draft:
    return Draft(query=query, answer="drama", base_model="base", base_ms=1)


def response(query: Query) -> Response:
    provenance = Provenance(
        model=None, base_model="base", strategy=Strategy.RPO, k=0, history_ids=(), prompt_digest=None, base_ms=1, retrieve_ms=1, reflect_ms=1
    )
    context = Context(draft=draft(query), items=(), k_max=6, retrieve_ms=1)
    made = {"answer": "model words", "reasoning": "", "status": ResponseStatus.NO_HISTORY, "answered_at": NOW}
    return Response(query_id=query.query_id, context=context, provenance=provenance, **made)


class Streams:
    """The process under test; its log goes to a file that a failing test shows."""

    def __init__(self, settings: Settings) -> None:
        self._log = settings.stack.dir / "streams.log"
        self._ready = settings.stack.dir / "ready"
        self._env = os.environ | {
            "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(),
            "RETOUCH_STACK__DIR": str(settings.stack.dir),
            "RETOUCH_READY_FILE": str(self._ready),
        }
        settings.stack.dir.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "streams"], stdout=log, stderr=log, env=self._env)
        until = time.monotonic() + START_S
        while not self._ready.exists():
            assert self.process.poll() is None, f"exit code {self.process.returncode}: {self.log()}"
            assert time.monotonic() < until, f"not ready within {START_S} s: {self.log()}"
            time.sleep(0.05)

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(signum)
        return self.process.wait(STOP_S)

    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def running(settings: Settings) -> Iterator[Streams]:
    streams = Streams(settings)
    try:
        streams.start()
        yield streams
    finally:
        if streams.process and streams.process.poll() is None:
            streams.stop(signal.SIGKILL)


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


def test_a_draft_gets_its_users_nearest_items_and_nobody_elses(streams: Streams, platform: Platform) -> None:
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


def test_response_and_feedback_become_an_outcome_and_the_users_words_history(streams: Streams, platform: Platform) -> None:
    asked = platform.query("what shall I watch")
    told = platform.said(asked, "a quiet drama")
    platform.send(FEEDBACK, told)
    platform.send(RESPONSES, response(asked))
    outcome = platform.wait_for(OUTCOMES.name, lambda r: Outcome.from_bytes(r.value).response.query_id == asked.query_id)
    assert outcome.key == asked.key
    assert read(Outcome, outcome.headers, outcome.value)[0].truth == "a quiet drama"
    own = platform.wait_for(INTERACTIONS.name, lambda r: r.key == asked.key)
    words = read(Interaction, own.headers, own.value)[0]
    assert (words.content, words.response, words.origin) == ("what shall I watch", "a quiet drama", Origin.FEEDBACK)
    later = platform.query("what shall I watch").model_copy(update={"asked_at": NOW + timedelta(minutes=2)})
    assert [item.interaction_id for item in platform.context_with(later, items=1).items] == [words.interaction_id]


def test_an_unusable_record_is_set_aside_byte_for_byte_and_the_rest_goes_on(streams: Streams, platform: Platform) -> None:
    asked = platform.query("anything")
    headers = seal(draft(asked), id="x", source="/test")
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


def test_feedback_for_another_users_query_is_set_aside(streams: Streams, platform: Platform) -> None:
    asked = platform.query("mine alone")
    forged = platform.said(asked, "not mine", user=f"{platform.user}-other")
    platform.send(RESPONSES, response(asked))
    platform.send(FEEDBACK, forged, platform.said(asked, "mine"))
    letter = platform.wait_for("feedback-dlt", lambda r: r.key == forged.key)
    assert letter.value == forged.to_bytes()
    outcome = platform.wait_for(OUTCOMES.name, lambda r: r.key == asked.key)
    assert Outcome.from_bytes(outcome.value).truth == "mine"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=lambda signum: signum.name)
def test_a_restart_keeps_history_and_half_joins(streams: Streams, platform: Platform, signum: signal.Signals) -> None:
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


def test_users_words_are_in_no_log(streams: Streams, platform: Platform) -> None:
    secret = f"secret{uuid.uuid4().hex}"
    platform.send(INTERACTIONS, platform.did(secret))
    platform.context_with(platform.query(secret), items=1)
    platform.send_raw("drafts", secret.encode(), [])
    platform.wait_for("drafts-dlt", lambda r: r.value == secret.encode())
    assert secret not in streams.log()


def test_an_index_that_was_lost_is_filled_again_from_the_log(settings: Settings, streams: Streams, platform: Platform) -> None:
    platform.send(INTERACTIONS, platform.did("a voyage across the sea"))
    platform.context_with(platform.query("the sea"), items=1)
    assert streams.stop() == 0
    with running(settings) as elsewhere:  # its state directory is empty
        assert platform.context_with(platform.query("the sea"), items=1).items
        assert "history is read again from the start" in elsewhere.log()


def test_an_impossible_setting_ends_the_process_at_once_with_one_line(tmp_path: Path) -> None:
    env = os.environ | {"RETOUCH_STACK__DIR": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": ""}
    done = subprocess.run([sys.executable, "-m", "streams"], env=env, capture_output=True, timeout=START_S, check=False)
    assert done.returncode == 2
    assert b"kafka.bootstrap_servers" in done.stderr
