"""Which outcomes are worth a teacher's time, and which teaching may train: the paper's "strict consistency and brevity checks", made explicit.

A trace that speaks of the truth as something it was shown teaches the model to wait for what it will not have.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from typing import NamedTuple

from schemas import eligibility
from schemas.eligibility import Ineligible, why_ineligible
from schemas.ids import is_held_out
from schemas.outcomes import Outcome
from schemas.rewriting import TAGS, Rewrite
from schemas.sameness import folded, normalized
from schemas.tasks import Task, choose_option
from workers.teacher.reasoning_teacher import RejectionReason, best_example, truth_of

#: A shorter text, some three words, may turn up in a trace without being quoted.
FEW_CHARS = 24

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
    """How long a trace may be."""

    least: int  # letters and digits
    most: int  # characters


def why_not_taught(outcome: Outcome, holdout_share: float) -> RejectionReason | None:
    """Why this outcome gets no reasoning, or None. Asked before the teacher is, which saves its cost."""
    context = outcome.response.context
    query = context.draft.query
    if is_held_out(query.tenant, query.user, holdout_share):
        return RejectionReason.HELD_OUT
    if reason := why_ineligible(outcome):
        return RejectionReason.BASE_FAILED if reason is Ineligible.NO_BASE_ANSWER else RejectionReason(reason)
    return None if context.items else RejectionReason.NO_HISTORY


def flaw(taught: Rewrite, outcome: Outcome, brevity: ReasoningLength) -> RejectionReason | None:
    """The first thing that is wrong with what a teacher wrote, or None. The outcome is one that `why_not_taught` lets through."""
    if not _gives_the_truth(taught.answer, outcome):
        return RejectionReason.WRONG_BODY
    if sum(map(str.isalnum, taught.reasoning)) < brevity.least:
        return RejectionReason.TOO_SHORT
    if len(taught.reasoning) > brevity.most:
        return RejectionReason.TOO_LONG
    if any(tag in taught.reasoning.lower() for tag in TAGS):
        return RejectionReason.TAGGED
    if _GIVEN.search(taught.reasoning):
        return RejectionReason.TRUTH_GIVEN
    return RejectionReason.TRUTH_QUOTED if _quotes_the_truth(taught.reasoning, outcome) else None


def digest(brevity: ReasoningLength) -> str:
    """sha256 over the source of the checks and the bounds: two trajectories with the same digest passed the same checks."""
    source = "\n".join(map(inspect.getsource, (eligibility, sys.modules[__name__])))
    return hashlib.sha256(f"{tuple(brevity)}\n{source}".encode()).hexdigest()


def _gives_the_truth(answer: str, outcome: Outcome) -> bool:
    """Whether the body that the reasoning leads to is the user's own answer."""
    chosen = choose_option(normalized(answer), outcome.response.context.draft.query.options)
    return chosen is not None and normalized(chosen) == normalized(truth_of(outcome))


def _quotes_the_truth(reasoning: str, outcome: Outcome) -> bool:
    """Whether the trace holds the whole of a longer free text that the model could not have read in its prompt."""
    draft, truth = outcome.response.context.draft, folded(truth_of(outcome))
    if draft.query.task is not Task.TEXT or len(truth) <= FEW_CHARS or truth not in folded(reasoning):
        return False
    example = best_example(outcome)
    return not any(truth in folded(seen) for seen in (draft.query.text, draft.answer, example.content, example.response))
