"""What one answer is measured by."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.experiments import Arm
from schemas.quality import LATENCY_LIMIT_MS, LENGTH_LIMIT, Metric
from schemas.responses import ResponseStatus
from streams.quality.measures import assignment_of, of_outcome, of_response, of_shadow
from tests.unit.streams.quality.records import EXPERIMENT, answered, judged, unseen


def test_a_rewrite_is_measured_against_the_base_answer() -> None:
    found = of_response(answered(1, "what a film !", base="a film", options=()))
    assert found == {
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
def test_only_what_the_model_was_asked_for_counts_as_its_fallback(status: ResponseStatus, fields: dict[str, Any], fallback: bool) -> None:
    response = answered(1, "drama", status=status, **fields)
    found = of_response(response)
    assert found.get(Metric.FALLBACK) == (1.0 if fallback else None)
    assert found.get(Metric.UNPARSABLE) == (1.0 if status is ResponseStatus.UNPARSABLE else None)
    assert bool(of_outcome(judged(response))) is fallback


def test_figures_without_bounds_are_clipped_and_nothing_is_divided_by_an_empty_base() -> None:
    found = of_response(answered(1, "x" * 500, base="x", options=(), reflect_ms=1e9))
    assert (found[Metric.LENGTH], found[Metric.LATENCY_MS]) == (LENGTH_LIMIT, LATENCY_LIMIT_MS)
    assert not {Metric.LENGTH, Metric.DRIFT} & of_response(answered(1, base=" ")).keys()


@pytest.mark.parametrize(
    ("truth", "score", "found"),
    [
        ("comedy", None, {Metric.REWARD: 1.0, Metric.BASE_REWARD: 0.0}),
        ("drama", 0.9, {Metric.REWARD: 0.0, Metric.BASE_REWARD: 1.0}),
        (None, 0.9, {Metric.REWARD: 0.9}),
        ("no option of theirs", 0.9, {Metric.REWARD: 0.9}),
        ("no option of theirs", None, {}),
    ],
)
def test_the_users_words_decide_and_their_score_where_there_are_none(truth: str | None, score: float | None, found: dict[Metric, float]) -> None:
    assert of_outcome(judged(answered(1), truth, score)) == found


def test_a_shadow_answer_is_measured_without_feedback() -> None:
    shadow = unseen(answered(1, experiment=EXPERIMENT), "drama", ResponseStatus.UNPARSABLE)
    assert of_shadow(shadow) == {Metric.FALLBACK: 1.0, Metric.UNPARSABLE: 1.0, Metric.LATENCY_MS: 20.0, Metric.LENGTH: 1.0, Metric.DRIFT: 0.0}


def test_answers_from_before_experiments_belong_to_the_model_that_made_them() -> None:
    old = assignment_of(answered(1, assignment=None))
    assert old and (old.version, old.arm, old.experiment) == ("3", Arm.CHAMPION, None)
    assert assignment_of(answered(1, assignment=None, model=None)) is None
