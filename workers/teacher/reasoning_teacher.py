"""What a teacher is: it writes the reasoning that leads from a base answer to the user's truth, resting on one example (RPO, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from schemas.contexts import HistoryItem
from schemas.outcomes import Outcome
from schemas.rewriting import Rewrite
from schemas.trajectories import Teacher as Signature


class RejectionReason(StrEnum):
    """Why an outcome gives no trajectory. Each is counted; none is an error."""

    HELD_OUT = "held_out"  # the user judges models and never trains them
    NO_TRUTH = "no_truth"
    TRUTH_OUTSIDE_OPTIONS = "truth_outside_options"
    TRUTH_HOLDS_MARKS = "truth_holds_marks"  # a tag of the rewrite's format, or the chat's: no model may learn to write it
    BASE_FAILED = "base_failed"
    NO_HISTORY = "no_history"
    UNSUPPORTED = "unsupported"  # the example does not lead to the truth
    REFUSED = "refused"  # the teacher's endpoint will not answer this
    UNREADABLE = "unreadable"  # the teacher's answer is not of the form asked for
    WRONG_BODY = "wrong_body"  # what its reasoning leads to is not the truth
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TAGGED = "tagged"  # the trace holds a tag of the rewrite's format
    TRUTH_GIVEN = "truth_given"  # the trace says that the truth was shown
    TRUTH_QUOTED = "truth_quoted"  # the trace holds a truth that could not be known yet


@dataclass(frozen=True)
class Rejection:
    reason: RejectionReason


class ReasoningTeacher(Protocol):
    @property
    def signature(self) -> Signature:
        """Who this is, as a trajectory names it."""
        ...

    async def explain(self, outcome: Outcome, example: HistoryItem) -> Rewrite | Rejection:
        """Reasoning for an outcome that has a truth, and the answer it leads to. Raises RetryLater or CannotContinue when the teacher itself is unwell."""
        ...


def truth_of(outcome: Outcome) -> str:
    """The user's own answer. Raises ValueError where there is none: `checks.why_not_taught` comes first."""
    if not outcome.truth or not outcome.truth.strip():
        raise ValueError("the outcome has no truth")
    return outcome.truth.strip()


def best_example(outcome: Outcome) -> HistoryItem:
    """p*: what retrieval ranked first. The outcome has a history: `checks.why_not_taught` comes first."""
    return outcome.response.context.items[0]
