"""The brokers of the contract suite, each with topics for one test and a reader of committed records."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from contextlib import closing
from typing import Any, Protocol

from infra.kafka.clients import admin, producer
from infra.kafka.group_consumer import offsets_and_metadata
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.queries import Query
from schemas.records import ProducedRecord
from schemas.topics import Topic, consumer_group, dead_letter_topic
from workers.runtime.broker import BrokerClient, Committer, Membership, NotConfirmed, PollResult, ResumePoint
from workers.runtime.in_flight import InFlight
from workers.runtime.kafka.membership import by_partition
from workers.runtime.kafka.transactions import KafkaBrokerClient
from workers.runtime.memory.log import MemoryCluster
from workers.runtime.memory.transactions import MemoryBrokerClient
from workers.runtime.offsets import Position

PARTITIONS = 4
ALL = frozenset(range(PARTITIONS))
#: Longer than any test: no result may depend on a session that expires.
SESSION_TIMEOUT_S = 180.0
WAIT_S = 45.0
STEADY_POLLS = 6

Headers = Sequence[tuple[str, bytes]]


class BrokerUnderTest(Protocol):
    """One broker with the topics `name`, `name`-out and `name`-dlt of four partitions. The group and its workers are called `name`."""

    name: str

    def client(self, instance: str) -> BrokerClient: ...

    async def append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers = ()) -> None:
        """Append records outside any transaction. Returns when they are on disk."""

    async def visible(self, topic: str) -> list[bytes]:
        """The values that a reader of committed records sees after every transaction has ended. Raises AssertionError if one stays open."""

    async def leave_open(self, instance: str, output: ProducedRecord, positions: Mapping[int, Position], generation: Any) -> None:
        """Begin a transaction with the transactional id of `instance`, and leave it open like a killed process."""

    async def close(self) -> None: ...


class MemoryUnderTest:
    def __init__(self) -> None:
        self.name = "asked"
        topics = dict.fromkeys((self.name, f"{self.name}-out", dead_letter_topic(self.name)), PARTITIONS)
        self._cluster = MemoryCluster(topics, session_timeout_s=SESSION_TIMEOUT_S)

    def client(self, instance: str) -> BrokerClient:
        return MemoryBrokerClient(self._cluster, instance)

    async def append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers = ()) -> None:
        for value in values:
            self._cluster.log.append(topic, b"k", value, headers, partition)

    async def visible(self, topic: str) -> list[bytes]:
        log = self._cluster.log
        return [entry.value or b"" for entry in log.committed_records(topic)]

    async def leave_open(self, instance: str, output: ProducedRecord, positions: Mapping[int, Position], generation: Any) -> None:
        log, group = self._cluster.log, consumer_group(self.name)
        epoch = log.begin_producer(f"{group}-{instance}")
        log.produce(f"{group}-{instance}", epoch, output.topic, output.key, output.value, output.headers)
        log.add_offsets(f"{group}-{instance}", epoch, group, positions)

    async def close(self) -> None:
        pass


class KafkaUnderTest:
    def __init__(self, settings: Settings) -> None:
        self.name = f"c{uuid.uuid4().hex[:10]}"
        self._settings = settings
        self._producer: Any = None
        self._left_open: list[Any] = []
        names = [self.name, f"{self.name}-out", dead_letter_topic(self.name)]
        with closing(admin(settings)) as client:
            client.create_topics({each: {"num_partitions": PARTITIONS, "replication_factor": 1} for each in names})
            client.wait_for_topics(names, timeout_ms=int(WAIT_S * 1000))

    def client(self, instance: str) -> BrokerClient:
        kafka = self._settings.kafka.model_copy(update={"instance": instance, "session_timeout_ms": int(SESSION_TIMEOUT_S * 1000)})
        return KafkaBrokerClient(self._settings.model_copy(update={"kafka": kafka}))

    async def append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers = ()) -> None:
        await asyncio.to_thread(self._append, topic, partition, values, headers)

    async def visible(self, topic: str) -> list[bytes]:
        return await asyncio.to_thread(self._visible, topic)

    async def leave_open(self, instance: str, output: ProducedRecord, positions: Mapping[int, Position], generation: Any) -> None:
        def begin() -> None:
            name = f"{consumer_group(self.name)}-{instance}"
            transactional = producer(self._settings, name, transactional_id=name)
            self._left_open.append(transactional)
            transactional.init_transactions()
            transactional.begin_transaction()
            transactional.send(output.topic, key=output.key, value=output.value, headers=list(output.headers)).get(WAIT_S)
            if positions:
                transactional.send_offsets_to_transaction(offsets_and_metadata(by_partition(self.name, positions)), generation)

        await asyncio.to_thread(begin)

    async def close(self) -> None:
        for client in (*self._left_open, *([self._producer] if self._producer else [])):
            await asyncio.to_thread(client.close, timeout=0)

    def _append(self, topic: str, partition: int, values: Sequence[bytes], headers: Headers) -> None:
        self._producer = self._producer or producer(self._settings, "test")
        for sent in [self._producer.send(topic, key=b"k", value=value, headers=list(headers), partition=partition) for value in values]:
            sent.get(WAIT_S)

    def _visible(self, topic: str) -> list[bytes]:
        """All committed records, once no transaction is open: the end is read uncommitted."""
        with TopicReader(self._settings, "test-ends", isolation_level="read_uncommitted") as whole, TopicReader(self._settings, "test-reader") as reader:
            return [record.value for record in reader.read(whole.ranges(topic), timeout_s=WAIT_S)]


def topic_of(name: str) -> Topic:
    return Topic(name, Query, "tenant/user", "test", "test")


class Member:
    """A member of the broker's group, with everything that its polls returned."""

    def __init__(self, broker: BrokerUnderTest, instance: str = "one", remember: int = 0) -> None:
        self.membership: Membership = broker.client(instance).membership(broker.name, topic_of(broker.name), remember)
        self.committer: Committer = broker.client(instance).exactly_once(broker.name)
        self.assigned: dict[int, ResumePoint] = {}  # current ones
        self.records: list[InFlight] = []
        self.read_to: dict[int, int] = {}
        self.taken_away: list[tuple[str, frozenset[int]]] = []
        self.at_revoked: Callable[[Set[int]], Awaitable[None]] | None = None
        self._has_left = False
        self._last_generation = ""
        self._steady = 0

    async def revoked(self, partitions: Set[int]) -> None:
        if self.at_revoked:
            await self.at_revoked(partitions)
        self._drop("revoked", partitions)

    def lost(self, partitions: Set[int]) -> None:
        self._drop("lost", partitions)

    def _drop(self, callback: str, partitions: Set[int]) -> None:
        self.taken_away.append((callback, frozenset(partitions)))
        for number in partitions:
            self.assigned.pop(number, None)

    async def join(self) -> None:
        await self.membership.join(self, WAIT_S)

    async def poll(self, max_records: int = 500, timeout_s: float = 0.05, paused: Set[int] = frozenset()) -> PollResult:
        polled = await self.membership.poll(max_records, timeout_s, paused)
        generation = str(self.membership.generation)
        self._steady = self._steady + 1 if generation == self._last_generation and self.membership.joined else 0
        self._last_generation = generation
        self.assigned |= polled.assigned
        self.records += polled.records
        self.read_to = {**polled.read_to}
        return polled

    async def joined(self) -> Member:
        """Join and poll until every partition is assigned and the group is steady. For a member that is alone."""
        await self.join()
        await poll_until(lambda: set(self.assigned) == ALL and self.is_steady, self)
        return self

    @property
    def is_steady(self) -> bool:
        """Whether the generation stays the same for some polls. A client may join twice, and a commit between the two is rightly refused."""
        return self._steady >= STEADY_POLLS

    async def commit(self, positions: Mapping[int, Position], *outputs: ProducedRecord) -> None:
        await self.committer.commit(outputs, positions, self.membership, WAIT_S)

    async def committed(self, *partitions: int) -> Mapping[int, Position | None]:
        return await self.membership.committed(set(partitions), WAIT_S)

    async def leave(self, *, for_good: bool) -> None:
        self._has_left = True
        await self.membership.leave(for_good=for_good)

    async def close(self) -> None:
        if not self._has_left:
            await self.leave(for_good=True)
        await self.committer.close()


async def poll_until(condition: Callable[[], bool], *members: Member) -> None:
    """Poll these members concurrently until the condition holds."""

    async def poll(member: Member) -> None:
        while not condition():
            await member.poll()

    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(poll(member) for member in members))


async def started(start: Callable[[], Awaitable[None]]) -> None:
    """Start a committer like a worker: again while the broker still ends an earlier transaction."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return await start()
        except NotConfirmed:
            assert time.monotonic() < deadline
