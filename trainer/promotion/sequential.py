"""Confidence sequences: intervals that hold at all looks together, so that a test may stop at any time. The variance is over users, not over answers.

The information of an estimate with variance v is 1/v. On that time scale estimate/v is like Brownian motion with drift (Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52). Robbins' normal mixture bounds
it at all times together. With a mixture of standard deviation tau over the true difference, as a function of v:

- both sides (their equation 5, with t sigma^2 = 1/v and rho = tau):  z^2 = (1 + v/tau^2) log((1 + tau^2/v) / alpha^2)
- one side (their appendix on one-sided sequences, a half-normal mixture):  z^2 = 2 (1 + v/tau^2) log(1 + sqrt(1 + tau^2/v) / (2 alpha))

and the interval is estimate +- z sqrt(v). `tau` is fixed beforehand: the test finds true differences of that size with the fewest answers, and others a
little later. The error bound alpha holds for every tau.

Assumptions: users are independent of one another, arms are assigned by hash, and new users and answers are like the earlier ones. If few users ask most
questions, the mean over answers is not the most precise estimate, and its path is only approximately Brownian; `bench/promotion` measures the actual error.
v itself is estimated, poorly from few users. So z is the quantile of Student's t at the same probability, with the effective number of users as degrees of
freedom (Kish: (sum n_u)^2 / sum n_u^2), and callers require a minimum number of users.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.quality import Moments

#: Half-width of an interval without variance, so that rounding in sums is no difference.
_ROUNDING = 1e-9
#: Half the sum of the parameters of the Beta prior of one group's share of users in an uneven split: about ten per cent off.
_SPLIT_PRIOR = 30.0


@dataclass(frozen=True)
class Estimate:
    """A difference with its variance over users. Without a finite variance its intervals are infinite."""

    value: float
    variance: float
    users: float  # degrees of freedom: the effective number of users, minus one for each group

    def interval(self, alpha: float, tau: float) -> tuple[float, float]:
        """Contains the true difference at all looks together with probability 1 - `alpha`."""
        return self._around(_mixture(self.variance, alpha, tau))

    def bounds(self, alpha: float, tau: float) -> tuple[float, float]:
        """Two one-sided bounds; each holds at all looks with probability 1 - `alpha`."""
        return self._around(_half_mixture(self.variance, alpha, tau))

    def scaled(self, by: float) -> Estimate:
        return Estimate(self.value * by, self.variance * by * by, self.users)

    def _around(self, z: float) -> tuple[float, float]:
        radius = math.sqrt(self.variance) * _student(z, self.users) + _ROUNDING if self.variance else _ROUNDING
        return self.value - radius, self.value + radius


def mean_of(group: Moments) -> Estimate:
    """Mean of one group, for paired differences."""
    return Estimate(group.mean, group.variance, max(1.0, effective_users(group) - 1))


def difference(first: Moments, second: Moments, ratio: float = 1.0) -> Estimate:
    """Mean of `first` minus `ratio` times the mean of `second`. For groups with common users, whose errors correlate, the interval is too wide."""
    return Estimate(first.mean - ratio * second.mean, *joined((first, first.variance), (second, ratio**2 * second.variance)))


def joined(*groups: tuple[Moments, float]) -> tuple[float, float]:
    """The variance of a sum over groups, and its degrees of freedom (Welch and Satterthwaite, by effective users)."""
    variance = sum(own for _, own in groups)
    if not variance or not math.isfinite(variance):
        return variance, 1.0
    return variance, variance**2 / sum(own**2 / max(1.0, effective_users(group) - 1) for group, own in groups)


def effective_users(group: Moments) -> float:
    """Number of equally active users with the same information (Kish)."""
    return group.n**2 / group.nn if group.nn else 0.0


def is_uneven_split(first: int, second: int, alpha: float, share: float = 0.5) -> bool:
    """Whether two groups of users are no random split, of which the first has `share`. The probability of a wrong yes, over all looks, is at most `alpha`.

    A mixture martingale: the likelihood of the counts under a Beta prior around the share, against the share itself (Lindon and Malek 2022, "Anytime-valid
    inference for multinomial count data", section 3, with two arms).
    """
    a, b = 2 * _SPLIT_PRIOR * share, 2 * _SPLIT_PRIOR * (1 - share)
    evidence = _log_beta(a + first, b + second) - _log_beta(a, b) - first * math.log(share) - second * math.log1p(-share)
    return evidence >= -math.log(alpha)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _mixture(variance: float, alpha: float, tau: float) -> float:
    """z of the two-sided interval, in standard errors; 0 for a variance of 0."""
    if not variance or not math.isfinite(variance):
        return math.inf if variance else 0.0
    return math.sqrt((1 + variance / tau**2) * (math.log1p(tau**2 / variance) - 2 * math.log(alpha)))


def _half_mixture(variance: float, alpha: float, tau: float) -> float:
    if not variance or not math.isfinite(variance):
        return math.inf if variance else 0.0
    return math.sqrt(2 * (1 + variance / tau**2) * math.log1p(math.sqrt(1 + tau**2 / variance) / (2 * alpha)))


def _student(z: float, df: float) -> float:
    """Quantile of Student's t with the tail probability of the normal quantile `z` (inverse of Wallace 1959); any error makes the interval wider."""
    exponent = (z * (8 * df + 3) / (8 * df + 1)) ** 2 / df
    return math.sqrt(df * math.expm1(exponent)) if exponent < 700 else math.inf
