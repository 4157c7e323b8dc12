"""Latency of the answers, answers per second, and standstills of partitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.chaos.records import SeenRecord, SendOutcome, SentRecord
from schemas.topics import QUERIES, RESPONSES
from traffic.observer import ShownAnswer, percentile, standstills


@dataclass(frozen=True)
class AnsweredQuery:
    """An acknowledged query, and the time at which its first response became visible."""

    partition: int
    sent_s: float
    seen_s: float

    @property
    def latency_ms(self) -> float:
        return (self.seen_s - self.sent_s) * 1000


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


def longest_standstills(answers: Iterable[AnsweredQuery]) -> list[dict[str, float]]:
    """The longest one of each partition, as in the report."""
    by_partition = standstills(ShownAnswer(answer.partition, answer.sent_s, answer.seen_s) for answer in answers)
    longest = [max(own, key=lambda standstill: standstill.seconds) for own in by_partition.values()]
    return [{"partition": own.partition, "from_s": round(own.from_s, 2), "for_s": round(own.seconds, 2)} for own in longest]
