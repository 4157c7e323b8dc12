"""Quality of held-out users' answers before and after training: the same exam questions, paired by question, compared over users.

Zero-shot is the draft in the responses of the second exam, so both arms have the same draft. The unit is the user, because the
answers of one user are not independent. Users who may train (by hash, `schemas.ids.is_held_out`) do not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from bench.demo.report import ArmScores, DomainQuality, Interval, QualityFigures, Significance
from schemas.scoring import METRIC, Pair, bootstrap, metrics, paired_bootstrap, score
from schemas.tasks import task_of

#: The seed of the bootstrap, independent of the run's seed.
BOOTSTRAP_SEED = 0


class Graded(NamedTuple):
    """One exam question of a held-out user with its three answers."""

    domain: str
    user: str
    options: Sequence[str]
    truth: str
    draft: str
    before: str
    after: str


ARMS: dict[str, Callable[[Graded], str]] = {
    "zero_shot": lambda graded: graded.draft,
    "champion_before": lambda graded: graded.before,
    "champion_after": lambda graded: graded.after,
}
ByUser = dict[str, float]


def judge(exam: Sequence[Graded]) -> QualityFigures:
    """Every domain, and over all domains the users with questions in each of them."""
    domains = sorted({graded.domain for graded in exam})
    parts = {domain: [graded for graded in exam if graded.domain == domain] for domain in domains}
    scores = {domain: {arm: _by_user(part, answer) for arm, answer in ARMS.items()} for domain, part in parts.items()}
    return QualityFigures(
        domains={domain: _compare(METRIC[task_of(part[0].options)], scores[domain], part) for domain, part in parts.items()},
        overall=_overall(scores, exam),
    )


def _overall(scores: dict[str, dict[str, ByUser]], exam: Sequence[Graded]) -> DomainQuality | None:
    users = set.intersection(*({*arms["zero_shot"]} for arms in scores.values())) if scores else set()
    if not users:
        return None
    means = {arm: {user: fmean(by_arm[arm][user] for by_arm in scores.values()) for user in users} for arm in ARMS}
    return _compare("mean score", means, [graded for graded in exam if graded.user in users], pool=False)


def _by_user(exam: Iterable[Graded], answer: Callable[[Graded], str]) -> ByUser:
    grades = defaultdict(list)
    for graded in exam:
        grades[graded.user].append(score(task_of(graded.options), answer(graded), graded.truth, graded.options))
    return {user: fmean(scores) for user, scores in grades.items()}


def _compare(metric: str, by_arm: dict[str, ByUser], exam: Sequence[Graded], pool: bool = True) -> DomainQuality:
    over_zero_shot = paired_bootstrap(by_arm["zero_shot"], by_arm["champion_after"], BOOTSTRAP_SEED)
    over_before = paired_bootstrap(by_arm["champion_before"], by_arm["champion_after"], BOOTSTRAP_SEED)
    arms = {arm: _arm(by_user, exam if pool else [], ARMS[arm]) for arm, by_user in by_arm.items()}
    return DomainQuality(
        metric=metric,
        zero_shot=arms["zero_shot"].score,
        champion_before=arms["champion_before"].score,
        champion_after=arms["champion_after"].score,
        heldout_users=len(by_arm["zero_shot"]),
        questions=len(exam),
        ci95_after_minus_zero_shot=_interval(over_zero_shot),
        ci95_after_minus_before=_interval(over_before),
        verdict=Significance.of(_interval(over_zero_shot)),
        verdict_after_minus_before=Significance.of(_interval(over_before)),
        arms=arms,
    )


def _arm(by_user: ByUser, exam: Sequence[Graded], answer: Callable[[Graded], str]) -> ArmScores:
    values = [by_user[user] for user in sorted(by_user)]
    interval = bootstrap(values, fmean, BOOTSTRAP_SEED)
    pairs = [Pair(answer(graded), graded.truth, graded.options) for graded in exam]
    measured = metrics(task_of(exam[0].options), pairs) if pairs else {}
    return ArmScores(score=round(interval.mean, 4), ci95=_interval(interval), metrics={name: round(value, 4) for name, value in measured.items()})


def _interval(interval: tuple[float, float, float]) -> Interval:
    return round(interval[1], 4), round(interval[2], 4)
