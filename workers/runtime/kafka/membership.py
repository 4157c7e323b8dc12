"""A place in a Kafka consumer group. The only module that knows kafka-python's group consumer.

Worked around here (kafka-python 3.0.12, each met in trials):

- a join that completes between two short polls is lost and the member hangs: `_join` waits for it in one long one, and asks again;
- listeners run on the client's own thread, which must go on while the worker commits for what it loses: they wait asleep on the client's loop;
- a member whose name another process has taken is told so by its heartbeats, which then just end: `_check_place` looks;
- a client that holds a position for a partition goes on from it, whatever the group committed meanwhile: every assignment seeks;
- the group's metadata may belong to a membership that began after the state it is sent with was read (a process that wakes from a long
  stop): `generation` changes only where the worker's own view changes with it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Mapping, Set
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from infra.errors import CannotContinue, RetryLater
from infra.kafka.clients import client_options
from infra.settings import Settings
from schemas.dead_letters import Origin
from schemas.topics import consumer_group
from workers.runtime.broker import FENCED, REVOKE_WITHIN_S, NotConfirmed, PollResult, RebalanceListener, ResumePoint
from workers.runtime.in_flight import Delivery
from workers.runtime.kafka.client_thread import ClientThread
from workers.runtime.kafka.recent_ids import recall
from workers.runtime.offsets import Position, recallable

log = logging.getLogger(__name__)

STABLE = "<stable>"
#: How long one attempt to join may block: heartbeats and other members' joins go on meanwhile.
JOIN_S = 3.0
#: A client that has not come back from a call by then never will.
HANGS_S = 60.0
RESOLVE_S = 5.0
#: How long a broker may be away while a process starts.
CONNECT_S = 60.0
CLOSE_S = 2.5


class KafkaMembership:
    """Made on the worker's loop; everything is awaited there."""

    def __init__(self, settings: Settings, name: str, instance: str, topic: str, remember: int) -> None:
        self.group = consumer_group(name)
        self.generation: Any = None
        self._settings = settings
        self.topic = self._topic = topic
        self._remember = remember
        self._client_id = f"{self.group}-{instance}"
        self._loop = asyncio.get_running_loop()
        self._lane = ClientThread(f"{self.group}-consumer")
        self._questions = ClientThread(f"{self.group}-questions")  # answered by the same client while a poll waits for records
        self._consumer: Any = None
        self._listener: RebalanceListener
        self._fresh: dict[int, object] = {}  # assigned, and not yet known where to read on; a token for each assignment
        self._ours: dict[int, object] = {}  # every partition that is assigned, with its token
        self._begun: dict[int, object] = {}  # those whose reading the last poll began
        self._resolved: dict[int, tuple[object, ResumePoint]] = {}
        self._resolving: asyncio.Task[None] | None = None

    @property
    def joined(self) -> bool:
        return self._consumer is not None and self._is_stable()

    @property
    def awaited(self) -> Set[int]:
        return set(self._fresh)

    async def join(self, listener: RebalanceListener, timeout_s: float) -> None:
        self._listener = listener
        await self._lane.call(lambda: self._subscribe(timeout_s), timeout_s + CONNECT_S + HANGS_S)

    async def poll(self, most: int, timeout_s: float, paused: Set[int]) -> PollResult:
        try:
            polled = await self._lane.call(lambda: self._poll(most, timeout_s, paused), HANGS_S)
        except TimeoutError:
            raise CannotContinue(f"the Kafka client did not come back from a poll within {HANGS_S:g} s") from None
        if self._resolving is not None and self._resolving.done():
            resolved, self._resolving = self._resolving, None
            resolved.result()
        if self._fresh and self._resolving is None:
            self._resolving = asyncio.ensure_future(self._resolve(dict(self._fresh)))
        return dataclasses.replace(polled, assigned=self._still_ours(polled.assigned))

    def _still_ours(self, begun: Mapping[int, ResumePoint]) -> dict[int, ResumePoint]:
        """Without what was taken away, or assigned anew, since reading began: the worker has been told already, and would take it for its own again."""
        return {number: assigned for number, assigned in begun.items() if self._ours.get(number) is self._begun[number]}

    async def committed(self, partitions: Set[int], timeout_s: float) -> Mapping[int, Position | None]:
        wanted = [TopicPartition(self._topic, number) for number in partitions]
        found = await self._ask(lambda: self._consumer._coordinator.fetch_committed_offsets(wanted, timeout_ms=int(timeout_s * 1000)), timeout_s)
        return {p.partition: Position(found[p].offset, found[p].metadata or "") if p in found and found[p].offset >= 0 else None for p in wanted}

    async def commit(self, positions: Mapping[int, Position], timeout_s: float) -> None:
        offsets = kafka_offsets(self._topic, positions)
        await self._ask(lambda: self._consumer.commit(offsets, timeout_ms=int(timeout_s * 1000)), timeout_s)

    async def ends(self) -> Mapping[int, int]:
        def ask() -> dict[TopicPartition, int]:
            partitions = [TopicPartition(self._topic, number) for number in self._consumer.partitions_for_topic(self._topic) or ()]
            found: dict[TopicPartition, int] = self._consumer.end_offsets(partitions, timeout_ms=int(RESOLVE_S * 1000))
            return found

        return {partition.partition: end for partition, end in (await self._ask(ask, RESOLVE_S)).items()}

    async def leave(self, *, for_good: bool) -> None:
        if self._resolving is not None:
            self._resolving.cancel()
        if self._consumer is not None:
            try:
                await self._lane.call(lambda: self._close(for_good), 2 * CLOSE_S)
            except (TimeoutError, kafka_errors.KafkaError) as error:
                log.warning("the group was not left in order", extra={"group": self.group, "reason": type(error).__name__})
        self._lane.end()
        self._questions.end()

    async def _ask(self, question: Any, timeout_s: float) -> Any:
        """Raises NotConfirmed."""
        try:
            return await self._questions.call(question, timeout_s + 1)
        except (TimeoutError, RetryLater, kafka_errors.KafkaError) as error:
            if isinstance(error, TimeoutError):
                self._questions.end()  # once it comes back from what it hangs in
                self._questions = ClientThread(f"{self.group}-questions")
            raise NotConfirmed(type(error).__name__) from error

    async def _resolve(self, fresh: Mapping[int, object]) -> None:
        """Learn where to read on in fresh partitions. What fails is tried again by a later poll."""
        try:
            committed = await self.committed(fresh.keys(), RESOLVE_S)
            wanted = {number: recallable(position, self._remember) for number, position in committed.items() if position}
            found = await self._ask(lambda: recall(self._settings, self._client_id, self._topic, wanted, self._remember), 2 * RESOLVE_S)
            self._resolved |= {number: (token, ResumePoint(committed[number], found.get(number, {}))) for number, token in fresh.items()}
        except NotConfirmed as error:
            log.warning("the group's positions are not known yet", extra={"group": self.group, "reason": str(error)})

    # From here on: the lane's thread.

    def _subscribe(self, timeout_s: float) -> None:
        self._consumer = self._connected()
        deadline = time.monotonic() + timeout_s
        while not self._consumer.partitions_for_topic(self._topic):
            if time.monotonic() > deadline:  # a group formed before its topic elects a leader that knows no partitions
                raise CannotContinue(f"topic {self._topic} does not exist: run `retouch topics apply`")
            time.sleep(0.2)
        self._consumer.subscribe([self._topic], listener=_Rebalances(self))

    def _connected(self) -> Any:
        """Raises CannotContinue when the broker has been away for too long."""
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                return self._make_consumer()
            except kafka_errors.KafkaError as error:
                if time.monotonic() > deadline:
                    address = self._settings.bootstrap_servers()
                    raise CannotContinue(f"the broker at {address} does not answer ({type(error).__name__}): is it up, and is the address right?") from error
                time.sleep(0.5)

    def _make_consumer(self) -> Any:
        timeout_ms = self._settings.kafka.session_timeout_ms
        return KafkaConsumer(
            client_id=self._client_id,
            group_id=self.group,
            group_instance_id=self._client_id,
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=min(1000, timeout_ms // 5),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=250,
            bootstrap_timeout_ms=10_000,
            retry_backoff_ms=50,
            **client_options(self._settings),
        )

    def _is_stable(self) -> bool:
        return bool(self._consumer.group_metadata().state == STABLE)

    def _poll(self, most: int, timeout_s: float, paused: Set[int]) -> PollResult:
        assigned: dict[int, ResumePoint] = {}
        try:
            coordinator = self._consumer._coordinator
            if not self._is_stable() or coordinator.need_rejoin():
                self._join()
            self._check_place()
            assigned = self._begin_reading()
            self._apply_pauses(paused)
            batches = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=most) if most else coordinator.poll(timeout_ms=0) and {}
        except kafka_errors.FencedInstanceIdError:
            raise CannotContinue(FENCED) from None
        except kafka_errors.RetriableError as error:  # a connection that breaks while the coordinator is looked up comes out of the client's poll
            log.info("the coordinator is away", extra={"group": self.group, "reason": type(error).__name__})
            time.sleep(min(timeout_s, 0.1))
            return PollResult(assigned, [], self._positions())
        if self._is_stable():
            self.generation = self._consumer.group_metadata()
        records = [self._delivery(r) for partition, batch in (batches or {}).items() if partition.partition not in self._fresh for r in batch]
        return PollResult(assigned, records, self._positions())

    def _join(self) -> None:
        coordinator = self._consumer._coordinator
        task = coordinator._join_task
        if task is not None and task.is_done and not coordinator.need_rejoin() and not self._is_stable():
            coordinator.request_rejoin()
        coordinator.poll(timeout_ms=JOIN_S * 1000)

    def _check_place(self) -> None:
        coordinator = self._consumer._coordinator
        if self._is_stable() and not coordinator._heartbeat_enabled and not coordinator.rejoining and not coordinator.need_rejoin():
            raise CannotContinue(FENCED)

    def _begin_reading(self) -> dict[int, ResumePoint]:
        """Seek in fresh partitions that are resolved, unless they have been taken away or assigned anew meanwhile."""
        begun: dict[int, ResumePoint] = {}
        self._begun = {}
        for number, (token, assigned) in list(self._resolved.items()):
            del self._resolved[number]
            if self._fresh.get(number) is token:
                partition = TopicPartition(self._topic, number)
                if assigned.committed:
                    self._consumer.seek(partition, assigned.committed.offset)
                else:
                    self._consumer.seek_to_beginning(partition)
                del self._fresh[number]
                begun[number], self._begun[number] = assigned, token
        return begun

    def _apply_pauses(self, paused: Set[int]) -> None:
        """A new assignment does not know that its partition was paused: all are gone over at every poll."""
        unread = {TopicPartition(self._topic, number) for number in (*paused, *self._fresh)}
        assigned, now = set(self._consumer.assignment()), set(self._consumer.paused())
        self._consumer.pause(*((unread & assigned) - now))
        self._consumer.resume(*((now & assigned) - unread))

    def _positions(self) -> dict[int, int]:
        states = self._consumer._subscription.assignment
        known = {partition.partition: state.position for partition, state in list(states.items()) if state.has_valid_position}
        return {number: position.offset for number, position in known.items() if number not in self._fresh}

    def _delivery(self, record: Any) -> Delivery:
        origin = Origin(record.topic, record.partition, record.offset, record.timestamp, self.group)
        return Delivery(origin, record.key, record.value, record.headers)

    def _close(self, for_good: bool) -> None:
        if for_good:  # a static member does not leave by itself
            self._consumer._coordinator.is_dynamic_member = lambda: True
        self._consumer.close(autocommit=False, timeout_ms=int(CLOSE_S * 1000))

    # From here on: the client's own thread, while the lane's waits in the client.

    def assigned(self, numbers: Set[int]) -> None:
        for number in numbers:
            partition = TopicPartition(self._topic, number)
            self._ours[number] = self._fresh[number] = object()
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)  # any position keeps the client from blocking polls until it has found one

    async def revoked(self, numbers: Set[int]) -> None:
        self._forget(numbers)
        self.generation = self._consumer.group_metadata()
        said = asyncio.run_coroutine_threadsafe(self._listener.revoked(numbers), self._loop)
        if not await self._done(said, REVOKE_WITHIN_S):  # it goes on, but for these partitions it comes too late
            log.warning("partitions are given up without a last commit", extra={"group": self.group, "partitions": sorted(numbers)})
            await self.lost(numbers)

    async def lost(self, numbers: Set[int]) -> None:
        """Returns when the worker has dropped them. Only then may a newer generation be used: with it, what they hold would be taken."""
        self._forget(numbers)
        if not await self._done(asyncio.run_coroutine_threadsafe(self._told_lost(numbers), self._loop), HANGS_S):
            raise RuntimeError("the worker's loop hangs")

    async def _done(self, said: concurrent.futures.Future[None], within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while not said.done() and time.monotonic() < deadline:
            await self._consumer._net.sleep(0.005)
        return said.done()

    async def _told_lost(self, numbers: Set[int]) -> None:
        self._listener.lost(numbers)

    def _forget(self, numbers: Set[int]) -> None:
        for number in numbers:
            self._fresh.pop(number, None)
            self._ours.pop(number, None)


class _Rebalances(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # the client is untyped
    def __init__(self, membership: KafkaMembership) -> None:
        self._membership = membership

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
        return {"group": self._membership.group, "partitions": sorted(_numbers(partitions))}


def kafka_offsets(topic: str, positions: Mapping[int, Position]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(topic, number): OffsetAndMetadata(p.offset, p.metadata, -1) for number, p in positions.items()}


def _numbers(partitions: set[TopicPartition]) -> set[int]:
    return {partition.partition for partition in partitions}
