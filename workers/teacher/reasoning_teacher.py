"""The interface of a teacher: it writes the reasoning from a base answer to the user's truth, based on one example (RPO, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from schemas.contexts import HistoryItem, with_response
from schemas.eligibility import valid_truth
from schemas.outcomes import Outcome
from schemas.rewriting import Rewrite
from schemas.trajectories import Teacher as Signature


class RejectionReason(StrEnum):
    """Why an outcome gives no trajectory. Each is counted, none is an error."""

    HELD_OUT = "held_out"  # the user judges models and never trains
    NO_TRUTH = "no_truth"
    TRUTH_OUTSIDE_OPTIONS = "truth_outside_options"
    TRUTH_HOLDS_MARKS = "truth_holds_marks"  # a tag of the rewrite or a control mark, which no model may learn to write
    OTHER_STRATEGY = "other_strategy"  # than RPO: its items were not found for its base answer
    BASE_FAILED = "base_failed"
    NO_HISTORY = "no_history"
    UNSUPPORTED = "unsupported"  # the example does not lead to the truth
    REFUSED = "refused"  # by the teacher's endpoint
    UNREADABLE = "unreadable"  # the teacher's answer does not match the schema
    WRONG_BODY = "wrong_body"  # the teacher's rewrite is not the truth
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TAGGED = "tagged"  # the trace contains a tag of the rewrite or a control mark
    TRUTH_GIVEN = "truth_given"  # the trace says that the truth was given
    TRUTH_QUOTED = "truth_quoted"  # the trace contains a truth that is not in the model's prompt


@dataclass(frozen=True)
class Rejection:
    reason: RejectionReason


class ReasoningTeacher(Protocol):
    @property
    def signature(self) -> Signature:
        """Name and version of this teacher, stored in its trajectories."""

    async def explain(self, outcome: Outcome, example: HistoryItem) -> Rewrite | Rejection:
        """Reasoning for an outcome with a truth, and the answer it leads to. Raises RetryLater or CannotContinue if the teacher itself fails."""


def truth_of(outcome: Outcome) -> str:
    """The user's own answer; if it is an option, in the query's spelling. Raises ValueError if there is none: call `checks.why_not_taught` first."""
    truth = valid_truth(outcome)
    if truth is None:
        raise ValueError("the outcome has no truth that its query allows")
    return truth


def best_example(outcome: Outcome) -> HistoryItem:
    """The paper's p*: the item with a response that retrieval ranked first. Call `checks.why_not_taught` first: it makes sure that there is one."""
    return with_response(outcome.response.context.items)[0]
