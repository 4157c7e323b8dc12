"""`retouch ask`: produces one query, waits for its response, and shows its provenance."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from cli.exchange import exchange
from infra.errors import CannotContinue
from infra.local import running_settings
from infra.local.stack_record import read_record
from infra.process.command_output import OK, USAGE, printable, show, show_error, show_json, show_table
from infra.settings import Settings
from schemas.positions import Source
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import QUERIES, RESPONSES


def ask(
    settings: Settings,
    user: str,
    text: str,
    domain: str,
    options: tuple[str, ...],
    strategy: str | None,
    timeout_s: float,
    as_json: bool,
    after: str | None = None,
) -> int:
    """`after`: topic/partition/offset of an event that the search waits for."""
    try:
        position = None if after is None else Source.parse(after)
    except ValueError as error:
        show_error(f"--after {error}")
        return USAGE
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
            after=position,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        show_error(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        return USAGE
    response = request(running_settings(settings), query, timeout_s)
    show_json(as_data(response)) if as_json else _show(response)
    return OK


def request(settings: Settings, query: Query, timeout_s: float) -> Response:
    """Send the query and block for its response. Raises RetryLater or CannotContinue if the broker or the response does not come in time."""
    response = exchange(settings, "ask", QUERIES, query, query.query_id, RESPONSES, Response, lambda found: found.query_id == query.query_id, timeout_s)
    if response is None:
        raise CannotContinue(f"no response within {timeout_s:g} s: {what_is_down(settings)}")
    return response


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
        "after": response.context.after,
        "provenance": response.provenance.model_dump(mode="json"),
    }


def _show(response: Response) -> None:
    provenance = response.provenance
    model = f"{provenance.model.name} version {provenance.model.version} ({provenance.model.digest[:12]})" if provenance.model else "none"
    show(printable(response.answer))
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
            *([("after", response.context.after.value)] if response.context.after else []),
            ("milliseconds", f"base {provenance.base_ms:.0f}, retrieve {provenance.retrieve_ms:.0f}, reflect {provenance.reflect_ms:.0f}"),
        ],
    )
