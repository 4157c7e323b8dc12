"""Difference of two arms' rewards: known values, the adjustments, and the variance over users."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from schemas.experiments import Arm
from schemas.quality import Metric
from tests.support.quality_cells import ScoredAnswer, cells, scored
from trainer.promotion.comparison import ArmSums, RewardDifference, reward_difference


def compared(canary: Sequence[ScoredAnswer], baseline: Sequence[ScoredAnswer], partitions: int = 1) -> RewardDifference:
    return reward_difference(ArmSums.of(cells(Arm.CANARY, canary, partitions), Arm.CANARY), ArmSums.of(cells(Arm.BASELINE, baseline, partitions), Arm.BASELINE))


def crowd(seed: int, users: int = 60, rise: float = 0.0, domains: Sequence[str] = ("movie_tag", "product_rating")) -> list[ScoredAnswer]:
    """Answers whose reward correlates with the base answer's."""
    rng = random.Random(seed)
    result = []
    for user in range(users):
        level = rng.gauss(0, 0.1)
        for _ in range(rng.randint(1, 8)):
            base = rng.random()
            result.append(scored(user, 0.5 * base + 0.3 + level + rise + rng.gauss(0, 0.05), base, rng.choice(domains)))
    return result


def test_without_base_rewards_it_is_the_plain_difference() -> None:
    canary = [scored(user, value) for user, value in enumerate((1.0, 0.0, 1.0, 1.0))]
    baseline = [scored(user, value) for user, value in enumerate((0.0, 0.0, 1.0, 1.0))]
    result = compared(canary, baseline)
    assert (result.raw, result.estimate.value, result.theta) == pytest.approx((0.25, 0.25, 0.0))
    assert result.estimate.variance == pytest.approx(0.75 / 3 / 4 + 1.0 / 3 / 4)


def test_the_regression_removes_what_base_answers_explain() -> None:
    """The canary's users asked harder questions by chance; the versions are equal."""
    canary = [scored(user, 0.4 + 0.5 * base, base) for user, base in enumerate((0.1, 0.2, 0.3, 0.2) * 10)]
    baseline = [scored(user, 0.4 + 0.5 * base, base) for user, base in enumerate((0.6, 0.7, 0.8, 0.9) * 10)]
    result = compared(canary, baseline)
    assert result.raw < -0.2
    assert (result.estimate.value, result.theta, result.variance_kept) == pytest.approx((0.0, 0.5, 0.0), abs=1e-9)


def test_a_different_mix_of_questions_is_no_difference() -> None:
    hard, easy = "movie_tag", "product_rating"
    canary = [scored(user, 0.4 if user % 4 else 0.9, domain=hard if user % 4 else easy) for user in range(200)]
    baseline = [scored(user, 0.9 if user % 4 else 0.4, domain=easy if user % 4 else hard) for user in range(200)]
    result = compared(canary, baseline)
    assert result.raw == pytest.approx(-0.25)
    assert result.estimate.value == pytest.approx(0.0)
    assert result.domains == pytest.approx({hard: 0.0, easy: 0.0})


def test_swapping_the_arms_changes_the_sign() -> None:
    forward, swapped = compared(crowd(1, rise=0.1), crowd(2)), compared(crowd(2), crowd(1, rise=0.1))
    assert forward.estimate.value == pytest.approx(-swapped.estimate.value)
    assert forward.estimate.variance == pytest.approx(swapped.estimate.variance)
    assert forward.theta == pytest.approx(swapped.theta)


def test_partitions_change_nothing() -> None:
    whole, parts = compared(crowd(1), crowd(2)), compared(crowd(1), crowd(2), partitions=3)
    assert parts.estimate.value == pytest.approx(whole.estimate.value)
    assert parts.estimate.variance == pytest.approx(whole.estimate.variance)
    assert parts.estimate.users == pytest.approx(whole.estimate.users)


def test_repeated_answers_do_not_narrow_the_interval() -> None:
    once, often = compared(crowd(1), crowd(2)), compared(crowd(1) * 10, crowd(2) * 10)
    assert often.estimate.variance == pytest.approx(once.estimate.variance, rel=1e-6)


def test_a_user_of_several_domains_is_one_user() -> None:
    """A user's level is the same in both domains, so the domains are not independent."""
    levels = [0.2 * (user % 5) for user in range(100)]
    both = [scored(user, level, domain=domain) for user, level in enumerate(levels) for domain in ("movie_tag", "product_rating")]
    one_domain = [scored(user, level) for user, level in enumerate(levels)]
    assert compared(both, both).estimate.variance == pytest.approx(compared(one_domain, one_domain).estimate.variance)


def test_missing_base_rewards_switch_the_adjustment_off() -> None:
    answers = [*crowd(1), scored(500, 0.7)]
    assert compared(answers, crowd(2)).theta == 0.0


def test_small_domains_are_compared_together_and_one_sided_ones_not_at_all() -> None:
    rare = [scored(user, 0.5, 0.5, f"rare_{user % 5}") for user in range(10)]
    result = compared([*crowd(1), *rare, scored(900, 0.1, 0.1, "only_here")], [*crowd(2), *rare])
    assert set(result.domains) == {"movie_tag", "product_rating", ""}


@pytest.mark.parametrize("lonely", ["canary", "baseline"])
def test_a_domain_of_one_user_leaves_the_error_finite(lonely: str) -> None:
    """A domain with one user is no stratum, however many answers it has, and neither are the small domains with one user together."""
    one_user, ten_users = [scored(3, 0.5, 0.5, "rare")] * 20, [scored(user, 0.5, 0.5, "rare") for user in range(10) for _ in range(3)]
    canary, baseline = (one_user, ten_users) if lonely == "canary" else (ten_users, one_user)
    result = compared([*crowd(1, rise=-0.3), *canary], [*crowd(2), *baseline])
    assert result.estimate.interval(0.05, 0.04)[1] < 0 and set(result.domains) == {"movie_tag", "product_rating"}
    both = [scored(user, 0.5, 0.5, "odd") for user in range(5)]
    assert set(compared([*crowd(1), *canary, *both], [*crowd(2), *baseline, *both]).domains) == {"movie_tag", "product_rating", ""}


def test_without_a_common_domain_everything_is_compared() -> None:
    canary = [scored(user, 0.5, domain="movie_tag") for user in range(30)]
    result = compared(canary, [scored(user, 0.9, domain="product_rating") for user in range(30)])
    assert result.domains == pytest.approx({"": -0.4})


@pytest.mark.parametrize("answers", [[], [scored(1, 0.5)]])
def test_no_user_and_one_user_have_an_infinite_interval(answers: list[ScoredAnswer]) -> None:
    assert compared(answers, crowd(2)).estimate.variance == float("inf")
    assert compared(answers, answers).estimate.interval(0.05, 0.04) == (float("-inf"), float("inf"))


def test_the_sums_of_one_arm_leave_out_the_others() -> None:
    result = ArmSums.of([*cells(Arm.CHAMPION, crowd(3)), *cells(Arm.CANARY, [scored(1, 0.5), scored(2, 1.0)])], Arm.CANARY)
    assert (result.whole[Metric.REWARD].n, result.whole[Metric.REWARD].users, result.whole[Metric.GAIN].n) == (2, 2, 0)
