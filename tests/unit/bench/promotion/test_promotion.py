"""Simulated canaries: verdicts on equal versions and on planted differences, and their report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.promotion import command, picture, population, summary
from bench.promotion.experiment import ExperimentResult, ExperimentUsers, simulate
from bench.promotion.population import ScoredUsers
from bench.promotion.scenarios import CanaryScenario, Harm, PromotionPlan, scenarios
from infra.errors import BadSetting
from infra.settings.promotion import PromotionSettings
from schemas.domain_entries import DomainEntry
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.experiments import Arm
from schemas.promotion_view import VerdictOutcome
from schemas.quality import Metric
from traffic.world import DOMAINS
from trainer.promotion.comparison import ArmSums

LOOKS = 12
PROMOTION = PromotionSettings(canary_answers=800)
EQUAL = CanaryScenario("equal", "A/A", VerdictOutcome.INCONCLUSIVE, 60, "levels", users=300)


@pytest.fixture(scope="module")
def pool() -> ScoredUsers:
    return population.levels(60, seed=0)


def ran(scenario: CanaryScenario, pool: ScoredUsers, promotion: PromotionSettings = PROMOTION) -> list[ExperimentResult]:
    return [simulate(scenario, pool, promotion, LOOKS, (0, number)) for number in range(scenario.experiments)]


def test_equal_versions_hardly_ever_get_a_verdict(pool: ScoredUsers) -> None:
    verdicts = [result for result in ran(EQUAL, pool) if result.outcome != VerdictOutcome.INCONCLUSIVE]
    assert len(verdicts) <= 2
    assert all(result.scored >= 2 * PROMOTION.canary_answers for result in ran(replace(EQUAL, experiments=3), pool))


@pytest.mark.parametrize("harm", Harm)
def test_a_large_loss_is_harmful_wherever_it_falls(harm: Harm, pool: ScoredUsers) -> None:
    results = ran(replace(EQUAL, experiments=8, users=1_000, loss=0.15, harm=harm), pool)
    assert sum(result.outcome == VerdictOutcome.HARMFUL and result.cause == "reward" for result in results) >= 7
    assert all(0 < result.shown < result.answers and result.users <= 1_000 for result in results)


def test_a_large_gain_is_better(pool: ScoredUsers) -> None:
    assert {result.outcome for result in ran(replace(EQUAL, experiments=5, gain=0.15), pool)} == {VerdictOutcome.BETTER}


@pytest.mark.parametrize(("change", "cause"), [({"slower": 3.0}, "latency_ms"), ({"longer": 3.0}, "length"), ({"drifting": 0.65}, "drift")])
def test_a_guardrail_stops_an_experiment(change: dict[str, float], cause: str, pool: ScoredUsers) -> None:
    results = ran(replace(EQUAL, experiments=3, **change), pool)  # type: ignore[arg-type]  # fields of the scenario, all floats
    assert {(result.outcome, result.cause) for result in results} == {(VerdictOutcome.HARMFUL, cause)}


def test_a_planted_loss_has_its_nominal_size(pool: ScoredUsers) -> None:
    """Compares mean rewards over many answers, for each kind of harm."""
    for harm in Harm:
        hurting = replace(EQUAL, users=2_000, loss=0.2, harm=harm)
        lost = _mean_reward(hurting, pool) / _mean_reward(replace(hurting, loss=0.0), pool)
        assert lost == pytest.approx(0.8, abs=0.03)


def _mean_reward(scenario: CanaryScenario, pool: ScoredUsers) -> float:
    crowd = ExperimentUsers(scenario, pool, np.random.default_rng(3))
    crowd.answer(20_000, 0.0)
    return ArmSums.of(crowd.cells(), Arm.CANARY).whole[Metric.REWARD].mean


def test_an_experiment_is_repeatable(pool: ScoredUsers) -> None:
    first = simulate(EQUAL, pool, PROMOTION, LOOKS, (0, 5))
    ran(replace(EQUAL, experiments=2), pool)
    assert simulate(EQUAL, pool, PROMOTION, LOOKS, (0, 5)) == first


def test_personas_rewrites_score_higher_than_base_answers() -> None:
    users = population.personas(20, 0, BUILT_IN_DOMAINS)
    assert users.reward_PDQ.shape == (20, 3, population.ANSWERS)
    assert 0.6 < users.base_PDQ.mean() < users.mean < 0.95
    assert np.array_equal(users.reward_PDQ, population.personas(20, 0, BUILT_IN_DOMAINS).reward_PDQ)


def test_personas_answers_are_scored_by_the_reward_of_their_domain() -> None:
    entries = Domains({"product_rating": DomainEntry(reward="accuracy")})
    own, built_in = population.personas(5, 0, entries).reward_PDQ, population.personas(5, 0, BUILT_IN_DOMAINS).reward_PDQ
    rating = DOMAINS.index("product_rating")
    assert set(own[:, rating].flat) == {0.0, 1.0} and np.array_equal(own[:, rating], np.floor(built_in[:, rating]))
    assert np.array_equal(np.delete(own, rating, 1), np.delete(built_in, rating, 1))


def test_a_summary_counts_expected_and_wrong_verdicts() -> None:
    results = [ExperimentResult("harmful", "reward", 100 * number, 200, 90, 30, 0.5) for number in range(1, 10)] + [
        ExperimentResult("better", "reward", 50, 100, 40, 20, 0.5)
    ]
    figures = summary.summary(replace(EQUAL, expected=VerdictOutcome.HARMFUL, loss=0.05), results)
    assert (figures["found"]["share"], figures["wrong"]["share"], figures["experiments"]) == (0.9, 0.1, 10)
    assert figures["found"]["low"] == pytest.approx(0.596, abs=0.001) and figures["found"]["high"] == pytest.approx(0.982, abs=0.001)
    assert figures["to_verdict"]["scored"]["median"] == 500
    assert figures["causes"] == {"harmful by reward": 9, "better by reward": 1}
    assert [(target.measured, target.met) for target in summary.targets([figures])] == [(0.9, False)]


def test_scenarios_are_chosen_by_name() -> None:
    assert [scenario.name for scenario in scenarios(PromotionPlan(), ("slower", "equal"))] == ["equal", "slower"]
    with pytest.raises(BadSetting, match="no scenario slow; there are equal, "):
        scenarios(PromotionPlan(), ("slow",))


def test_a_run_writes_every_figure_and_a_picture(tmp_path: Path) -> None:
    plan = PromotionPlan(equal=2, unequal=2, looks=4, personas=12)
    report = command.measure(PromotionSettings(canary_answers=200), BUILT_IN_DOMAINS, plan, scenarios(plan), jobs=1)
    assert [scenario_figures["name"] for scenario_figures in report["scenarios"]] == [scenario.name for scenario in scenarios(plan)]
    assert "operator_token" not in report["settings"]
    assert len(json.loads(json.dumps(report, allow_nan=False))["targets"]) == 13
    assert len(command.lines(report, tmp_path)) > len(report["scenarios"])
    picture.draw(report, tmp_path / "promotion.png")
    assert (tmp_path / "promotion.png").stat().st_size > 10_000
