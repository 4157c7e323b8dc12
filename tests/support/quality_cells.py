"""Quality cells as `streams.quality` publishes them, computed from single answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality, Span

AT, EXPERIMENT = datetime(2026, 11, 1, tzinfo=UTC), UUID(int=1)


class ScoredAnswer(NamedTuple):
    user: int
    values: Mapping[Metric, float]
    domain: str = "movie_tag"


def scored(user: int, reward: float, base: float | None = None, domain: str = "movie_tag") -> ScoredAnswer:
    return ScoredAnswer(user, {Metric.REWARD: reward} | ({} if base is None else {Metric.BASE_REWARD: base}), domain)


def cells(arm: Arm, answers: Sequence[ScoredAnswer], partitions: int = 1) -> list[Quality]:
    """Cells of every partition and domain, and of all domains together."""
    all_cells = []
    for partition in range(partitions):
        of_partition = [answer for answer in answers if answer.user % partitions == partition]
        for domain in (None, *sorted({answer.domain for answer in of_partition})):
            all_cells.append(_cell(arm, domain, partition, [answer for answer in of_partition if domain in (None, answer.domain)]))
    return all_cells


def moments(answers: Iterable[ScoredAnswer], metric: Metric) -> Moments:
    values = defaultdict[int, list[float]](list)
    for answer in answers:
        if metric in answer.values:
            values[answer.user].append(answer.values[metric])
    pairs = [(len(ones), sum(ones)) for ones in values.values()]
    return Moments(
        users=len(pairs), n=sum(n for n, _ in pairs), s=sum(s for _, s in pairs), nn=sum(n * n for n, _ in pairs), ss=sum(s * s for _, s in pairs),
        ns=sum(n * s for n, s in pairs),
    )  # fmt: skip


def _cell(arm: Arm, domain: str | None, partition: int, answers: Sequence[ScoredAnswer]) -> Quality:
    metrics = {metric: sums for metric in Metric if (sums := moments(answers, metric)).n}
    both = {user: _sums(answers, user) for user in {answer.user for answer in answers}}
    crossed = sum(reward * base for reward, base in both.values())
    return Quality(
        name="retouch-reflector", version="2", experiment=EXPERIMENT, arm=arm, domain=domain, partition=partition, span=Span.EXPERIMENT, started_at=AT,
        ended_at=AT, computed_at=AT, answers=len(answers), metrics=metrics, crossed=crossed,
    )  # fmt: skip


def _sums(answers: Iterable[ScoredAnswer], user: int) -> tuple[float, float]:
    mine = [answer.values for answer in answers if answer.user == user]
    return sum(values.get(Metric.REWARD, 0.0) for values in mine), sum(values.get(Metric.BASE_REWARD, 0.0) for values in mine)
