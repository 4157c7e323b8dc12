"""Tests that may be looked at as often as one likes: intervals that hold at all looks together, over users and not over answers.

An estimate of variance v has gathered information 1/v, and estimate/v moves like Brownian motion with drift in that clock (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52). Robbins' normal mixture bounds
it at all times at once. With a mixture of standard deviation tau over the true difference, in the terms of v:

- both sides (their equation 5, with t sigma^2 = 1/v and rho = tau):  z^2 = (1 + v/tau^2) log((1 + tau^2/v) / alpha^2)
- one side (their appendix on one-sided sequences, a half-normal mixture):  z^2 = 2 (1 + v/tau^2) log(1 + sqrt(1 + tau^2/v) / (2 alpha))

and the interval is estimate +- z sqrt(v). `tau` is fixed beforehand: true differences of that size are found with the fewest answers, others somewhat
later; the promise of alpha holds for every tau.

What is assumed: users are independent of one another, arms are by hash, and the estimate's information grows by users and answers that are like the
earlier ones. A mean over answers is not the most precise estimate where few users ask most, so its path is only nearly Brownian; `bench/promotion`
measures what is left of the promise. v itself is estimated, from few users badly: z is therefore the quantile of Student's t at the same probability, by
the effective number of users (Kish: (sum n_u)^2 / sum n_u^2), and callers ask for a minimum of users before they believe anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.quality import Moments

#: Rounding in sums is no difference.
_ROUNDING = 1e-9
#: A Beta(a, a) prior of the share of users in one of two groups that are no even split: by some ten per cent.
_SPLIT_PRIOR = 30.0


@dataclass(frozen=True)
class Estimate:
    """A difference with its variance over users. Without a finite variance its intervals are the whole line."""

    value: float
    variance: float
    users: float  # degrees of freedom: the effective number of users, less one for each group

    def interval(self, alpha: float, tau: float) -> tuple[float, float]:
        """Holds the true difference at all looks together with probability 1 - `alpha`."""
        return self._around(_mixture(self.variance, alpha, tau))

    def bounds(self, alpha: float, tau: float) -> tuple[float, float]:
        """The lower bound holds at all looks with probability 1 - `alpha`, and so does the upper one, each for itself."""
        return self._around(_half_mixture(self.variance, alpha, tau))

    def scaled(self, by: float) -> Estimate:
        return Estimate(self.value * by, self.variance * by * by, self.users)

    def _around(self, z: float) -> tuple[float, float]:
        radius = math.sqrt(self.variance) * _student(z, self.users) + _ROUNDING if self.variance else _ROUNDING
        return self.value - radius, self.value + radius


def mean_of(one: Moments) -> Estimate:
    """One group's mean, as of paired differences."""
    return Estimate(one.mean, one.variance, max(1.0, effective_users(one) - 1))


def difference(one: Moments, other: Moments, ratio: float = 1.0) -> Estimate:
    """Mean of `one` less `ratio` times the mean of `other`. The groups have no user in common, or such as err alike in both: then it is too wide."""
    return Estimate(one.mean - ratio * other.mean, *joined((one, one.variance), (other, ratio**2 * other.variance)))


def joined(*groups: tuple[Moments, float]) -> tuple[float, float]:
    """The variance of a sum over groups, and its degrees of freedom (Welch and Satterthwaite, by effective users)."""
    variance = sum(one for _, one in groups)
    if not variance or not math.isfinite(variance):
        return variance, 1.0
    return variance, variance**2 / sum(one**2 / max(1.0, effective_users(group) - 1) for group, one in groups)


def effective_users(one: Moments) -> float:
    """How many equally active users would say as much (Kish). All users' number where they are equally active."""
    return one.n**2 / one.nn if one.nn else 0.0


def strays(one: int, other: int, alpha: float) -> bool:
    """Whether two groups of users are no even split, with at most `alpha` of a wrong yes over all looks.

    A mixture martingale: the likelihood of the arrivals under a Beta prior of the share against that of one half (Lindon and Malek 2022, "Anytime-valid
    inference for multinomial count data", section 3, with two arms).
    """
    a = _SPLIT_PRIOR
    evidence = _log_beta(a + one, a + other) - _log_beta(a, a) + (one + other) * math.log(2)
    return evidence >= -math.log(alpha)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _mixture(variance: float, alpha: float, tau: float) -> float:
    """In standard errors; 0 for a variance of 0, where the caller multiplies by it."""
    if not variance or not math.isfinite(variance):
        return math.inf if variance else 0.0
    return math.sqrt((1 + variance / tau**2) * (math.log1p(tau**2 / variance) - 2 * math.log(alpha)))


def _half_mixture(variance: float, alpha: float, tau: float) -> float:
    if not variance or not math.isfinite(variance):
        return math.inf if variance else 0.0
    return math.sqrt(2 * (1 + variance / tau**2) * math.log1p(math.sqrt(1 + tau**2 / variance) / (2 * alpha)))


def _student(z: float, df: float) -> float:
    """The quantile of Student's t with the tail of the normal quantile `z` (Wallace 1959, turned round); where it errs, it is too wide."""
    exponent = (z * (8 * df + 3) / (8 * df + 1)) ** 2 / df
    return math.sqrt(df * math.expm1(exponent)) if exponent < 700 else math.inf
