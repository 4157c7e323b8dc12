"""A right that is missing, at the start or later, is named with user, operation, resource and remedy. On a broker that denies by default."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from infra.kafka.clients import producer, send
from infra.kafka.rights import Operation, Resource, Right
from schemas.dead_letters import dead_letter
from schemas.envelope import read_message
from schemas.messages import Malformed
from schemas.queries import Query
from schemas.records import ConsumedRecord
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import INTERACTIONS, QUERIES, RESPONSES, declared_names
from tests.support.authorizing_broker import AuthorizingBroker, authorizing_broker
from tests.support.deployment_with_rights import REVIEWS, USERS, WAIT_S, DeploymentWithRights, user_of, with_topics
from tests.support.openai_server import completion, serving

pytestmark = [pytest.mark.integration, pytest.mark.long("starts a process for each right that is taken away"), pytest.mark.timeout(600)]

REMEDY = "`retouch topics acls` prints the rights that each process needs"


def topic(name: str, operation: Operation) -> Right:
    return Right(Resource.TOPIC, f"team.{name}", operation)


def group(name: str, operation: Operation = Operation.READ) -> Right:
    return Right(Resource.GROUP, f"team.group.retouch-{name}", operation)


def transactions(name: str) -> Right:
    return Right(Resource.TRANSACTIONAL_ID, f"team.group.retouch-{name}-", Operation.WRITE, is_prefix=True)


TRANSACTIONS = transactions("base")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizingBroker]:
    with authorizing_broker(tmp_path_factory.mktemp("broker"), USERS) as running:
        yield running


@pytest.fixture(scope="module")
def deployment(broker: AuthorizingBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeploymentWithRights]:
    with serving(lambda _: completion("drama")) as endpoint, with_topics(broker, tmp_path_factory.mktemp("deployment"), endpoint.url) as deployment:
        yield deployment


@pytest.fixture
def without(broker: AuthorizingBroker) -> Iterator[Without]:
    missing = Without(broker)
    yield missing
    missing.restore()


class Without:
    """Revokes rights, until the end of the test."""

    def __init__(self, broker: AuthorizingBroker) -> None:
        self._broker = broker
        self._revoked: list[tuple[str, Right]] = []

    def __call__(self, process: str, right: Right) -> None:
        self._broker.revoke(user_of(process), right)
        self._revoked.append((user_of(process), right))

    def restore_one(self, process: str, right: Right) -> None:
        self._revoked.remove((user_of(process), right))
        self._broker.grant(user_of(process), [right])

    def restore(self) -> None:
        while self._revoked:
            user, right = self._revoked.pop()
            self._broker.grant(user, [right])


@pytest.mark.parametrize(
    ("process", "right", "text"),
    [
        ("workers base", topic("queries", Operation.READ), "READ on topic team.queries"),
        ("workers base", topic("queries-dlt", Operation.READ), "READ on topic team.queries-dlt"),
        ("workers base", topic("responses", Operation.WRITE), "WRITE on topic team.responses"),
        ("workers base", group("base"), "READ on group team.group.retouch-base"),
        ("workers base", TRANSACTIONS, "WRITE on transactional id team.group.retouch-base-test"),
        ("workers sources", Right(Resource.TOPIC, REVIEWS, Operation.READ), "READ on topic shop.reviews"),
        ("workers sources", topic(f"{REVIEWS}-dlt", Operation.WRITE), "WRITE on topic team.shop.reviews-dlt"),
        ("workers sources", topic("interactions", Operation.WRITE), "WRITE on topic team.interactions"),
        ("workers sources", group("sources"), "READ on group team.group.retouch-sources"),
        ("workers sources", transactions("sources"), "WRITE on transactional id team.group.retouch-sources-test-shop.reviews"),
        ("streams quality", topic("shadows", Operation.READ), "READ on topic team.shadows"),
        ("streams quality", topic("quality", Operation.WRITE), "WRITE on topic team.quality"),
        ("streams quality", group("quality"), "READ on group team.group.retouch-quality"),
        ("streams", topic("retouch-streams-halves-changelog", Operation.READ), "READ on topic team.retouch-streams-halves-changelog"),
        ("streams", group("streams"), "READ on group team.group.retouch-streams"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and " on " not in value else "",
)
def test_a_process_ends_at_its_start_and_names_the_right(process: str, right: Right, text: str, deployment: DeploymentWithRights, without: Without) -> None:
    without(process, right)
    child = deployment.launch(process)
    assert child.wait(WAIT_S) and child.exit_code == 1, deployment.log(process)
    assert f"User:{user_of(process)} lacks {text}; {REMEDY}" in deployment.log(process)


@pytest.mark.parametrize(
    "right",
    [topic("queries", Operation.READ), topic("responses", Operation.WRITE), group("base"), TRANSACTIONS],
    ids=["reads", "writes", "group", "transactions"],
)
def test_a_worker_that_loses_a_right_ends_and_names_it(right: Right, deployment: DeploymentWithRights, without: Without) -> None:
    deployment.start("workers base")
    without("workers base", right)
    asked = ask(deployment)
    child = deployment.child("workers base")
    assert child.wait(WAIT_S) and child.exit_code == 1, deployment.log("workers base")
    name = "team.group.retouch-base-test" if right == TRANSACTIONS else right.name
    assert f"User:workers-base lacks {right.operation} on {right.resource} {name}; {REMEDY}" in deployment.log("workers base")
    without.restore()
    deployment.start("workers base")
    deployment.wait_until(lambda: asked <= answered(deployment), "a query has no answer after the right is back")
    deployment.stop("workers base")


@pytest.mark.parametrize(
    "right",
    [topic("interactions", Operation.READ), topic("interactions-dlt", Operation.WRITE), group("streams")],
    ids=["reads", "writes", "group"],
)
def test_a_streams_process_that_loses_a_right_ends_and_names_it(right: Right, deployment: DeploymentWithRights, without: Without) -> None:
    deployment.start("streams")
    without("streams", right)
    with closing(producer(deployment.settings, "test")) as sender:
        for partition in range(deployment.settings.kafka.partitions):
            sender.send(INTERACTIONS.name, key=b"acme/ada", value=b"no message", partition=partition).get(timeout=WAIT_S)
    child = deployment.child("streams")
    assert child.wait(WAIT_S) and child.exit_code == 1, deployment.log("streams")
    assert f"User:streams lacks {right}; {REMEDY}" in deployment.log("streams")


def test_online_quality_that_loses_a_right_ends_and_names_it(deployment: DeploymentWithRights, without: Without) -> None:
    deployment.start("streams quality")
    without("streams quality", topic("outcomes", Operation.READ))
    child = deployment.child("streams quality")
    assert child.wait(WAIT_S) and child.exit_code == 1, deployment.log("streams quality")
    assert f"User:streams-quality lacks READ on topic team.outcomes; {REMEDY}" in deployment.log("streams quality")


def test_the_trainer_names_the_right_that_it_lacks(deployment: DeploymentWithRights, without: Without) -> None:
    without("trainer", topic("trajectories", Operation.READ))
    child = deployment.launch("trainer", "--dry-run")
    assert child.wait(WAIT_S) and child.exit_code == 1, deployment.log("trainer")
    assert f"User:trainer lacks READ on topic team.trajectories; {REMEDY}" in deployment.log("trainer")


def test_the_promoter_names_rights_that_it_lacks_and_serves(deployment: DeploymentWithRights, without: Without) -> None:
    without("promoter", topic("model-events", Operation.WRITE))
    without("promoter", topic("serving", Operation.READ))
    deployment.start("promoter")
    deployment.wait_in_log("promoter", f"User:promoter lacks WRITE on topic team.model-events and READ on topic team.serving; {REMEDY}")
    deployment.wait_in_log(
        "promoter", f"the broker at {deployment.broker.address} refuses to execute the request: User:promoter lacks READ on topic team.serving;"
    )
    deployment.stop("promoter")


@pytest.mark.parametrize(
    ("arguments", "right", "text"),
    [
        (("ask", "--user", "ada", "a film", "--domain", "movie_tag"), topic("queries", Operation.WRITE), "WRITE on topic team.queries"),
        (("ask", "--user", "ada", "a film", "--domain", "movie_tag"), topic("responses", Operation.READ), "READ on topic team.responses"),
        (("dlq", "list"), topic("feedback-dlt", Operation.READ), "READ on topic team.feedback-dlt"),
        (("dlq", "redrive", "--all"), topic("dlq-redriven", Operation.WRITE), "WRITE on topic team.dlq-redriven"),
    ],
    ids=["ask-writes", "ask-reads", "dlq-reads", "dlq-writes"],
)
def test_a_command_names_the_right_that_it_lacks(
    arguments: tuple[str, ...], right: Right, text: str, deployment: DeploymentWithRights, without: Without
) -> None:
    letter = dead_letter(ConsumedRecord("feedback", 0, 0, 0, b"acme/ada", b"no message", ()), "retouch-streams", Malformed("no JSON"))
    with closing(producer(deployment.settings, "test")) as sender:
        sender.send(letter.topic, key=letter.key, value=letter.value, headers=list(letter.headers)).get(timeout=WAIT_S)
    without("retouch", right)
    done = deployment.command("retouch", *arguments)
    assert done.exit_code == 1 and f"User:retouch lacks {text}; {REMEDY}" in done.output, done.output
    assert f"kafka-io-retouch-{arguments[0]}" not in {thread.name for thread in threading.enumerate()}, "the refused command still connects"


def test_a_redrive_names_its_transactional_id(deployment: DeploymentWithRights, without: Without) -> None:
    without("retouch", Right(Resource.TRANSACTIONAL_ID, "team.group.retouch-dlq", Operation.WRITE))
    done = deployment.command("retouch", "dlq", "redrive", "--all")
    assert done.exit_code == 1 and f"User:retouch lacks WRITE on transactional id team.group.retouch-dlq; {REMEDY}" in done.output, done.output
    assert "kafka-io-retouch-dlq" not in {thread.name for thread in threading.enumerate()}, "the refused producer still connects"


def test_describe_says_what_the_broker_does_not_show(deployment: DeploymentWithRights, without: Without) -> None:
    without("retouch", topic("shadows", Operation.READ))
    without("retouch", topic("shadows", Operation.DESCRIBE_CONFIGS))
    without("retouch", topic("quality", Operation.DESCRIBE_CONFIGS))
    done = deployment.command("retouch", "topics", "describe")
    rows = {line.split()[0]: line for line in done.output.splitlines()}
    assert done.exit_code == 1
    assert "not shown" in rows["team.shadows"] and "lacks DESCRIBE on it" in rows["team.shadows"]
    assert "not shown" in rows["team.quality"] and "lacks DESCRIBE_CONFIGS on it" in rows["team.quality"]
    assert "as declared" in rows["team.queries"]
    data = {row["name"]: row for row in json.loads(deployment.command("retouch", "topics", "describe", "--json").stdout)["topics"]}
    assert data["team.shadows"]["visibility"] == "none" and data["team.quality"]["visibility"] == "without settings"
    assert not data["team.quality"]["keeps_records"] and data["team.queries"]["keeps_records"]


def test_apply_creates_what_it_may_and_names_the_rest(deployment: DeploymentWithRights, without: Without) -> None:
    apply = "retouch topics apply"
    for name in ("queries-dlt", "shadows"):
        deployment.delete_topic(name)
    without(apply, topic("shadows", Operation.CREATE))
    for name in declared_names():
        without(apply, topic(name, Operation.ALTER_CONFIGS))
    refused = deployment.command(apply, "topics", "apply")
    assert refused.exit_code == 1, refused.output
    assert f"1 topics were created, others not: User:retouch-topics-apply lacks CREATE on topic team.shadows; {REMEDY}" in refused.output
    without.restore_one(apply, topic("shadows", Operation.CREATE))
    applied = deployment.command(apply, "topics", "apply")
    assert applied.exit_code == 0, applied.output
    assert "created 1: team.shadows" in applied.output
    assert "not compared, because this user lacks DESCRIBE_CONFIGS on them: " in applied.output and "team.queries-dlt" in applied.output


def test_apply_names_the_right_to_raise_limits(broker: AuthorizingBroker, deployment: DeploymentWithRights, without: Without) -> None:
    apply = "retouch topics apply"
    deployment.alter_topic("queries", {"retention.ms": "1000"})
    without(apply, topic("queries", Operation.ALTER_CONFIGS))
    broker.grant(user_of(apply), [topic("queries", Operation.DESCRIBE_CONFIGS)])
    refused = deployment.command(apply, "topics", "apply")
    assert refused.exit_code == 1
    assert f"limits are not raised: User:retouch-topics-apply lacks ALTER_CONFIGS on topic team.queries; {REMEDY}" in refused.output
    broker.revoke(user_of(apply), topic("queries", Operation.DESCRIBE_CONFIGS))


def test_a_missing_topic_is_named_as_on_the_broker(deployment: DeploymentWithRights, tmp_path: Path) -> None:
    """Not mistaken for a missing right."""
    deployment.delete_topic("queries")
    try:
        child = deployment.launch("workers base")
        assert child.wait(WAIT_S) and child.exit_code == 1, deployment.log("workers base")
        assert "lacks topics team.queries: create them with `retouch topics apply`" in deployment.log("workers base")
    finally:
        applied = deployment.command("retouch topics apply", "topics", "apply")
        assert applied.exit_code == 0, applied.output


def ask(deployment: DeploymentWithRights) -> set[UUID]:
    """Queries that the base worker answers alone."""
    fields = {"tenant": "acme", "domain": "movie_tag", "text": "a film", "options": ("comedy", "drama"), "strategy": Strategy.ZERO_SHOT}
    queries = [Query(query_id=uuid4(), user=f"user-{number}", asked_at=datetime.now(UTC), **fields) for number in range(16)]
    with closing(producer(deployment.settings, "test")) as sender:
        for query in queries:
            send(sender, QUERIES, query, id=query.query_id, source="/test").get(timeout=WAIT_S)
    return {query.query_id for query in queries}


def answered(deployment: DeploymentWithRights) -> set[UUID]:
    return {read_message(Response, record.headers, record.value)[0].query_id for record in deployment.records(RESPONSES, 0)}
