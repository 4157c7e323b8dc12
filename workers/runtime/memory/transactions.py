"""Commits of results and positions in memory: in one transaction, or one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from infra.errors import CannotContinue
from schemas.records import ProducedRecord
from schemas.topics import Topic, consumer_group
from workers.runtime.broker import Committer, Membership, NotConfirmed
from workers.runtime.memory.group import MemberGeneration
from workers.runtime.memory.log import Faults, MemoryCluster, NoFaults
from workers.runtime.memory.membership import MemoryMembership, ignore_result
from workers.runtime.offsets import Position


class MemoryExactlyOnce:
    def __init__(self, cluster: MemoryCluster, transactional_id: str, group: str, faults: Faults) -> None:
        self._cluster, self._log = cluster, cluster.log
        self._id, self._group = transactional_id, group
        self._faults = faults
        self._epoch: int | None = None

    async def start(self, timeout_s: float) -> None:
        if not self._cluster.transactions:
            raise CannotContinue("the broker refuses the producer: exactly once needs transactions; set workers.delivery=at_least_once, or use another broker")
        self._epoch = None
        await _bounded(self._start(), timeout_s)

    async def commit(self, outputs: Sequence[ProducedRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float) -> None:
        if self._epoch is None:
            raise NotConfirmed("there is no producer")
        epoch, self._epoch = self._epoch, None
        assert isinstance(membership, MemoryMembership)
        await _bounded(self._transaction(epoch, outputs, positions, membership, membership.generation), timeout_s)
        self._epoch = epoch

    async def close(self) -> None:
        self._epoch = None

    async def _start(self) -> None:
        await self._faults.at("init")
        self._epoch = self._log.begin_producer(self._id)

    async def _transaction(
        self,
        epoch: int,
        outputs: Sequence[ProducedRecord],
        positions: Mapping[int, Position],
        membership: MemoryMembership,
        generation: MemberGeneration | None,
    ) -> None:
        await self._faults.at("begin")
        for output in outputs:
            await self._faults.at("produce")
            self._log.produce(self._id, epoch, output.topic, output.key, output.value, output.headers)
        await self._faults.at("offsets")
        if positions:
            membership.check(generation)
            self._log.add_offsets(self._id, epoch, self._group, positions)
        await self._faults.at("end")
        self._log.end_transaction(self._id, epoch)
        await self._faults.at("ended")


class MemoryAtLeastOnce:
    def __init__(self, cluster: MemoryCluster, faults: Faults) -> None:
        self._log = cluster.log
        self._faults = faults

    async def start(self, timeout_s: float) -> None:
        await _bounded(self._faults.at("init"), timeout_s)

    async def commit(self, outputs: Sequence[ProducedRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float) -> None:
        for output in outputs:
            await self._faults.at("produce")
            if not self._log.has(output.topic):
                raise NotConfirmed(f"UnknownTopicOrPartition {output.topic}")
            self._log.append(output.topic, output.key, output.value, output.headers)
        if positions:
            await membership.commit(positions, timeout_s)

    async def close(self) -> None:
        pass


async def _bounded(request: Awaitable[None], timeout_s: float) -> None:
    """Stop waiting after `timeout_s`. The broker continues with the request."""
    running = asyncio.ensure_future(request)
    running.add_done_callback(ignore_result)  # the caller may be cancelled
    done, _ = await asyncio.wait([running], timeout=timeout_s)
    if not done:
        raise NotConfirmed("no answer in time")
    running.result()


class MemoryBrokerClient:
    """The client of one process."""

    def __init__(self, cluster: MemoryCluster, instance: str = "one", faults: Faults | None = None) -> None:
        self._cluster = cluster
        self._instance = instance
        self._faults = faults or NoFaults()

    def membership(self, name: str, topic: Topic, remember: int) -> Membership:
        return MemoryMembership(self._cluster, consumer_group(name), f"{consumer_group(name)}-{self._instance}", topic, remember, self._faults)

    def exactly_once(self, name: str) -> Committer:
        return MemoryExactlyOnce(self._cluster, f"{consumer_group(name)}-{self._instance}", consumer_group(name), self._faults)

    def at_least_once(self, name: str) -> Committer:
        return MemoryAtLeastOnce(self._cluster, self._faults)
