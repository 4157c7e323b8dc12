"""`retouch ask`: produces one query, waits for its response, and shows its provenance."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from pydantic import ValidationError

from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors
from infra.kafka.topic_reader import TopicReader
from infra.local import running_settings
from infra.local.stack_record import read_record
from infra.process.command_output import OK, USAGE, show, show_error, show_json, show_table
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.messages import Malformed
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import QUERIES, RESPONSES

SOURCE = "/infra/ask"
CONNECT_TIMEOUT_S = 10.0


def ask(settings: Settings, user: str, text: str, domain: str, options: tuple[str, ...], strategy: str | None, timeout_s: float, as_json: bool) -> int:
    try:
        query = Query(
            query_id=uuid4(),
            tenant=settings.tenant,
            user=user,
            domain=domain,
            text=text,
            options=options,
            asked_at=datetime.now(UTC),
            strategy=Strategy(strategy) if strategy else None,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        show_error(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        return USAGE
    response = request(running_settings(settings), query, timeout_s)
    show_json(as_data(response)) if as_json else _show(response)
    return OK


def request(settings: Settings, query: Query, timeout_s: float) -> Response:
    """Send the query and block for its response. Raises RetryLater or CannotContinue if the broker or the response does not come in time.

    The reader seeks to the end of `responses` before the query is sent, so it misses no response and reads no old record.
    """
    with TopicReader(settings, "retouch-ask", timeout_s=CONNECT_TIMEOUT_S) as reader, broker_errors(settings):
        if not reader.follow(RESPONSES.name, from_end=True):
            address = settings.bootstrap_servers()
            raise CannotContinue(f"the broker at {address} has no topic {RESPONSES.name}: `retouch topics apply` creates it")
        with closing(producer(settings, "retouch-ask")) as sender:
            send(sender, QUERIES, query, id=query.query_id, source=SOURCE).get(timeout=CONNECT_TIMEOUT_S)
        if response := _await_response(reader, query.query_id, timeout_s):
            return response
    raise CannotContinue(f"no response within {timeout_s:g} s: {what_is_down(settings)}")


def what_is_down(settings: Settings) -> str:
    """What the local stack says about processes that do not serve; without one, what to look at."""
    record = read_record(settings.stack.dir)
    problems = record.problems(datetime.now(UTC)) if record else []
    return "; ".join(problems) or "is the stack up (`retouch status`), and are its workers keeping up?"


def as_data(response: Response) -> dict[str, Any]:
    """The response for `--json`, with the ids of the history items instead of their text."""
    return {
        "query_id": str(response.query_id),
        "answer": response.answer,
        "status": response.status,
        "base_answer": response.context.draft.answer,
        "base_failure": response.context.draft.failure,
        "reasoning": response.reasoning,
        "provenance": response.provenance.model_dump(mode="json"),
    }


def _await_response(reader: TopicReader, query_id: UUID, timeout_s: float) -> Response | None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for record in reader.poll(0.2):
            try:
                response, _ = read_message(Response, record.headers, record.value)
            except Malformed:
                continue  # the topic's consumer groups set it aside
            if response.query_id == query_id:
                return response
    return None


def _show(response: Response) -> None:
    provenance = response.provenance
    model = f"{provenance.model.name} version {provenance.model.version} ({provenance.model.digest[:12]})" if provenance.model else "none"
    show(response.answer)
    show_table(
        ("", ""),
        [
            ("status", response.status.value),
            ("base answer", response.context.draft.answer or f"none: {response.context.draft.failure or 'the strategy asks for none'}"),
            ("reasoning", response.reasoning),
            ("reflection model", model),
            ("base model", provenance.base_model),
            ("strategy", f"{provenance.strategy.value}, k={provenance.k}"),
            ("answered by", (provenance.answered_by or provenance.strategy).value if response.answer else "none"),
            ("history", ", ".join(map(str, provenance.history_ids)) or "none"),
            ("milliseconds", f"base {provenance.base_ms:.0f}, retrieve {provenance.retrieve_ms:.0f}, reflect {provenance.reflect_ms:.0f}"),
        ],
    )
