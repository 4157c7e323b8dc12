"""The template teacher: short, deterministic reasoning from the reflection model's input, for models too small for prose.

Every trace has three steps: the evidence (the example), the habit that it shows, and the step from draft to answer. The model must write the trace before
it has the truth. So a trace only contains what follows from query, draft and example. If the truth does not follow from them, there is no trace
(`unsupported`), and random behaviour of users trains less.

- *Labels*: the truth is the example's label (`like one was dark comedy so use dark comedy`) or the draft (`other one was fantasy so keep
  action`). The teacher has no list of related labels. The model learns them from the form that goes with each pair.
- *Ratings*: the draft stands for the score that the query's words are worth. If the user's shift is the same for both texts, the example's words were worth
  its score minus the shift (`words of 3 scored 4 so 2 becomes 3`), and the model can read that value off the example's text. At an end of the scale a
  score hides the size of the shift: an example there explains no shift towards that end, and a draft that stays there is only kept. A draft that is no
  score says nothing about the query, so only the example's score can be used (`like one scored 4 so use 4`).
- *Texts*: the truth must share a habit with the example that the draft lacks (`schemas.writing_style`): a word, punctuation or letter case if it
  rewords the draft; a class of form (case, opening, closing, colon, question, length) if it is a new text. The trace repeats the example's words.
"""

from __future__ import annotations

from schemas.contexts import HistoryItem
from schemas.drafts import Draft
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.rewriting import Rewrite
from schemas.tasks import Task, choose_option
from schemas.trajectories import Teacher as Signature
from schemas.writing_style import is_supported
from workers.teacher.reasoning_teacher import Rejection, RejectionReason, truth_of

NAME = "template"
UNSUPPORTED = Rejection(RejectionReason.UNSUPPORTED)
#: Characters of the example's text in a trace.
EXAMPLE_CHARS = 80


class TemplateTeacher:
    signature = Signature(name=NAME)

    async def explain(self, outcome: Outcome, example: HistoryItem) -> Rewrite | Rejection:
        truth = truth_of(outcome)
        reasoning = _reasoning(outcome.response.context.draft, example, truth)
        return UNSUPPORTED if reasoning is None else Rewrite(reasoning, truth)


def _reasoning(draft: Draft, example: HistoryItem, truth: str) -> str | None:
    query, answer, shown = draft.query, draft.answer.strip(), example.response.strip()
    match query.task:
        case Task.LABEL:
            return _label(query, answer, shown, truth)
        case Task.RATING:
            return _rating(query, answer, shown, truth)
        case Task.TEXT:
            return _text(query, answer, example, truth)


def _label(query: Query, draft: str, shown: str, truth: str) -> str | None:
    draft, shown = choose_option(draft, query.options) or draft, choose_option(shown, query.options) or shown
    if truth == shown:
        return f"like one was {shown} so {'keep' if draft == shown else 'use'} {truth}"
    return f"other one was {shown} so keep {truth}" if truth == draft else None


def _rating(query: Query, draft: str, shown: str, truth: str) -> str | None:
    chosen, example = choose_option(draft, query.options), choose_option(shown, query.options)
    if chosen is None or example is None:
        return f"like one scored {example} so use {truth}" if chosen is None and truth == example else None
    draft, shown = chosen, example
    low, high = min(map(int, query.options)), max(map(int, query.options))
    shift = int(truth) - int(draft)
    if shift == 0 and int(draft) in (low, high):
        return f"scored {shown} so keep {draft}"
    worth = int(shown) - shift
    hidden = (shift > 0 and int(shown) == high) or (shift < 0 and int(shown) == low)
    if hidden or not low <= worth <= high:
        return None
    return f"words of {worth} scored {shown} so {'keep ' + draft if shift == 0 else f'{draft} becomes {truth}'}"


def _text(query: Query, draft: str, example: HistoryItem, truth: str) -> str | None:
    shown = example.response.strip()
    supported = is_supported(query.text, draft, truth, example.content, shown)
    return f"their words : {_clip(shown)} . copy the manner" if supported else None


def _clip(text: str) -> str:
    """In one line, cut between words."""
    line = " ".join(text.split())
    return line if len(line) <= EXAMPLE_CHARS else line[:EXAMPLE_CHARS].rsplit(" ", 1)[0]
