"""Responses to queries, without a running stack."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.contexts import Context
from schemas.drafts import Draft
from schemas.queries import Query
from schemas.responses import ModelVersion, Provenance, Response, ResponseStatus
from schemas.strategies import Strategy


def response_to(query: Query, *, base: str = "base", final: str = "final", status: ResponseStatus = ResponseStatus.PERSONALIZED) -> Response:
    """A response to the query, with 0 ms for each step."""
    draft = Draft(query=query, answer=base, base_model="echo", base_ms=0)
    model = ModelVersion(name="echo", version="1", digest="0") if status is ResponseStatus.PERSONALIZED else None
    provenance = Provenance(
        model=model, base_model="echo", strategy=Strategy.RPO, k=0, history_ids=(), prompt_digest=None, base_ms=0, retrieve_ms=0, reflect_ms=0
    )
    return Response(
        query_id=query.query_id,
        context=Context(draft=draft, items=(), k_max=4, retrieve_ms=0),
        answer=final,
        reasoning="",
        status=status,
        provenance=provenance,
        answered_at=datetime.now(UTC),
    )
