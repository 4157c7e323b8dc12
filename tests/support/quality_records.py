"""Responses, outcomes and shadow answers, as the topics hold them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from schemas.contexts import Context
from schemas.drafts import Draft
from schemas.experiments import Arm, Assignment
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.responses import ModelVersion, Provenance, Response, ResponseStatus
from schemas.shadows import Shadow
from schemas.strategies import Strategy
from tests.support.streams_fakes import NOON

EXPERIMENT = derive("experiment", "of a test")
MODEL = ModelVersion(name="reflector", version="3", digest="d")


def make_response(
    number: int,
    answer: str = "comedy",
    *,
    user: str = "alice",
    arm: Arm = Arm.CHAMPION,
    experiment: UUID | None = None,
    version: str = "3",
    status: ResponseStatus = ResponseStatus.PERSONALIZED,
    domain: str = "movie_tag",
    options: tuple[str, ...] = ("comedy", "drama"),
    base: str = "drama",
    strategy: Strategy = Strategy.RPO,
    comparison: str | None = None,
    answered_at: datetime = NOON,
    **provenance: Any,
) -> Response:
    query_id = derive("query", user, number)
    query = Query(query_id=query_id, tenant="acme", user=user, domain=domain, text="a film", options=options, asked_at=NOON)
    """`experiment` is a challenger's; `comparison` is that of strategies. Only RPO has a model and an assignment."""
    fields: dict[str, Any] = {"model": None, "k": 2, "reflect_ms": 0.0}
    if strategy is Strategy.RPO:
        fields |= {"model": MODEL, "reflect_ms": 10.0, "assignment": Assignment(experiment=experiment, arm=arm, version=version)}
    fields |= {"strategy": strategy, "experiment": comparison} | provenance
    draft = Draft(query=query, answer=base, base_model="base", base_ms=1)
    return Response(
        query_id=query_id,
        context=Context(draft=draft, items=(), k_max=6, retrieve_ms=1),
        answer=answer,
        reasoning="",
        status=status,
        provenance=Provenance(base_model="base", history_ids=(), prompt_digest=None, base_ms=1, retrieve_ms=1, **fields),
        answered_at=answered_at,
    )


def make_outcome(response: Response, truth: str | None = "comedy", score: float | None = None, again: int = 0) -> Outcome:
    query = response.context.draft.query
    ids = {"feedback_id": derive("feedback", query.query_id, again), "query_id": query.query_id, "tenant": query.tenant, "user": query.user}
    return Outcome.joined(response, Feedback(**ids, truth=truth, score=score, occurred_at=NOON))


def make_shadow(response: Response, answer: str = "comedy", status: ResponseStatus = ResponseStatus.PERSONALIZED, version: str = "4") -> Shadow:
    """The challenger's answer to the same query, in the same experiment."""
    query, assignment = response.context.draft.query, response.provenance.assignment
    assert assignment
    return Shadow(
        shadow_id=derive("shadow", assignment.experiment, query.query_id),
        query_id=query.query_id,
        tenant=query.tenant,
        user=query.user,
        domain=query.domain,
        assignment=Assignment(experiment=assignment.experiment, arm=Arm.SHADOW, version=version),
        model=MODEL.model_copy(update={"version": version}),
        status=status,
        base_answer=response.context.draft.answer,
        answer=answer,
        reflect_ms=20.0,
        answered_at=NOON,
    )
