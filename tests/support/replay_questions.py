"""Questions of the simulated platform for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.ids import derive
from schemas.queries import Query
from traffic.datasets.steps import Question

START = datetime(2026, 1, 1, tzinfo=UTC)


def question(user: str, number: int, truth: str | None = None, options: tuple[str, ...] = (), domain: str = "note") -> Question:
    """A question that `user` asks at minute `number`."""
    query = Query(
        query_id=derive("query", user, number, domain),
        tenant="t",
        user=user,
        domain=domain,
        text=f"text {number}",
        options=options,
        asked_at=START + timedelta(minutes=number),
    )
    return Question(query, truth)
