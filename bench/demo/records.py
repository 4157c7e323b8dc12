"""What the topics hold after a run: read from offset 0 of every partition, committed records only, by a reader that shares nothing with the system.

Queries, responses and model events are read and kept; of the rest only the envelope is opened, and the number matters. The counting is pure (`tally`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from bench.demo.report import RecordCounts, SecondOfAnswers
from infra.settings import Settings
from schemas.envelope import read_envelope, read_message
from schemas.messages import Malformed, Message
from schemas.model_events import ModelEvent
from schemas.queries import Query
from schemas.responses import Response
from schemas.topics import (
    DEAD_LETTERED,
    FEEDBACK,
    INTERACTIONS,
    MODEL_EVENTS,
    OUTCOMES,
    QUERIES,
    RESPONSES,
    TOPICS,
    TRAJECTORIES,
    Topic,
    dead_letter_topic,
)

M = TypeVar("M", bound=Message)
READ_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Timestamped(Generic[M]):
    """A message and the wall-clock time at which its producer wrote it (`ce_time`)."""

    message: M
    at: datetime


@dataclass
class RunRecords:
    """The records of one run. `sizes` counts the records of every topic, dead-letter topics included."""

    queries: list[Timestamped[Query]] = field(default_factory=list)
    responses: list[Timestamped[Response]] = field(default_factory=list)
    model_events: list[Timestamped[ModelEvent]] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0

    def add(self, topic: Topic, headers: Sequence[tuple[str, bytes]], value: bytes | None) -> None:
        """Adds one record of `topic`. An invalid record is counted in `unreadable`."""
        self.sizes[topic.name] += 1
        try:
            if topic is QUERIES:
                self.queries.append(_timestamped(Query, headers, value))
            elif topic is RESPONSES:
                self.responses.append(_timestamped(Response, headers, value))
            elif topic is MODEL_EVENTS:
                self.model_events.append(_timestamped(ModelEvent, headers, value))
            elif read_envelope(headers, value).type != topic.message.ce_type():
                self.unreadable += 1
        except Malformed:
            self.unreadable += 1

    def answer_by_query(self) -> dict[UUID, Timestamped[Response]]:
        """The first response to each query."""
        first: dict[UUID, Timestamped[Response]] = {}
        for seen in self.responses:
            first.setdefault(seen.message.query_id, seen)
        return first


#: The end offset of each partition before the run, by topic and partition.
StartOffsets = Mapping[tuple[str, int], int]


def read_start_offsets(settings: Settings) -> StartOffsets:
    """The present end offsets of all topics. Earlier records are not from this run."""
    from infra.kafka.topic_reader import TopicReader

    names = [topic.name for topic in TOPICS] + [dead_letter_topic(topic.name) for topic in DEAD_LETTERED]
    with TopicReader(settings, "retouch-demo-starts") as reader:
        return {(partition.topic, partition.partition): end for partition, (_, end) in reader.ranges(*names).items()}


def read_records(settings: Settings, starts: StartOffsets) -> RunRecords:
    """Read every topic from `starts` to its end as it is now. Raises RetryLater if a topic takes longer than two minutes."""
    records = RunRecords()
    for topic in TOPICS:
        for record in _records(settings, topic.name, starts):
            records.add(topic, record.headers, record.value)
    for topic in DEAD_LETTERED:
        name = dead_letter_topic(topic.name)
        records.sizes[name] = sum(1 for _ in _records(settings, name, starts))
    return records


def tally(records: RunRecords, asked: Iterable[UUID]) -> RecordCounts:
    """`asked` are the queries in the platform's own list: a query that never reached the topic is lost too."""
    answers = Counter(seen.message.query_id for seen in records.responses)
    queries = {seen.message.query_id for seen in records.queries} | set(asked)
    sizes: Mapping[str, int] = records.sizes
    return RecordCounts(
        interactions=sizes.get(INTERACTIONS.name, 0),
        queries=sizes.get(QUERIES.name, 0),
        responses=sizes.get(RESPONSES.name, 0),
        feedback=sizes.get(FEEDBACK.name, 0),
        outcomes=sizes.get(OUTCOMES.name, 0),
        trajectories=sizes.get(TRAJECTORIES.name, 0),
        model_events=sizes.get(MODEL_EVENTS.name, 0),
        dead_letters={topic.name: sizes.get(dead_letter_topic(topic.name), 0) for topic in DEAD_LETTERED},
        unreadable=records.unreadable,
        lost=sum(1 for query in queries if not answers[query]),
        duplicated=sum(1 for count in answers.values() if count > 1),
    )


def _timestamped(kind: type[M], headers: Sequence[tuple[str, bytes]], value: bytes | None) -> Timestamped[M]:
    message, envelope = read_message(kind, headers, value)
    return Timestamped(message, envelope.time)


def _records(settings: Settings, topic: str, starts: StartOffsets) -> Iterator[Any]:
    from infra.kafka.topic_reader import TopicReader

    with TopicReader(settings, "retouch-demo-count", max_poll_records=2000) as reader:
        ranges = {partition: (starts.get((topic, partition.partition), 0), end) for partition, (_, end) in reader.ranges(topic).items()}
        yield from reader.read(ranges, silence_s=READ_TIMEOUT_S, timeout_s=READ_TIMEOUT_S)


#: Stands for the version of an answer without a reflection model.
BASE_ONLY = "none"


def version_of(response: Response) -> str:
    model = response.provenance.model
    return model.version if model else BASE_ONLY


def per_second(responses: Iterable[Timestamped[Response]], start: datetime) -> tuple[SecondOfAnswers, ...]:
    """Answers per second since `start`, by version; seconds without answers are left out."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for seen in responses:
        counts[int((seen.at - start).total_seconds())][version_of(seen.message)] += 1
    return tuple(SecondOfAnswers(second=second, answers=dict(sorted(counts[second].items()))) for second in sorted(counts))
