"""Two deployments with different prefixes share a broker: each answers its own questions and reads nothing of the other. One prefix begins with the other."""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from typer.testing import CliRunner

from cli.app import app
from infra.kafka.topic_reader import TopicReader
from infra.kafka.topology import apply_topology, describe_topology
from infra.local.broker import Broker
from infra.settings import load
from schemas.envelope import read_message
from schemas.interactions import Interaction
from schemas.messages import Message
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import FEEDBACK, INTERACTIONS, OUTCOMES, QUERIES, RESPONSES, TOPICS, Topic, dead_letter_topic
from tests.support.openai_server import completion, serving
from tests.support.own_broker import own_broker
from tests.support.streams_process import StreamsClient, StreamsProcess, running
from tests.support.worker_process import USERS_TEXT, process
from traffic.lag import GroupLag

pytestmark = [pytest.mark.integration, pytest.mark.long("starts the processes of two deployments"), pytest.mark.timeout(600)]

PREFIXES = ("team.", "team.second.")
#: A user and a question that both deployments know by the same ids.
USER, QUERY_ID = "ada", uuid.uuid4()
STALL_S = 90.0
GROUPS = {"retouch-streams", "retouch-base", "retouch-strategies"}


class Deployment:
    """Topics, streams process, base worker and strategies worker of one prefix, and a client that writes and reads as its platform does."""

    def __init__(self, broker: Broker, folder: Path, prefix: str) -> None:
        self.name, kafka = f"answer of {prefix}", {"topic_prefix": prefix, "group_prefix": f"{prefix}group."}
        self.settings = load(kafka={"bootstrap_servers": broker.bootstrap_servers, **kafka}, stack={"dir": folder / prefix})
        self.environment = {f"RETOUCH_KAFKA__{key.upper()}": value for key, value in kafka.items()}
        self._folder = folder
        self.processes = ExitStack()

    def start(self) -> None:
        apply_topology(self.settings)
        endpoint = self.processes.enter_context(serving(lambda _: completion(self.name)))
        for worker in ("base", "strategies"):
            self._worker(worker, endpoint.url)
        self.streams: StreamsProcess = self.processes.enter_context(
            running(self.settings, RETOUCH_KAFKA__INSTANCE="test", RETOUCH_KAFKA__SESSION_TIMEOUT_MS="6000", **self.environment)
        )
        self.client = self.processes.enter_context(closing(StreamsClient(self.settings)))
        self.client.user = USER

    def _worker(self, name: str, url: str) -> subprocess.Popen[bytes]:
        return self.processes.enter_context(process(self.settings, self._folder, "workers", name, base_url=url, **self.environment))

    def wait_handled(self, *topics: Topic) -> None:
        with GroupLag(self.settings) as lag:
            lag.wait(topics, stall_s=STALL_S)

    def ask(self) -> None:
        """Writes the history, and the query once the index has it."""
        self.item = self.client.interaction(f"a film that {self.name} knows")
        self.client.send(INTERACTIONS, self.item)
        self.wait_handled(INTERACTIONS)
        query = self.client.query(USERS_TEXT).model_copy(update={"query_id": QUERY_ID, "strategy": Strategy.RAG, "options": ()})
        self.query = Query.model_validate(query.model_dump())
        self.client.send(QUERIES, self.query)

    def give_feedback(self) -> None:
        """After a restart of the streams process, so the response that it joins comes from the changelog."""
        self.response = self.messages(RESPONSES, Response, 1)[0]
        self.wait_handled(RESPONSES)
        self.streams.stop(signal.SIGKILL)
        self.streams.start()
        self.client.send(FEEDBACK, self.client.feedback(self.query, f"the truth of {self.name}"))
        self.outcome = self.messages(OUTCOMES, Outcome, 1)[0]

    def messages(self, topic: Topic, kind: type[Message], count: int) -> Sequence[Any]:
        """All messages of a topic, once there are `count`."""
        with TopicReader(self.settings, "test-reader") as reader:
            reader.follow(topic.name)
            records: list[Any] = []
            for _ in range(int(STALL_S / 0.2)):
                records += reader.poll(0.2)
                if len(records) >= count:
                    break
            assert {record.topic for record in records} == {topic.name}
        return [read_message(kind, record.headers, record.value)[0] for record in records]

    def counts(self) -> dict[str, int]:
        """Records by topic. Transaction markers count too, so a topic without records has 0."""
        names = [name for topic in TOPICS for name in (topic.name, dead_letter_topic(topic.name))]
        with TopicReader(self.settings, "test-reader") as reader:
            counts = dict.fromkeys(names, 0)
            for record in reader.read(reader.ranges(*names)):
                counts[record.topic] += 1
        return {name: count for name, count in counts.items() if count}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """It has topics without a prefix too: those of a third deployment, which nothing uses."""
    with own_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def deployments(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, ...]]:
    """Both after a question with its answer and its feedback."""
    folder = tmp_path_factory.mktemp("deployments")
    both = tuple(Deployment(broker, folder, prefix) for prefix in PREFIXES)
    with ExitStack() as stack:
        for deployment in both:
            stack.enter_context(deployment.processes)
            deployment.start()
        for deployment in both:
            deployment.ask()
        for deployment in both:
            deployment.give_feedback()
        yield both


