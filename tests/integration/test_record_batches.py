"""Every reader on topics that hold batches of every codec; and batches that cannot be decoded, which stop their readers until they are named."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType
from typer.testing import CliRunner

from cli.app import app
from cli.ask import request
from infra.errors import UnreadableBatch
from infra.kafka.clients import admin, producer
from infra.kafka.compression import CODECS
from infra.kafka.topic_reader import TopicReader
from infra.local.broker import Broker
from infra.settings import Settings, load
from lab.chaos.segments import codecs, partitions
from schemas.dead_letters import dead_letter
from schemas.envelope import read_message
from schemas.ids import derive
from schemas.messages import Message, MessageIdentity
from schemas.model_events import ModelEvent
from schemas.quality import Quality
from schemas.queries import Query
from schemas.records import ConsumedRecord
from schemas.topics import (
    CONTEXTS,
    DRAFTS,
    FEEDBACK,
    INTERACTIONS,
    JOIN_STATE_CHANGELOG,
    MODEL_EVENTS,
    OUTCOMES,
    QUALITY,
    QUERIES,
    RESPONSES,
    SHADOWS,
    TRAJECTORIES,
    Topic,
    consumer_group,
    dead_letter_topic,
)
from streams.quality.service import QualityService
from tests.support import outcomes as trainable
from tests.support import quality_records
from tests.support.own_broker import own_broker
from tests.support.segment_files import broken_payload, damage, unknown_codec, wrong_checksum
from tests.support.streams_process import StreamsClient, StreamsProcess, draft, response
from traffic.lag import GroupLag
from traffic.observer import AnswerCounts, Observer
from trainer.data.collect import collect
from workers.runtime.handler import HandlerSpec, Incoming, Outgoing
from workers.runtime.worker import Worker
from workers.serving.model_event_listener import KafkaModelEventListener

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

WAIT_S = 90.0
COMPRESSED = CODECS[1:]
PROBE = Topic("probe", Query, "none", "test", "test")
USED = (QUERIES, INTERACTIONS, DRAFTS, RESPONSES, FEEDBACK, OUTCOMES, TRAJECTORIES, SHADOWS, MODEL_EVENTS)


@dataclass
class Sent:
    """What the topics hold, in rounds of one codec each."""

    messages: dict[Topic, list[Any]] = field(default_factory=lambda: {topic: [] for topic in USED})
    answers: dict[str, str] = field(default_factory=dict)  # what `ask` got, by codec
    events: list[str] = field(default_factory=list)  # what the listener of a reflection worker got

    def identities(self, topic: Topic) -> set[MessageIdentity]:
        return {message.identity for message in self.messages[topic]}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with own_broker(tmp_path_factory.mktemp("batches")) as running:
        yield running


@pytest.fixture(scope="module")
def settings(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(
        kafka={"bootstrap_servers": broker.bootstrap_servers, "session_timeout_ms": 6000, "instance": "one"},
        stack={"dir": tmp_path_factory.mktemp("state")},
        quality={"window_s": 1, "every_s": 0.1},
        trainer={"user_share": 1.0},
    )


@pytest.fixture(scope="module")
def sent(broker: Broker, settings: Settings) -> Sent:
    """The broker compresses: `compression.type` is set on the topics. Its code is that of Kafka's own producer."""
    sent, client = Sent(), StreamsClient(settings)
    listener = KafkaModelEventListener(settings, threading.Event())
    topics = [*(topic.name for topic in USED), dead_letter_topic(QUERIES.name), PROBE.name]
    with ThreadPoolExecutor(1) as pool:
        for number, codec in enumerate(COMPRESSED):
            set_compression(broker, settings, topics, codec)
            asked = pool.submit(request, settings, client.query(f"asked in {codec}"), WAIT_S)
            answer(client, settings, asked.done)
            sent.answers[codec] = asked.result().answer
            round_of(codec, number, client, sent)
            sent.events.append(announced(client, listener, settings.registry.model_name, codec))
    listener.close()
    client.close()
    return sent


