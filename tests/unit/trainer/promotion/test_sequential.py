"""Confidence sequences: known values, properties, edges, and the error bound on simulated paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.quality import Moments
from trainer.promotion.sequential import Estimate, difference, effective_users, is_uneven_split, mean_of

MANY = 1e9
variances = st.floats(1e-8, 1.0)
alphas = st.floats(1e-6, 0.4)


def width(estimate: Estimate, alpha: float = 0.05, tau: float = 0.04) -> float:
    low, high = estimate.interval(alpha, tau)
    return high - low


def test_the_interval_is_robbins_mixture() -> None:
    low, high = Estimate(0.1, 1e-4, MANY).interval(0.05, 0.04)
    z = math.sqrt((1 + 1e-4 / 0.0016) * math.log((1 + 0.0016 / 1e-4) / 0.05**2))
    assert (low, high) == pytest.approx((0.1 - 0.01 * z, 0.1 + 0.01 * z), rel=1e-6)
    assert z == pytest.approx(3.062, abs=0.001)


def test_each_bound_is_the_half_normal_mixture() -> None:
    low, high = Estimate(0.0, 1e-4, MANY).bounds(0.01, 0.05)
    z = math.sqrt(2 * (1 + 1e-4 / 0.0025) * math.log(1 + math.sqrt(1 + 0.0025 / 1e-4) / 0.02))
    assert (low, high) == pytest.approx((-0.01 * z, 0.01 * z), rel=1e-6)


@pytest.mark.parametrize(("users", "quantile"), [(5, 5.7696), (10, 4.0846), (29, 3.3599), (200, 3.1023)])
def test_few_users_widen_the_interval_as_students_t_does(users: float, quantile: float) -> None:
    """As scipy.stats.t.isf has it at the tail of the normal's 3.0619. The formula is wider by 2 % with 5 degrees of freedom, by less with more."""
    half = width(Estimate(0, 1e-4, users)) / 2
    assert quantile * 0.9999 < half / 0.01 < quantile * 1.02


@given(variances, variances, alphas)
def test_more_variance_is_a_wider_interval(one: float, other: float, alpha: float) -> None:
    smaller, larger = sorted((one, other))
    assert width(Estimate(0, smaller, 50), alpha) <= width(Estimate(0, larger, 50), alpha) * (1 + 1e-12)


@given(variances, alphas, alphas)
def test_a_smaller_alpha_is_a_wider_interval(variance: float, one: float, other: float) -> None:
    assert width(Estimate(0, variance, 50), min(one, other)) >= width(Estimate(0, variance, 50), max(one, other))


@given(st.floats(-1, 1), variances, alphas, st.floats(0.01, 100))
def test_another_unit_scales_the_interval(value: float, variance: float, alpha: float, by: float) -> None:
    estimate, scaled = Estimate(value, variance, 40), Estimate(value, variance, 40).scaled(by)
    assert scaled.interval(alpha, 0.04 * by) == pytest.approx([by * end for end in estimate.interval(alpha, 0.04)], rel=1e-6, abs=1e-6)


@given(st.floats(-1, 1), variances, alphas)
def test_a_bound_lies_within_the_interval(value: float, variance: float, alpha: float) -> None:
    """A one-sided bound at alpha lies within the two-sided interval at alpha / 2, and beyond the estimate."""
    both, (low, high) = Estimate(value, variance, 40).interval(alpha / 2, 0.04), Estimate(value, variance, 40).bounds(alpha, 0.04)
    assert both[0] <= low <= value <= high <= both[1]


def test_without_a_finite_variance_the_interval_is_infinite() -> None:
    assert mean_of(Moments()).interval(0.05, 0.04) == (-math.inf, math.inf)
    one_user = Moments(users=1, n=3, s=2.0, nn=9, ss=4.0, ns=6.0)
    assert difference(one_user, one_user).bounds(0.05, 0.04) == (-math.inf, math.inf)


def test_rounding_is_no_difference() -> None:
    low, high = Estimate(1e-16, 0.0, 10).interval(0.05, 0.04)
    assert low < 0 < high


def test_effective_users_are_fewer_if_a_few_ask_most() -> None:
    assert effective_users(Moments(users=10, n=50, nn=10 * 25)) == 10
    assert effective_users(Moments(users=10, n=50, nn=41**2 + 9)) < 2
    assert effective_users(Moments()) == 0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(0, 0, False), (20, 20, False), (2_000, 2_100, False), (100, 200, True), (2_000, 2_400, True), (0, 60, True), (30, 60, False)],
)
def test_an_uneven_split_is_detected(one: int, other: int, expected: bool) -> None:
    assert is_uneven_split(one, other, 0.001) is expected is is_uneven_split(other, one, 0.001)


def test_the_interval_holds_at_every_look_of_a_path() -> None:
    """2,000 paths of two equal groups of independent users, with a look after each of 400 users a group."""
    rng = np.random.default_rng(0)
    alpha, ever = 0.1, 0
    values = (rng.random((2_000, 2, 400)) < 0.7).astype(float)
    counts = np.arange(1, 401)
    means = values.cumsum(axis=2) / counts
    variances = (means * (1 - means) / (counts - 1).clip(1)).sum(axis=1)
    for path in range(2_000):
        looks = range(29, 400, 7)
        estimates = (Estimate(means[path, 0, at] - means[path, 1, at], variances[path, at], 2.0 * at) for at in looks)
        ever += any(low > 0 or high < 0 for low, high in (estimate.interval(alpha, 0.04) for estimate in estimates))
    assert ever / 2_000 < alpha


def test_an_even_split_is_rarely_called_uneven() -> None:
    rng = np.random.default_rng(1)
    arrivals = (rng.random((300, 2_000)) < 0.5).cumsum(axis=1)
    wrong = sum(any(is_uneven_split(int(path[at]), at + 1 - int(path[at]), 0.01) for at in range(9, 2_000, 50)) for path in arrivals)
    assert wrong <= 6
