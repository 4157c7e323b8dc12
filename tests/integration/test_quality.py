"""Online quality as a process on a real broker: killed while it counts, it tells the same in the end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from infra.kafka.clients import groupless_consumer, producer, send
from infra.local.broker import Broker
from infra.settings import QualitySettings, Settings, load
from schemas.envelope import read
from schemas.experiments import Arm
from schemas.ids import derive
from schemas.messages import Malformed, Message
from schemas.quality import Quality, Span
from schemas.topics import OUTCOMES, QUALITY, RESPONSES, SHADOWS, Topic
from streams.quality.partition_metrics import Book, Place, Read
from tests.support.streams_process import running
from tests.unit.streams.quality.records import answered, judged, unseen

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

BOUND_S = 60.0


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": tmp_path / "state"}, quality={"window_s": 1, "every_s": 0.1})


def traffic(rng: random.Random, experiment: UUID, first: int, answers: int) -> list[tuple[Topic, Message]]:
    """Answers of every arm, half of them judged, some with an unseen one beside them, some records twice."""
    records: list[tuple[Topic, Message]] = []
    for number in range(first, first + answers):
        arm = rng.choice((Arm.CHAMPION, Arm.BASELINE, Arm.CANARY))
        response = answered(number, rng.choice(("comedy", "drama")), user=f"{experiment}-{number % 23}", arm=arm, experiment=experiment)
        records.append((RESPONSES, response))
        if arm is Arm.CHAMPION:
            records.append((SHADOWS, unseen(response, rng.choice(("comedy", "drama")))))
        if rng.random() < 0.5:
            records += [(OUTCOMES, judged(response, rng.choice(("comedy", "drama"))))] * rng.choice((1, 2))
    return records


def tell(settings: Settings, records: list[tuple[Topic, Message]]) -> None:
    to = producer(settings, "test")
    for topic, message in records:
        send(to, topic, message, id=derive("told", message.to_bytes()), source="/test")
    to.send(RESPONSES.name, key=b"t/nobody", value=b"not JSON")
    to.close()


class Cells:
    """The last record of each cell of one experiment."""

    def __init__(self, settings: Settings, experiment: UUID) -> None:
        self._experiment, self._reader = experiment, groupless_consumer(settings, "test")
        self._reader.subscribe([QUALITY.name])
        self.last: dict[bytes, dict[str, Any]] = {}

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOUND_S
        while not holds():
            assert time.monotonic() < deadline, f"not within {BOUND_S:g} s: {what}"
            for batch in self._reader.poll(timeout_ms=100).values():
                for record in batch:
                    self._take(record)

    def answers(self) -> int:
        return sum(cell["answers"] for cell in self.last.values() if cell["domain"] is None and cell["span"] is Span.EXPERIMENT)

    def close(self) -> None:
        self._reader.close()

    def _take(self, record: Any) -> None:
        try:
            cell, _ = read(Quality, record.headers, record.value)
        except Malformed:
            return
        if cell.experiment == self._experiment:
            self.last[cell.key] = cell.model_dump(exclude={"computed_at"})


def straight(settings: Settings, experiment: UUID) -> dict[bytes, dict[str, Any]]:
    """The cells of one book a partition that reads everything at once."""
    from kafka import TopicPartition

    kinds: dict[str, type[Read]] = {topic.name: topic.message for topic in (RESPONSES, OUTCOMES, SHADOWS)}  # type: ignore[misc]
    consumer, books = groupless_consumer(settings, "test"), dict[int, Book]()
    places = [TopicPartition(topic, number) for topic in kinds for number in consumer.partitions_for_topic(topic)]
    consumer.assign(places)
    ends, quality = consumer.end_offsets(places), QualitySettings(window_s=1)
    while any(consumer.position(place) < end for place, end in ends.items()):
        for place, batch in consumer.poll(timeout_ms=200).items():
            book = books.setdefault(place.partition, Book(place.partition, "any", quality))
            for record in batch:
                try:
                    message, _ = read(kinds[place.topic], record.headers, record.value)
                except Malformed:
                    continue
                book.take(message, Place(place.topic, record.offset, record.timestamp / 1000))
    consumer.close()
    told = [cell for book in books.values() for cell in book.take_changed() if cell.experiment == experiment]
    return {cell.key: cell.model_dump(exclude={"computed_at"}) for cell in told}


def test_a_process_that_is_killed_while_it_counts_tells_the_same_cells(settings: Settings) -> None:
    experiment, rng = derive("experiment", settings.stack.dir), random.Random(0)
    cells, told = Cells(settings, experiment), 0
    more = {"RETOUCH_QUALITY__WINDOW_S": "1", "RETOUCH_QUALITY__EVERY_S": "0.1"}
    with running(settings, "streams quality", **more) as process:
        for part in range(3):
            records = traffic(rng, experiment, 200 * part, 200)
            told += sum(topic is not OUTCOMES for topic, _ in records)
            tell(settings, records[: len(records) // 2])
            seen = cells.answers()
            cells.until(lambda seen=seen: cells.answers() > seen, "figures grow")  # type: ignore[misc]  # a default holds the value
            process.stop(signal.SIGKILL)
            tell(settings, records[len(records) // 2 :])
            process.start()
        cells.until(lambda: cells.answers() == told, "every answer is counted")
        wanted = straight(settings, experiment)
        cells.until(lambda: cells.last == wanted, "all cells are those of a book that was never interrupted")
        assert process.stop() == 0
    cells.close()
    assert {cell["arm"] for cell in wanted.values()} == set(Arm) and {cell["span"] for cell in wanted.values()} == set(Span)
