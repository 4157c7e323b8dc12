"""Latency of the answers, answers per second, and standstills of partitions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.chaos.records import SeenRecord, SendOutcome, SentRecord
from schemas.topics import QUERIES, RESPONSES
from traffic.observer import percentile


@dataclass(frozen=True)
class AnsweredQuery:
    """An acknowledged query, and the time at which its first response became visible."""

    partition: int
    sent_s: float
    seen_s: float

    @property
    def latency_ms(self) -> float:
        return (self.seen_s - self.sent_s) * 1000


@dataclass(frozen=True)
class LongestStandstill:
    """The longest time of a partition with open queries and without a visible response."""

    partition: int
    from_s: float
    for_s: float


def answered_queries(sent: Sequence[SentRecord], seen: Iterable[SeenRecord]) -> list[AnsweredQuery]:
    """Sorted by the time of the response."""
    first: dict[str, float] = {}
    for record in seen:
        if record.topic == RESPONSES.name and record.query_id:
            first[record.query_id] = min(record.seen_s, first.get(record.query_id, record.seen_s))
    queries = [
        AnsweredQuery(query.partition, query.sent_s, first[query.id])
        for query in sent
        if query.topic == QUERIES.name and query.outcome is SendOutcome.OK and query.partition is not None and query.id in first
    ]
    return sorted(queries, key=lambda answer: answer.seen_s)


def per_second(moments_s: Iterable[float]) -> dict[int, int]:
    return dict(sorted(Counter(int(moment) for moment in moments_s).items()))


def latencies_ms(answers: Iterable[AnsweredQuery]) -> dict[str, float | None]:
    values = [answer.latency_ms for answer in answers]
    return {name: None if (value := percentile(values, share)) is None else round(value, 1) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


def standstills(answers: Sequence[AnsweredQuery]) -> list[LongestStandstill]:
    """One per partition. A standstill lasts from a response, or from the first open query after it, to the next response."""
    by_partition: dict[int, list[AnsweredQuery]] = defaultdict(list)
    for answer in answers:
        by_partition[answer.partition].append(answer)
    return [_longest(partition, own) for partition, own in sorted(by_partition.items())]


def _longest(partition: int, answers: Sequence[AnsweredQuery]) -> LongestStandstill:
    """`answers` must be sorted by the time of the response."""
    earliest = _earliest_open(answers)
    longest, last_s = LongestStandstill(partition, 0.0, 0.0), float("-inf")
    for number, answer in enumerate(answers):
        from_s = max(last_s, earliest[number])
        if answer.seen_s - from_s > longest.for_s:
            longest = LongestStandstill(partition, round(from_s, 2), round(answer.seen_s - from_s, 2))
        last_s = answer.seen_s
    return longest


def _earliest_open(answers: Sequence[AnsweredQuery]) -> list[float]:
    """The time when the oldest query was sent that was open just before each response."""
    earliest = [float("inf")] * (len(answers) + 1)
    for number in range(len(answers) - 1, -1, -1):
        earliest[number] = min(earliest[number + 1], answers[number].sent_s)
    return earliest
