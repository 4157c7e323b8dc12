"""Two streams processes, and a platform whose client places keys by CRC32, as librdkafka does by default: every question is answered and joined once."""

from __future__ import annotations

import signal
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from infra.kafka.clients import producer
from infra.kafka.contract_check import MISPLACED, check_topic
from infra.kafka.forwarding import FORWARDED_FROM, partition_of
from infra.kafka.topic_reader import TopicReader
from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.envelope import envelope_headers, read_message
from schemas.messages import Message
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import FEEDBACK, INTERACTIONS, OUTCOMES, PLATFORM_TOPICS, QUERIES, RESPONSES, Topic
from tests.support.openai_server import completion, serving
from tests.support.own_broker import own_broker
from tests.support.qdrant_stub import QdrantStub, qdrant_stub
from tests.support.streams_process import StreamsClient, StreamsProcess, running
from tests.support.worker_process import USERS_TEXT, process
from traffic.lag import GroupLag

pytestmark = [pytest.mark.integration, pytest.mark.long("two streams processes forward to each other, and read the history twice"), pytest.mark.timeout(900)]

USERS = [f"user-{n}" for n in range(8)]
STALL_S = 90.0


class Platform:
    """Two streams processes with one Qdrant server, the workers, and the platform's own client."""

    def __init__(self, broker: Broker, server: QdrantStub, folder: Path) -> None:
        self.settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": folder / "platform"})
        self._server = server.url
        self._folder = folder
        self.partitions = self.settings.kafka.partitions
        self.processes = ExitStack()
        self.streams: list[StreamsProcess] = []

    def start(self) -> None:
        endpoint = self.processes.enter_context(serving(lambda _: completion("an answer")))
        for worker in ("base", "strategies"):
            self.processes.enter_context(process(self.settings, self._folder, "workers", worker, base_url=endpoint.url))
        for name in ("one", "two"):
            options = {"RETOUCH_KAFKA__INSTANCE": name, "RETOUCH_KAFKA__SESSION_TIMEOUT_MS": "6000"}
            options |= {"RETOUCH_INDEX__URL": self._server, "RETOUCH_INDEX__TIMEOUT_S": "60"}
            self.streams.append(self.processes.enter_context(running(self._own(name), **options)))
        self.client = self.processes.enter_context(closing(StreamsClient(self.settings)))
        self.producer = self.processes.enter_context(closing(producer(self.settings, "foreign")))

    def _own(self, name: str) -> Settings:
        return self.settings.changed(stack={"dir": self._folder / name})

    def send(self, topic: Topic, *messages: Any) -> None:
        for number, message in enumerate(messages):
            headers = envelope_headers(message, id=f"{topic.name}-{number}", source="/platform")
            partition = zlib.crc32(message.key) % self.partitions
            self.producer.send(topic.name, key=message.key, value=message.to_bytes(), headers=headers, partition=partition)
        self.producer.flush()

    def wait_handled(self, *topics: Topic) -> None:
        with GroupLag(self.settings) as lag:
            lag.wait(topics, stall_s=STALL_S)

    def ask(self) -> dict[str, Query]:
        asked: dict[str, Query] = {}
        for user in USERS:
            query = self.client.query(USERS_TEXT, user=user).model_copy(update={"strategy": Strategy.RAG, "options": ()})
            asked[user] = Query.model_validate(query.model_dump())
        self.send(QUERIES, *asked.values())
        return asked

    def messages(self, topic: Topic, kind: type[Message], count: int) -> list[Any]:
        """All messages of a topic, once there are `count`."""
        return [read_message(kind, record.headers, record.value)[0] for record in self.records(topic, count)]

    def records(self, topic: Topic, count: int = 0) -> list[Any]:
        with TopicReader(self.settings, "test-reader") as reader:
            if not count:
                return list(reader.read(reader.ranges(topic.name)))
            reader.follow(topic.name)
            records: list[Any] = []
            for _ in range(int(STALL_S / 0.2)):
                records += reader.poll(0.2)
                if len(records) >= count:
                    break
            return records

    def copies(self, topic: Topic) -> Counter[bytes]:
        """The forwarded records of a topic, by their origin."""
        return Counter(headers[FORWARDED_FROM] for record in self.records(topic) if FORWARDED_FROM in (headers := dict(record.headers)))

    def restart_one_with_an_empty_index(self) -> None:
        """The other one stops, because the broker deletes no offsets of a group with members."""
        for streams in self.streams:
            streams.stop(signal.SIGTERM)
        with closing(QdrantClient(url=self._server, check_compatibility=False)) as client:
            for collection in client.get_collections().collections:
                client.delete_collection(collection.name)
        self.streams[0].start()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with own_broker(tmp_path_factory.mktemp("broker")) as broker, qdrant_stub(tmp_path_factory.mktemp("qdrant")) as server:
        platform = Platform(broker, server, tmp_path_factory.mktemp("platform"))
        with platform.processes:
            platform.start()
            yield platform


def test_users_on_foreign_partitions_are_served_as_all_others(platform: Platform) -> None:
    misplaced = [
        user for user in USERS if zlib.crc32(f"acme/{user}".encode()) % platform.partitions != partition_of(f"acme/{user}".encode(), platform.partitions)
    ]
    assert misplaced
    items = {user: platform.client.interaction(f"a film for {user}", user=user) for user in USERS}
    platform.send(INTERACTIONS, *items.values())
    platform.wait_handled(INTERACTIONS)

    asked = platform.ask()
    responses: list[Response] = platform.messages(RESPONSES, Response, len(USERS))
    history = {response.context.draft.query.user: response.provenance.history_ids for response in responses}
    assert history == {user: (item.interaction_id,) for user, item in items.items()} and len(responses) == len(USERS)

    platform.send(FEEDBACK, *(platform.client.feedback(query, f"the truth of {user}", user=user) for user, query in asked.items()))
    outcomes: list[Outcome] = platform.messages(OUTCOMES, Outcome, len(USERS))
    assert Counter(outcome.truth for outcome in outcomes) == Counter(f"the truth of {user}" for user in USERS)
    for topic in PLATFORM_TOPICS:
        copies = platform.copies(topic)
        assert len(copies) == copies.total() == len(misplaced), topic.name


def test_validation_notes_what_is_forwarded(platform: Platform) -> None:
    check = check_topic(platform.settings, FEEDBACK, last=1_000)
    (finding,) = check.findings
    assert (finding.reason, finding.count) == (MISPLACED, platform.copies(FEEDBACK).total()) and check.refused == 0


def test_a_reread_of_the_history_forwards_nothing_again(platform: Platform) -> None:
    platform.wait_handled(INTERACTIONS)
    before = platform.copies(INTERACTIONS)
    answered = len(platform.records(RESPONSES))
    platform.restart_one_with_an_empty_index()
    platform.wait_handled(INTERACTIONS)
    assert platform.copies(INTERACTIONS) == before
    asked = {query.query_id for query in platform.ask().values()}
    responses: list[Response] = platform.messages(RESPONSES, Response, answered + len(USERS))
    found = [len(response.provenance.history_ids) for response in responses if response.query_id in asked]
    assert found == [1] * len(USERS), "the observed item of each user; the feedback is from after the question"
