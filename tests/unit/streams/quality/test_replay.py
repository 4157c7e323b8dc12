"""After kills at any time, the next owner of a partition publishes the same cells in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.settings.promotion import QualitySettings
from schemas.domains import BUILT_IN_DOMAINS
from schemas.experiments import Arm
from schemas.ids import derive
from schemas.strategies import Strategy
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.quality.checkpoint import PartitionCheckpoint
from streams.quality.open_spans import IDLE_S, RecordRef
from streams.quality.partition_metrics import TOPICS, PartitionMetrics, QualityMessage
from streams.quality.service import far_ahead
from tests.support.quality_records import make_outcome, make_response, make_shadow

SETTINGS = QualitySettings(window_s=60, comparison_max_s=3_600)
BEGIN = 1_200_000.0


@dataclass
class Log:
    """The three topics of a partition. Offsets have gaps, as transactions leave them."""

    records: dict[str, list[tuple[int, float, QualityMessage]]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    end: float = BEGIN

    def write(self, topic: str, at: float, message: QualityMessage) -> None:
        log = self.records[topic]
        log.append((log[-1][0] + 1 + len(log) % 2 if log else 0, at, message))
        self.end = max(self.end, at)


def traffic(rng: Random, answers: int) -> Log:
    """Two experiments, days apart, and three strategies in a comparison that ends; records repeat, and their clocks differ by a minute."""
    log, at = Log(), BEGIN
    for number in range(answers):
        at += rng.choice((0.0, 1.0, 30.0, 120.0)) + (IDLE_S + 1_000 if number == answers // 2 else 0)
        experiment = derive("experiment", 2 * number // answers) if rng.random() < 0.9 else None
        arm = rng.choice((Arm.CHAMPION, Arm.CHAMPION, Arm.BASELINE, Arm.CANARY)) if experiment else Arm.CHAMPION
        answer = rng.choice(("comedy", "drama"))
        response = make_response(
            number,
            answer,
            user=f"u{number % 5}",
            domain=rng.choice(("films", "books")),
            arm=arm,
            experiment=experiment,
            strategy=rng.choice((Strategy.RPO, Strategy.RPO, Strategy.RAG, Strategy.PAG)),
            comparison=rng.choice((None, "first", "second")),
            answered_at=datetime.fromtimestamp(at, UTC),
        )
        after: list[tuple[str, QualityMessage]] = [(RESPONSES.name, response)]
        if experiment and arm is Arm.CHAMPION and response.provenance.assignment and rng.random() < 0.5:
            after.append((SHADOWS.name, make_shadow(response, rng.choice(("comedy", "drama")))))
        if rng.random() < 0.7:
            after.append((OUTCOMES.name, make_outcome(response, rng.choice(("comedy", "drama", None)), 0.5)))
        for topic, message in after:
            for _ in range(rng.choice((1, 1, 1, 2))):
                log.write(topic, at + rng.uniform(0, 60), message)
    return log


class Process:
    """Reads the log, publishes cells and commits checkpoints. Published and committed state outlives `kill`."""

    def __init__(self, log: Log) -> None:
        self._log, self.published = log, dict[bytes, dict[str, Any]]()
        self._committed: dict[str, tuple[int, PartitionCheckpoint]] = {}
        self.kill()

    def kill(self) -> None:
        checkpoints = {topic: checkpoint for topic, (_, checkpoint) in self._committed.items()}
        self._metrics = PartitionMetrics(0, "reflector", SETTINGS, BUILT_IN_DOMAINS, checkpoints, now=self._now)
        self._positions = {topic: self._committed.get(topic, (0,))[0] for topic in TOPICS}

    def read(self, rng: Random) -> bool:
        """Count one unread record of any topic. Returns False if there is none."""
        unread = [topic for topic in TOPICS if not self._is_at_end(topic)]
        if not unread:
            return False
        following = {topic: next(record for record in self._log.records[topic] if record[0] >= self._positions[topic]) for topic in unread}
        times = {topic: at for topic, (_, at, _) in following.items()}
        topic = rng.choice([topic for topic in unread if topic not in far_ahead(times, ())])
        offset, at, message = following[topic]
        self._metrics.count(message, RecordRef(topic, offset, at))
        self._positions[topic] = offset + 1
        return True

    def publish(self, *, commit: bool) -> None:
        if not self._metrics.is_rebuilt(self._positions):
            return
        self.published |= {cell.key: cell.model_dump(exclude={"computed_at"}) for cell in self._metrics.take_changed()}
        if commit:
            self._metrics.release({topic for topic in TOPICS if self._is_at_end(topic)})
            self._committed = {topic: self._metrics.checkpoint(topic, self._positions[topic]) for topic in TOPICS}

    def _is_at_end(self, topic: str) -> bool:
        log = self._log.records[topic]
        return not log or log[-1][0] < self._positions[topic]

    def _now(self) -> float:
        return self._log.end + 100


def run(log: Log, rng: Random, disturb: Callable[[Process], None]) -> dict[bytes, dict[str, Any]]:
    process = Process(log)
    while process.read(rng):
        disturb(process)
    process.publish(commit=True)
    return process.published


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 60))
def test_kills_at_any_time_end_in_the_same_cells(seed: int, answers: int) -> None:
    log, rng = traffic(Random(seed), answers), Random(seed + 1)
    kills_left = 6

    def disturb(process: Process) -> None:
        nonlocal kills_left
        if rng.random() < 0.3:
            process.publish(commit=rng.random() < 0.6)
        if kills_left and rng.random() < 0.1:
            kills_left -= 1
            process.kill()

    undisturbed = run(log, Random(seed + 2), lambda process: process.publish(commit=True))
    assert run(log, rng, disturb) == undisturbed
    assert len(undisturbed) >= 4
