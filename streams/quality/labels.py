"""Selects the cells that an answer counts in (`schemas.quality.Quality`), with its values there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from schemas.domains import Domains
from schemas.experiments import Arm
from schemas.outcomes import Outcome
from schemas.quality import comparison_id
from schemas.responses import Response
from schemas.strategies import Strategy
from streams.quality.measures import MetricValues, assignment_of, outcome_values, response_values, strategy_outcome_values, strategy_response_values
from streams.quality.sums import user_hash


class AnswerLabels(NamedTuple):
    """The labels of an answer, which select its cells: of a version by default, else of a strategy or a comparison."""

    name: str
    version: str
    experiment: UUID | None
    arm: Arm
    domain: str
    user: int
    strategy: Strategy = Strategy.RPO
    comparison: str | None = None

    @property
    def is_of_version(self) -> bool:
        return self.strategy is Strategy.RPO and self.comparison is None


class CountedAnswer(NamedTuple):
    """An answer, or the feedback to one, in the cells of one kind."""

    labels: AnswerLabels
    values: MetricValues


def counted_response(response: Response, name: str) -> list[CountedAnswer]:
    """Where a response counts. `name` is that of the registered model, for answers that it should have given."""
    every = _labels(response, name)
    return [CountedAnswer(labels, response_values(response) if labels.is_of_version else strategy_response_values(response)) for labels in every]


def counted_outcome(outcome: Outcome, name: str, entries: Domains) -> list[CountedAnswer]:
    """Where the feedback to a response counts; nowhere if it does not score the answer. Raises MeasureFailed."""
    every = list(_labels(outcome.response, name))
    values = [outcome_values(outcome, entries) if labels.is_of_version else strategy_outcome_values(outcome, entries) for labels in every]
    counted = list(map(CountedAnswer, every, values))
    return [answer for answer in counted if answer.values]


def _labels(response: Response, name: str) -> Iterator[AnswerLabels]:
    provenance, domain, user = response.provenance, response.context.draft.query.domain, user_hash(response.key)
    if provenance.strategy is not Strategy.RPO:
        yield AnswerLabels("", "", None, Arm.CHAMPION, domain, user, provenance.strategy)
    elif assignment := assignment_of(response):
        model = provenance.model.name if provenance.model else name
        yield AnswerLabels(model, assignment.version, assignment.experiment, assignment.arm, domain, user)
    if comparison := provenance.experiment:
        yield AnswerLabels("", "", comparison_id(comparison), Arm.CHAMPION, domain, user, provenance.strategy, comparison)
