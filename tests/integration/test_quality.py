"""Online quality as a process on a real broker: after kills it publishes the same cells in the end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from infra.kafka.clients import producer, send
from infra.kafka.topic_reader import TopicReader
from infra.local.broker import Broker
from infra.settings import Settings, load
from infra.settings.promotion import QualitySettings
from schemas.domains import BUILT_IN_DOMAINS
from schemas.envelope import read_message
from schemas.experiments import Arm
from schemas.ids import derive
from schemas.messages import Malformed, Message
from schemas.quality import Quality, Span, comparison_id
from schemas.responses import Response
from schemas.shadows import Shadow
from schemas.strategies import Strategy
from schemas.topics import OUTCOMES, QUALITY, RESPONSES, SHADOWS, Topic
from streams.quality.open_spans import RecordRef
from streams.quality.partition_metrics import PartitionMetrics, QualityMessage
from tests.support.quality_records import make_outcome, make_response, make_shadow
from tests.support.streams_process import running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

BOUND_S = 60.0


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    return load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": tmp_path / "state"}, quality={"window_s": 1, "every_s": 0.1})


def traffic(rng: random.Random, experiment: UUID, first: int, answers: int) -> list[tuple[Topic, Message]]:
    """Responses of every arm and of two strategies, half with an outcome, some with a shadow answer, some records twice."""
    records: list[tuple[Topic, Message]] = []
    for number in range(first, first + answers):
        arm = rng.choice((Arm.CHAMPION, Arm.BASELINE, Arm.CANARY))
        response = make_response(
            number,
            rng.choice(("comedy", "drama")),
            user=f"{experiment}-{number % 23}",
            arm=arm,
            experiment=experiment,
            strategy=rng.choice((Strategy.RPO, Strategy.RPO, Strategy.RAG)),
            comparison=rng.choice((None, str(experiment))),
            answered_at=datetime.now(UTC),
        )
        records.append((RESPONSES, response))
        if arm is Arm.CHAMPION and response.provenance.assignment:
            records.append((SHADOWS, make_shadow(response, rng.choice(("comedy", "drama")))))
        if rng.random() < 0.5:
            records += [(OUTCOMES, make_outcome(response, rng.choice(("comedy", "drama"))))] * rng.choice((1, 2))
    return records


def counted(message: Message) -> int:
    """In how many experiments, of versions and of strategies, an answer counts."""
    if not isinstance(message, Response):
        return int(isinstance(message, Shadow))
    return (message.provenance.strategy is Strategy.RPO) + (message.provenance.experiment is not None)


def produce(settings: Settings, records: list[tuple[Topic, Message]]) -> None:
    to = producer(settings, "test")
    for topic, message in records:
        send(to, topic, message, id=derive("record", message.to_bytes()), source="/test")
    to.send(RESPONSES.name, key=b"t/malformed", value=b"not JSON")
    to.close()


def both(experiment: UUID) -> tuple[UUID, UUID]:
    return experiment, comparison_id(str(experiment))


class Cells:
    """The last record of each cell of one experiment, and of the comparison of the same name."""

    def __init__(self, settings: Settings, experiment: UUID) -> None:
        self._experiments, self._reader = both(experiment), TopicReader(settings, "test")
        self._reader.follow(QUALITY.name)
        self.last: dict[bytes, dict[str, Any]] = {}

    def until(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOUND_S
        while not holds():
            assert time.monotonic() < deadline, f"not within {BOUND_S:g} s: {what}"
            for record in self._reader.poll(0.1):
                self._take(record)

    def answers(self) -> int:
        return sum(cell["answers"] for cell in self.last.values() if cell["domain"] is None and cell["span"] is Span.EXPERIMENT)

    def close(self) -> None:
        self._reader.close()

    def _take(self, record: Any) -> None:
        try:
            cell, _ = read_message(Quality, record.headers, record.value)
        except Malformed:
            return
        if cell.experiment in self._experiments:
            self.last[cell.key] = cell.model_dump(exclude={"computed_at"})


def computed_directly(settings: Settings, experiment: UUID) -> dict[bytes, dict[str, Any]]:
    """The cells of metrics that read every partition without a break."""
    kinds: dict[str, type[QualityMessage]] = {topic.name: topic.message for topic in (RESPONSES, OUTCOMES, SHADOWS)}  # type: ignore[misc]
    by_partition, quality = dict[int, PartitionMetrics](), QualitySettings(window_s=1)
    with TopicReader(settings, "test") as reader:
        for record in reader.read(reader.ranges(*kinds)):
            metrics = by_partition.setdefault(record.partition, PartitionMetrics(record.partition, "any", quality, BUILT_IN_DOMAINS))
            try:
                message, _ = read_message(kinds[record.topic], record.headers, record.value)
            except Malformed:
                continue
            metrics.count(message, RecordRef(record.topic, record.offset, record.timestamp / 1000))
    changed = [cell for metrics in by_partition.values() for cell in metrics.take_changed() if cell.experiment in both(experiment)]
    return {cell.key: cell.model_dump(exclude={"computed_at"}) for cell in changed}


def test_a_process_that_is_killed_while_it_counts_publishes_the_same_cells(settings: Settings) -> None:
    experiment, rng = derive("experiment", settings.stack.dir), random.Random(0)
    cells, answers = Cells(settings, experiment), 0
    more = {"RETOUCH_QUALITY__WINDOW_S": "1", "RETOUCH_QUALITY__EVERY_S": "0.1"}
    with running(settings, "streams quality", **more) as process:
        for part in range(3):
            records = traffic(rng, experiment, 200 * part, 200)
            answers += sum(counted(message) for _, message in records)
            produce(settings, records[: len(records) // 2])
            seen = cells.answers()
            cells.until(lambda seen=seen: cells.answers() > seen, "figures grow")  # type: ignore[misc]  # a default holds the value
            process.stop(signal.SIGKILL)
            produce(settings, records[len(records) // 2 :])
            process.start()
        cells.until(lambda: cells.answers() == answers, "every answer is counted")
        expected = computed_directly(settings, experiment)
        cells.until(lambda: cells.last == expected, "all cells are those of an uninterrupted reader")
        assert process.stop() == 0
    cells.close()
    assert {cell["arm"] for cell in expected.values()} == set(Arm) and {cell["span"] for cell in expected.values()} == set(Span)
    assert {cell["strategy"] for cell in expected.values() if cell["comparison"]} == {Strategy.RPO, Strategy.RAG}
