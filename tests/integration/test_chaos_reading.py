"""The readers of `lab.chaos` on a real broker: records of a client, the broker's log, and the check of both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from kafka import KafkaProducer, TopicPartition

from infra.kafka import clients
from infra.kafka.topic_reader import TopicReader
from infra.kafka.topology import apply_topology
from infra.local.broker import Broker
from infra.settings import Settings, load
from lab.chaos.checker import AnomalyKind, check
from lab.chaos.proxy import PassThrough, Proxy, ResetConnections
from lab.chaos.records import LoadClock, SeenRecord, SendOutcome, SentRecord
from lab.chaos.segments import RecordFate, fates, partitions
from lab.chaos.watcher import Watcher, read_everything
from schemas.ids import derive
from schemas.topics import DRAFTS, QUERIES, RESPONSES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BOUND_S = 60.0
KEY = b"t/ada"


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that a test may stop, with every topic in one partition."""
    broker = Broker(load(stack={"dir": tmp_path}))
    broker.start()
    apply_topology(settings_of(broker))
    yield broker
    broker.kill()


def settings_of(broker: Broker) -> Settings:
    return load(kafka={"bootstrap_servers": broker.bootstrap_servers, "partitions": 1})


def write(producer: KafkaProducer, topic: str, query: UUID) -> None:
    value = f'{{"query": {{"query_id": "{query}"}}, "query_id": "{query}", "status": "personalized"}}'
    producer.send(topic, key=KEY, value=value.encode(), headers=[("ce_id", str(derive(topic, query) if topic != QUERIES.name else query).encode())])


def transact(producer: KafkaProducer, topic: str, queries: list[UUID], *, commit: bool) -> None:
    producer.begin_transaction()
    for query in queries:
        write(producer, topic, query)
    producer.flush(timeout=BOUND_S)
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()


def seen_on(seen: list[SeenRecord], topic: str) -> list[int]:
    return [record.offset for record in seen if record.topic == topic]


def test_segments_and_read_committed_agree_and_reading_more_is_an_anomaly(own_broker: Broker) -> None:
    settings = settings_of(own_broker)
    q1, q2, q3 = uuid4(), uuid4(), uuid4()
    plain = clients.producer(settings, "test-load")
    for query in (q1, q2, q3):
        write(plain, QUERIES.name, query)
    plain.close(timeout=BOUND_S)
    workers = clients.producer(settings, "test-worker", transactional_id="test-worker")
    workers.init_transactions()
    transact(workers, DRAFTS.name, [q1, q2, q3], commit=True)
    transact(workers, RESPONSES.name, [q1, q2], commit=False)
    transact(workers, RESPONSES.name, [q1, q2], commit=True)
    transact(workers, RESPONSES.name, [q2], commit=True)
    workers.close(timeout=BOUND_S)
    wait_for_markers(settings, DRAFTS.name, RESPONSES.name)
    seen = read_everything(settings, LoadClock(), BOUND_S)
    aborted = uncommitted(settings, RESPONSES.name)
    own_broker.stop()

    data = own_broker.dir / "data"
    log = {(topic, number): fates(path) for topic in (DRAFTS.name, RESPONSES.name) for number, path in partitions(data, topic).items()}
    committed = [offset for offset, fate in log[RESPONSES.name, 0].items() if fate is RecordFate.COMMITTED]
    assert committed == seen_on(seen, RESPONSES.name) == [3, 4, 6]
    assert [offset for offset, fate in log[RESPONSES.name, 0].items() if fate is RecordFate.ABORTED] == [0, 1]
    sent = [SentRecord(QUERIES.name, str(query), KEY.decode(), 0.0, SendOutcome.OK, 0.0, 0, offset) for offset, query in enumerate((q1, q2, q3))]
    verdict = check(sent, seen, log, healed_s=0.0, bound_s=BOUND_S)
    assert {(anomaly.kind, anomaly.id) for anomaly in verdict.anomalies} == {
        (AnomalyKind.DUPLICATE, str(q2)),
        (AnomalyKind.LOST_WRITE, str(q3)),
        (AnomalyKind.UNSEEN, str(q3)),
    }
    uncommitted_reads = [SeenRecord(RESPONSES.name, 0, offset, KEY.decode(), "", str(q1), 0.0) for offset in aborted]
    assert [
        anomaly.where
        for anomaly in check(sent, [*seen, *uncommitted_reads], log, healed_s=0.0, bound_s=BOUND_S).anomalies
        if anomaly.kind is AnomalyKind.ABORTED_READ
    ] == [
        "responses-0@0 aborted",
        "responses-0@1 aborted",
    ]


def wait_for_markers(settings: Settings, *topics: str) -> None:
    """Waits until no transaction is open: the broker writes the markers after it has answered the producer."""
    deadline = time.monotonic() + BOUND_S
    with TopicReader(settings, "test-reader") as stable, TopicReader(settings, "test-reader", isolation_level="read_uncommitted") as whole:
        while stable.ranges(*topics) != whole.ranges(*topics):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def uncommitted(settings: Settings, topic: str) -> list[int]:
    """Offsets that only a reader at read_uncommitted gets."""
    offsets: dict[str, set[int]] = {}
    for level in ("read_uncommitted", "read_committed"):
        with TopicReader(settings, "test-reader", isolation_level=level) as reader:
            offsets[level] = {record.offset for record in reader.read(reader.ranges(topic), timeout_s=BOUND_S)}
    return sorted(offsets["read_uncommitted"] - offsets["read_committed"])


def test_the_watcher_continues_after_a_kill_of_the_broker(own_broker: Broker) -> None:
    settings, first, second = settings_of(own_broker), uuid4(), uuid4()
    with Watcher(settings, LoadClock()) as watcher:
        ask(settings, first)
        until_seen(watcher, first)
        own_broker.kill()
        own_broker.start()
        ask(settings, second)
        until_seen(watcher, second)
        assert seen_on(watcher.seen, RESPONSES.name) == [0, 1]


def ask(settings: Settings, query: UUID) -> None:
    producer = clients.producer(settings, "test-load")
    write(producer, RESPONSES.name, query)
    producer.flush(timeout=BOUND_S)
    producer.close(timeout=BOUND_S)


def until_seen(watcher: Watcher, query: UUID) -> None:
    deadline = time.monotonic() + BOUND_S
    while str(query) not in watcher.answered:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_of_the_proxy_stays_on_the_proxy(tmp_path: Path) -> None:
    with Proxy("127.0.0.1", lambda: broker.proxied_port) as proxy:
        broker = Broker(load(stack={"dir": tmp_path}), proxy_port=proxy.port)
        try:
            broker.start()
            apply_topology(settings_of(broker))
            through = load(kafka={"bootstrap_servers": f"{proxy.host}:{proxy.port}"})
            consumer = clients.groupless_consumer(through, "test-reader")
            ask(through, uuid4())
            consumer.assign([TopicPartition(RESPONSES.name, 0)])
            proxy.set(ResetConnections())
            ask(settings_of(broker), uuid4())  # the proxy does not affect direct connections
            assert not consumer.poll(timeout_ms=500)
            proxy.set(PassThrough())
            records: list[object] = []
            deadline = time.monotonic() + BOUND_S
            while len(records) < 2 and time.monotonic() < deadline:
                records += [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
            consumer.close()
            assert len(records) == 2
        finally:
            broker.kill()
