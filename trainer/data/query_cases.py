"""Query cases and SFT examples: what training and evaluation use of an outcome or a trajectory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from schemas.contexts import HistoryItem, with_response
from schemas.control_marks import ControlMarks
from schemas.eligibility import Ineligible, valid_truth, why_ineligible
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.sameness import is_blank, normalized
from schemas.tasks import Task
from schemas.trajectories import Trajectory

#: The tags of a rewrite alone: records are collected before a tokenizer is loaded (`trainer.data.prompts.Prompter.may_teach`).
TAG_MARKS = ControlMarks()


@dataclass(frozen=True)
class QueryCase:
    """A user's query with its base answer, the history retrieved for it, and the user's own answer. `items` are sorted best first."""

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
    """A case with the reasoning that leads from its base answer to the truth. The first of `items` is the one that the reasoning uses."""

    case: QueryCase
    items: tuple[HistoryItem, ...]
    reasoning: str


def case_of(outcome: Outcome) -> QueryCase | Ineligible:
    if reason := why_ineligible(outcome, TAG_MARKS):
        return reason
    context, truth = outcome.response.context, valid_truth(outcome) or ""
    return QueryCase(str(outcome.outcome_id), outcome.key.decode(), context.draft.query, context.draft.answer, with_response(context.items), truth)


def sft_example_of(trajectory: Trajectory) -> SftExample | Ineligible:
    case = case_of(trajectory.outcome)
    if isinstance(case, Ineligible):
        return case
    used = next((item for item in case.items if item.interaction_id == trajectory.example_id), None)
    if used is None:
        return Ineligible.NO_EXAMPLE
    if is_blank(trajectory.reasoning):
        return Ineligible.EMPTY_REASONING
    others = (item for item in case.items if item.interaction_id != used.interaction_id)
    return SftExample(case, (used, *others), trajectory.reasoning)


def sft_example_key(example: SftExample) -> bytes:
    """16 bytes that are equal for examples with the same user, domain, query text and truth. The reasoning does not matter.

    Texts are compared after `schemas.sameness.normalized`.
    """
    case = example.case
    identity = json.dumps([case.user, case.domain, normalized(case.query.text), normalized(case.truth)])
    return hashlib.blake2b(identity.encode(), digest_size=16).digest()
