"""Means over users with 95 % intervals, and differences paired by user: one rule for the trainer's evaluation and for the benchmarks.

The unit is the user, because answers of one user are not independent: each user counts once in each domain, with the mean of the own answers there. Over
several domains it is the mean over domains of the mean over the users of each, and the bootstrap resamples users with all their domains. So users without
answers in some domain count where they have answers. If all users have answers in all domains, it equals the mean over users of their means over domains.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from schemas.scoring import Interval, bootstrap, paired_bootstrap

#: Seed of every bootstrap, independent of the seed of a run.
BOOTSTRAP_SEED = 0

ByUser = Mapping[str, float]
ByDomain = Mapping[str, ByUser]


def by_user(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The mean of each user's values, from (user, value)."""
    of_users: dict[str, list[float]] = defaultdict(list)
    for user, value in values:
        of_users[user].append(value)
    return {user: fmean(own) for user, own in of_users.items()}


def by_metric(answers: Iterable[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Each user's mean of every metric, from (user, metrics of one answer). A metric that applies to none of a user's answers has no value of the user."""
    of_metrics: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for user, metrics in answers:
        for metric, value in metrics.items():
            of_metrics[metric].append((user, value))
    return {metric: by_user(values) for metric, values in of_metrics.items()}


def mean(users: ByUser) -> Interval:
    """The mean over users. Raises ValueError without users, as the others do."""
    return bootstrap([users[user] for user in sorted(users)], fmean, BOOTSTRAP_SEED)


def difference(before: ByUser, after: ByUser) -> Interval:
    """`after` minus `before`. Raises ValueError unless both hold the same users."""
    return paired_bootstrap(before, after, BOOTSTRAP_SEED)


def score_over_domains(domains: ByDomain) -> float:
    """The mean over domains of the mean over users, without an interval."""
    return fmean(fmean(users.values()) for users in domains.values())


def mean_over_domains(domains: ByDomain) -> Interval:
    """The mean over domains of the mean over users."""
    users = users_of(domains)
    return bootstrap([[of_domain.get(user) for of_domain in domains.values()] for user in users], _over_domains, BOOTSTRAP_SEED)


def difference_over_domains(before: ByDomain, after: ByDomain) -> Interval:
    """`after` minus `before`, as `mean_over_domains`. Raises ValueError unless both hold the same users in the same domains."""
    if before.keys() != after.keys() or any(before[domain].keys() != after[domain].keys() for domain in before):
        raise ValueError("a paired comparison needs the same users in the same domains on both sides")
    return mean_over_domains({domain: {user: of_user - before[domain][user] for user, of_user in users.items()} for domain, users in after.items()})


def users_of(domains: ByDomain) -> list[str]:
    """The users of all domains, sorted."""
    return sorted({user for users in domains.values() for user in users})


def _over_domains(rows: Sequence[Sequence[float | None]]) -> float:
    """`rows`: users by domains; None: the user has no answer there. A resample without users of a domain is the mean over the others."""
    columns = ([value for value in column if value is not None] for column in zip(*rows, strict=True))
    return fmean(fmean(column) for column in columns if column)
