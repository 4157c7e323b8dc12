"""Consumer groups in memory: generations, static members, and assignments that move only what must move.

As in Kafka: a member that rejoins with its instance name within the session timeout keeps its partitions and fences its former process. A
member that is silent for longer loses them. Every change of the membership begins a generation, which a member enters in its next poll.
Its commits are valid only for the generation that it entered last. A partition that moves is free only after its owner has given it up.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Set
from dataclasses import dataclass

from infra.errors import CannotContinue
from workers.runtime.broker import NotConfirmed

NAME_TAKEN = "this process lost its membership: another process uses its name (give each process its own kafka.instance)"


@dataclass(frozen=True)
class MemberGeneration:
    """The membership that a commit relies on."""

    member: int
    instance: str
    number: int


@dataclass
class _Member:
    id: int
    heartbeat_at: float
    generation: int = -1  # the last one that it entered


class MemoryGroup:
    """One group over the partitions of one topic."""

    def __init__(self, partitions: Set[int], session_timeout_s: float) -> None:
        self._session_timeout_s = session_timeout_s
        self._members: dict[str, _Member] = {}  # by instance
        self._owner: dict[int, str | None] = dict.fromkeys(sorted(partitions))
        self._target: dict[int, str] = {}
        self._ids = itertools.count(1)
        self.generation = 0

    def join(self, instance: str) -> int:
        """A process joins with this name. Returns its member id."""
        self._expire()
        former = self._members.get(instance)
        self._members[instance] = _Member(next(self._ids), self._now())
        if former is None:
            self._rebalance()
        else:
            self._members[instance].generation = former.generation
        return self._members[instance].id

    def leave(self, instance: str, member: int) -> None:
        if (current := self._members.get(instance)) and current.id == member:
            self._remove(instance)

    def heartbeat(self, instance: str, member: int) -> bool:
        """Returns False for a member that was silent for too long: it has lost its partitions and must join again.

        Raises CannotContinue if another process uses its name.
        """
        self._expire()
        current = self._members.get(instance)
        if current is None:
            return False
        if current.id != member:
            raise CannotContinue(NAME_TAKEN)
        current.heartbeat_at = self._now()
        return True

    def owned(self, instance: str) -> set[int]:
        return {number for number, owner in self._owner.items() if owner == instance}

    def to_revoke(self, instance: str) -> set[int]:
        return {number for number in self.owned(instance) if self._target.get(number) != instance}

    def enter(self, instance: str) -> None:
        """The member enters the current generation. It keeps partitions that must move until `give_up`."""
        self._members[instance].generation = self.generation

    def give_up(self, instance: str, revoked: Set[int]) -> None:
        """Begins the second round of a cooperative rebalance."""
        for number in revoked:
            self._owner[number] = None
        self.generation += 1
        self.enter(instance)

    def has_entered(self, instance: str) -> bool:
        return self._members[instance].generation == self.generation

    def take(self, instance: str) -> set[int]:
        """Assigns the free partitions that are meant for this member, and returns them."""
        free = {number for number, owner in self._owner.items() if owner is None and self._target.get(number) == instance}
        for number in free:
            self._owner[number] = instance
        return free

    def check(self, generation: MemberGeneration | None) -> None:
        """Raises NotConfirmed unless this generation is valid for a commit."""
        self._expire()
        member = self._members.get(generation.instance) if generation else None
        if generation is None or member is None:
            raise NotConfirmed("UnknownMemberId")
        if member.id != generation.member:
            raise NotConfirmed("FencedInstanceId")
        if generation.number != member.generation:
            raise NotConfirmed("IllegalGeneration")

    def _expire(self) -> None:
        now = self._now()
        for instance, member in list(self._members.items()):
            if now - member.heartbeat_at > self._session_timeout_s:
                self._remove(instance)

    def _remove(self, instance: str) -> None:
        del self._members[instance]
        for number in self.owned(instance):
            self._owner[number] = None
        self._rebalance()

    def _rebalance(self) -> None:
        """An even share for each member, with as few moves as possible."""
        self.generation += 1
        instances = sorted(self._members)
        self._target = {}
        if not instances:
            return
        least, more = divmod(len(self._owner), len(instances))
        by_owned = sorted(instances, key=lambda instance: -len(self.owned(instance)))
        free = {instance: least + (index < more) for index, instance in enumerate(by_owned)}
        for number, owner in self._owner.items():
            if owner is not None and free.get(owner):
                self._target[number] = owner
                free[owner] -= 1
        for number in self._owner:
            if number not in self._target:
                instance = max(instances, key=lambda each: free[each])
                self._target[number] = instance
                free[instance] -= 1

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
