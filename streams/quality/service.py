"""The process of online quality: counts the records of its partitions, publishes changed cells to `quality`, then commits checkpoints.

Cells go out before checkpoints, so every committed record is published. A cell that was published and not committed is published again with
the same figures.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kafka.errors import KafkaError

from infra.errors import CannotContinue, UnreadableBatch
from infra.kafka.background_checks import check_in_background
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors
from infra.kafka.group_gauges import PUBLISH_EVERY_S, GroupGauges, Unhandled
from infra.kafka.refusals import WRITES
from infra.process.lifecycle import mark_ready
from infra.process.loop_guard import guarded
from infra.settings import Settings
from infra.telemetry.metrics import QUALITY_RECORDS, QUALITY_REWARD, QualityOutcome
from schemas.envelope import read_message
from schemas.ids import derive
from schemas.messages import Malformed
from schemas.quality import Moments, Quality
from schemas.topics import OUTCOMES, QUALITY, RESPONSES, SHADOWS
from streams.quality.checkpoint import PartitionCheckpoint
from streams.quality.consumer import GROUP, QualityConsumer
from streams.quality.open_spans import RecordRef
from streams.quality.partition_metrics import TOPICS, PartitionMetrics, QualityMessage

log = logging.getLogger(__name__)

POLL_S = 0.2
COMMIT_EVERY_S = 1.0
FLUSH_S = 60.0
#: A topic waits if it is this much further in time than another topic of its partition. This bounds the open windows, however long the backlog.
AHEAD_S = 600.0
SOURCE = "/streams/quality"
_MESSAGE: dict[str, type[QualityMessage]] = {topic.name: topic.message for topic in (RESPONSES, OUTCOMES, SHADOWS)}  # type: ignore[misc]  # one of these three


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set. Raises RetouchError if it cannot start or continue."""
    settings.bootstrap_servers()
    check_in_background(settings, "streams quality")
    with guarded(settings.streams.stall_timeout_s, "online quality hangs") as beat:
        try:
            service = QualityService(settings, stop)
        except CannotContinue:
            if stop.is_set():
                return
            raise
        try:
            while not stop.is_set():
                beat()
                service.step()
            service.publish()
        except UnreadableBatch:
            service.publish()
            raise
        finally:
            service.close()