def test_each_deployment_answers_its_own_question_with_its_own_history(deployments: tuple[Deployment, ...]) -> None:
    for deployment in deployments:
        response: Response = deployment.response
        assert (response.query_id, response.answer) == (QUERY_ID, deployment.name)
        assert response.provenance.history_ids == (deployment.item.interaction_id,)
        assert {item.source.topic for item in response.context.items} == {INTERACTIONS.name}, "stored positions have declared names"


def test_each_deployment_joins_feedback_with_its_own_response(deployments: tuple[Deployment, ...]) -> None:
    for deployment in deployments:
        assert deployment.outcome.response == deployment.response
        assert deployment.outcome.truth == f"the truth of {deployment.name}"


def test_neither_deployment_writes_to_the_other_or_beside_its_prefix(broker: Broker, deployments: tuple[Deployment, ...], tmp_path: Path) -> None:
    once = dict.fromkeys(("queries", "lookups", "retrievals", "responses", "feedback", "outcomes"), 1)
    for deployment in deployments:
        counts = deployment.counts()
        origins = {interaction.origin for interaction in deployment.messages(INTERACTIONS, Interaction, counts.pop("interactions"))}
        assert counts == once and origins
    assert Deployment(broker, tmp_path, "").counts() == {}


def test_groups_have_their_prefix(broker: Broker, deployments: tuple[Deployment, ...]) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)) as client:
        groups = {group["group_id"] for group in client.list_groups()}
    assert groups == {f"{prefix}group.{group}" for prefix in PREFIXES for group in GROUPS}


def test_topics_are_described_by_their_names_on_the_broker(broker: Broker, deployments: tuple[Deployment, ...], tmp_path: Path) -> None:
    for deployment, prefix in ((deployments[0], PREFIXES[0]), (deployments[1], PREFIXES[1]), (Deployment(broker, tmp_path, ""), "")):
        description = describe_topology(deployment.settings)
        assert description.keeps_records and description.undeclared == ()
        assert all(topic.name.startswith(prefix) for topic in description.topics)


def test_a_dead_letter_is_shown_and_redriven_by_the_name_that_is_printed(deployments: tuple[Deployment, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = deployments
    first.client.send_raw("interactions", b"no message", [])
    first.wait_handled(INTERACTIONS)
    for name, value in {"KAFKA_BOOTSTRAP_SERVERS": first.settings.bootstrap_servers(), **first.environment}.items():
        monkeypatch.setenv(name, value)
    listed = CliRunner().invoke(app, ["dlq", "list", "--topic", "team.interactions"])
    assert listed.exit_code == 0 and "team.interactions-dlt/" in listed.stdout, listed.output
    (record_id,) = {word for word in listed.stdout.split() if word.startswith("team.interactions-dlt/")}
    assert CliRunner().invoke(app, ["dlq", "show", record_id]).exit_code == 0
    redriven = CliRunner().invoke(app, ["dlq", "redrive", record_id])
    assert redriven.exit_code == 0 and "team.interactions: 1" in redriven.stdout, redriven.output
    assert "interactions-dlt" not in second.counts()
