"""What the cost measurements of one process share: an example response, a broker of their own, and their output."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from infra.settings import Settings, load
from schemas.contexts import Context, HistoryItem
from schemas.drafts import Draft
from schemas.experiments import Assignment
from schemas.queries import Query
from schemas.responses import ModelVersion, Provenance, Response, ResponseStatus
from schemas.strategies import Strategy

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = ModelVersion(name="retouch-reflector", version="1", digest="0" * 64)


def personalized_response(
    query: Query, items: Sequence[HistoryItem], *, draft: str, answer: str, reasoning: str = "", assignment: Assignment | None = None
) -> Response:
    durations = dict.fromkeys(("base_ms", "retrieve_ms", "reflect_ms"), 1.0)
    return Response(
        query_id=query.query_id,
        context=Context(draft=Draft(query=query, answer=draft, base_model="m", base_ms=1.0), items=tuple(items), k_max=len(items), retrieve_ms=1.0),
        answer=answer,
        reasoning=reasoning,
        status=ResponseStatus.PERSONALIZED,
        provenance=Provenance(model=MODEL, base_model="m", strategy=Strategy.RPO, k=4, history_ids=(), prompt_digest=None, **durations, assignment=assignment),
        answered_at=NOON,
    )


@contextmanager
def broker_with_topics(**kafka: int) -> Iterator[tuple[Settings, Any]]:
    """Settings of a local broker with all topics, and a producer, which the caller closes. `kafka` are further settings of it."""
    from infra.kafka.clients import producer
    from infra.kafka.topology import apply_topology
    from infra.local.broker import Broker

    with tempfile.TemporaryDirectory() as scratch, Broker(load(stack={"dir": scratch})) as broker:
        settings = load(stack={"dir": scratch}, kafka={"bootstrap_servers": broker.bootstrap_servers, **kafka})
        apply_topology(settings)
        yield settings, producer(settings, "retouch-bench")


def print_json(figures: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
