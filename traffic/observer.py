"""An independent reader of the public topics. It counts queries, answers, lost and repeated answers, and measures latency.

It joins no consumer group and commits nothing. `AnswerCounts` does the arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Self

from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import Envelope, read_message
from schemas.messages import Malformed, Message, MessageIdentity
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import Topic


@dataclass(frozen=True)
class ObservedRecord:
    """One record. `message` is None if the record cannot be parsed, and on dead-letter topics, whose records are not parsed."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    message: Message | None = None
    envelope: Envelope | None = None


class Observer:
    """Reads `topics`, and the topics named in `raw` without parsing, from the beginning or from the present end.

    Raises RetryLater if no broker answers.
    """

    def __init__(self, settings: Settings, topics: Sequence[Topic], *, raw: Sequence[str] = (), from_end: bool = False, client_id: str = "observer") -> None:
        self._types = {topic.name: topic.message for topic in topics}
        self._reader = TopicReader(settings, f"retouch-{client_id}")
        self._reader.follow(*self._types, *raw, from_end=from_end)

    def poll(self, timeout_s: float) -> list[ObservedRecord]:
        """Records that have arrived. Waits at most `timeout_s` for the first."""
        return [self._sight(record) for record in self._reader.poll(timeout_s)]

    def read_to_end(self, timeout_s: float) -> Iterator[ObservedRecord]:
        """Everything up to where the topics end at this moment. Raises RetryLater when that takes longer than `timeout_s`."""
        return map(self._sight, self._reader.read_to_end(timeout_s))

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _sight(self, record: Any) -> ObservedRecord:
        place = (record.topic, record.partition, record.offset, record.key)
        expected = self._types.get(record.topic)
        if expected is None or record.value is None:
            return ObservedRecord(*place)
        try:
            return ObservedRecord(*place, *read_message(expected, record.headers, record.value))
        except Malformed:
            return ObservedRecord(*place)


@dataclass
class AnswerCounts:
    """Counts over records, in any order. A query that was sent twice may be answered twice."""

    records: Counter[str] = field(default_factory=Counter)  # by topic
    unreadable: Counter[str] = field(default_factory=Counter)  # by topic
    asked: dict[MessageIdentity, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[MessageIdentity, list[datetime]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)  # of the reflection model; `none`: it took no part

    def note(self, sighting: ObservedRecord) -> None:
        self.records[sighting.topic] += 1
        if sighting.message is None or sighting.envelope is None:
            self.unreadable[sighting.topic] += 1
        elif isinstance(sighting.message, Query):
            self.note_query(sighting.message, sighting.envelope.time)
        elif isinstance(sighting.message, Response):
            self.note_response(sighting.message, sighting.envelope.time)

    def note_query(self, query: Query, at: datetime) -> None:
        self.asked[query.identity].append(at)

    def note_response(self, response: Response, at: datetime) -> None:
        self.answered[response.identity].append(at)
        if len(self.answered[response.identity]) == 1:
            self.statuses[response.status.value] += 1
            provenance = response.provenance
            model = provenance.model if provenance.strategy is Strategy.RPO else None  # other strategies have other models
            self.versions[model.version if model else "none"] += 1

    def add(self, other: AnswerCounts) -> None:
        """Add the counts of another round, which has other queries."""
        for mine, theirs in (
            (self.records, other.records),
            (self.unreadable, other.unreadable),
            (self.statuses, other.statuses),
            (self.versions, other.versions),
        ):
            mine.update(theirs)
        for own, others in ((self.asked, other.asked), (self.answered, other.answered)):
            for query, times in others.items():
                own[query].extend(times)

    @property
    def lost(self) -> set[MessageIdentity]:
        """Queries without a response."""
        return self.asked.keys() - self.answered.keys()

    @property
    def duplicated(self) -> int:
        """Number of responses beyond one for each time that their query was sent."""
        return sum(max(0, len(times) - max(1, len(self.asked.get(query, ())))) for query, times in self.answered.items())

    def latencies_ms(self) -> list[float]:
        """Milliseconds from writing a query to writing its first response, by the writers' clocks."""
        return [(min(self.answered[query]) - min(times)).total_seconds() * 1000 for query, times in self.asked.items() if query in self.answered]

    def summary(self) -> dict[str, object]:
        return {
            "asked": len(self.asked),
            "answered": len(self.asked.keys() & self.answered.keys()),
            "lost": len(self.lost),
            "duplicated": self.duplicated,
            "statuses": dict(sorted(self.statuses.items())),
            "versions": dict(sorted(self.versions.items())),
            "latency_ms": {"p50": percentile(self.latencies_ms(), 0.5), "p99": percentile(self.latencies_ms(), 0.99)},
        }


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank). None for no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


class ShownAnswer(NamedTuple):
    """The partition of an answer, and when its query was sent and it became visible."""

    partition: int
    asked_s: float
    visible_s: float


@dataclass(frozen=True)
class Standstill:
    """A time without visible answers of a partition that had open queries."""

    partition: int
    from_s: float
    to_s: float

    @property
    def seconds(self) -> float:
        return self.to_s - self.from_s


def standstills(answers: Iterable[ShownAnswer]) -> dict[int, list[Standstill]]:
    """By partition: the times between visible answers, counted from the first open query."""
    by_partition: dict[int, list[ShownAnswer]] = defaultdict(list)
    for answer in sorted(answers, key=lambda answer: (answer.partition, answer.visible_s)):
        by_partition[answer.partition].append(answer)
    found: dict[int, list[Standstill]] = {}
    for partition, own in by_partition.items():
        waited_since = list(itertools.accumulate((answer.asked_s for answer in reversed(own)), min))[::-1]
        last_s = float("-inf")
        found[partition] = []
        for answer, since_s in zip(own, waited_since, strict=True):
            if answer.visible_s > last_s:
                found[partition].append(Standstill(partition, max(last_s, since_s), answer.visible_s))
                last_s = answer.visible_s
    return found
