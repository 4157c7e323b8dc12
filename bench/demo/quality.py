"""Quality of held-out users' answers before and after training: the same exam questions, paired by question, compared over users.

Zero-shot is the draft in the responses of the second exam, so both arms have the same draft. Users who may train (by hash, `schemas.ids.is_held_out`) do not
count. How users and domains count: `schemas.user_means`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from bench.demo.report import ArmScores, DomainQuality, Interval, QualityFigures, Significance
from schemas.domains import BUILT_IN_DOMAINS, Domains
from schemas.measures import Measure, metrics
from schemas.scoring import Pair
from schemas.tasks import task_of
from schemas.user_means import ByDomain, by_user, difference_over_domains, mean_over_domains, users_of


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


def judge(exam: Sequence[Graded], entries: Domains = BUILT_IN_DOMAINS) -> QualityFigures:
    """Every domain, and all domains together; `overall` is None without answers. `entries` name the metric of each domain."""
    parts = {domain: [graded for graded in exam if graded.domain == domain] for domain in sorted({graded.domain for graded in exam})}
    return QualityFigures(
        domains={domain: _compare(_measure(part[0], entries).name, {domain: part}, entries) for domain, part in parts.items()},
        overall=_compare("mean score", parts, entries, has_metrics=False) if parts else None,
    )


def _measure(graded: Graded, entries: Domains) -> Measure:
    return entries.metric(graded.domain, task_of(graded.options))


def _by_user(part: Iterable[Graded], answer: Callable[[Graded], str], entries: Domains) -> dict[str, float]:
    return by_user((graded.user, _measure(graded, entries).score(answer(graded), graded.truth, graded.options)) for graded in part)


def _compare(metric: str, parts: dict[str, list[Graded]], entries: Domains, *, has_metrics: bool = True) -> DomainQuality:
    by_arm = {arm: {domain: _by_user(part, answer, entries) for domain, part in parts.items()} for arm, answer in ARMS.items()}
    over_zero_shot = difference_over_domains(by_arm["zero_shot"], by_arm["champion_after"])
    over_before = difference_over_domains(by_arm["champion_before"], by_arm["champion_after"])
    exam = [graded for part in parts.values() for graded in part]
    arms = {arm: _arm(domains, exam if has_metrics else [], ARMS[arm], entries) for arm, domains in by_arm.items()}
    return DomainQuality(
        metric=metric,
        zero_shot=arms["zero_shot"].score,
        champion_before=arms["champion_before"].score,
        champion_after=arms["champion_after"].score,
        heldout_users=len(users_of(by_arm["zero_shot"])),
        questions=len(exam),
        ci95_after_minus_zero_shot=_interval(over_zero_shot),
        ci95_after_minus_before=_interval(over_before),
        verdict=Significance.of(_interval(over_zero_shot)),
        verdict_after_minus_before=Significance.of(_interval(over_before)),
        arms=arms,
    )


def _arm(domains: ByDomain, exam: Sequence[Graded], answer: Callable[[Graded], str], entries: Domains) -> ArmScores:
    """`exam`: the questions of one domain, whose metrics are measured, or empty."""
    interval = mean_over_domains(domains)
    pairs = [Pair(answer(graded), graded.truth, graded.options) for graded in exam]
    measured = metrics(_measure(exam[0], entries), task_of(exam[0].options), pairs) if pairs else {}
    return ArmScores(score=round(interval.mean, 4), ci95=_interval(interval), metrics={name: round(value, 4) for name, value in measured.items()})


def _interval(interval: tuple[float, float, float]) -> Interval:
    return round(interval[1], 4), round(interval[2], 4)
