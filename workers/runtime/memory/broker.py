"""A broker in memory, for tests and the simulation. It runs on one event loop and takes its time from it.

`Faults.at` is called at every step between poll and commit. It may wait, raise NotConfirmed for a lost request or answer, or never return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence, Set
from typing import Protocol

from infra.errors import CannotContinue
from schemas.dead_letters import Origin, original_place
from schemas.envelope import record_id
from schemas.topics import consumer_group, dead_letter_topic
from workers.runtime.broker import REVOKE_WITHIN_S, Committer, Membership, NotConfirmed, PollResult, RebalanceListener, ResumePoint
from workers.runtime.in_flight import InFlight, ProducerRecord
from workers.runtime.memory.group import MemberGeneration, MemoryGroup
from workers.runtime.memory.log import Log
from workers.runtime.offsets import Position, remembered_range


class Faults(Protocol):
    async def at(self, step: str) -> None:
        """`step`: poll, committed, init, begin, produce, offsets, end, leave (each before the broker acts on it), and ended (before its answer)."""
        ...


class NoFaults:
    async def at(self, step: str) -> None:
        await asyncio.sleep(0)


class MemoryCluster:
    """Topics and groups, shared by the clients of all processes. `transactions` False: it supports none."""

    def __init__(self, topics: Mapping[str, int], *, session_timeout_s: float = 10.0, transactions: bool = True, metadata_bytes: int = 4096) -> None:
        self.log = Log(topics, metadata_bytes=metadata_bytes)
        self.transactions = transactions
        self._session_timeout_s = session_timeout_s
        self._groups: dict[str, MemoryGroup] = {}

    def group(self, name: str, topic: str) -> MemoryGroup:
        if name not in self._groups:
            self._groups[name] = MemoryGroup(set(self.log.partitions(topic)), self._session_timeout_s)
        return self._groups[name]


class MemoryBrokerClient:
    """The client of one process."""

    def __init__(self, cluster: MemoryCluster, instance: str = "one", faults: Faults | None = None) -> None:
        self._cluster = cluster
        self._instance = instance
        self._faults = faults or NoFaults()

    def membership(self, name: str, topic: str, remember: int) -> Membership:
        return MemoryMembership(self._cluster, consumer_group(name), f"{consumer_group(name)}-{self._instance}", topic, remember, self._faults)

    def exactly_once(self, name: str) -> Committer:
        return MemoryExactlyOnce(self._cluster, f"{consumer_group(name)}-{self._instance}", consumer_group(name), self._faults)

    def at_least_once(self, name: str) -> Committer:
        return MemoryAtLeastOnce(self._cluster, self._faults)


class MemoryMembership:
    def __init__(self, cluster: MemoryCluster, group: str, instance: str, topic: str, remember: int, faults: Faults) -> None:
        self.topic = topic
        self.generation: MemberGeneration | None = None
        self._cluster, self._log = cluster, cluster.log
        self._group_name, self._instance = group, instance
        self._remember = remember
        self._faults = faults
        self._member = 0
        self._positions: dict[int, int] = {}  # the next offset of each partition that is read
        self._unresolved: set[int] = set()
        self._group: MemoryGroup
        self._listener: RebalanceListener

    @property
    def joined(self) -> bool:
        return self.generation is not None

    @property
    def awaited(self) -> Set[int]:
        return set(self._unresolved)

    async def join(self, listener: RebalanceListener, timeout_s: float) -> None:
        self._listener = listener
        if not self._log.has(self.topic):
            await asyncio.sleep(timeout_s)
            if not self._log.has(self.topic):
                raise CannotContinue(f"topic {self.topic} does not exist: run `retouch topics apply`")
        self._group = self._cluster.group(self._group_name, self.topic)

    async def poll(self, most: int, timeout_s: float, paused: Set[int]) -> PollResult:
        await self._faults.at("poll")
        await self._serve()
        assigned = self._begin_reading()
        records = self._fetch(most, paused)
        if not records and not assigned and most:
            await self._log.changed(timeout_s)
            if self._group.heartbeat(self._instance, self._member):
                records = self._fetch(most, paused)
        return PollResult(assigned, records, dict(self._positions))

    async def committed(self, partitions: Set[int], timeout_s: float) -> Mapping[int, Position | None]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        await self._faults.at("committed")
        while not all(self._log.is_stable(self._group_name, number) for number in partitions):
            if asyncio.get_running_loop().time() > deadline:
                raise NotConfirmed("UnstableOffsetCommit")
            await asyncio.sleep(0.05)
        return {number: self._log.committed(self._group_name, number) for number in partitions}

    async def commit(self, positions: Mapping[int, Position], timeout_s: float) -> None:
        await self._faults.at("offsets")
        self.check(self.generation)
        self._log.commit(self._group_name, positions)
        await self._faults.at("ended")

    async def ends(self) -> Mapping[int, int]:
        return {number: self._log.end(self.topic, number) for number in self._log.partitions(self.topic)}

    async def leave(self, *, for_good: bool) -> None:
        if not self._member:
            return
        try:
            await self._faults.at("leave")
        except NotConfirmed:
            return  # the session timeout ends the membership
        if self._positions or self._unresolved:
            await self._listener.revoked(self._positions.keys() | self._unresolved)
        if for_good:
            self._group.leave(self._instance, self._member)

    def check(self, generation: MemberGeneration | None) -> None:
        """Raises NotConfirmed unless this generation is valid for a commit."""
        self._group.check(generation)

    async def _serve(self) -> None:
        """Join, drop lost partitions, give up those that move, take those that are free."""
        if not self._member:
            self._member = self._group.join(self._instance)
            self._unresolved |= self._group.owned(self._instance)
        elif not self._group.heartbeat(self._instance, self._member):
            self._forget(lost := self._positions.keys() | self._unresolved)
            if lost:
                self._listener.lost(lost)
            self._member = self._group.join(self._instance)
        if not self._group.has_entered(self._instance):
            self._enter()
        if revoked := self._group.to_revoke(self._instance):
            self._forget(revoked)
            await self._give_up(revoked)
            if not self._group.heartbeat(self._instance, self._member):
                return
            self._group.give_up(self._instance, revoked)
        self._unresolved |= self._group.take(self._instance)
        self._enter()

    def _enter(self) -> None:
        self._group.enter(self._instance)
        self.generation = MemberGeneration(self._member, self._instance, self._group.generation)

    async def _give_up(self, revoked: Set[int]) -> None:
        call = asyncio.ensure_future(self._listener.revoked(revoked))
        call.add_done_callback(_ignore)
        done, _ = await asyncio.wait([call], timeout=REVOKE_WITHIN_S)
        if not done:
            self._listener.lost(revoked)

    def _begin_reading(self) -> dict[int, ResumePoint]:
        begun: dict[int, ResumePoint] = {}
        for number in sorted(self._unresolved):
            if self._log.is_stable(self._group_name, number):
                position = self._log.committed(self._group_name, number)
                self._unresolved.remove(number)
                self._positions[number] = position.offset if position else 0
                begun[number] = ResumePoint(position, self._recent_ids(number, position) if position and self._remember else {})
        return begun

    def _fetch(self, most: int, paused: Set[int]) -> list[InFlight]:
        fetched: list[InFlight] = []
        for number in sorted(self._positions.keys() - paused):
            entries, self._positions[number] = self._log.read(self.topic, number, self._positions[number], most - len(fetched))
            fetched += [
                InFlight(Origin(self.topic, number, entry.offset, entry.timestamp_ms, self._group_name), entry.key, entry.value, list(entry.headers))
                for entry in entries
            ]
        return fetched

    def _recent_ids(self, number: int, position: Position) -> dict[int, str]:
        letters = self._log.committed_records(dead_letter_topic(self.topic)) if self._log.has(dead_letter_topic(self.topic)) else []
        set_aside = {original_place(letter.headers) for letter in letters}
        remembered = remembered_range(position, self._remember)
        entries = self._log.read(self.topic, number, remembered.start, len(remembered))[0]
        ids = {entry.offset: record_id(entry.headers) for entry in entries if entry.offset in remembered}
        return {offset: id for offset, id in ids.items() if id and (self.topic, number, offset) not in set_aside}

    def _forget(self, numbers: Set[int]) -> None:
        self._unresolved -= numbers
        for number in list(numbers):
            self._positions.pop(number, None)


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

    async def commit(self, outputs: Sequence[ProducerRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float) -> None:
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
        outputs: Sequence[ProducerRecord],
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

    async def commit(self, outputs: Sequence[ProducerRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float) -> None:
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
    running.add_done_callback(_ignore)  # the caller may be cancelled
    done, _ = await asyncio.wait([running], timeout=timeout_s)
    if not done:
        raise NotConfirmed("no answer in time")
    running.result()


def _ignore(call: asyncio.Future[None]) -> None:
    if not call.cancelled():
        call.exception()