class QualityService:
    """One group member. Blocks on the broker, each step within a bound."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        """Raises CannotContinue if `stop` is set while the broker is away."""
        self._settings, self._quality = settings, settings.quality
        self._metrics: dict[int, PartitionMetrics] = {}  # by partition
        self._ready = False
        self._published_at = self._committed_at = self._moved_at = time.monotonic()
        self._positions: dict[int, dict[str, int]] = {}  # at the last move
        self._window = 0.0
        self._gauges, self._next_gauges_at = GroupGauges(GROUP), 0.0
        self._consumer = QualityConsumer(settings, stop)
        with broker_errors(settings, CannotContinue, "answer"):
            self._producer = producer(settings, "retouch-quality")

    def step(self) -> None:
        """Poll and count, then publish if it is time."""
        records = self._consumer.poll(min(POLL_S, self._quality.every_s))
        if not self._consumer.is_member:
            return
        self._follow_assignment(self._consumer.partitions())
        for record in records:
            if record.partition in self._metrics:
                self._count(record)
        self._pause_topics()
        self._check_stall()
        self._publish_gauges()
        if time.monotonic() - self._published_at >= self._quality.every_s:
            self.publish()

    def publish(self) -> None:
        """Publish changed cells, then commit checkpoints if it is time."""
        sent = [self._send(cell) for metrics in self._rebuilt() for cell in metrics.take_changed()]
        with broker_errors(self._settings, CannotContinue, f"take {len(sent)} cells of online quality", WRITES):
            self._producer.flush(timeout=FLUSH_S)
            for future in sent:
                future.get(timeout=FLUSH_S)
        self._published_at = time.monotonic()
        self._set_reward_metric()
        if self._published_at - self._committed_at >= COMMIT_EVERY_S:
            self._commit()

    @property
    def has_caught_up(self) -> bool:
        """Whether every record is counted, as of the last fetch."""
        return bool(self._metrics) and all(len(self._caught_up(number)) == len(TOPICS) for number in self._metrics)

    def close(self) -> None:
        self._gauges.clear()
        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=1)
        self._consumer.close()

    def _follow_assignment(self, partitions: set[int]) -> None:
        """A partition that stays assigned keeps its metrics, even if another member read it in between: records that were counted are skipped."""
        for number in self._metrics.keys() - partitions:
            del self._metrics[number]
        for number in partitions - self._metrics.keys():
            with broker_errors(self._settings, CannotContinue, f"return the committed offsets of partition {number}"):
                checkpoints = self._consumer.checkpoints(number)
            self._metrics[number] = PartitionMetrics(number, self._settings.registry.model_name, self._quality, self._settings.entries, checkpoints)
            reread_to = {topic: checkpoint.read_to for topic, checkpoint in checkpoints.items()}
            log.info("partition assigned", extra={"partition": number, "reread_to": reread_to})
        if not self._ready:
            mark_ready(self._settings)
            self._ready = True

    def _count(self, record: Any) -> None:
        metrics = self._metrics[record.partition]
        if not metrics.is_new(record.topic, record.offset):
            return
        ref = RecordRef.of(record.topic, record.offset, record.timestamp)
        try:
            message, _ = read_message(_MESSAGE[record.topic], record.headers, record.value)
        except Malformed:  # the topic's other readers set it aside
            metrics.skip(ref)
            QUALITY_RECORDS.add(topic=record.topic, outcome=QualityOutcome.MALFORMED)
            return
        metrics.count(message, ref)

    def _rebuilt(self) -> Iterator[PartitionMetrics]:
        for number, metrics in self._metrics.items():
            if metrics.is_rebuilt(self._consumer.positions(number)):
                yield metrics

    def _send(self, cell: Quality) -> Any:
        return send(self._producer, QUALITY, cell, id=derive("quality", cell.key, cell.computed_at), source=SOURCE)

    def _commit(self) -> None:
        checkpoints: dict[tuple[str, int], tuple[int, PartitionCheckpoint]] = {}
        for number, metrics in self._metrics.items():
            positions = self._consumer.positions(number)
            if not metrics.is_rebuilt(positions):
                continue
            metrics.release(self._caught_up(number))
            checkpoints |= {(topic, number): metrics.checkpoint(topic, position) for topic, position in positions.items()}
        if self._consumer.commit(checkpoints):
            self._committed_at = time.monotonic()

    def _caught_up(self, number: int) -> set[str]:
        positions, ends = self._consumer.positions(number), self._consumer.ends(number)
        return {topic for topic in TOPICS if topic in positions and topic in ends and positions[topic] >= ends[topic]}

    def _pause_topics(self) -> None:
        clocks = {number: {topic: clock for topic in TOPICS if (clock := metrics.clock(topic)) is not None} for number, metrics in self._metrics.items()}
        self._consumer.pause_only([(topic, number) for number, times in clocks.items() for topic in far_ahead(times, self._caught_up(number))])

    def _check_stall(self) -> None:
        """Raises CannotContinue if there are unread records and no position moves."""
        positions, now = {number: self._consumer.positions(number) for number in self._metrics}, time.monotonic()
        if positions != self._positions or self.has_caught_up:
            self._positions, self._moved_at = positions, now
        if now - self._moved_at > self._settings.streams.stall_timeout_s:
            raise CannotContinue(f"online quality reads nothing although records are ahead, for {self._settings.streams.stall_timeout_s:g} s")

    def _publish_gauges(self) -> None:
        """A record is handled once it is counted: cells and checkpoints follow within `quality.every_s`."""
        if time.monotonic() < self._next_gauges_at:
            return
        self._next_gauges_at = time.monotonic() + PUBLISH_EVERY_S
        partitions = {}
        for number, metrics in self._metrics.items():
            positions, ends = self._consumer.positions(number), self._consumer.ends(number)
            for topic in positions.keys() & ends.keys():
                newest_s = metrics.clock(topic)
                partitions[topic, number] = Unhandled(max(0, ends[topic] - positions[topic]), last_read_ms=None if newest_s is None else int(newest_s * 1000))
        self._gauges.publish(partitions)

    def _set_reward_metric(self) -> None:
        """The reward of the last complete window."""
        window_s = self._quality.window_s
        window = (time.time() // window_s - 1) * window_s
        if window == self._window:
            return
        self._window = window
        rewards: dict[tuple[str, str, str, str], Moments] = {}
        for metrics in self._metrics.values():
            for cell, moments in metrics.rewards(window):
                labels = (cell.strategy.value, cell.version, cell.arm.value, cell.domain or "")
                rewards[labels] = rewards.get(labels, Moments()) + moments
        QUALITY_REWARD.remove()
        for (strategy, version, arm, domain), moments in rewards.items():
            QUALITY_REWARD.set(moments.mean, strategy=strategy, version=version, arm=arm, domain=domain)


def far_ahead(clocks: Mapping[str, float], caught_up: Collection[str]) -> set[str]:
    """The topics of a partition that must wait: their newest record is more than AHEAD_S after that of a topic with unread records."""
    slowest = min((clock for topic, clock in clocks.items() if topic not in caught_up), default=float("inf"))
    return {topic for topic, clock in clocks.items() if clock > slowest + AHEAD_S}
