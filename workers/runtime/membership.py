"""A place in a consumer group: joining, reading, pausing, committing. The only module that knows kafka-python's consumer.

Static membership: the process keeps its name in the group, so a restart within the session timeout moves no partition. Assignment is
cooperative: a rebalance takes away only what moves, and calls in flight on the other partitions go on.
Worked around here (kafka-python 3.0.12, each met in trials):

- a join that completes between two short polls is lost and the member hangs: `_join` waits for it in one long one, and asks again;
- listeners run on the client's own thread, where blocking calls of the consumer are refused: revocation is an async listener;
- a member whose name another process has taken is told so by its heartbeats, which then just end: `_check_place` looks;
- a new assignment does not know that its partition was to be paused: `pause` and `resume` go over all partitions at every call.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from infra.errors import CannotContinue
from infra.kafka import client_options
from infra.settings import Settings
from schemas.dead_letters import Origin
from schemas.topics import consumer_group
from workers.runtime.delivery import Delivery

log = logging.getLogger(__name__)

STABLE = "<stable>"
FENCED = "another process has taken this one's place in the group: give each its own kafka.instance"
#: How long one attempt to join may block: heartbeats and other members' joins go on meanwhile.
JOIN_S = 3.0
#: The coordinator no longer takes our positions; the next poll joins again.
NOT_A_MEMBER = (
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
)

Revoked = Callable[[set[int], bool], Awaitable[None]]


class Membership:
    """One topic, read in a group. Used from one thread only.

    `on_revoked(partitions, lost)` is awaited on the client's thread while that one thread waits in `poll` or `close`, before the
    partitions go to somebody else; when they are `lost` they have gone already and nothing can be committed.
    """

    def __init__(self, settings: Settings, name: str, topic: str, on_revoked: Revoked) -> None:
        self.group = consumer_group(name)
        self._topic = topic
        self._paused = False
        timeout_ms = settings.kafka.session_timeout_ms
        self._consumer = KafkaConsumer(
            client_id=f"{self.group}-{settings.kafka.instance or socket.gethostname()}",
            group_id=self.group,
            group_instance_id=f"{self.group}-{settings.kafka.instance or socket.gethostname()}",
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=min(3000, timeout_ms // 5),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=100,
            **client_options(settings),
        )
        self._listener = _Listener(self, on_revoked)

    def subscribe(self, timeout_s: float) -> None:
        """Wait for the topic to exist, then subscribe. Raises CannotContinue: a group formed before its topic elects a leader that knows no partitions."""
        deadline = time.monotonic() + timeout_s
        while not self._consumer.partitions_for_topic(self._topic):
            if time.monotonic() > deadline:
                raise CannotContinue(f"topic {self._topic} does not exist: run `retouch topics apply`")
            time.sleep(0.2)
        self._consumer.subscribe([self._topic], listener=self._listener)

    @property
    def joined(self) -> bool:
        return bool(self._consumer.group_metadata().state == STABLE)

    @property
    def partitions(self) -> set[int]:
        """The partitions assigned to us now."""
        return {partition.partition for partition in self._consumer.assignment()}

    def poll(self, most: int, timeout_s: float) -> list[Delivery]:
        """Up to `most` records; blocks up to `timeout_s`, longer while a rebalance is under way."""
        try:
            if not self.joined:
                self._join()
            self._check_place()
            self._apply_pause()
            batches = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=most)
        except kafka_errors.FencedInstanceIdError:
            raise CannotContinue(FENCED) from None
        return [self._delivery(record) for records in batches.values() for record in records]

    def pause(self, paused: bool) -> None:
        """From the next poll on, read nothing (or again) from any partition, later ones included."""
        self._paused = paused

    def commit(self, positions: Mapping[int, int], timeout_s: float) -> bool:
        """Commit. False when the group is being formed anew: the positions may be tried again after the next poll."""
        try:
            self._consumer.commit(self._offsets(positions), timeout_ms=int(timeout_s * 1000))
        except NOT_A_MEMBER as error:
            log.info("positions not taken", extra={"group": self.group, "reason": type(error).__name__})
            return False
        except kafka_errors.FencedInstanceIdError:
            raise CannotContinue(FENCED) from None
        except kafka_errors.KafkaTimeoutError:
            log.warning("positions not taken in time", extra={"group": self.group, "timeout_s": timeout_s})
            return False
        return True

    async def commit_on_client_thread(self, positions: Mapping[int, int]) -> None:
        """The same from inside `on_revoked`. Raises the client's errors."""
        await self._consumer.commit_async(self._offsets(positions), callback=lambda offsets, answer: None)

    def ends(self) -> dict[int, int]:
        """Where each partition of the topic ends now. Blocks."""
        partitions = [TopicPartition(self._topic, number) for number in self._consumer.partitions_for_topic(self._topic) or ()]
        return {partition.partition: end for partition, end in self._consumer.end_offsets(partitions).items()}

    def has_read_to(self, ends: Mapping[int, int]) -> bool:
        """Whether every partition is ours and read up to its end."""
        if not set(ends) <= self.partitions:
            return False
        return all((self._consumer.position(TopicPartition(self._topic, number), timeout_ms=5000) or 0) >= end for number, end in ends.items())

    def close(self) -> None:
        """Static members leave no message behind: their partitions wait for them until the session timeout."""
        self._consumer.close(autocommit=False, timeout_ms=5000)

    def _join(self) -> None:
        coordinator = self._consumer._coordinator
        task = coordinator._join_task
        if task is not None and task.is_done and not coordinator.need_rejoin() and not self.joined:
            coordinator.request_rejoin()
        coordinator.poll(timeout_ms=JOIN_S * 1000)

    def _check_place(self) -> None:
        coordinator = self._consumer._coordinator
        if self.joined and not coordinator._heartbeat_enabled and not coordinator.rejoining and not coordinator.need_rejoin():
            raise CannotContinue(FENCED)

    def _apply_pause(self) -> None:
        assigned, paused = set(self._consumer.assignment()), set(self._consumer.paused())
        if self._paused:
            self._consumer.pause(*(assigned - paused))
        else:
            self._consumer.resume(*paused)

    def _delivery(self, record: Any) -> Delivery:
        origin = Origin(record.topic, record.partition, record.offset, record.timestamp, self.group)
        return Delivery(origin, record.key, record.value, record.headers)

    def _offsets(self, positions: Mapping[int, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {TopicPartition(self._topic, number): OffsetAndMetadata(offset, "", -1) for number, offset in positions.items()}


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # the client is untyped
    def __init__(self, membership: Membership, on_revoked: Revoked) -> None:
        self._group = membership.group
        self._on_revoked = on_revoked

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        log.info("partitions assigned", extra={"group": self._group, "partitions": sorted(p.partition for p in assigned)})

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        log.info("partitions revoked", extra={"group": self._group, "partitions": sorted(p.partition for p in revoked)})
        await self._on_revoked({p.partition for p in revoked}, False)

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        log.warning("partitions lost", extra={"group": self._group, "partitions": sorted(p.partition for p in lost)})
        await self._on_revoked({p.partition for p in lost}, True)
