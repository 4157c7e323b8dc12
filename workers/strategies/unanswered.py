"""Drafts of queries that get no answer from the base model. They name the cause, and are counted and logged."""

from __future__ import annotations

import logging
from typing import Any

from infra.telemetry.metrics import BASE_UNANSWERED
from schemas.drafts import Draft, DraftStatus, FailureCause
from schemas.queries import Query
from schemas.strategies import StrategyChoice
from workers.runtime.handler import DegradeReason, Incoming

log = logging.getLogger(__name__)

_ADVICE = {FailureCause.ONLY_REASONING: "raise base.max_new_tokens, or strategies.max_new_tokens, which also count the reasoning"}


def empty_draft(query: Query, choice: StrategyChoice, base_model: str, status: DraftStatus, cause: str, reason: str) -> Draft:
    """`cause`: a FailureCause, or a newer endpoint's word, which counts as OTHER. `reason` is logged only."""
    known = FailureCause(cause) if cause in set(FailureCause) else FailureCause.OTHER
    BASE_UNANSWERED.add(cause=known)
    fields = {"query_id": str(query.query_id), "status": status, "cause": known, "reason": reason, "advice": _ADVICE.get(known)}
    log.warning("no base answer", extra=fields)
    return Draft(query=query, answer="", base_model=base_model, status=status, base_ms=0.0, failure=known, choice=choice)


def last_failure(incoming: Incoming[Any], reason: DegradeReason) -> tuple[DraftStatus, str]:
    """The status and the cause for a query whose deadline passed, or whose attempts all failed."""
    if reason is DegradeReason.EXPIRED:
        return DraftStatus.EXPIRED, incoming.last_failure or FailureCause.DEADLINE
    return DraftStatus.BASE_FAILED, incoming.last_failure or FailureCause.OTHER
