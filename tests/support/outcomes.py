"""Builds outcomes, trajectories, query cases and SFT examples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.contexts import Context, HistoryItem
from schemas.drafts import Draft
from schemas.eligibility import Ineligible
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.outcomes import Outcome
from schemas.positions import Source
from schemas.queries import Query
from schemas.responses import Provenance, Response, ResponseStatus
from schemas.strategies import Strategy
from schemas.trajectories import Teacher, Trajectory
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_outcome(
    number: int = 0,
    *,
    user: str = "u",
    options: tuple[str, ...] = ("a", "b"),
    base: str = "a",
    truth: str | None = "b",
    items: int = 3,
    domain: str = "letters",
) -> Outcome:
    asked_at = NOON + timedelta(minutes=number)
    query_id = derive("query", user, domain, number)
    query = Query(query_id=query_id, tenant="t", user=user, domain=domain, text=f"question {number}", options=options, asked_at=asked_at)
    history = tuple(
        HistoryItem(
            interaction_id=derive("item", user, domain, number, index),
            content=f"item {index}",
            response=truth or "b",
            occurred_at=NOON - timedelta(days=index + 1),
            score=0.9 - index / 10,
            source=Source(topic="interactions", partition=0, offset=index),
        )
        for index in range(items)
    )
    draft = Draft(query=query, answer=base, base_model="m", base_ms=1.0)
    provenance = Provenance(
        model=None, base_model="m", strategy=Strategy.RPO, k=items, history_ids=(), prompt_digest=None, base_ms=1, retrieve_ms=1, reflect_ms=1
    )
    response = Response(
        query_id=query_id,
        context=Context(draft=draft, items=history, k_max=6, retrieve_ms=1.0),
        answer=base,
        reasoning="",
        status=ResponseStatus.PERSONALIZED,
        provenance=provenance,
        answered_at=asked_at,
    )
    feedback = Feedback(
        feedback_id=derive("feedback", query_id), query_id=query_id, tenant="t", user=user, truth=truth, score=0.5, occurred_at=asked_at + timedelta(minutes=1)
    )
    return Outcome.joined(response, feedback)


def make_case(number: int = 0, **fields: Any) -> QueryCase:
    case = case_of(make_outcome(number, **fields))
    assert not isinstance(case, Ineligible)
    return case


def make_trajectory(outcome: Outcome, reasoning: str = "they like b") -> Trajectory:
    example_id = outcome.response.context.items[0].interaction_id
    return Trajectory(
        trajectory_id=derive("trajectory", outcome.outcome_id), outcome=outcome, example_id=example_id, reasoning=reasoning, teacher=Teacher(name="template")
    )


def make_sft_example(number: int = 0, reasoning: str = "they like b", **fields: Any) -> SftExample:
    example = sft_example_of(make_trajectory(make_outcome(number, **fields), reasoning))
    assert isinstance(example, SftExample)
    return example
