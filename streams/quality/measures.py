"""What is measured of one answer, from its message alone (`schemas.quality.Metric`).

Only answers that the model was asked for are measured: one that went out as the base answer because the query wanted it, there was no history, the index or
the base model was away or the deadline had passed before says nothing of any version, and is counted by its status alone.

The reward is what the user wrote or chose, where the question allows it; the user's own score of the answer where that is all there is. With both, the
truth decides: training and the gate judge by it too, and a score cannot be had of the base answer or of one that was never shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.eligibility import valid_truth
from schemas.experiments import Arm, Assignment
from schemas.outcomes import Outcome
from schemas.quality import LATENCY_LIMIT_MS, LENGTH_LIMIT, Metric
from schemas.responses import Response, ResponseStatus
from schemas.scoring import score, style_f1
from schemas.shadows import Shadow
from schemas.tasks import task_of

Values = dict[Metric, float]

#: The model wrote something.
WRITTEN = frozenset({ResponseStatus.PERSONALIZED, ResponseStatus.UNPARSABLE})
#: The model was asked, or its limits kept it from being asked.
ASKED = WRITTEN | {ResponseStatus.REFLECTION_FAILED, ResponseStatus.DEADLINE_NEAR, ResponseStatus.PROMPT_TOO_LONG}


def assignment_of(response: Response) -> Assignment | None:
    """What the answer was meant to be; for one from before there were experiments, by the model that made it, and None where none did."""
    provenance = response.provenance
    if provenance.assignment or not provenance.model:
        return provenance.assignment
    return Assignment(experiment=None, arm=Arm.CHAMPION, version=provenance.model.version)


def is_measured(response: Response) -> bool:
    """A deadline that was near before any item had been chosen was not the model's doing."""
    too_late_before = response.status is ResponseStatus.DEADLINE_NEAR and not response.provenance.k
    return response.status in ASKED and not too_late_before


def of_response(response: Response) -> Values:
    if not is_measured(response):
        return {}
    return _of_answer(response.status, response.answer, response.context.draft.answer, response.provenance.reflect_ms)


def of_shadow(shadow: Shadow) -> Values:
    if shadow.status not in ASKED:
        return {}
    return _of_answer(shadow.status, shadow.answer, shadow.base_answer, shadow.reflect_ms)


def of_outcome(outcome: Outcome) -> Values:
    """Empty where the feedback says nothing of the model's answer."""
    if not is_measured(outcome.response):
        return {}
    draft, truth = outcome.response.context.draft, valid_truth(outcome)
    if truth is not None:
        return {
            Metric.REWARD: reward(draft.query.options, outcome.response.answer, truth),
            Metric.BASE_REWARD: reward(draft.query.options, draft.answer, truth),
        }
    return {} if outcome.score is None else {Metric.REWARD: outcome.score}


def reward(options: Sequence[str], answer: str, truth: str) -> float:
    return score(task_of(options), answer, truth, options)


def _of_answer(status: ResponseStatus, answer: str, base: str, reflect_ms: float) -> Values:
    values = {Metric.FALLBACK: float(status is not ResponseStatus.PERSONALIZED)}
    if status in WRITTEN:
        values[Metric.UNPARSABLE] = float(status is ResponseStatus.UNPARSABLE)
        values[Metric.LATENCY_MS] = min(reflect_ms, LATENCY_LIMIT_MS)
    if base.strip():
        values[Metric.LENGTH] = min(len(answer.strip()) / len(base.strip()), LENGTH_LIMIT)
        values[Metric.DRIFT] = 0.0 if answer == base else 1 - style_f1(answer, base)
    return values
