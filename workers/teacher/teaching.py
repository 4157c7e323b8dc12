"""What a teacher is: it writes the reasoning that leads from a base answer to the user's truth, resting on one example (RPO, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from schemas.contexts import HistoryItem
from schemas.outcomes import Outcome
from schemas.trajectories import Teacher as Signature


class Reason(StrEnum):
    """Why an outcome gives no trajectory. Each is counted; none is an error."""

    NO_TRUTH = "no_truth"
    BASE_FAILED = "base_failed"
    NO_HISTORY = "no_history"
    HELD_OUT = "held_out"  # the user judges models and never trains them
    UNSUPPORTED = "unsupported"  # the example does not lead to the truth
    UNREADABLE = "unreadable"  # the teacher's answer had no reasoning in it
    EMPTY = "empty"
    TOO_LONG = "too_long"
    TAGGED = "tagged"  # it holds a tag of the rewrite's format
    TRUTH_GIVEN = "truth_given"  # it says that the truth was shown


@dataclass(frozen=True)
class Rejected:
    reason: Reason


class Teacher(Protocol):
    @property
    def signature(self) -> Signature:
        """Who this is, as a trajectory names it."""
        ...

    async def explain(self, outcome: Outcome, example: HistoryItem) -> str | Rejected:
        """Reasoning for an outcome that has a truth. Raises RetryLater or CannotContinue when the teacher itself is unwell."""
        ...


def truth_of(outcome: Outcome) -> str:
    """The user's own answer. Raises ValueError where there is none: `eligible` comes first."""
    if not outcome.truth or not outcome.truth.strip():
        raise ValueError("the outcome has no truth")
    return outcome.truth.strip()
