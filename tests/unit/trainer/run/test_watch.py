"""The data that the watch counts as new."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaError

from infra.errors import RetryLater
from infra.kafka import topic_reader
from infra.registry.client import RegisteredVersion
from infra.registry.version_tags import DatasetLineage
from infra.settings import Settings, load
from schemas.run_report import TriggerKind
from schemas.topics import OUTCOMES, TRAJECTORIES
from trainer.run.watch import TriggerWatch

STOP = threading.Event()


class Topics:
    """A consumer of topics with offsets and no records."""

    def __init__(self, ends: dict[str, list[int]]) -> None:
        self.ends, self.closed = ends, 0

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(len(self.ends.get(topic, ()))))

    def beginning_offsets(self, places: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    def end_offsets(self, places: Sequence[TopicPartition], timeout_ms: int = 0) -> dict[TopicPartition, int]:
        return {partition: self.ends[partition.topic][partition.partition] for partition in places}

    def close(self) -> None:
        self.closed += 1


class Versions:
    def __init__(self) -> None:
        self.found: list[RegisteredVersion] = []

    def versions(self) -> list[RegisteredVersion]:
        return self.found

    def add(self, ranges: dict[str, dict[int, tuple[int, int]]] | None = None, age_s: float = 0.0) -> None:
        version = RegisteredVersion("m", str(len(self.found) + 1), "d", None, datetime.now(UTC) - timedelta(seconds=age_s))
        self.found.append(replace(version, dataset=DatasetLineage("s", "d", ranges)) if ranges else version)


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> Topics:
    topics = Topics({OUTCOMES.name: [100, 50], TRAJECTORIES.name: [80]})
    monkeypatch.setattr(topic_reader, "groupless_consumer", lambda *args, **options: topics)
    return topics


def numbers(watch: TriggerWatch) -> tuple[float, float, float]:
    """Number of new outcomes and trajectories, and seconds since the last training."""
    triggers = {trigger.kind: trigger.numbers for trigger in watch.poll(STOP)}
    return triggers[TriggerKind.NEW_OUTCOMES]["new"], triggers[TriggerKind.SCHEDULE]["new"], triggers[TriggerKind.SCHEDULE]["since_s"]


def test_a_run_by_hand_beside_the_service_leaves_nothing_new(topics: Topics) -> None:
    registry: Any = Versions()
    with TriggerWatch(load(), registry) as watch:
        assert numbers(watch)[:2] == (150, 80)
        registry.add({OUTCOMES.name: {0: (0, 100), 1: (0, 50)}, TRAJECTORIES.name: {0: (0, 80)}}, age_s=3.0)
        new_outcomes, new_trajectories, since_s = numbers(watch)
        assert (new_outcomes, new_trajectories) == (0, 0) and 3 <= since_s < 60


def test_a_version_registered_by_an_operator_does_not_reset_the_new_data(topics: Topics) -> None:
    registry: Any = Versions()
    registry.add({OUTCOMES.name: {0: (0, 90), 1: (0, 50)}, TRAJECTORIES.name: {0: (0, 80)}}, age_s=500.0)
    registry.add()
    with TriggerWatch(load(), registry) as watch:
        new_outcomes, new_trajectories, since_s = numbers(watch)
    assert (new_outcomes, new_trajectories) == (10, 0) and 500 <= since_s < 600


def test_the_later_end_of_version_and_attempt_counts_in_each_partition(topics: Topics) -> None:
    registry: Any = Versions()
    with TriggerWatch(load(), registry) as watch:
        watch.poll(STOP)
        watch.attempted()
        topics.ends[OUTCOMES.name] = [130, 70]
        registry.add({OUTCOMES.name: {0: (0, 120), 1: (0, 10)}, TRAJECTORIES.name: {0: (0, 10)}}, age_s=500.0)
        new_outcomes, new_trajectories, since_s = numbers(watch)
    assert (new_outcomes, new_trajectories) == (10 + 20, 0) and since_s < 60


def test_a_watch_that_is_entered_again_remembers_its_attempts(topics: Topics) -> None:
    registry: Any = Versions()
    watch = TriggerWatch(load(), registry)
    with watch:
        watch.poll(STOP)
        watch.attempted()
    with watch:
        assert numbers(watch)[:2] == (0, 0)
    assert topics.closed == 4


def test_a_run_by_hand_answers_a_drift_too(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Any = Versions()
    forgotten: list[int] = []
    with TriggerWatch(load(), registry) as watch:
        watch.poll(STOP)
        monkeypatch.setattr(watch._rewards, "forget_recent", lambda: forgotten.append(1))
        watch.poll(STOP)
        registry.add({OUTCOMES.name: {0: (0, 100)}})
        for _ in range(3):
            watch.poll(STOP)
    assert forgotten == [1]


def test_no_consumer_stays_open_if_another_cannot_be_opened(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(settings: Settings, client_id: str, **options: object) -> Topics:
        if client_id == "retouch-quality-reader":
            raise KafkaError
        return topics

    monkeypatch.setattr(topic_reader, "groupless_consumer", away)
    registry: Any = Versions()
    with pytest.raises(RetryLater), TriggerWatch(load(kafka={"bootstrap_servers": "127.0.0.1:9"}), registry):
        pass
    assert topics.closed == 1
