"""How two arms' rewards differ: known values, what is adjusted away, and what the error is over."""

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
    """Answers whose reward goes along with the base answer's."""
    rng = random.Random(seed)
    found = []
    for user in range(users):
        level = rng.gauss(0, 0.1)
        for _ in range(rng.randint(1, 8)):
            base = rng.random()
            found.append(scored(user, 0.5 * base + 0.3 + level + rise + rng.gauss(0, 0.05), base, rng.choice(domains)))
    return found


def test_without_base_rewards_it_is_the_plain_difference() -> None:
    canary = [scored(user, value) for user, value in enumerate((1.0, 0.0, 1.0, 1.0))]
    baseline = [scored(user, value) for user, value in enumerate((0.0, 0.0, 1.0, 1.0))]
    found = compared(canary, baseline)
    assert (found.raw, found.estimate.value, found.theta) == pytest.approx((0.25, 0.25, 0.0))
    assert found.estimate.variance == pytest.approx(0.75 / 3 / 4 + 1.0 / 3 / 4)


def test_what_the_base_answers_explain_is_taken_out() -> None:
    """The canary's users asked harder questions by chance; the versions are equal."""
    canary = [scored(user, 0.4 + 0.5 * base, base) for user, base in enumerate((0.1, 0.2, 0.3, 0.2) * 10)]
    baseline = [scored(user, 0.4 + 0.5 * base, base) for user, base in enumerate((0.6, 0.7, 0.8, 0.9) * 10)]
    found = compared(canary, baseline)
    assert found.raw < -0.2
    assert (found.estimate.value, found.theta, found.variance_kept) == pytest.approx((0.0, 0.5, 0.0), abs=1e-9)


def test_another_mix_of_questions_is_no_difference() -> None:
    hard, easy = "movie_tag", "product_rating"
    canary = [scored(user, 0.4 if user % 4 else 0.9, domain=hard if user % 4 else easy) for user in range(200)]
    baseline = [scored(user, 0.9 if user % 4 else 0.4, domain=easy if user % 4 else hard) for user in range(200)]
    found = compared(canary, baseline)
    assert found.raw == pytest.approx(-0.25)
    assert found.estimate.value == pytest.approx(0.0)
    assert found.domains == pytest.approx({hard: 0.0, easy: 0.0})


def test_swapping_the_arms_turns_the_sign() -> None:
    one, other = compared(crowd(1, rise=0.1), crowd(2)), compared(crowd(2), crowd(1, rise=0.1))
    assert one.estimate.value == pytest.approx(-other.estimate.value)
    assert one.estimate.variance == pytest.approx(other.estimate.variance)
    assert one.theta == pytest.approx(other.theta)


def test_partitions_change_nothing() -> None:
    whole, parts = compared(crowd(1), crowd(2)), compared(crowd(1), crowd(2), partitions=3)
    assert parts.estimate.value == pytest.approx(whole.estimate.value)
    assert parts.estimate.variance == pytest.approx(whole.estimate.variance)
    assert parts.estimate.users == pytest.approx(whole.estimate.users)


def test_repeating_every_answer_makes_nobody_surer() -> None:
    once, often = compared(crowd(1), crowd(2)), compared(crowd(1) * 10, crowd(2) * 10)
    assert often.estimate.variance == pytest.approx(once.estimate.variance, rel=1e-6)


def test_a_user_of_several_domains_is_one_user() -> None:
    """The same level in both domains is no independent news."""
    levels = [0.2 * (user % 5) for user in range(100)]
    both = [scored(user, level, domain=domain) for user, level in enumerate(levels) for domain in ("movie_tag", "product_rating")]
    one = [scored(user, level) for user, level in enumerate(levels)]
    assert compared(both, both).estimate.variance == pytest.approx(compared(one, one).estimate.variance)


def test_adjusting_is_left_out_where_base_rewards_are_missing() -> None:
    answers = [*crowd(1), scored(500, 0.7)]
    assert compared(answers, crowd(2)).theta == 0.0


def test_small_domains_are_compared_together_and_lonely_ones_not_at_all() -> None:
    rare = [scored(user, 0.5, 0.5, f"rare_{user % 5}") for user in range(10)]
    found = compared([*crowd(1), *rare, scored(900, 0.1, 0.1, "only_here")], [*crowd(2), *rare])
    assert set(found.domains) == {"movie_tag", "product_rating", ""}


@pytest.mark.parametrize("lonely", ["canary", "baseline"])
def test_a_domain_of_one_user_leaves_the_error_finite(lonely: str) -> None:
    """However much the user asked there: alone it is no stratum, nor is the rest where nobody else is in it."""
    one, few = [scored(3, 0.5, 0.5, "rare")] * 20, [scored(user, 0.5, 0.5, "rare") for user in range(10) for _ in range(3)]
    mine, others = (one, few) if lonely == "canary" else (few, one)
    found = compared([*crowd(1, rise=-0.3), *mine], [*crowd(2), *others])
    assert found.estimate.interval(0.05, 0.04)[1] < 0 and set(found.domains) == {"movie_tag", "product_rating"}
    both = [scored(user, 0.5, 0.5, "odd") for user in range(5)]
    assert set(compared([*crowd(1), *mine, *both], [*crowd(2), *others, *both]).domains) == {"movie_tag", "product_rating", ""}


def test_where_no_domain_is_in_both_arms_everything_is_compared() -> None:
    canary = [scored(user, 0.5, domain="movie_tag") for user in range(30)]
    found = compared(canary, [scored(user, 0.9, domain="product_rating") for user in range(30)])
    assert found.domains == pytest.approx({"": -0.4})


@pytest.mark.parametrize("answers", [[], [scored(1, 0.5)]])
def test_nobody_and_one_user_say_nothing(answers: list[ScoredAnswer]) -> None:
    assert compared(answers, crowd(2)).estimate.variance == float("inf")
    assert compared(answers, answers).estimate.interval(0.05, 0.04) == (float("-inf"), float("inf"))


def test_an_arm_is_found_among_others() -> None:
    found = ArmSums.of([*cells(Arm.CHAMPION, crowd(3)), *cells(Arm.CANARY, [scored(1, 0.5), scored(2, 1.0)])], Arm.CANARY)
    assert (found.whole[Metric.REWARD].n, found.whole[Metric.REWARD].users, found.whole[Metric.GAIN].n) == (2, 2, 0)
