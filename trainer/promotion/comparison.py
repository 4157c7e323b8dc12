"""Comparison of two arms from the cells of an experiment: their sums, and the difference of their rewards, adjusted by the base answers' rewards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality
from trainer.promotion.sequential import Estimate, joined

#: A domain with fewer scored answers in either arm, or with one user, is no separate stratum: such domains are compared together.
MIN_STRATUM_ANSWERS = 20


@dataclass(frozen=True)
class AnswerSums:
    """Sums over a set of answers. Additive over disjoint users."""

    metrics: Mapping[Metric, Moments] = field(default_factory=dict)
    crossed: float = 0.0

    def __getitem__(self, metric: Metric) -> Moments:
        return self.metrics.get(metric) or Moments()

    def __add__(self, other: AnswerSums) -> AnswerSums:
        metrics = {metric: self[metric] + other[metric] for metric in Metric if metric in self.metrics or metric in other.metrics}
        return AnswerSums(metrics, self.crossed + other.crossed)

    @property
    def is_paired(self) -> bool:
        """Whether every scored answer has a scored base answer. Only then do the sums give their covariance."""
        reward, base = self[Metric.REWARD], self[Metric.BASE_REWARD]
        return (reward.users, reward.n, reward.nn) == (base.users, base.n, base.nn)


@dataclass(frozen=True)
class ArmSums:
    """Sums of one arm: of all its answers, with each user counted once, and of each domain."""

    whole: AnswerSums
    domains: Mapping[str, AnswerSums]

    @classmethod
    def of(cls, cells: Iterable[Quality], arm: Arm) -> ArmSums:
        """Adds up partitions. Within one experiment an arm has one version."""
        whole, domains = AnswerSums(), dict[str, AnswerSums]()
        for cell in cells:
            if cell.arm is not arm:
                continue
            sums = AnswerSums(cell.metrics, cell.crossed)
            if cell.domain is None:
                whole += sums
            else:
                domains[cell.domain] = domains.get(cell.domain, AnswerSums()) + sums
        return cls(whole, domains)


@dataclass(frozen=True)
class RewardDifference:
    """Reward of the challenger's arm minus the reward of the champion's."""

    estimate: Estimate
    raw: float  # without any adjustment
    theta: float  # regression coefficient of the reward on the base answer's reward; 0: not adjusted
    variance_kept: float  # share of the variance that the regression leaves: 0.5 means that half the answers are enough
    domains: Mapping[str, float]  # adjusted differences by domain; "" holds the small domains, or everything if no domain is large enough


def reward_difference(challenger: ArmSums, champion: ArmSums) -> RewardDifference:
    """Adjusted twice: by regression on the base answer's reward, which no arm can change (Deng, Xu, Kohavi and Walker 2013, CUPED), and by domains, with
    the mean of both arms' weights, so that a different mix of questions makes no difference.

    The variance is over users across all their domains, which includes chance differences of the mix; the sum over domains replaces it if that is larger.
    """
    groups = (challenger.whole, champion.whole)
    theta = _theta(groups) if all(group.is_paired for group in groups) else 0.0
    strata = _strata(challenger, champion) or {"": groups}
    weights = {domain: _weight(pair, groups) for domain, pair in strata.items()}
    total = sum(weights.values()) or 1.0
    differences = {domain: _level(first, theta) - _level(second, theta) for domain, (first, second) in strata.items()}
    value = sum(weights[domain] * difference for domain, difference in differences.items()) / total
    within = sum((weights[domain] / total) ** 2 * joined(*_errors(pair, theta))[0] for domain, pair in strata.items())
    plain, _ = joined(*_errors(groups, 0.0))
    variance, users = joined(*_errors(groups, theta))
    kept = variance / plain if plain and math.isfinite(plain) else 1.0
    raw = challenger.whole[Metric.REWARD].mean - champion.whole[Metric.REWARD].mean
    return RewardDifference(Estimate(value, max(variance, within), users), raw, theta, kept, differences)


def _strata(challenger: ArmSums, champion: ArmSums) -> dict[str, tuple[AnswerSums, AnswerSums]]:
    """The domains with enough answers and users in both arms, and one stratum of the smaller ones, if both arms have more than one user in it.

    Leaves out a domain that one arm lacks. So every stratum has a finite variance.
    """
    strata, rest = dict[str, tuple[AnswerSums, AnswerSums]](), (AnswerSums(), AnswerSums())
    for domain in sorted(challenger.domains.keys() & champion.domains.keys()):
        pair = (challenger.domains[domain], champion.domains[domain])
        fewest = min(sums[Metric.REWARD].n for sums in pair)
        if fewest >= MIN_STRATUM_ANSWERS and all(sums[Metric.REWARD].users > 1 for sums in pair):
            strata[domain] = pair
        elif fewest:
            rest = (rest[0] + pair[0], rest[1] + pair[1])
    return strata | ({"": rest} if all(sums[Metric.REWARD].users > 1 for sums in rest) else {})


def _weight(pair: tuple[AnswerSums, AnswerSums], groups: tuple[AnswerSums, AnswerSums]) -> float:
    """The mean of a domain's share of scored answers in both arms."""
    return sum(sums[Metric.REWARD].n / max(1, group[Metric.REWARD].n) for sums, group in zip(pair, groups, strict=True)) / 2


def _level(sums: AnswerSums, theta: float) -> float:
    return sums[Metric.REWARD].mean - theta * sums[Metric.BASE_REWARD].mean


def _theta(groups: Sequence[AnswerSums]) -> float:
    """Pooled over both arms, with residuals from each arm's own mean."""
    together = sum(_products(group)[1] for group in groups)
    base = sum(_products(group)[2] for group in groups)
    return together / base if base > 1e-9 else 0.0


def _errors(groups: Sequence[AnswerSums], theta: float) -> list[tuple[Moments, float]]:
    return [(group[Metric.REWARD], _variance(group, theta)) for group in groups]


def _variance(sums: AnswerSums, theta: float) -> float:
    """Variance of the mean of reward - theta * base reward, as `Moments.variance`."""
    reward = sums[Metric.REWARD]
    if not theta or reward.users < 2:
        return reward.variance
    own, together, base = _products(sums)
    return max(0.0, own - 2 * theta * together + theta**2 * base) * reward.users / (reward.users - 1) / reward.n**2


def _products(sums: AnswerSums) -> tuple[float, float, float]:
    """Sums over users of products of the residuals s_u - n_u mean: reward squared, reward times base reward, base reward squared."""
    reward, base = sums[Metric.REWARD], sums[Metric.BASE_REWARD]
    r, b = reward.mean, base.mean
    together = sums.crossed - b * reward.ns - r * base.ns + r * b * reward.nn
    return reward.ss - 2 * r * reward.ns + r * r * reward.nn, together, base.ss - 2 * b * base.ns + b * b * base.nn
