"""A worker's membership in a Kafka consumer group: `infra.kafka.group_consumer` in a separate thread.

What the worker's event loop adds to it:

- rebalance listeners run on kafka-python's own thread, which must continue while the worker commits for revoked partitions: they sleep on the
  client's loop until the worker is done;
- the client keeps its position in a partition, whatever the group committed since: every new assignment seeks to the committed offset;
- group metadata may belong to a newer membership than the worker's state (a process that resumes after a long stop): `generation` changes only
  together with the worker's state.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Mapping, Set
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from infra.errors import CannotContinue, RetryLater
from infra.kafka.connection_failures import AccessRefused
from infra.kafka.errors import missing_topics
from infra.kafka.group_consumer import CONNECT_S, GroupConsumer
from infra.kafka.permanent_errors import permanent_error
from infra.kafka.refusals import Use
from infra.kafka.rights_check import require_rights
from infra.settings import Settings
from schemas.records import ConsumedRecord
from schemas.topics import Topic, consumer_group
from workers.runtime.broker import REVOKE_WITHIN_S, CommitRefused, NotConfirmed, PollResult, RebalanceListener, ResumePoint
from workers.runtime.in_flight import InFlight
from workers.runtime.kafka.client_thread import ClientThread
from workers.runtime.kafka.recent_fingerprints import read_recent_fingerprints
from workers.runtime.offsets import Position, remembered_range

log = logging.getLogger(__name__)

#: A call of the client that takes longer never returns.
HANGS_S = 60.0
RESOLVE_S = 5.0
CLOSE_S = 2.5


class KafkaMembership:
    """Made on the worker's event loop, where all its coroutines run."""

    def __init__(self, settings: Settings, name: str, topic: Topic, remember: int) -> None:
        self.topic = topic.name
        self._input = topic
        self.partition_count = 0
        self.generation: Any = None
        self._settings, self._name = settings, name
        self._remember = remember
        self._loop = asyncio.get_running_loop()
        self._consumer = GroupConsumer(settings, consumer_group(name), CooperativeStickyAssignor)
        self._group = self._consumer.group
        self._thread = ClientThread(f"{self._group}-consumer")
        self._requests = ClientThread(f"{self._group}-requests")  # the client serves them while a poll waits for records
        self._listener: RebalanceListener
        self._assignments: dict[int, object] = {}  # every assigned partition, with a token for this assignment
        self._unresolved: dict[int, object] = {}  # those without a resume point
        self._resolved: dict[int, tuple[object, ResumePoint]] = {}
        self._begun: dict[int, object] = {}  # those that the last poll began to read
        self._resolving: asyncio.Task[None] | None = None

    @property
    def joined(self) -> bool:
        return self._consumer.is_member

    @property
    def awaited(self) -> Set[int]:
        return set(self._unresolved)

    async def join(self, listener: RebalanceListener, timeout_s: float) -> None:
        self._listener = listener
        try:
            await self._thread.call(lambda: self._subscribe(timeout_s), timeout_s + CONNECT_S + HANGS_S)
        except TimeoutError:
            raise CannotContinue(f"the Kafka client did not connect to {self._settings.bootstrap_servers()}, and raised no error") from None

    async def poll(self, max_records: int, timeout_s: float, paused: Set[int]) -> PollResult:
        try:
            polled = await self._thread.call(lambda: self._poll(max_records, timeout_s, paused), HANGS_S)
        except TimeoutError:
            raise CannotContinue(f"the Kafka client did not return from a poll within {HANGS_S:g} s") from None
        if self._resolving is not None and self._resolving.done():
            resolved, self._resolving = self._resolving, None
            resolved.result()
        if self._unresolved and self._resolving is None:
            self._resolving = asyncio.ensure_future(self._resolve(dict(self._unresolved)))
        return dataclasses.replace(polled, assigned=self._still_assigned(polled.assigned))

    def _still_assigned(self, assigned: Mapping[int, ResumePoint]) -> dict[int, ResumePoint]:
        """Leaves out partitions that were revoked or reassigned since the poll began to read them: the worker must not add them."""
        return {number: resume for number, resume in assigned.items() if self._assignments.get(number) is self._begun[number]}

    async def committed(self, partitions: Set[int], timeout_s: float) -> Mapping[int, Position | None]:
        requested = [TopicPartition(self.topic, number) for number in partitions]
        committed = await self._request(lambda: self._consumer.committed(requested, timeout_s), timeout_s)
        return {p.partition: Position(*committed[p]) if p in committed else None for p in requested}

    async def commit(self, positions: Mapping[int, Position], timeout_s: float) -> None:
        await self._request(lambda: self._consumer.commit(by_partition(self.topic, positions), timeout_s), timeout_s)

    async def ends(self) -> Mapping[int, int]:
        def ends() -> dict[TopicPartition, int]:
            return self._consumer.ends([TopicPartition(self.topic, number) for number in self._consumer.partitions_of(self.topic)], RESOLVE_S)

        return _by_number(await self._request(ends, RESOLVE_S))

    async def leave(self, *, for_good: bool) -> None:
        if self._resolving is not None:
            self._resolving.cancel()
        if self._consumer.is_connected:
            try:
                await self._thread.call(lambda: self._consumer.close(CLOSE_S, leave=for_good), 2 * CLOSE_S)
            except (TimeoutError, kafka_errors.KafkaError) as error:
                log.warning("could not leave the group cleanly", extra={"group": self._group, "reason": type(error).__name__})
        self._thread.end()
        self._requests.end()

    async def _request(self, request: Any, timeout_s: float) -> Any:
        """Raises NotConfirmed and CommitRefused."""
        try:
            return await self._requests.call(request, timeout_s + 1)
        except AccessRefused:
            raise
        except (TimeoutError, RetryLater, kafka_errors.KafkaError) as error:
            if isinstance(error, TimeoutError):
                self._requests.end()  # it ends if the call ever returns
                self._requests = ClientThread(f"{self._group}-requests")
            if permanent := permanent_error(self._settings.kafka, Use(group=self._consumer.group_on_broker), error):
                raise CommitRefused(
                    f"the broker at {self._settings.bootstrap_servers()} refuses group {self._consumer.group_on_broker}: {permanent}"
                ) from error
            raise NotConfirmed(str(error) or type(error).__name__) from error

    async def _resolve(self, unresolved: Mapping[int, object]) -> None:
        """Read the resume points of new assignments. After a failure a later poll tries again."""
        try:
            committed = await self.committed(unresolved.keys(), RESOLVE_S)
            ranges = {number: remembered_range(position, self._remember) for number, position in committed.items() if position}
            client_id = self._consumer.client_id
            recent = await self._request(lambda: read_recent_fingerprints(self._settings, client_id, self._input, ranges, self._remember), 2 * RESOLVE_S)
            self._resolved |= {number: (token, ResumePoint(committed[number], recent.get(number, {}))) for number, token in unresolved.items()}
        except NotConfirmed as error:
            log.warning("the group's positions are not read yet", extra={"group": self._group, "reason": str(error)})

    # On the client thread

    def _subscribe(self, timeout_s: float) -> None:
        self._consumer.connect()
        require_rights(self._settings, f"workers {self._name}")
        deadline = time.monotonic() + timeout_s
        while not self._consumer.partitions_of(self.topic):
            if time.monotonic() > deadline:  # a group that forms before its topic exists assigns no partitions
                raise missing_topics(self._settings, [self.topic])
            time.sleep(0.2)
        self.partition_count = self._consumer.known_partitions(self.topic)
        self._consumer.subscribe([self.topic], _Listener(self, self._group))

    def _poll(self, max_records: int, timeout_s: float, paused: Set[int]) -> PollResult:
        assigned: dict[int, ResumePoint] = {}

        def prepare() -> None:
            assigned.update(self._begin_reading())
            self._consumer.pause_only([TopicPartition(self.topic, number) for number in (*paused, *self._unresolved)])

        records = self._consumer.poll(max_records, timeout_s, prepare)
        self.partition_count = self._consumer.known_partitions(self.topic) or self.partition_count
        if records is not None and self._consumer.is_member:
            self.generation = self._consumer.metadata
        in_flight = [self._in_flight(record) for record in records or () if record.partition not in self._unresolved]
        read_to = {number: offset for number, offset in _by_number(self._consumer.positions()).items() if number not in self._unresolved}
        return PollResult(assigned, in_flight, read_to)

    def _begin_reading(self) -> dict[int, ResumePoint]:
        """Seek in the resolved partitions, unless they were revoked or reassigned since."""
        begun: dict[int, ResumePoint] = {}
        self._begun = {}
        for number, (token, resume) in list(self._resolved.items()):
            del self._resolved[number]
            if self._unresolved.get(number) is token:
                self._consumer.seek(TopicPartition(self.topic, number), resume.committed.offset if resume.committed else None)
                del self._unresolved[number]
                begun[number], self._begun[number] = resume, token
        return begun

    def _in_flight(self, record: Any) -> InFlight:
        return InFlight(ConsumedRecord(record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, record.headers))

    # On kafka-python's own thread, while the client thread waits in a call

    def assigned(self, numbers: Set[int]) -> None:
        for number in numbers:
            partition = TopicPartition(self.topic, number)
            self._assignments[number] = self._unresolved[number] = object()
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)  # without any position, the client blocks polls until it has one

    async def revoked(self, numbers: Set[int]) -> None:
        self._forget(numbers)
        self.generation = self._consumer.metadata
        revoked = asyncio.run_coroutine_threadsafe(self._listener.revoked(numbers), self._loop)
        if not await self._done(revoked, REVOKE_WITHIN_S):  # it continues, but too late for these partitions
            log.warning("partitions are given up without a last commit", extra={"group": self._group, "partitions": sorted(numbers)})
            await self.lost(numbers)

    async def lost(self, numbers: Set[int]) -> None:
        """Returns when the worker has dropped them: with a newer generation, a commit for them would be accepted."""
        self._forget(numbers)
        if not await self._done(asyncio.run_coroutine_threadsafe(self._call_lost(numbers), self._loop), HANGS_S):
            raise RuntimeError("the worker's loop hangs")

    async def _done(self, call: concurrent.futures.Future[None], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not call.done() and time.monotonic() < deadline:
            await self._consumer.sleep(0.005)
        return call.done()

    async def _call_lost(self, numbers: Set[int]) -> None:
        self._listener.lost(numbers)

    def _forget(self, numbers: Set[int]) -> None:
        for number in numbers:
            self._unresolved.pop(number, None)
            self._assignments.pop(number, None)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # the client is untyped
    def __init__(self, membership: KafkaMembership, group: str) -> None:
        self._membership = membership
        self._group = group

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        log.info("partitions assigned", extra=self._fields(assigned))
        self._membership.assigned(_numbers(assigned))

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        log.info("partitions revoked", extra=self._fields(revoked))
        await self._membership.revoked(_numbers(revoked))

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        log.warning("partitions lost", extra=self._fields(lost))
        await self._membership.lost(_numbers(lost))

    def _fields(self, partitions: set[TopicPartition]) -> dict[str, Any]:
        return {"group": self._group, "partitions": sorted(_numbers(partitions))}


def by_partition(topic: str, positions: Mapping[int, Position]) -> dict[TopicPartition, tuple[int, str]]:
    return {TopicPartition(topic, number): (position.offset, position.metadata) for number, position in positions.items()}


def _by_number(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {partition.partition: offset for partition, offset in offsets.items()}


def _numbers(partitions: set[TopicPartition]) -> set[int]:
    return {partition.partition for partition in partitions}
