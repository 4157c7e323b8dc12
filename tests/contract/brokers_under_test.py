"""Two brokers for one suite: each with topics of a test's own, and a way to see what a reader of committed records sees."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, Protocol

from kafka import TopicPartition

from infra.kafka.clients import admin, groupless_consumer, producer
from infra.settings import Settings
from schemas.topics import consumer_group, dead_letter_topic
from workers.runtime.broker import BrokerClient, Committer, Membership, NotConfirmed, PollResult, ResumePoint
from workers.runtime.in_flight import Delivery, ProducerRecord
from workers.runtime.kafka.broker import KafkaBrokerClient
from workers.runtime.kafka.membership import kafka_offsets
from workers.runtime.memory.broker import MemoryBrokerClient, MemoryCluster
from workers.runtime.offsets import Position

PARTITIONS = 4
ALL = frozenset(range(PARTITIONS))
#: Everything here happens long before a silent member would be given up, so nothing can rest on that.
SESSION_TIMEOUT_S = 180.0
WAIT_S = 45.0
STEADY_POLLS = 6

Headers = Sequence[tuple[str, bytes]]


class Site(Protocol):
    """One broker with the topics `name`, `name`-out and `name`-dlt of four partitions. The group and its workers are called `name`."""

    name: str

    def broker(self, instance: str) -> BrokerClient: ...

    async def append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers = ()) -> None:
        """Records outside any transaction, on disk when this returns."""
        ...

    async def visible(self, topic: str) -> list[bytes]:
        """The values that a reader of committed records sees once every transaction has ended. Raises AssertionError when one stays open."""
        ...

    async def leave_open(self, instance: str, output: ProducerRecord, positions: Mapping[int, Position], generation: Any) -> None:
        """A transaction under the transactional id of `instance`, begun and left so, as by a process that was killed."""
        ...

    async def close(self) -> None: ...


class MemorySite:
    def __init__(self) -> None:
        self.name = "asked"
        topics = dict.fromkeys((self.name, f"{self.name}-out", dead_letter_topic(self.name)), PARTITIONS)
        self._cluster = MemoryCluster(topics, session_timeout_s=SESSION_TIMEOUT_S)

    def broker(self, instance: str) -> BrokerClient:
        return MemoryBrokerClient(self._cluster, instance)

    async def append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers = ()) -> None:
        for value in values:
            self._cluster.log.append(topic, b"k", value, headers, partition)

    async def visible(self, topic: str) -> list[bytes]:
        log = self._cluster.log
        return [entry.value or b"" for entry in log.committed_records(topic)]

    async def leave_open(self, instance: str, output: ProducerRecord, positions: Mapping[int, Position], generation: Any) -> None:
        log, group = self._cluster.log, consumer_group(self.name)
        epoch = log.begin_producer(f"{group}-{instance}")
        log.produce(f"{group}-{instance}", epoch, output.topic, output.key, output.value, output.headers)
        log.add_offsets(f"{group}-{instance}", epoch, group, positions)

    async def close(self) -> None:
        pass


class KafkaSite:
    def __init__(self, settings: Settings) -> None:
        self.name = f"c{uuid.uuid4().hex[:10]}"
        self._settings = settings
        self._to: Any = None
        self._left_open: list[Any] = []
        client = admin(settings)
        names = [self.name, f"{self.name}-out", dead_letter_topic(self.name)]
        client.create_topics({each: {"num_partitions": PARTITIONS, "replication_factor": 1} for each in names})
        client.wait_for_topics(names, timeout_ms=int(WAIT_S * 1000))
        client.close()

    def broker(self, instance: str) -> BrokerClient:
        kafka = self._settings.kafka.model_copy(update={"instance": instance, "session_timeout_ms": int(SESSION_TIMEOUT_S * 1000)})
        return KafkaBrokerClient(self._settings.model_copy(update={"kafka": kafka}))

    async def append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers = ()) -> None:
        await asyncio.to_thread(self._append, topic, partition, values, headers)

    async def visible(self, topic: str) -> list[bytes]:
        return await asyncio.to_thread(self._visible, topic)

    async def leave_open(self, instance: str, output: ProducerRecord, positions: Mapping[int, Position], generation: Any) -> None:
        def begin() -> None:
            name = f"{consumer_group(self.name)}-{instance}"
            made = producer(self._settings, name, transactional_id=name)
            self._left_open.append(made)
            made.init_transactions()
            made.begin_transaction()
            made.send(output.topic, key=output.key, value=output.value, headers=output.headers).get(WAIT_S)
            if positions:
                made.send_offsets_to_transaction(kafka_offsets(self.name, positions), generation)

        await asyncio.to_thread(begin)

    async def close(self) -> None:
        for client in (*self._left_open, *([self._to] if self._to else [])):
            await asyncio.to_thread(client.close, timeout=0)

    def _append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers) -> None:
        self._to = self._to or producer(self._settings, "test")
        for sent in [self._to.send(topic, key=b"k", value=value, headers=list(headers), partition=partition) for value in values]:
            sent.get(WAIT_S)

    def _visible(self, topic: str) -> list[bytes]:
        everything = groupless_consumer(self._settings, "test-ends", isolation_level="read_uncommitted")
        consumer = groupless_consumer(self._settings, "test-reader")
        try:
            partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            ends = everything.end_offsets(partitions)
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            found: list[bytes] = []
            deadline = time.monotonic() + WAIT_S
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                assert time.monotonic() < deadline, "a transaction did not end"
                found += [record.value for batch in consumer.poll(timeout_ms=100).values() for record in batch]
            return found
        finally:
            everything.close()
            consumer.close()


class Member:
    """A place in the group of a site, and everything that came of its polls."""

    def __init__(self, site: Site, instance: str = "one", remember: int = 0) -> None:
        self.place: Membership = site.broker(instance).membership(site.name, site.name, remember)
        self.producer: Committer = site.broker(instance).exactly_once(site.name)
        self.assigned: dict[int, ResumePoint] = {}  # those that are ours now
        self.records: list[Delivery] = []
        self.read_to: dict[int, int] = {}
        self.gone: list[tuple[str, frozenset[int]]] = []
        self.at_revoked: Callable[[Set[int]], Awaitable[None]] | None = None
        self._has_left = False
        self._seen = ""
        self._steady = 0

    async def revoked(self, partitions: Set[int]) -> None:
        if self.at_revoked:
            await self.at_revoked(partitions)
        self._drop("revoked", partitions)

    def lost(self, partitions: Set[int]) -> None:
        self._drop("lost", partitions)

    def _drop(self, how: str, partitions: Set[int]) -> None:
        self.gone.append((how, frozenset(partitions)))
        for number in partitions:
            self.assigned.pop(number, None)

    async def join(self) -> None:
        await self.place.join(self, WAIT_S)

    async def poll(self, most: int = 500, timeout_s: float = 0.05, paused: Set[int] = frozenset()) -> PollResult:
        polled = await self.place.poll(most, timeout_s, paused)
        generation = str(self.place.generation)
        self._steady = self._steady + 1 if generation == self._seen and self.place.joined else 0
        self._seen = generation
        self.assigned |= polled.assigned
        self.records += polled.records
        self.read_to = {**polled.read_to}
        return polled

    async def joined(self) -> Member:
        """Join and read until every partition is ours, and the group stands: for a member that is alone."""
        await self.join()
        await polling(lambda: set(self.assigned) == ALL and self.is_steady, self)
        return self

    @property
    def is_steady(self) -> bool:
        """Whether the group has stood for a while. A client may join twice before it does, and a commit between the two is refused, rightly."""
        return self._steady >= STEADY_POLLS

    async def commit(self, positions: Mapping[int, Position], *outputs: ProducerRecord) -> None:
        await self.producer.commit(outputs, positions, self.place, WAIT_S)

    async def committed(self, *partitions: int) -> Mapping[int, Position | None]:
        return await self.place.committed(set(partitions), WAIT_S)

    async def leave(self, *, for_good: bool) -> None:
        self._has_left = True
        await self.place.leave(for_good=for_good)

    async def close(self) -> None:
        if not self._has_left:
            await self.leave(for_good=True)
        await self.producer.close()


async def polling(condition: Callable[[], bool], *members: Member) -> None:
    """Poll them all, each beside the others, until something is so."""

    async def one(member: Member) -> None:
        while not condition():
            await member.poll()

    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(one(member) for member in members))


async def started(start: Callable[[], Awaitable[None]]) -> None:
    """Start a producer, as a worker does: again while the broker is busy with what an earlier one left."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return await start()
        except NotConfirmed:
            assert time.monotonic() < deadline
