"""Checks of outcomes before the teacher, and of reasoning traces after it: the "strict consistency and brevity checks" of RPO.

A trace must not mention the truth as something given: the model would learn to expect what it does not get.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from typing import NamedTuple, Self

from infra.settings.models import TeacherSettings
from schemas import control_marks, eligibility, ids, rewriting, sameness, scoring, tasks, words
from schemas.contexts import with_response
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.eligibility import Ineligible, why_ineligible
from schemas.ids import is_held_out
from schemas.outcomes import Outcome
from schemas.rewriting import Rewrite
from schemas.sameness import folded, normalized
from schemas.tasks import Task, choose_option, is_same_label
from workers.teacher import reasoning_teacher
from workers.teacher.reasoning_teacher import RejectionReason, best_example, truth_of

#: The other modules whose code decides what the checks say.
DECIDING = (control_marks, eligibility, ids, reasoning_teacher, rewriting, sameness, scoring, tasks, words)
#: A truth up to this length, about three words, may occur in a trace by chance. In scripts without blanks three words have about eight characters.
CHANCE_CHARS, CHANCE_UNITS = 24, 8

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


class ReasoningLength(NamedTuple):
    """Limits of a trace."""

    min_chars: int  # letters and digits
    max_chars: int

    @classmethod
    def from_settings(cls, settings: TeacherSettings) -> Self:
        return cls(settings.min_reasoning_chars, settings.max_reasoning_chars)


def why_not_taught(outcome: Outcome, holdout_share: float) -> RejectionReason | None:
    """Why this outcome gets no reasoning; None if it does. Called first, because a teacher costs time or money."""
    context = outcome.response.context
    query = context.draft.query
    if is_held_out(query.tenant, query.user, holdout_share):
        return RejectionReason.HELD_OUT
    if reason := why_ineligible(outcome, WELL_KNOWN_MARKS):
        return RejectionReason.BASE_FAILED if reason is Ineligible.NO_BASE_ANSWER else RejectionReason(reason)
    return None if with_response(context.items) else RejectionReason.NO_HISTORY


def first_flaw(rewrite: Rewrite, outcome: Outcome, length: ReasoningLength) -> RejectionReason | None:
    """The first flaw of a teacher's rewrite, or None. The outcome has passed `why_not_taught`."""
    if not _gives_the_truth(rewrite.answer, outcome):
        return RejectionReason.WRONG_BODY
    if sum(map(str.isalnum, rewrite.reasoning)) < length.min_chars:
        return RejectionReason.TOO_SHORT
    if len(rewrite.reasoning) > length.max_chars:
        return RejectionReason.TOO_LONG
    if WELL_KNOWN_MARKS.found_in(rewrite.reasoning):
        return RejectionReason.TAGGED
    if _GIVEN.search(normalized(rewrite.reasoning)):
        return RejectionReason.TRUTH_GIVEN
    return RejectionReason.TRUTH_QUOTED if _quotes_the_truth(rewrite.reasoning, outcome) else None


def checks_digest(length: ReasoningLength) -> str:
    """sha256 over the source of the checks and the limits: trajectories with the same digest passed the same checks."""
    source = "\n".join(map(inspect.getsource, (*DECIDING, sys.modules[__name__])))
    return hashlib.sha256(f"{tuple(length)}\n{source}".encode()).hexdigest()


def _gives_the_truth(answer: str, outcome: Outcome) -> bool:
    """Whether the rewrite's answer is the user's truth."""
    options = outcome.response.context.draft.query.options
    chosen = choose_option(answer, options)
    return chosen is not None and is_same_label(chosen, truth_of(outcome), options)


def _quotes_the_truth(reasoning: str, outcome: Outcome) -> bool:
    """Whether the trace contains a whole longer truth that is not in the model's prompt."""
    draft, truth = outcome.response.context.draft, folded(truth_of(outcome))
    if draft.query.task is not Task.TEXT or _may_be_chance(truth) or truth not in folded(reasoning):
        return False
    example = best_example(outcome)
    return not any(truth in folded(text) for text in (draft.query.text, draft.answer, example.content, example.response))


def _may_be_chance(truth: str) -> bool:
    return len(truth) <= CHANCE_CHARS and len(words.words_of(truth)) <= CHANCE_UNITS
