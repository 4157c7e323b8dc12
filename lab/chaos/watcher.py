"""Readers at read_committed that keep every record: one during the run, for the time at which a record became visible, and a new one
at the end that reads all topics again, so that a reader that has lost its position hides nothing.

They connect directly to the broker, join no group, and use only ids: messages are parsed as plain JSON, for the query that each belongs to.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import Any, Self

from kafka import TopicPartition

from infra.errors import CannotContinue, RetryLater
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from lab.chaos.bad_answers import REASONING
from lab.chaos.records import LoadClock, SeenRecord
from schemas.envelope import header_values
from schemas.topics import (
    CONTEXTS,
    DEAD_LETTERED,
    DRAFTS,
    FEEDBACK,
    INTERACTIONS,
    LOOKUPS,
    OUTCOMES,
    QUERIES,
    RESPONSES,
    RETRIEVALS,
    TRAJECTORIES,
    dead_letter_topic,
)

log = logging.getLogger(__name__)

#: Path of the query id in the messages of a topic.
QUERY_IN = {
    QUERIES.name: ("query_id",),
    DRAFTS.name: ("query", "query_id"),
    CONTEXTS.name: ("draft", "query", "query_id"),
    LOOKUPS.name: ("query", "query_id"),
    RETRIEVALS.name: ("lookup", "query", "query_id"),
    RESPONSES.name: ("query_id",),
    FEEDBACK.name: ("query_id",),
    OUTCOMES.name: ("response", "query_id"),
    TRAJECTORIES.name: ("outcome", "response", "query_id"),
}
WATCHED = (*QUERY_IN, INTERACTIONS.name, *(dead_letter_topic(topic.name) for topic in DEAD_LETTERED))
POLL_S = 0.1
CLOSE_S = 10.0
#: Pause before a new reader replaces a failed one, as after a kill of the broker.
PAUSE_S = 0.2


class Watcher:
    """The reader during the run, on its own thread. `answered`: queries with a visible response."""

    def __init__(self, settings: Settings, clock: LoadClock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int, int], SeenRecord] = {}
        self._answered: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    @property
    def seen(self) -> list[SeenRecord]:
        with self._lock:
            return list(self._seen.values())

    @property
    def answered(self) -> set[str]:
        with self._lock:
            return set(self._answered)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        positions: dict[TopicPartition, int] = {}
        while not self._stop.is_set():
            try:
                with _reader(self._settings, positions) as reader:
                    while not self._stop.is_set():
                        for record in reader.poll(POLL_S):
                            positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
                            self._add(_seen_record(record, self._clock.now()))
            except RetryLater as error:
                log.info("the watcher starts again", extra={"reason": str(error)})
                self._stop.wait(PAUSE_S)

    def _add(self, record: SeenRecord) -> None:
        with self._lock:
            self._seen.setdefault(record.ref, record)
            if record.topic == RESPONSES.name and record.query_id:
                self._answered.add(record.query_id)


def read_everything(settings: Settings, clock: LoadClock, timeout_s: float) -> list[SeenRecord]:
    """Reads every watched topic from its beginning to its present end. Raises CannotContinue if that takes longer than `timeout_s`."""
    try:
        with _reader(settings, {}) as reader:
            return [_seen_record(record, clock.now()) for record in reader.read_to_end(timeout_s)]
    except RetryLater as error:
        raise CannotContinue(str(error)) from error


def _reader(settings: Settings, positions: dict[TopicPartition, int]) -> TopicReader:
    """Follows all partitions, from the beginning or after the last record read. Raises RetryLater."""
    reader = TopicReader(settings, "retouch-lab-watcher", fetch_max_wait_ms=int(POLL_S * 1000))
    try:
        reader.follow(*WATCHED, positions=positions)
    except BaseException:
        reader.close()
        raise
    return reader


def _seen_record(record: Any, at_s: float) -> SeenRecord:
    ce_id = header_values(record.headers).get("ce_id", b"").decode(errors="replace")
    key = (record.key or b"").decode(errors="replace")
    contents = _contents(record.topic, record.value)
    return SeenRecord(record.topic, record.partition, record.offset, key, ce_id, contents.pop("query_id", None), at_s, **contents)


def _contents(topic: str, value: bytes | None) -> dict[str, Any]:
    """The query's id; of a draft, lookup or response also its strategy; of a draft or a response its status, failure and whether its answer shows reasoning.

    Empty if the value has none.
    """
    path = QUERY_IN.get(topic)
    if path is None or value is None:
        return {}
    try:
        message = value_at_path = json.loads(value)
        for name in path:
            value_at_path = value_at_path[name]
    except (ValueError, LookupError, TypeError):
        return {}
    contents: dict[str, Any] = {"query_id": str(value_at_path)}
    if topic in (LOOKUPS.name, DRAFTS.name):
        contents["strategy"] = _at(message, "choice", "strategy")
    if topic == RESPONSES.name:
        contents |= {"strategy": _at(message, "provenance", "strategy"), "failure": _at(message, "context", "draft", "failure")}
    if topic == DRAFTS.name:
        contents["failure"] = message.get("failure")
    if topic in (DRAFTS.name, RESPONSES.name):
        contents |= {"status": message.get("status"), "shows_reasoning": REASONING in str(message.get("answer"))}
    return contents


def _at(message: Any, *path: str) -> Any:
    for name in path:
        message = message.get(name) if isinstance(message, dict) else None
    return message
