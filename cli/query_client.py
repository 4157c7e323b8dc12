"""One query through the running system: produce it, wait for its response, show where it came from."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from infra.errors import CannotContinue
from infra.kafka.clients import producer, reader, send
from infra.settings import Settings
from schemas.envelope import read
from schemas.messages import Malformed
from schemas.queries import Query, Strategy
from schemas.responses import Response
from schemas.topics import QUERIES, RESPONSES

SOURCE = "/infra/ask"
CONNECT_TIMEOUT_S = 10.0


def question(settings: Settings, user: str, text: str, domain: str, options: tuple[str, ...], strategy: Strategy | None) -> Query:
    """A query of the settings' tenant, asked now. Raises pydantic's ValidationError for what no query may be."""
    now = datetime.now(UTC)
    return Query(query_id=uuid4(), tenant=settings.tenant, user=user, domain=domain, text=text, options=options, asked_at=now, strategy=strategy)


def ask(settings: Settings, query: Query, timeout_s: float) -> Response:
    """Send the query and block for its response. Raises CannotContinue when the broker or the answer does not come in time.

    The reader stands at the end of `responses` before the query leaves, so no answer can pass unseen and no old record is read.
    """
    from kafka import TopicPartition
    from kafka.errors import KafkaError

    address = settings.bootstrap_servers()
    try:
        consumer = reader(settings, "retouch-ask", bootstrap_timeout_ms=int(CONNECT_TIMEOUT_S * 1000))
        try:
            partitions = consumer.partitions_for_topic(RESPONSES.name)
            if not partitions:
                raise CannotContinue(f"the broker at {address} has no topic {RESPONSES.name}: `retouch topics apply` creates it")
            assigned = [TopicPartition(RESPONSES.name, number) for number in sorted(partitions)]
            consumer.assign(assigned)
            for partition, end in consumer.end_offsets(assigned).items():
                consumer.seek(partition, end)
            _send(settings, query)
            return _await_response(consumer, query.query_id, timeout_s)
        finally:
            consumer.close()
    except KafkaError as error:
        raise CannotContinue(f"the broker at {address} does not answer ({type(error).__name__}): is it up, and is the address right?") from error


def as_data(response: Response) -> dict[str, Any]:
    """For `--json`: the response without the history's text, which the ids name."""
    return {
        "query_id": str(response.query_id),
        "answer": response.answer,
        "status": response.status,
        "base_answer": response.context.draft.answer,
        "reasoning": response.reasoning,
        "provenance": response.provenance.model_dump(mode="json"),
    }


def _send(settings: Settings, query: Query) -> None:
    sender = producer(settings, "retouch-ask")
    try:
        send(sender, QUERIES, query, id=query.query_id, source=SOURCE).get(timeout=CONNECT_TIMEOUT_S)
    finally:
        sender.close()


def _await_response(consumer: Any, query_id: UUID, timeout_s: float) -> Response:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                try:
                    response, _ = read(Response, record.headers, record.value)
                except Malformed:
                    continue  # somebody else's bad record; its own readers set it aside
                if response.query_id == query_id:
                    return response
    raise CannotContinue(f"no response within {timeout_s:g} s: is the stack up (`retouch status`), and are its workers keeping up?")
