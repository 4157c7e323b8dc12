"""A domain of the settings with ordered labels: from a query without options, through the base worker on a real broker, to online quality."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

import pytest

from infra.endpoints.base_endpoint import base_endpoint
from infra.kafka.clients import admin, producer, send
from infra.kafka.topic_reader import TopicReader
from infra.kafka.topology import apply_topology
from infra.settings import Settings, load
from infra.settings.promotion import QualitySettings
from schemas.envelope import read_message
from schemas.feedback import Feedback
from schemas.messages import Malformed
from schemas.outcomes import Outcome
from schemas.quality import Metric
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.tasks import Task
from schemas.topics import OUTCOMES, RESPONSES, Topic, dead_letter_topic
from streams.quality.open_spans import RecordRef
from streams.quality.partition_metrics import PartitionMetrics
from tests.support.openai_server import completion, scripted, serving
from workers.base.handler import QueryHandler
from workers.runtime.handler import HandlerSpec
from workers.runtime.worker import Worker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

WAIT_S = 90.0
PRIORITY = {
    "system": "You sort e-mails. A priority is one of {options}.",
    "user_template": "Which priority has this e-mail?\n{text}",
    "options": ["P1", "P2", "P3", "P4"],
    "ordered": True,
    "metric": "ordinal_score",
    "max_new_tokens": 5,
}


def response_to(settings: Settings, query: Query) -> Response:
    with TopicReader(settings, "test") as reader:
        reader.follow(RESPONSES.name)
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for record in reader.poll(0.2):
                try:
                    message, _ = read_message(Response, record.headers, record.value)
                except Malformed:  # of other tests
                    continue
                if message.query_id == query.query_id:
                    return message
    raise AssertionError(f"no response within {WAIT_S:g} s")


def test_ordered_labels_go_from_the_query_to_the_reward(settings: Settings) -> None:
    name = f"domains-{uuid.uuid4().hex[:10]}"
    queries = Topic(name, Query, "tenant/user", "test", "test")
    apply_topology(settings)
    client = admin(settings)
    client.create_topics({each: {"num_partitions": 1, "replication_factor": 1} for each in (name, dead_letter_topic(name))})
    client.wait_for_topics([name, dead_letter_topic(name)])
    client.close()
    asked_at = datetime.now(UTC)
    query = Query(
        query_id=uuid.uuid4(), tenant="test-domains", user="ada", domain="email_priority", text="server down", asked_at=asked_at, strategy=Strategy.ZERO_SHOT
    )
    to = producer(settings, "test")
    send(to, queries, query, id=query.query_id, source="/test")
    to.close()

    with serving(scripted(completion(" p3 "))) as server:
        own = load(domains={"email_priority": PRIORITY}, base={"url": server.url, "model": "m"})
        own = own.model_copy(update={"kafka": settings.kafka, "stack": settings.stack})
        endpoint = base_endpoint(own)
        worker = Worker(own, HandlerSpec(name, queries, QueryHandler(endpoint, own)), concurrency=1, lifespan=lambda: endpoint)
        assert worker.drain(WAIT_S).produced == 1
    (request,) = server.requests
    assert [message["role"] for message in request["messages"]] == ["system", "user"] and request["max_tokens"] == 5
    assert request["messages"][0]["content"] == "You sort e-mails. A priority is one of P1, P2, P3, P4."

    response = response_to(settings, query)
    asked = response.context.draft.query
    assert (response.answer, asked.options, asked.task) == ("P3", ("P1", "P2", "P3", "P4"), Task.LABEL)

    feedback = Feedback(feedback_id=uuid.uuid4(), query_id=query.query_id, tenant=query.tenant, user=query.user, truth="P1", occurred_at=datetime.now(UTC))
    metrics = PartitionMetrics(0, "any", QualitySettings(window_s=1), own.entries)
    metrics.count(Outcome.joined(response, feedback), RecordRef(OUTCOMES.name, 0, time.time() - 60))
    cells = [cell for cell in metrics.take_changed() if cell.domain == "email_priority"]
    assert [cell.metrics[Metric.REWARD].mean for cell in cells] == [pytest.approx(1 - 2 / 3)] * len(cells) and cells