def round_of(codec: str, number: int, client: StreamsClient, sent: Sent) -> None:
    """Some messages on each topic, and one dead letter."""
    queries = [client.query(f"{codec} {n}", user=f"{codec}-{n}") for n in range(3)]
    outcome = trainable.make_outcome(number, user=f"{codec}-trains")
    shown = [quality_records.make_response(n, user=codec, domain=codec) for n in range(2)]
    messages: dict[Topic, Sequence[Message]] = {
        QUERIES: [client.query(f"{codec} {n}") for n in range(3)],
        INTERACTIONS: [client.interaction(f"{codec} {n}", user=f"{codec}-{n}") for n in range(3)],
        DRAFTS: [draft(query) for query in queries],
        RESPONSES: [*map(response, queries), *shown],
        FEEDBACK: [client.feedback(query, "drama") for query in queries],
        OUTCOMES: [outcome, quality_records.make_outcome(shown[0])],
        TRAJECTORIES: [trainable.make_trajectory(outcome)],
        SHADOWS: [quality_records.make_shadow(shown[0])],
    }
    for topic, of_topic in messages.items():
        client.send(topic, *of_topic)
        sent.messages[topic] += of_topic
    original = ConsumedRecord(QUERIES.name, 0, number, int(time.time() * 1000), b"k", b"not JSON", (("n", codec.encode()),))
    written = dead_letter(original, "retouch-base", ValueError("bad shape"))
    client._producer.send(written.topic, key=written.key, value=written.value, headers=written.headers, partition=0).get(timeout=WAIT_S)


def answer(client: StreamsClient, settings: Settings, is_done: Callable[[], bool]) -> None:
    """Answers the query of `ask` until it has its response."""
    deadline = time.monotonic() + WAIT_S
    with TopicReader(settings, "test-answers") as reader:
        reader.follow(QUERIES.name)
        while not is_done():
            assert time.monotonic() < deadline
            queries = [Query.from_bytes(record.value) for record in reader.poll(0.1)]
            client.send(RESPONSES, *(response(query) for query in queries if query.text.startswith("asked")))


def announced(client: StreamsClient, listener: KafkaModelEventListener, name: str, codec: str) -> str:
    """Sends model events until the listener, which begins at the topic's end, gets one of this codec. Returns its reason."""
    fields = {"name": name, "version": "1", "digest": "d", "previous": None, "reason": codec, "occurred_at": trainable.NOON}
    deadline = time.monotonic() + WAIT_S
    while True:
        client.send(MODEL_EVENTS, ModelEvent(event_id=uuid.uuid4(), **fields))
        event = listener.wait(0.5)
        if event is not None and event.reason == codec:
            return event.reason
        assert time.monotonic() < deadline


def set_compression(broker: Broker, settings: Settings, topics: Sequence[str], codec: str) -> None:
    """Returns once the broker compresses."""
    client, to = admin(settings), producer(settings, "test")
    if PROBE.name not in client.list_topics():
        client.create_topics({PROBE.name: {"num_partitions": 1, "replication_factor": 1}})
        client.wait_for_topics([PROBE.name])
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"compression.type": codec}) for topic in topics])
    deadline = time.monotonic() + WAIT_S
    while codec not in codecs_of(broker, PROBE.name):
        assert time.monotonic() < deadline
        to.send(PROBE.name, value=b"any " * 100).get(timeout=WAIT_S)
    to.close()
    client.close()


def codecs_of(broker: Broker, topic: str) -> set[str]:
    """By the topic's segment files."""
    return {codec for directory in partitions(broker.dir / "data", topic).values() for codec in codecs(directory)}


def base_worker(settings: Settings, topic: Topic = QUERIES, name: str = "base", out: Topic = DRAFTS) -> Worker[Query]:
    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        await asyncio.sleep(0)
        return [Outgoing(out, draft(incoming.message), derive("draft", incoming.message.query_id))]

    return Worker(settings, HandlerSpec(name, topic, handle), concurrency=16)


def read_all(settings: Settings, *topics: str) -> list[Any]:
    with TopicReader(settings, "test-all", isolation_level="read_uncommitted") as whole, TopicReader(settings, "test-all") as reader:
        return list(reader.read(whole.ranges(*topics), timeout_s=WAIT_S))


def count_quality(settings: Settings, until: Callable[[QualityService], bool]) -> None:
    """Runs online quality until the condition holds, with its figures published."""
    service, deadline = QualityService(settings, threading.Event()), time.monotonic() + WAIT_S
    try:
        while not until(service):
            assert time.monotonic() < deadline
            service.step()
        service.publish()
    finally:
        service.close()


