"""Verdicts: better, harmful, undecided, and the order in which findings count."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from infra.settings.promotion import PromotionSettings
from schemas.experiments import Arm
from schemas.promotion_view import VerdictOutcome
from schemas.quality import Metric, Quality
from tests.support.quality_cells import ScoredAnswer, cells
from trainer.promotion.verdict import canary_verdict, guardrails, shadow_verdict

PROMOTION = PromotionSettings(shadow_answers=200, canary_answers=2_000)
USUAL: Mapping[Metric, float] = {Metric.FALLBACK: 0.02, Metric.UNPARSABLE: 0.01, Metric.LATENCY_MS: 400.0, Metric.LENGTH: 1.2, Metric.DRIFT: 0.3}


def answers(seed: int, count: int = 600, users: int = 100, reward: float | None = 0.8, gain: float | None = None, **changed: float) -> list[ScoredAnswer]:
    """Answers of similar users. `changed` are means that differ from USUAL, by metric."""
    rng = random.Random(seed)
    means = {**USUAL, **{Metric(name): mean for name, mean in changed.items()}}
    return [ScoredAnswer(number % users, dict(_values(rng, reward, gain, means)), rng.choice(("movie_tag", "product_rating"))) for number in range(count)]


def _values(rng: random.Random, reward: float | None, gain: float | None, means: Mapping[Metric, float]) -> list[tuple[Metric, float]]:
    result = [(metric, float(rng.random() < means[metric])) for metric in (Metric.FALLBACK, Metric.UNPARSABLE)]
    result += [(metric, means[metric] * rng.uniform(0.5, 1.5)) for metric in (Metric.LATENCY_MS, Metric.LENGTH, Metric.DRIFT)]
    if reward is not None:
        base = rng.random()
        result += [(Metric.REWARD, reward + 0.3 * (base - 0.5) + rng.gauss(0, 0.1)), (Metric.BASE_REWARD, base)]
    return result if gain is None else [*result, (Metric.GAIN, gain + rng.gauss(0, 0.2))]


def canary(canary_answers: Sequence[ScoredAnswer], baseline_answers: Sequence[ScoredAnswer] | None = None) -> list[Quality]:
    """Cells of canary and baseline, with different users."""
    baseline_answers = answers(1) if baseline_answers is None else baseline_answers
    return [*cells(Arm.CANARY, canary_answers, 2), *cells(Arm.BASELINE, baseline_answers, 2), *cells(Arm.CHAMPION, answers(5, reward=0.1))]


def shadow(shadow_answers: Sequence[ScoredAnswer], shown: Sequence[ScoredAnswer] | None = None) -> list[Quality]:
    return [*cells(Arm.SHADOW, shadow_answers, 2), *cells(Arm.CHAMPION, answers(1) if shown is None else shown, 2)]


def outcome(result: Sequence[Quality], since_s: float = 60.0, promotion: PromotionSettings = PROMOTION) -> VerdictOutcome:
    return canary_verdict(result, promotion, since_s).outcome


def test_a_better_canary_is_better_and_a_worse_one_harmful() -> None:
    assert outcome(canary(answers(2, reward=0.9))) is VerdictOutcome.BETTER
    assert outcome(canary(answers(2, reward=0.7))) is VerdictOutcome.HARMFUL
    assert outcome(canary(answers(2))) is VerdictOutcome.RUNNING


def test_swapping_the_groups_turns_better_into_harmful() -> None:
    better, worse = answers(2, reward=0.85), answers(3, reward=0.8)
    first, second = (canary_verdict(canary(*pair), PROMOTION, 60.0) for pair in ((better, worse), (worse, better)))
    assert (first.outcome, second.outcome) == (VerdictOutcome.BETTER, VerdictOutcome.HARMFUL)
    assert first.evidence["reward"]["low"] == pytest.approx(-second.evidence["reward"]["high"])


@pytest.mark.parametrize("few", [{"count": 99}, {"count": 600, "users": 29}])
def test_rewards_get_no_verdict_before_the_minimum_of_answers_and_users(few: dict[str, int]) -> None:
    result = canary_verdict(canary(answers(2, reward=0.2, **few), answers(1, **few)), PROMOTION, 60.0)
    assert result.outcome is VerdictOutcome.RUNNING
    assert result.reason.startswith("too few to decide: ")


def test_a_canary_without_a_verdict_is_inconclusive_at_its_bounds() -> None:
    full = canary_verdict(canary(answers(2, 2_000), answers(1, 2_000)), PROMOTION, 60.0)
    assert full.outcome is VerdictOutcome.INCONCLUSIVE and "promotion.canary_answers=2,000" in full.reason
    assert outcome(canary(answers(2, 2_000), answers(1, 1_999))) is VerdictOutcome.RUNNING
    late = canary_verdict(canary(answers(2)), PROMOTION, PROMOTION.canary_max_s)
    assert late.outcome is VerdictOutcome.INCONCLUSIVE and "promotion.canary_max_s=604800" in late.reason


def test_a_verdict_at_the_bounds_is_still_a_verdict() -> None:
    assert outcome(canary(answers(2, 2_000, reward=0.9), answers(1, 2_000)), PROMOTION.canary_max_s) is VerdictOutcome.BETTER


@pytest.mark.parametrize(
    ("metric", "mean"), [("fallback", 0.3), ("unparsable", 0.3), ("latency_ms", 1_000.0), ("length", 2.4), ("drift", 0.95)], ids=lambda value: str(value)
)
def test_a_guardrail_stops_a_canary_without_feedback(metric: str, mean: float) -> None:
    changed: dict[str, Any] = {metric: mean}
    result = canary_verdict(canary(answers(2, 200, reward=None, **changed), answers(1, 200, reward=None)), PROMOTION, 60.0)
    assert result.outcome is VerdictOutcome.HARMFUL
    assert f"guardrail {metric}" in result.reason


def test_a_tripped_guardrail_comes_before_a_better_reward() -> None:
    assert outcome(canary(answers(2, reward=0.95, latency_ms=1_000.0))) is VerdictOutcome.HARMFUL


def test_nothing_is_better_while_a_guardrail_is_watched() -> None:
    result = canary_verdict(canary(answers(2, reward=0.95, latency_ms=670.0)), PROMOTION, 60.0)
    assert {rail["metric"]: rail["state"] for rail in result.evidence["guardrails"]}["latency_ms"] == "watching"
    assert result.outcome is VerdictOutcome.RUNNING
    assert result.reason.endswith("; beyond the limit, perhaps by chance: latency_ms")


@pytest.mark.parametrize(("baseline_ms", "limit"), [(40.0, 7.25), (250.0, 2.0), (500.0, 1.5), (2_000.0, 1.5)])
def test_fast_answers_may_become_slower_by_a_larger_ratio_than_slow_ones(baseline_ms: float, limit: float) -> None:
    result = guardrails(canary(answers(2, latency_ms=baseline_ms), answers(1, latency_ms=baseline_ms)), PROMOTION)
    assert next(rail.limit for rail in result if rail.metric is Metric.LATENCY_MS) == pytest.approx(limit, rel=0.1)


def test_a_rise_below_its_limit_is_no_trouble() -> None:
    result = guardrails(canary(answers(2, fallback=0.05, latency_ms=500.0, length=1.6, drift=0.4)), PROMOTION)
    assert {rail.state for rail in result} == {"ok"}
    latency = next(rail for rail in result if rail.metric is Metric.LATENCY_MS)
    assert latency.difference == pytest.approx(1.25, abs=0.05)
    assert (latency.low or 9) < 1.25 < (latency.high or 0)


def test_a_guardrail_needs_a_minimum_of_users() -> None:
    assert outcome(canary(answers(2, users=29, fallback=1.0), answers(1, users=29))) is VerdictOutcome.RUNNING


def test_missing_or_zero_metrics_trip_no_guardrail() -> None:
    rewards = [ScoredAnswer(answer.user, {Metric.REWARD: answer.values[Metric.REWARD]}) for answer in answers(2)]
    rails = guardrails(canary(rewards), PROMOTION)
    assert {(rail.state, rail.difference, rail.canary) for rail in rails} == {("ok", None, None)}
    empty = guardrails(canary(answers(2), answers(1, length=0.0, latency_ms=0.0)), PROMOTION)
    assert {rail.metric for rail in empty if rail.difference is None} == {Metric.LENGTH, Metric.LATENCY_MS}


def test_an_uneven_split_is_inconclusive() -> None:
    result = canary_verdict(canary(answers(2, 900, users=300, reward=0.9)), PROMOTION, 60.0)
    assert result.outcome is VerdictOutcome.INCONCLUSIVE
    assert result.reason == "300 users in the canary and 100 in the baseline are no even split: nothing can be compared"
    assert outcome(canary(answers(2, users=40), []), 59.0) is VerdictOutcome.RUNNING
    assert outcome(canary(answers(2, users=40), []), 60.0) is VerdictOutcome.INCONCLUSIVE


def test_harm_comes_before_an_uneven_split() -> None:
    """Figures of one group can get lost; a version that waits for approval is rejected only for harm."""
    result = canary_verdict(canary(answers(2, 900, users=300, reward=0.5)), PROMOTION, 60.0)
    assert result.evidence["uneven"] and (result.outcome, result.reason[:6]) == (VerdictOutcome.HARMFUL, "worse:")


def test_the_evidence_lists_the_worst_domains() -> None:
    """A transition is one tag of the registry, which takes 100,000 characters."""

    def asked(reward: float) -> list[ScoredAnswer]:
        return [ScoredAnswer(user, {Metric.REWARD: reward * number / 60 + user / 100}, f"domain_{number}") for number in range(60) for user in range(20)]

    reward = canary_verdict([*cells(Arm.CANARY, asked(0.9)), *cells(Arm.BASELINE, asked(0.5))], PROMOTION, 60.0).evidence["reward"]
    assert list(reward["domains"]) == [f"domain_{number}" for number in range(50)] and reward["domains_left_out"] == 10


def test_equal_answers_have_no_difference() -> None:
    same = [ScoredAnswer(number % 100, {Metric.REWARD: 0.9, Metric.BASE_REWARD: 0.9, **USUAL}) for number in range(700)]
    assert outcome(canary(same, same)) is VerdictOutcome.RUNNING


@pytest.mark.parametrize("result", [[], canary([], []), canary(answers(2, 20), []), canary([], answers(1, 15))])
def test_without_answers_a_stage_runs_until_its_time_limit(result: list[Quality]) -> None:
    assert outcome(result, 60.0) is VerdictOutcome.RUNNING
    assert outcome(result, PROMOTION.canary_max_s) is VerdictOutcome.INCONCLUSIVE
    assert shadow_verdict(result, PROMOTION, 60.0).outcome is VerdictOutcome.RUNNING


def test_evidence_is_plain_json_with_the_figures_that_decided() -> None:
    for result in (canary_verdict([], PROMOTION, 1.0), canary_verdict(canary(answers(2)), PROMOTION, 1.0), shadow_verdict(shadow(answers(2)), PROMOTION, 1.0)):
        assert json.loads(json.dumps(result.evidence, allow_nan=False)) == result.evidence
    evidence = canary_verdict(canary(answers(2)), PROMOTION, 1.0).evidence
    assert evidence["arms"]["canary"]["users"] == 100
    assert evidence["arms"]["baseline"]["metrics"]["reward"]["answers"] == 600
    assert evidence["reward"]["low"] < evidence["reward"]["difference"] < evidence["reward"]["high"]


def test_alpha_is_spent_once() -> None:
    stages = [canary_verdict([], PROMOTION, 0.0).evidence["reward"]["alpha"], shadow_verdict([], PROMOTION, 0.0).evidence["gain"]["alpha"]]
    assert math.fsum(stages) == pytest.approx(PROMOTION.alpha * (1 - PROMOTION.guardrail_alpha_share))


def test_a_shadow_passes_with_enough_answers_and_users_unless_it_harms() -> None:
    assert shadow_verdict(shadow(answers(2, 200, gain=0.0)), PROMOTION, 60.0).outcome is VerdictOutcome.PASSED
    assert shadow_verdict(shadow(answers(2, 200, gain=0.3)), PROMOTION, 60.0).outcome is VerdictOutcome.PASSED
    assert shadow_verdict(shadow(answers(2, 200, gain=-0.2)), PROMOTION, 60.0).outcome is VerdictOutcome.HARMFUL
    waiting = shadow_verdict(shadow(answers(2, 199, users=25, gain=0.0)), PROMOTION, 60.0)
    assert (waiting.outcome, waiting.reason) == (VerdictOutcome.RUNNING, "199 of 200 scored answers, 25 of 30 users")
    assert shadow_verdict(shadow(answers(2, 199, gain=0.0)), PROMOTION, PROMOTION.shadow_max_s).outcome is VerdictOutcome.INCONCLUSIVE


def test_a_shadow_has_all_guardrails_but_latency() -> None:
    assert shadow_verdict(shadow(answers(2, 200, gain=0.0, unparsable=0.4)), PROMOTION, 60.0).outcome is VerdictOutcome.HARMFUL
    slow = shadow(answers(2, 200, gain=0.0, latency_ms=4_000.0))
    assert shadow_verdict(slow, PROMOTION, 60.0).outcome is VerdictOutcome.PASSED
    assert Metric.LATENCY_MS not in {rail.metric for rail in guardrails(slow, PROMOTION)}
