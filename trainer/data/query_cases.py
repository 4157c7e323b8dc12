"""Cases: what training and evaluation need of an outcome, and why some outcomes cannot be used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum

from schemas.contexts import HistoryItem
from schemas.drafts import DraftStatus
from schemas.outcomes import Outcome
from schemas.prompts import MARKS
from schemas.queries import Query
from schemas.sameness import normalized
from schemas.scoring import is_valid
from schemas.tasks import Task
from schemas.trajectories import Trajectory


class Unusable(StrEnum):
    """Why a well-formed record trains and judges nothing; each is counted under this name."""

    NO_TRUTH = "no_truth"  # a score alone says nothing of what the user would have written
    TRUTH_OUTSIDE_OPTIONS = "truth_outside_options"
    TRUTH_HOLDS_MARKS = "truth_holds_marks"  # a tag of ours or the chat's: whoever learns it ends in the midst of an answer
    NO_BASE_ANSWER = "no_base_answer"
    NO_EXAMPLE = "no_example"  # the trajectory rests on an item that its context does not hold
    EMPTY_REASONING = "empty_reasoning"


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


def case_of(outcome: Outcome) -> QueryCase | Unusable:
    context = outcome.response.context
    query, base_answer = context.draft.query, context.draft.answer
    truth = (outcome.truth or "").strip()
    if not truth:
        return Unusable.NO_TRUTH
    if not is_valid(query.task, truth, query.options):
        return Unusable.TRUTH_OUTSIDE_OPTIONS
    if any(mark in truth for mark in MARKS):
        return Unusable.TRUTH_HOLDS_MARKS
    if context.draft.status is not DraftStatus.DRAFTED or not base_answer.strip():
        return Unusable.NO_BASE_ANSWER
    return QueryCase(str(outcome.outcome_id), outcome.key.decode(), query, base_answer, context.items, truth)


def sft_example_of(trajectory: Trajectory) -> SftExample | Unusable:
    case = case_of(trajectory.outcome)
    if isinstance(case, Unusable):
        return case
    example = next((item for item in case.items if item.interaction_id == trajectory.example_id), None)
    if example is None:
        return Unusable.NO_EXAMPLE
    if not trajectory.reasoning.strip():
        return Unusable.EMPTY_REASONING
    others = (item for item in case.items if item.interaction_id != example.interaction_id)
    return SftExample(case, (example, *others), trajectory.reasoning)


def sft_example_key(lesson: SftExample) -> bytes:
    """Lessons with the same key teach the same: one user, domain, query text and truth, whoever wrote the reasoning and whenever.

    16 bytes, so that a snapshot can remember the keys of all it holds. Texts are compared as `schemas.sameness.normalized` sees them.
    """
    case = lesson.case
    said = json.dumps([case.user, case.domain, normalized(case.query.text), normalized(case.truth)])
    return hashlib.blake2b(said.encode(), digest_size=16).digest()
