"""The metrics of one answer, from its message alone (`schemas.quality.Metric`).

In the cells of *versions* only answers that involved the model are measured. Other base answers say nothing about a version, so only their status is
counted: there is no history, the index or the base model is away, or the deadline passed before the model started.

In the cells of *strategies* and *comparisons* every answer is measured alike, whatever its status: a strategy is judged by what users got. A query without an
answer (`base_failed`, `expired`) scores as an empty answer, the lowest score that its truth allows. Leaving it out would favour a strategy that
fails more often.

The reward scores the answer against the user's truth, by the reward of the query's domain, if the truth is valid for the query. Else it is the user's own
score. If there are both, the truth decides: training and the gate use it too, and a user can score neither the base answer nor an answer that was not shown.
"""

from __future__ import annotations

from schemas.domains import Domains
from schemas.eligibility import valid_truth
from schemas.experiments import Arm, Assignment
from schemas.measures import Measure
from schemas.outcomes import Outcome
from schemas.quality import LATENCY_LIMIT_MS, LENGTH_LIMIT, Metric
from schemas.queries import Query
from schemas.responses import Response, ResponseStatus
from schemas.sameness import is_blank
from schemas.scoring import style_f1
from schemas.shadows import Shadow

MetricValues = dict[Metric, float]

#: The model generated a text.
WRITTEN = frozenset({ResponseStatus.PERSONALIZED, ResponseStatus.UNPARSABLE})
#: The model generated or failed, or the query exceeded its limits.
INVOLVED = WRITTEN | {ResponseStatus.REFLECTION_FAILED, ResponseStatus.DEADLINE_NEAR, ResponseStatus.PROMPT_TOO_LONG}

#: The chosen strategy answered.
AS_CHOSEN = frozenset({ResponseStatus.PERSONALIZED, ResponseStatus.ZERO_SHOT})


def assignment_of(response: Response) -> Assignment | None:
    """The answer's assignment. Answers older than experiments belong to the version that made them; None if no version did."""
    provenance = response.provenance
    if provenance.assignment or not provenance.model:
        return provenance.assignment
    return Assignment(experiment=None, arm=Arm.CHAMPION, version=provenance.model.version)


def is_measured(response: Response) -> bool:
    """Whether the answer involved the model. A deadline that was near before the prompt was built says nothing about the model."""
    too_late_before = response.status is ResponseStatus.DEADLINE_NEAR and not response.provenance.k
    return response.status in INVOLVED and not too_late_before


def response_values(response: Response) -> MetricValues:
    if not is_measured(response):
        return {}
    return _answer_values(response.status, response.answer, response.context.draft.answer, response.provenance.reflect_ms)


def shadow_values(shadow: Shadow) -> MetricValues:
    if shadow.status not in INVOLVED:
        return {}
    return _answer_values(shadow.status, shadow.answer, shadow.base_answer, shadow.reflect_ms)


def outcome_values(outcome: Outcome, entries: Domains) -> MetricValues:
    """Empty if the feedback does not score an answer of the model. Raises MeasureFailed."""
    if not is_measured(outcome.response):
        return {}
    draft, truth = outcome.response.context.draft, valid_truth(outcome)
    if truth is not None:
        score, options = measure_of(draft.query, entries).score, draft.query.options
        return {Metric.REWARD: score(outcome.response.answer, truth, options), Metric.BASE_REWARD: score(draft.answer, truth, options)}
    return {} if outcome.score is None else {Metric.REWARD: outcome.score}


def strategy_response_values(response: Response) -> MetricValues:
    """Latency is the sum of the answer's steps, since strategies share no single one; the time in topics is the deployment's, not theirs."""
    provenance = response.provenance
    steps_ms = provenance.base_ms + provenance.retrieve_ms + provenance.reflect_ms
    is_fallback = response.status not in AS_CHOSEN or provenance.answered_by is not None
    return {Metric.FALLBACK: float(is_fallback), Metric.LATENCY_MS: min(steps_ms, LATENCY_LIMIT_MS)}


def strategy_outcome_values(outcome: Outcome, entries: Domains) -> MetricValues:
    """Without the base answer's reward: a strategy that reads the history first has no base answer. Empty if the feedback does not score the answer.

    Raises MeasureFailed.
    """
    query, truth = outcome.response.context.draft.query, valid_truth(outcome)
    if truth is not None:
        return {Metric.REWARD: measure_of(query, entries).score(outcome.response.answer, truth, query.options)}
    return {} if outcome.score is None else {Metric.REWARD: outcome.score}


def measure_of(query: Query, entries: Domains) -> Measure:
    return entries.reward(query.domain, query.task)


def _answer_values(status: ResponseStatus, answer: str, base: str, reflect_ms: float) -> MetricValues:
    values = {Metric.FALLBACK: float(status is not ResponseStatus.PERSONALIZED)}
    if status in WRITTEN:
        values[Metric.UNPARSABLE] = float(status is ResponseStatus.UNPARSABLE)
        values[Metric.LATENCY_MS] = min(reflect_ms, LATENCY_LIMIT_MS)
    if not is_blank(base):
        values[Metric.LENGTH] = min(len(answer.strip()) / len(base.strip()), LENGTH_LIMIT)
        values[Metric.DRIFT] = 0.0 if answer == base else 1 - style_f1(answer, base)
    return values
