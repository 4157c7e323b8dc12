"""Which outcomes are worth a teacher's time, and which reasoning may train: the paper's "consistency and brevity checks", made explicit.

A trace that speaks of the truth as something it was shown teaches the model to wait for what it will not have (METHODS, pitfall 7).
"""

from __future__ import annotations

import re

from schemas.drafts import DraftStatus
from schemas.ids import is_held_out
from schemas.outcomes import Outcome
from schemas.rewriting import TAGS
from workers.teacher.teaching import Reason

_GIVEN = re.compile(
    r"""
    \b(?:
        (?:correct|right|true|actual|real|expected|given|target|final|gold(?:en)?|ground[ -]truth|reference|desired|intended|provided)
            \s+(?:answer|response|output|label|tag|score|rating|title|headline|text|choice|option|rewrite)
      | ground[ -]truth
      | the\ truth\b
      | (?:the\ user|they)\ (?:actually|really|in\ fact|eventually|then)\ (?:\w+\ )?(?:chose|wrote|answered|picked|selected|gave|rated|scored)
      | (?:was|were|is)\ (?:told|given|shown)\ (?:that|the)
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


def why_not_taught(outcome: Outcome, holdout_share: float) -> Reason | None:
    """Why this outcome gets no reasoning, or None. Asked before the teacher is, which saves its cost."""
    context = outcome.response.context
    query = context.draft.query
    if is_held_out(query.tenant, query.user, holdout_share):
        return Reason.HELD_OUT
    if not (outcome.truth and outcome.truth.strip()):
        return Reason.NO_TRUTH
    if context.draft.status is not DraftStatus.DRAFTED:
        return Reason.BASE_FAILED
    return None if context.items else Reason.NO_HISTORY


def flaw(reasoning: str, max_chars: int) -> Reason | None:
    """What is wrong with a trace, or None."""
    if not reasoning.strip():
        return Reason.EMPTY
    if len(reasoning) > max_chars:
        return Reason.TOO_LONG
    if any(tag in reasoning.lower() for tag in TAGS):
        return Reason.TAGGED
    return Reason.TRUTH_GIVEN if _GIVEN.search(reasoning) else None
