"""Two arms side by side, from the cells of an experiment alone: their sums, and how their rewards differ once what the base answers explain is taken out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality
from trainer.promotion.sequential import Estimate, joined

#: Domains with fewer scored answers in either arm, or those of one user, are compared together: a mean of a few is no stratum, one user's has no error.
SMALL = 20


@dataclass(frozen=True)
class AnswerSums:
    """What a set of answers adds up to. Additive over disjoint users."""

    metrics: Mapping[Metric, Moments] = field(default_factory=dict)
    crossed: float = 0.0

    def __getitem__(self, metric: Metric) -> Moments:
        return self.metrics.get(metric) or Moments()

    def __add__(self, other: AnswerSums) -> AnswerSums:
        metrics = {metric: self[metric] + other[metric] for metric in Metric if metric in self.metrics or metric in other.metrics}
        return AnswerSums(metrics, self.crossed + other.crossed)

    @property
    def is_paired(self) -> bool:
        """Whether every scored answer has its base answer scored, too: only then do the sums say how the two go together."""
        reward, base = self[Metric.REWARD], self[Metric.BASE_REWARD]
        return (reward.users, reward.n, reward.nn) == (base.users, base.n, base.nn)


@dataclass(frozen=True)
class ArmSums:
    """One arm: all its answers, each user counted once, and those of each domain."""

    whole: AnswerSums
    domains: Mapping[str, AnswerSums]

    @classmethod
    def of(cls, cells: Iterable[Quality], arm: Arm) -> ArmSums:
        """Over versions and partitions: within one experiment an arm has one version."""
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
    """The reward of one group less that of the other."""

    estimate: Estimate
    raw: float  # without any adjustment
    theta: float  # of the base answer's reward that the reward goes along with; 0: not adjusted
    variance_kept: float  # of the plain difference's variance, by regression: 0.5 means half the answers do
    domains: Mapping[str, float]  # differences by domain, adjusted; small domains are one, named "", and so is everything where no domain can be


def gain(one: ArmSums, other: ArmSums) -> RewardDifference:
    """Adjusted twice: by regression on the base answer's reward, which no arm can change (Deng, Xu, Kohavi and Walker 2013, CUPED), and by domains,
    weighted in both arms as in the mean of both, so that another mix of questions is no difference.

    The error is over users in all their domains at once; chance differences of the mix are still in it. Where the sum over domains is more, it is that: it
    errs on the wide side.
    """
    groups = (one.whole, other.whole)
    theta = _theta(groups) if all(group.is_paired for group in groups) else 0.0
    strata = _strata(one, other) or {"": groups}
    weights = {domain: _weight(pair, groups) for domain, pair in strata.items()}
    total = sum(weights.values()) or 1.0
    differences = {domain: _level(mine, theta) - _level(others, theta) for domain, (mine, others) in strata.items()}
    value = sum(weights[domain] * found for domain, found in differences.items()) / total
    within = sum((weights[domain] / total) ** 2 * joined(*_errors(pair, theta))[0] for domain, pair in strata.items())
    plain, _ = joined(*_errors(groups, 0.0))
    variance, users = joined(*_errors(groups, theta))
    kept = variance / plain if plain and math.isfinite(plain) else 1.0
    raw = one.whole[Metric.REWARD].mean - other.whole[Metric.REWARD].mean
    return RewardDifference(Estimate(value, max(variance, within), users), raw, theta, kept, differences)


def _strata(one: ArmSums, other: ArmSums) -> dict[str, tuple[AnswerSums, AnswerSums]]:
    """Domains in which both arms have answers and users enough, and the others that both have together, unless one arm has them of a single user.

    What one of them lacks has nothing to be held against. So no stratum is without a finite variance, which would be that of all.
    """
    strata, rest = dict[str, tuple[AnswerSums, AnswerSums]](), (AnswerSums(), AnswerSums())
    for domain in sorted(one.domains.keys() & other.domains.keys()):
        pair = (one.domains[domain], other.domains[domain])
        fewest = min(sums[Metric.REWARD].n for sums in pair)
        if fewest >= SMALL and all(sums[Metric.REWARD].users > 1 for sums in pair):
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
    """Pooled over both arms, within each: about their own means."""
    together = sum(_products(group)[1] for group in groups)
    base = sum(_products(group)[2] for group in groups)
    return together / base if base > 1e-9 else 0.0


def _errors(groups: Sequence[AnswerSums], theta: float) -> list[tuple[Moments, float]]:
    return [(group[Metric.REWARD], _variance(group, theta)) for group in groups]


def _variance(sums: AnswerSums, theta: float) -> float:
    """Of the mean of reward - theta * base reward, as `Moments.variance`."""
    reward = sums[Metric.REWARD]
    if not theta or reward.users < 2:
        return reward.variance
    own, together, base = _products(sums)
    return max(0.0, own - 2 * theta * together + theta**2 * base) * reward.users / (reward.users - 1) / reward.n**2


def _products(sums: AnswerSums) -> tuple[float, float, float]:
    """Sums over users of products of residuals s_u - n_u mean: of the reward, of reward and base reward, of the base reward."""
    reward, base = sums[Metric.REWARD], sums[Metric.BASE_REWARD]
    r, b = reward.mean, base.mean
    together = sums.crossed - b * reward.ns - r * base.ns + r * b * reward.nn
    return reward.ss - 2 * r * reward.ns + r * r * reward.nn, together, base.ss - 2 * b * base.ns + b * b * base.nn
