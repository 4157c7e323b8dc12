"""Every process as its own user, on a broker that denies by default, with prefixes, with the printed rights and nothing more."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infra.kafka.clients import producer, send
from infra.kafka.rights import PROCESSES
from infra.kafka.topic_reader import TopicReader
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.erasures import ErasureRequest
from schemas.feedback import Feedback
from schemas.interactions import Interaction
from schemas.messages import Malformed, Message
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import (
    CONTEXTS,
    ERASURES,
    FEEDBACK,
    INTERACTIONS,
    MODEL_EVENTS,
    OUTCOMES,
    PROFILE_TASKS,
    PROFILES,
    QUALITY,
    QUERIES,
    RESPONSES,
    RETRIEVALS,
    SERVING,
    TRAJECTORIES,
    Topic,
    dead_letter_topic,
)
from tests.support.authorizing_broker import AuthorizingBroker, authorizing_broker
from tests.support.deployment_with_rights import REVIEWS, USERS, WAIT_S, DeploymentWithRights, user_of, with_topics
from tests.support.kafka_tools import run_acl_command
from tests.support.openai_server import completion, serving
from tests.support.small_datasets import write_jsonl
from traffic.lag import GroupLag

pytestmark = [pytest.mark.integration, pytest.mark.long("starts every process with exactly its rights"), pytest.mark.timeout(900)]

NOW = datetime.now(UTC).replace(microsecond=0)
WORKERS = ("workers base", "workers strategies", "workers reflection", "workers teacher", "workers profiles", "workers sources")
SERVING_PROCESSES = ("promoter", "streams", "streams quality", *WORKERS)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizingBroker]:
    with authorizing_broker(tmp_path_factory.mktemp("broker"), [*USERS, "tool"]) as running:
        yield running


@pytest.fixture(scope="module")
def deployment(broker: AuthorizingBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeploymentWithRights]:
    """All processes run, except the trainer."""
    with serving(lambda _: completion("drama")) as endpoint, with_topics(broker, tmp_path_factory.mktemp("deployment"), endpoint.url) as deployment:
        deployment.start("promoter")
        deployment.start(*SERVING_PROCESSES[1:])
        yield deployment


class Platform:
    """The platform's own producer and consumer, with the platform's user."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def send(self, topic: Topic, *messages: Message) -> None:
        with closing(producer(self._settings, "platform")) as sender:
            for message in messages:
                send(sender, topic, message, id=uuid4(), source="/platform").get(timeout=WAIT_S)

    def response_to(self, query: Query) -> Response:
        deadline = time.monotonic() + WAIT_S
        with TopicReader(self._settings, "platform") as reader:
            reader.follow(RESPONSES.name)
            while time.monotonic() < deadline:
                for record in reader.poll(0.2):
                    with suppress(Malformed):
                        response = read_message(Response, record.headers, record.value)[0]
                        if response.query_id == query.query_id:
                            return response
        raise AssertionError(f"no response to the query of {query.strategy} within {WAIT_S:g} s")

    def ask(self, strategy: Strategy) -> tuple[Query, Response]:
        fields = {"tenant": "acme", "user": "ada", "domain": "movie_tag", "text": "a film", "options": ("comedy", "drama")}
        query = Query(query_id=uuid4(), **fields, asked_at=NOW + timedelta(seconds=1), strategy=strategy)
        self.send(QUERIES, query)
        return query, self.response_to(query)


@pytest.fixture(scope="module")
def platform(deployment: DeploymentWithRights) -> Platform:
    """After the platform has sent a history, and the index has it."""
    platform = Platform(deployment.settings_of("platform"))
    seen: dict[str, Any] = {"tenant": "acme", "user": "ada", "domain": "movie_tag", "response": "comedy", "occurred_at": NOW - timedelta(days=1)}
    platform.send(INTERACTIONS, *(Interaction.observed(source_id=str(number), content=f"film {number}", **seen) for number in range(3)))
    with GroupLag(deployment.settings) as lag:
        lag.wait([INTERACTIONS], stall_s=WAIT_S)
    return platform


def test_questions_are_answered_and_taught_from(deployment: DeploymentWithRights, platform: Platform) -> None:
    query, response = platform.ask(Strategy.RPO)
    assert response.provenance.model is not None and len(response.provenance.history_ids) == 3
    for strategy in (Strategy.RAG, Strategy.ZERO_SHOT, Strategy.PAG):
        _, other = platform.ask(strategy)
        assert other.provenance.strategy is strategy
    feedback = Feedback(feedback_id=uuid4(), query_id=query.query_id, tenant="acme", user="ada", truth="comedy", occurred_at=NOW + timedelta(minutes=1))
    platform.send(FEEDBACK, feedback)
    (record,) = deployment.records(OUTCOMES, 1)
    assert read_message(Outcome, record.headers, record.value)[0].response == response
    for topic in (TRAJECTORIES, PROFILES, QUALITY, SERVING):
        deployment.records(topic, 1)
    platform.send(ERASURES, ErasureRequest(request_id=uuid4(), tenant="acme", user="bob", requested_at=NOW))


def test_records_of_a_platforms_own_topic_become_interactions(deployment: DeploymentWithRights, platform: Platform) -> None:
    review = {"user": "cyd", "text": "a film with ghosts", "genre": "horror"}
    with closing(producer(deployment.settings, "test")) as sender:
        sender.send(REVIEWS, value=json.dumps(review).encode()).get(timeout=WAIT_S)

    def mapped() -> list[str]:
        records = deployment.records(INTERACTIONS, 0)
        return [message.content for message in (Interaction.from_bytes(record.value) for record in records if record.key == b"acme/cyd")]

    deployment.wait_until(lambda: mapped() == ["a film with ghosts"], "the review is no interaction")


