"""The cells that the reader keeps of several partitions, which it reads one after another, each from its oldest record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kafka import TopicPartition

from infra.kafka import topic_reader
from infra.settings import load
from schemas.envelope import envelope_headers
from schemas.experiments import Arm
from schemas.quality import Quality, Span, comparison_id
from schemas.strategies import Strategy
from trainer.run.quality_reader import EXPERIMENTS, KEEP, WINDOW_CELLS, QualityReader, RecentWindows

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LIVE = UUID(int=0)


@dataclass
class Topic:
    """A consumer of records in memory. A poll returns at most `at_once` records, of the first partition with unread ones."""

    cells: dict[int, list[Quality]] = field(default_factory=lambda: defaultdict(list))
    at_once: int = 2_000
    places: Sequence[TopicPartition] = ()
    positions: dict[TopicPartition, int] = field(default_factory=dict)

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(self.cells)

    def assign(self, places: Sequence[TopicPartition]) -> None:
        self.places = places

    def resume(self, *places: TopicPartition) -> None:
        pass

    def seek_to_beginning(self, *places: TopicPartition) -> None:
        self.positions |= dict.fromkeys(places, 0)

    def end_offsets(self, places: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return {partition: len(self.cells[partition.partition]) for partition in places}

    def position(self, partition: TopicPartition, timeout_ms: int) -> int:
        return self.positions[partition]

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        for partition in self.places:
            begin = self.positions[partition]
            if chunk := self.cells[partition.partition][begin : begin + self.at_once]:
                self.positions[partition] += len(chunk)
                return {partition: [SimpleNamespace(headers=envelope_headers(cell, id="x", source="/test"), value=cell.to_bytes()) for cell in chunk]}
        return {}


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    topic = Topic()
    monkeypatch.setattr(topic_reader, "groupless_consumer", lambda *args, **options: topic)
    return topic


def cell(experiment: UUID | None, partition: int, at: datetime, span: Span = Span.EXPERIMENT) -> Quality:
    began = at - timedelta(minutes=1) if span is Span.WINDOW else at
    facts = {"name": "reflector", "version": "2", "experiment": experiment, "arm": Arm.CANARY, "domain": None, "partition": partition}
    return Quality(**facts, span=span, started_at=began, ended_at=at, answers=1, computed_at=at)


def tried_before(topic: Topic, count: int, partitions: int = 4) -> None:
    """`count` ended experiments, a day apart, and a live one that was updated last."""
    for day in range(count, -1, -1):
        for partition in range(partitions):
            topic.cells[partition].append(cell(UUID(int=day), partition, NOW - timedelta(days=day)))


@pytest.mark.parametrize("ended", [0, EXPERIMENTS - 1, EXPERIMENTS, 3 * EXPERIMENTS])
def test_the_experiment_updated_last_is_complete_however_many_ended_before(topic: Topic, ended: int) -> None:
    tried_before(topic, ended)
    reader = QualityReader(load())
    reader.poll()
    assert reader.is_current and {quality.partition for quality in reader.experiment(LIVE)} == {0, 1, 2, 3}
    assert reader.is_current


def test_a_dropped_experiment_is_read_again_and_has_no_cells_until_then(topic: Topic) -> None:
    tried_before(topic, 3 * EXPERIMENTS)
    oldest = UUID(int=3 * EXPERIMENTS)
    topic.cells[3].append(replaced := cell(oldest, 3, NOW))  # late feedback: its last partition has the newest record of all
    reader = QualityReader(load())
    reader.poll()
    assert reader.is_current and reader.experiment(oldest) == [] and not reader.is_current
    reader.poll()
    cells = reader.experiment(oldest)
    assert reader.is_current and {quality.partition for quality in cells} == {0, 1, 2, 3} and replaced in cells


def test_the_requested_experiment_is_kept_whatever_comes_later(topic: Topic) -> None:
    topic.cells[0].append(cell(LIVE, 0, NOW - timedelta(days=30)))
    reader = QualityReader(load())
    reader.poll()
    assert reader.experiment(LIVE)
    topic.cells[0] += [cell(UUID(int=number), 0, NOW) for number in range(1, 3 * EXPERIMENTS)]
    reader.poll()
    assert reader.is_current and len(reader.experiment(LIVE)) == 1 and reader.is_current


def windows(partition: int, days: float, every: timedelta) -> Iterator[Quality]:
    at = NOW - timedelta(days=days)
    while at < NOW:
        at += every
        yield cell(None, partition, at, Span.WINDOW)


def test_the_newest_windows_of_all_partitions_are_kept_in_any_order_of_reading(topic: Topic) -> None:
    for partition in (0, 1, 2):
        topic.cells[partition] += windows(partition, days=3, every=timedelta(minutes=30))
    reader = QualityReader(load())
    reader.poll(60.0)
    kept = reader.windows(None, NOW - timedelta(days=90))
    assert min(quality.ended_at for quality in kept) == NOW - KEEP
    assert {partition: sum(quality.partition == partition for quality in kept) for partition in (0, 1, 2)} == {0: 49, 1: 49, 2: 49}


def test_many_old_windows_do_not_displace_new_ones() -> None:
    windows = RecentWindows()
    windows.take(new := cell(None, 0, NOW, Span.WINDOW))
    for number in range(WINDOW_CELLS + 1):
        windows.take(cell(None, 1, NOW - KEEP - timedelta(seconds=number + 1), Span.WINDOW))
    assert windows.since(NOW - timedelta(days=90)) == [new]


def test_a_newer_record_of_a_window_replaces_the_older(topic: Topic) -> None:
    first = cell(None, 0, NOW, Span.WINDOW)
    topic.cells[0] += [first, Quality(**(vars(first) | {"answers": 2}))]
    reader = QualityReader(load())
    reader.poll()
    assert [quality.answers for quality in reader.windows(None, NOW - timedelta(hours=1))] == [2]


def test_cells_of_strategies_are_kept_apart_from_those_of_versions(topic: Topic) -> None:
    tried, served = cell(LIVE, 0, NOW), cell(None, 0, NOW, Span.WINDOW)
    rag = {"strategy": Strategy.RAG, "name": "", "version": ""}
    window = cell(None, 0, NOW, Span.WINDOW).model_copy(update=rag)
    compared = [cell(comparison_id("autumn"), 0, NOW).model_copy(update={**rag, "strategy": name, "comparison": "autumn"}) for name in Strategy]
    topic.cells[0] += [tried, served, window, *compared]
    seen: list[Quality] = []
    reader = QualityReader(load(), seen.append)
    reader.poll()
    since = NOW - timedelta(hours=1)
    assert seen == [tried, served] and reader.experiment(LIVE) == [tried]
    assert reader.windows(None, since) == [served] and reader.strategy_windows(since) == [window]
    assert reader.comparisons() == compared
