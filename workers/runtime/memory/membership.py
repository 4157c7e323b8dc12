"""Membership in a group in memory: what a poll joins, gives up, takes and reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set

from infra.errors import CannotContinue
from schemas.dead_letters import original_position
from schemas.envelope import read_fingerprint
from schemas.messages import Fingerprint
from schemas.records import ConsumedRecord
from schemas.topics import Topic, dead_letter_topic
from workers.runtime.broker import REVOKE_WITHIN_S, NotConfirmed, PollResult, RebalanceListener, ResumePoint
from workers.runtime.in_flight import InFlight
from workers.runtime.memory.group import MemberGeneration, MemoryGroup
from workers.runtime.memory.log import Faults, MemoryCluster
from workers.runtime.offsets import Position, remembered_range


class MemoryMembership:
    def __init__(self, cluster: MemoryCluster, group: str, instance: str, topic: Topic, remember: int, faults: Faults) -> None:
        self.topic = topic.name
        self._message = topic.message
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
    def partition_count(self) -> int:
        return len(self._log.partitions(self.topic)) if self._log.has(self.topic) else 0

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
                raise CannotContinue(f"the broker lacks topics {self.topic}: create them with `retouch topics apply`")
        self._group = self._cluster.group(self._group_name, self.topic)

    async def poll(self, max_records: int, timeout_s: float, paused: Set[int]) -> PollResult:
        await self._faults.at("poll")
        await self._serve()
        assigned = self._begin_reading()
        records = self._fetch(max_records, paused)
        if not records and not assigned and max_records:
            await self._log.changed(timeout_s)
            if self._group.heartbeat(self._instance, self._member):
                records = self._fetch(max_records, paused)
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
        call.add_done_callback(ignore_result)
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
                begun[number] = ResumePoint(position, self._recent(number, position) if position and self._remember else {})
        return begun

    def _fetch(self, max_records: int, paused: Set[int]) -> list[InFlight]:
        fetched: list[InFlight] = []
        for number in sorted(self._positions.keys() - paused):
            entries, self._positions[number] = self._log.read(self.topic, number, self._positions[number], max_records - len(fetched))
            fetched += [
                InFlight(ConsumedRecord(self.topic, number, entry.offset, entry.timestamp_ms, entry.key, entry.value, entry.headers)) for entry in entries
            ]
        return fetched

    def _recent(self, number: int, position: Position) -> dict[int, Fingerprint]:
        dead_letters = self._log.committed_records(dead_letter_topic(self.topic)) if self._log.has(dead_letter_topic(self.topic)) else []
        set_aside = {original_position(dead_letter.headers) for dead_letter in dead_letters}
        remembered = remembered_range(position, self._remember)
        entries = self._log.read(self.topic, number, remembered.start, len(remembered))[0]
        answered = [entry for entry in entries if entry.offset in remembered and (self.topic, number, entry.offset) not in set_aside]
        fingerprints = {entry.offset: read_fingerprint(self._message, entry.headers, entry.value) for entry in answered}
        return {offset: fingerprint for offset, fingerprint in fingerprints.items() if fingerprint}

    def _forget(self, numbers: Set[int]) -> None:
        self._unresolved -= numbers
        for number in list(numbers):
            self._positions.pop(number, None)


def ignore_result(call: asyncio.Future[None]) -> None:
    if not call.cancelled():
        call.exception()