def test_the_trainer_reads_outcomes_trajectories_and_quality(deployment: DeploymentWithRights, platform: Platform) -> None:
    platform.ask(Strategy.RPO)
    child = deployment.launch("trainer", "--dry-run")
    assert child.wait(WAIT_S) and child.exit_code == 0, deployment.log("trainer")
    log = deployment.log("trainer")
    plan, _ = json.JSONDecoder().raw_decode(log[log.index("{\n") :])  # among the lines of the log
    assert plan["train"] is False and plan["counts"]["outcomes.read"] >= 1 and plan["counts"]["erasures.read"] == 1


def test_a_transition_of_a_version_is_announced(deployment: DeploymentWithRights) -> None:
    registry = Registry(deployment.settings)
    (champion,) = registry.versions()
    registry.register(Path("pico/checkpoints/reflector"), parent=champion.version)
    rejected = deployment.command("retouch", "models", "reject", "--version", "2", "--reason", "a test")
    assert rejected.exit_code == 0, rejected.output
    deployment.records(MODEL_EVENTS, 1)


def test_every_process_may_set_records_aside_and_reads_them_back(deployment: DeploymentWithRights, platform: Platform) -> None:
    """After their restart, workers read the last records and dead letters of their topics, and the streams process fills an empty index."""
    consumed = (*(topic.name for topic in (INTERACTIONS, QUERIES, CONTEXTS, RETRIEVALS, OUTCOMES, PROFILE_TASKS)), REVIEWS)
    with closing(producer(deployment.settings, "test")) as sender:
        for topic in consumed:
            sender.send(topic, key=b"acme/ada", value=b"no message").get(timeout=WAIT_S)
    for topic in consumed:
        deployment.records(dead_letter_topic(topic), 1)
    deployment.stop("streams", *WORKERS)
    deployment.remove_index()
    deployment.start("streams", *WORKERS)
    with GroupLag(deployment.settings) as lag:
        lag.wait([INTERACTIONS], stall_s=WAIT_S)
    _, response = platform.ask(Strategy.RPO)
    assert len(response.provenance.history_ids) >= 3


def test_the_command_line_works_with_its_rights(deployment: DeploymentWithRights, platform: Platform, tmp_path: Path) -> None:
    commands = (
        ("ask", "--user", "ada", "a film", "--domain", "movie_tag", "--timeout", "120"),
        ("profile", "--user", "ada", "--domain", "movie_tag", "--timeout", "120"),
        ("replay", str(small_history(tmp_path)), "--out", str(tmp_path / "replay.json")),
        ("dlq", "list"),
        ("dlq", "redrive", "--topic", "team.queries"),
        ("topics", "describe"),
    )
    for command in commands:
        done = deployment.command("retouch", *command)
        assert done.exit_code == 0, f"{command}: {done.output}"
    assert deployment.records("dlq-redriven", 1)


def small_history(folder: Path) -> Path:
    """Two interactions of a user and a question with its answer, as a file for `retouch replay`."""
    user = {"tenant": "acme", "user": "eve", "domain": "movie_tag"}
    seen = [
        Interaction.observed(**user, source_id=str(number), content=f"film {number}", response="comedy", occurred_at=NOW - timedelta(days=3 - number))
        for number in range(2)
    ]
    query = Query(query_id=uuid4(), **user, text="a film", options=("comedy", "drama"), asked_at=NOW)
    rows = [{"type": "retouch.interaction.v1", "data": interaction.model_dump(mode="json")} for interaction in seen]
    return write_jsonl(folder / "events.jsonl", [*rows, {"type": "retouch.query.v1", "data": query.model_dump(mode="json"), "truth": "comedy"}])


def test_no_process_was_refused_anything_and_each_stops(deployment: DeploymentWithRights, platform: Platform) -> None:
    deployment.stop(*SERVING_PROCESSES)
    for process in (*SERVING_PROCESSES, "trainer"):
        log = deployment.log(process)
        refused = [line for line in log.splitlines() if "AuthorizationFailed" in line or ("lacks" in line and "DESCRIBE_CONFIGS" not in line)]
        assert refused == [], process


def test_the_printed_commands_grant_exactly_these_rights(broker: AuthorizingBroker, deployment: DeploymentWithRights) -> None:
    """By Kafka's own tool, for a process with every kind of pattern, and for all topics."""
    expected: set[tuple[str, str, str, bool]] = set()
    for process in ("workers base", "retouch topics apply"):
        arguments = ("topics", "acls", "--principal", "User:tool", "--process", process, "--bootstrap-server", broker.bootstrap_servers)
        printed = deployment.command(process, *arguments)
        assert printed.exit_code == 0, printed.output
        for line in printed.stdout.splitlines():
            if not line.startswith("#"):
                run_acl_command(deployment.settings, line)
        expected |= {(right.resource.value, right.name, right.operation.value, right.is_prefix) for right in deployment.rights(process)}
    assert broker.granted("tool") == expected


def test_the_printed_rights_are_those_that_the_processes_here_have(broker: AuthorizingBroker, deployment: DeploymentWithRights) -> None:
    printed = json.loads(deployment.command("retouch", "topics", "acls", "--principal", "User:x", "--json").stdout)
    assert list(printed) == list(PROCESSES)
    for process, rights in printed.items():
        listed = {(right["resource"], right["name"], right["operation"], right["pattern"] == "PREFIXED") for right in rights}
        assert broker.granted(user_of(process)) == listed
