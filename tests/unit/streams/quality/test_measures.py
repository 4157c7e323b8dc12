"""The metrics of one answer."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.experiments import Arm
from schemas.quality import LATENCY_LIMIT_MS, LENGTH_LIMIT, Metric
from schemas.responses import ResponseStatus
from streams.quality.measures import assignment_of, outcome_values, response_values, shadow_values
from tests.support.quality_records import EXPERIMENT, make_outcome, make_response, make_shadow


def test_a_rewrite_is_measured_against_the_base_answer() -> None:
    values = response_values(make_response(1, "what a film !", base="a film", options=()))
    assert values == {
        Metric.FALLBACK: 0.0,
        Metric.UNPARSABLE: 0.0,
        Metric.LATENCY_MS: 10.0,
        Metric.LENGTH: pytest.approx(13 / 6),
        Metric.DRIFT: pytest.approx(1 / 3),
    }


@pytest.mark.parametrize(
    ("status", "fields", "fallback"),
    [
        (ResponseStatus.UNPARSABLE, {}, True),
        (ResponseStatus.REFLECTION_FAILED, {}, True),
        (ResponseStatus.PROMPT_TOO_LONG, {"k": 0}, True),
        (ResponseStatus.DEADLINE_NEAR, {}, True),
        (ResponseStatus.DEADLINE_NEAR, {"k": 0}, False),
        (ResponseStatus.ZERO_SHOT, {}, False),
        (ResponseStatus.NO_HISTORY, {}, False),
        (ResponseStatus.INDEX_AWAY, {}, False),
        (ResponseStatus.BASE_FAILED, {}, False),
        (ResponseStatus.EXPIRED, {}, False),
    ],
)
def test_only_answers_that_involve_the_model_count_as_fallbacks(status: ResponseStatus, fields: dict[str, Any], fallback: bool) -> None:
    response = make_response(1, "drama", status=status, **fields)
    values = response_values(response)
    assert values.get(Metric.FALLBACK) == (1.0 if fallback else None)
    assert values.get(Metric.UNPARSABLE) == (1.0 if status is ResponseStatus.UNPARSABLE else None)
    assert bool(outcome_values(make_outcome(response), BUILT_IN_DOMAINS)) is fallback


def test_unbounded_figures_are_clipped_and_an_empty_base_answer_is_no_divisor() -> None:
    values = response_values(make_response(1, "x" * 500, base="x", options=(), reflect_ms=1e9))
    assert (values[Metric.LENGTH], values[Metric.LATENCY_MS]) == (LENGTH_LIMIT, LATENCY_LIMIT_MS)
    assert not {Metric.LENGTH, Metric.DRIFT} & response_values(make_response(1, base=" ")).keys()


@pytest.mark.parametrize(
    ("truth", "score", "values"),
    [
        ("comedy", None, {Metric.REWARD: 1.0, Metric.BASE_REWARD: 0.0}),
        ("drama", 0.9, {Metric.REWARD: 0.0, Metric.BASE_REWARD: 1.0}),
        (None, 0.9, {Metric.REWARD: 0.9}),
        ("no option of theirs", 0.9, {Metric.REWARD: 0.9}),
        ("no option of theirs", None, {}),
    ],
)
def test_the_reward_uses_the_truth_and_without_one_the_score(truth: str | None, score: float | None, values: dict[Metric, float]) -> None:
    assert outcome_values(make_outcome(make_response(1), truth, score), BUILT_IN_DOMAINS) == values


def test_a_shadow_answer_is_measured_without_feedback() -> None:
    shadow = make_shadow(make_response(1, experiment=EXPERIMENT), "drama", ResponseStatus.UNPARSABLE)
    assert shadow_values(shadow) == {Metric.FALLBACK: 1.0, Metric.UNPARSABLE: 1.0, Metric.LATENCY_MS: 20.0, Metric.LENGTH: 1.0, Metric.DRIFT: 0.0}


def test_answers_older_than_experiments_belong_to_their_model() -> None:
    old = assignment_of(make_response(1, assignment=None))
    assert old and (old.version, old.arm, old.experiment) == ("3", Arm.CHAMPION, None)
    assert assignment_of(make_response(1, assignment=None, model=None)) is None


def test_the_reward_is_that_of_the_domain() -> None:
    options = ("comedy", "drama", "dystopia")
    entry = DomainEntry(options=options, ordered=True, metric="ordinal_score")
    outcome = make_outcome(make_response(1, "dystopia", base="comedy", options=options, domain="movie_tag"), "drama")
    assert outcome_values(outcome, Domains({"movie_tag": entry})) == {Metric.REWARD: 0.5, Metric.BASE_REWARD: 0.5}
    own = Domains({"movie_tag": DomainEntry(reward="tests.support.own_measures:first_letter")})
    assert outcome_values(outcome, own) == {Metric.REWARD: 1.0, Metric.BASE_REWARD: 0.0}
    assert outcome_values(outcome, BUILT_IN_DOMAINS) == {Metric.REWARD: 0.0, Metric.BASE_REWARD: 0.0}
