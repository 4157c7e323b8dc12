"""Which outcomes may teach: one rule for the teacher, the trainer and the quality figures.

An outcome must hold the user's own answer, as the query allows it. Training also needs a base answer with the items that were found for it, as RPO finds
them, and a truth without control marks. The teacher leaves out truths with well-known marks. The trainer collects records without a tokenizer: it leaves out
truths with the tags of a rewrite, and training leaves out those with marks of the policy's tokenizer.
"""

from __future__ import annotations

from enum import StrEnum

from schemas.control_marks import ControlMarks
from schemas.drafts import DraftStatus
from schemas.outcomes import Outcome
from schemas.sameness import is_blank
from schemas.scoring import is_valid
from schemas.strategies import Strategy
from schemas.tasks import choose_option


class Ineligible(StrEnum):
    """Why a well-formed record neither trains nor judges a model. Each is counted under this name."""

    NO_TRUTH = "no_truth"  # a score alone is no text to learn from
    TRUTH_OUTSIDE_OPTIONS = "truth_outside_options"
    TRUTH_HOLDS_MARKS = "truth_holds_marks"  # a model trained on such a token ends in the middle of an answer
    OTHER_STRATEGY = "other_strategy"  # there are no items, or they were found without the base answer: by the query alone, or in another order
    NO_BASE_ANSWER = "no_base_answer"
    NO_EXAMPLE = "no_example"  # the context does not hold the item that the trajectory rests on
    EMPTY_REASONING = "empty_reasoning"


def valid_truth(outcome: Outcome) -> str | None:
    """The user's own answer if the query allows it: the option that it names, in the query's spelling, or free text without white space around it."""
    query, truth = outcome.response.context.draft.query, outcome.truth or ""
    if not is_valid(query.task, truth, query.options):
        return None
    return choose_option(truth, query.options) if query.options else truth.strip()


def why_ineligible(outcome: Outcome, marks: ControlMarks) -> Ineligible | None:
    """Why an outcome cannot train or judge, or None. Its truth must not hold `marks`."""
    draft = outcome.response.context.draft
    if outcome.truth is None or is_blank(outcome.truth):
        return Ineligible.NO_TRUTH
    if valid_truth(outcome) is None:
        return Ineligible.TRUTH_OUTSIDE_OPTIONS
    if marks.found_in(outcome.truth):
        return Ineligible.TRUTH_HOLDS_MARKS
    if draft.choice is not None and draft.choice.strategy is not Strategy.RPO:  # older drafts have no choice, and items for every strategy
        return Ineligible.OTHER_STRATEGY
    return None if draft.status is DraftStatus.DRAFTED and not is_blank(draft.answer) else Ineligible.NO_BASE_ANSWER