def member(settings: Settings, *skip: str) -> StreamsProcess:
    """The streams process with a small embedder."""
    more = {"RETOUCH_KAFKA__SKIP_BATCHES": json.dumps(skip), "RETOUCH_KAFKA__INSTANCE": "one", "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": "6000"}
    return StreamsProcess(settings, "tests.support.streams_member", **more)


def dlq(settings: Settings, *arguments: str, **environment: str) -> tuple[int, str, str]:
    address = {"KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(), "RETOUCH_STACK__DIR": str(settings.stack.dir)}
    result = CliRunner(env={**os.environ, **address, **environment}).invoke(app, ["dlq", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_topics_hold_batches_of_every_codec(broker: Broker, sent: Sent) -> None:
    for topic in (*USED, dead_letter_topic(QUERIES.name)):
        assert codecs_of(broker, topic if isinstance(topic, str) else topic.name) >= set(COMPRESSED), topic


def test_ask_and_a_reflection_worker_get_what_is_new(sent: Sent) -> None:
    assert sent.answers == dict.fromkeys(COMPRESSED, "model words")
    assert sent.events == list(COMPRESSED)


def test_a_base_worker_answers_every_query_and_lag_and_its_ids_are_read(settings: Settings, sent: Sent) -> None:
    expected = len(sent.messages[QUERIES]) + len(COMPRESSED)
    counts = base_worker(settings).drain(WAIT_S)
    assert (counts.read, counts.produced) == (expected, expected)
    with GroupLag(settings, consumer_group("base")) as lag:
        assert lag.unhandled([QUERIES]) == 0
        client = StreamsClient(settings)
        client.send(QUERIES, client.query("one more"))
        client.close()
        assert lag.unhandled([QUERIES]) == 1
    assert base_worker(settings).drain(WAIT_S).read == 1


def test_dead_letters_are_listed_shown_and_redriven(settings: Settings, sent: Sent) -> None:
    code, listed, _ = dlq(settings, "list", "--json")
    assert code == 0 and f"{dead_letter_topic(QUERIES.name)}" in listed
    for number, codec in enumerate(COMPRESSED):
        code, shown, _ = dlq(settings, "show", f"{dead_letter_topic(QUERIES.name)}/0/{number}", "--json")
        assert code == 0 and codec in shown
    code, redriven, _ = dlq(settings, "redrive", "--topic", QUERIES.name, "--json")
    assert code == 0 and json.loads(redriven)["redriven"] == len(COMPRESSED)


def test_the_observer_and_the_trainer_read_every_record(settings: Settings, sent: Sent) -> None:
    counts = AnswerCounts()
    with Observer(settings, [QUERIES, RESPONSES, OUTCOMES], raw=[dead_letter_topic(QUERIES.name)]) as observer:
        for sighting in observer.read_to_end(WAIT_S):
            counts.note(sighting)
    assert counts.asked.keys() >= sent.identities(QUERIES) and counts.answered.keys() >= sent.identities(RESPONSES)
    assert counts.records[OUTCOMES.name] == len(sent.messages[OUTCOMES]) and counts.records[dead_letter_topic(QUERIES.name)] == len(COMPRESSED)
    snapshot = collect(settings, threading.Event())
    assert snapshot.counts["outcomes.read"] == len(sent.messages[OUTCOMES]) and snapshot.counts["trajectories.read"] == len(COMPRESSED)


def test_online_quality_counts_every_answer(settings: Settings, sent: Sent) -> None:
    count_quality(settings, lambda service: service.has_caught_up)
    cells = [read_message(Quality, record.headers, record.value)[0] for record in read_all(settings, QUALITY.name)]
    assert {cell.domain for cell in cells} >= set(COMPRESSED)


def test_streams_embed_retrieve_and_join_every_record(settings: Settings, sent: Sent) -> None:
    process = member(settings)
    process.start()
    with GroupLag(settings) as lag:
        assert lag.wait([INTERACTIONS, DRAFTS, RESPONSES, FEEDBACK], stall_s=WAIT_S)
    assert process.stop() == 0
    assert indexed(settings) >= {str(interaction.interaction_id) for interaction in sent.messages[INTERACTIONS]}
    read = read_all(settings, CONTEXTS.name, OUTCOMES.name)
    values = Counter(record.topic for record in read)
    assert values[CONTEXTS.name] >= len(sent.messages[DRAFTS]) and values[OUTCOMES.name] == len(sent.messages[OUTCOMES]) + len(sent.messages[FEEDBACK])


def indexed(settings: Settings) -> set[str]:
    rows = (settings.stack.dir.parent / "points.jsonl").read_text().split("\n")
    return {json.loads(row)["id"] for row in rows if row}


def unreadable(broker: Broker, settings: Settings, topic: str, how: Callable[[bytearray], None]) -> str:
    """Writes a record to partition 0, and damages its batch. Returns its place."""
    to = producer(settings, "test", compression_type="zstd")
    offset = to.send(topic, key=b"k", value=b"any " * 100, partition=0).get(timeout=WAIT_S).offset
    to.close()
    damage(broker.dir / "data", topic, 0, offset, how)
    return f"{topic}/0/{offset}"


def passing_over(settings: Settings, *places: str) -> Settings:
    return settings.changed(kafka={"skip_batches": list(places)})


def test_a_worker_ends_at_an_unreadable_batch_until_it_is_named(broker: Broker, settings: Settings, sent: Sent) -> None:
    topic = Topic("broken", Query, "tenant/user", "test", "test")
    client, names = admin(settings), [topic.name, dead_letter_topic(topic.name)]
    client.create_topics({name: {"num_partitions": 1, "replication_factor": 1} for name in names})
    client.wait_for_topics(names)
    client.close()
    users = StreamsClient(settings)
    before, after = [users.query("before") for _ in range(5)], [users.query("after") for _ in range(5)]
    users.send(topic, *before)
    place = unreadable(broker, settings, topic.name, unknown_codec)
    users.send(topic, *after)
    users.close()
    with pytest.raises(UnreadableBatch, match=rf"the batch at {place} cannot be decoded"):
        base_worker(settings, topic, "broken").drain(WAIT_S)
    assert base_worker(passing_over(settings, place), topic, "broken").drain(WAIT_S).read == len(after)
    drafts = Counter(dict(record.headers)["ce_id"].decode() for record in read_all(settings, DRAFTS.name))
    assert all(drafts[str(derive("draft", query.query_id))] == 1 for query in before + after)


def test_online_quality_ends_at_an_unreadable_batch_until_it_is_named(broker: Broker, settings: Settings, sent: Sent) -> None:
    place = unreadable(broker, settings, SHADOWS.name, broken_payload)
    with pytest.raises(UnreadableBatch, match=place):
        count_quality(settings, lambda service: False)
    count_quality(passing_over(settings, place), lambda service: service.has_caught_up)


def test_readers_without_a_group_end_at_an_unreadable_batch_until_it_is_named(broker: Broker, settings: Settings, sent: Sent) -> None:
    place = unreadable(broker, settings, TRAJECTORIES.name, wrong_checksum)
    with pytest.raises(UnreadableBatch, match=place):
        collect(settings, threading.Event())
    assert collect(passing_over(settings, place), threading.Event()).counts["trajectories.read"] == len(COMPRESSED)
    place = unreadable(broker, settings, dead_letter_topic(QUERIES.name), broken_payload)
    code, _, error = dlq(settings, "list")
    assert code == 1 and f"the batch at {place} cannot be decoded" in error and "Traceback" not in error
    code, listed, _ = dlq(settings, "list", "--json", RETOUCH_KAFKA__SKIP_BATCHES=json.dumps([place]))
    assert code == 0 and json.loads(listed)["total"] == 0  # the others are redriven


def test_streams_end_at_unreadable_batches_of_topic_and_state_until_both_are_named(broker: Broker, settings: Settings, sent: Sent) -> None:
    state = unreadable(broker, settings, JOIN_STATE_CHANGELOG, broken_payload)
    topic = unreadable(broker, settings, INTERACTIONS.name, wrong_checksum)
    for named, other in ((state, topic), (topic, state)):
        process = member(settings, named)
        with suppress(AssertionError):  # it may end before it is ready
            process.start()
        assert process.wait(WAIT_S) == 1
        assert f"the batch at {other} cannot be decoded" in process.log().splitlines()[-1] and "Traceback" not in process.log()
    process, client = member(settings, state, topic), StreamsClient(settings)
    process.start()
    later = [client.interaction(f"later {number}", user=f"later-{number}") for number in range(20)]  # of each partition
    client.send(INTERACTIONS, *later)
    with GroupLag(passing_over(settings, topic)) as lag:
        assert lag.wait([INTERACTIONS], stall_s=WAIT_S)
    client.close()
    assert process.stop() == 0
    assert indexed(settings) >= {str(interaction.interaction_id) for interaction in later}
