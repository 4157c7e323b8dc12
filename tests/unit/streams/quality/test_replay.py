"""A process that is killed at any moment: whoever opens the partition next, from what was committed, tells the same cells in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.settings import QualitySettings
from schemas.experiments import Arm
from schemas.ids import derive
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.quality.checkpoint import Mark
from streams.quality.partition_metrics import IDLE_S, TOPICS, Book, Place, Read
from tests.unit.streams.quality.records import answered, judged, unseen

SETTINGS = QualitySettings(window_s=60)
BEGIN = 1_200_000.0


@dataclass
class Log:
    """The three topics of a partition. Offsets have gaps, as transactions leave them."""

    records: dict[str, list[tuple[int, float, Read]]] = field(default_factory=lambda: {topic: [] for topic in TOPICS})
    end: float = BEGIN

    def write(self, topic: str, at: float, message: Read) -> None:
        log = self.records[topic]
        log.append((log[-1][0] + 1 + len(log) % 2 if log else 0, at, message))
        self.end = max(self.end, at)


def traffic(rng: Random, answers: int) -> Log:
    """Two experiments, days apart; records repeat, and their clocks differ by a minute."""
    log, at = Log(), BEGIN
    for number in range(answers):
        at += rng.choice((0.0, 1.0, 30.0, 120.0)) + (IDLE_S + 1_000 if number == answers // 2 else 0)
        experiment = derive("experiment", 2 * number // answers) if rng.random() < 0.9 else None
        arm = rng.choice((Arm.CHAMPION, Arm.CHAMPION, Arm.BASELINE, Arm.CANARY)) if experiment else Arm.CHAMPION
        answer = rng.choice(("comedy", "drama"))
        response = answered(number, answer, user=f"u{number % 5}", domain=rng.choice(("films", "books")), arm=arm, experiment=experiment)
        after: list[tuple[str, Read]] = [(RESPONSES.name, response)]
        if experiment and arm is Arm.CHAMPION and rng.random() < 0.5:
            after.append((SHADOWS.name, unseen(response, rng.choice(("comedy", "drama")))))
        if rng.random() < 0.7:
            after.append((OUTCOMES.name, judged(response, rng.choice(("comedy", "drama", None)), 0.5)))
        for topic, message in after:
            for _ in range(rng.choice((1, 1, 1, 2))):
                log.write(topic, at + rng.uniform(0, 60), message)
    return log


class Process:
    """Reads the log, tells cells and commits; what was told and committed outlives it."""

    def __init__(self, log: Log) -> None:
        self._log, self.told = log, dict[bytes, dict[str, Any]]()
        self._committed: dict[str, tuple[int, Mark]] = {}
        self.kill()

    def kill(self) -> None:
        marks = {topic: mark for topic, (_, mark) in self._committed.items()}
        self._book = Book(0, "reflector", SETTINGS, marks, now=self._now)
        self._places = {topic: self._committed.get(topic, (0,))[0] for topic in TOPICS}

    def read(self, rng: Random) -> bool:
        """One record of any topic that has one ahead."""
        ahead = [topic for topic in TOPICS if not self._is_at_end(topic)]
        if not ahead:
            return False
        topic = rng.choice(ahead)
        offset, at, message = next(record for record in self._log.records[topic] if record[0] >= self._places[topic])
        self._book.take(message, Place(topic, offset, at))
        self._places[topic] = offset + 1
        return True

    def tell(self, *, commit: bool) -> None:
        if not self._book.is_rebuilt(self._places):
            return
        self.told |= {cell.key: cell.model_dump(exclude={"computed_at"}) for cell in self._book.take_changed()}
        if commit:
            self._book.release({topic for topic in TOPICS if self._is_at_end(topic)})
            self._committed = {topic: self._book.low_water(topic, self._places[topic]) for topic in TOPICS}

    def _is_at_end(self, topic: str) -> bool:
        log = self._log.records[topic]
        return not log or log[-1][0] < self._places[topic]

    def _now(self) -> float:
        return self._log.end + 100


def run(log: Log, rng: Random, trouble: Callable[[Process], None]) -> dict[bytes, dict[str, Any]]:
    process = Process(log)
    while process.read(rng):
        trouble(process)
    process.tell(commit=True)
    return process.told


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 60))
def test_kills_at_any_moment_end_in_the_same_cells(seed: int, answers: int) -> None:
    log, rng = traffic(Random(seed), answers), Random(seed + 1)
    kills_left = 6

    def trouble(process: Process) -> None:
        nonlocal kills_left
        if rng.random() < 0.3:
            process.tell(commit=rng.random() < 0.6)
        if kills_left and rng.random() < 0.1:
            kills_left -= 1
            process.kill()

    straight = run(log, Random(seed + 2), lambda process: process.tell(commit=True))
    assert run(log, rng, trouble) == straight
    assert len(straight) >= 4
