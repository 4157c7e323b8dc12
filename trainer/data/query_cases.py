"""Cases: what training and evaluation need of an outcome, and why some outcomes cannot be used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from schemas.contexts import HistoryItem
from schemas.eligibility import Ineligible, why_ineligible
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.sameness import normalized
from schemas.tasks import Task
from schemas.trajectories import Trajectory


@dataclass(frozen=True)
class QueryCase:
    """One question of one user, with the history as it was and the user's own answer. `items` come best first."""

    case_id: str
    user: str  # tenant/user
    query: Query
    base_answer: str
    items: tuple[HistoryItem, ...]
    truth: str

    @property
    def domain(self) -> str:
        return self.query.domain

    @property
    def task(self) -> Task:
        return self.query.task


@dataclass(frozen=True)
class SftExample:
    """A case with the reasoning that leads from its base answer to the truth. `items` begin with the example the reasoning rests on."""

    case: QueryCase
    items: tuple[HistoryItem, ...]
    reasoning: str


def case_of(outcome: Outcome) -> QueryCase | Ineligible:
    if reason := why_ineligible(outcome):
        return reason
    context, truth = outcome.response.context, (outcome.truth or "").strip()
    return QueryCase(str(outcome.outcome_id), outcome.key.decode(), context.draft.query, context.draft.answer, context.items, truth)


def sft_example_of(trajectory: Trajectory) -> SftExample | Ineligible:
    case = case_of(trajectory.outcome)
    if isinstance(case, Ineligible):
        return case
    example = next((item for item in case.items if item.interaction_id == trajectory.example_id), None)
    if example is None:
        return Ineligible.NO_EXAMPLE
    if not trajectory.reasoning.strip():
        return Ineligible.EMPTY_REASONING
    others = (item for item in case.items if item.interaction_id != example.interaction_id)
    return SftExample(case, (example, *others), trajectory.reasoning)


def sft_example_key(lesson: SftExample) -> bytes:
    """Lessons with the same key teach the same: one user, domain, query text and truth, whoever wrote the reasoning and whenever.

    16 bytes, so that a snapshot can remember the keys of all it holds. Texts are compared as `schemas.sameness.normalized` sees them.
    """
    case = lesson.case
    said = json.dumps([case.user, case.domain, normalized(case.query.text), normalized(case.truth)])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()
