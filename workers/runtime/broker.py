"""What the runtime needs of a broker: a place in a consumer group, and a way to make results and positions durable together.

Two stand behind it: Kafka (`workers.runtime.kafka`), and one in memory (`workers.runtime.memory`) with partitions, offsets, transactions and
groups, for tests and the simulation. One contract suite holds both: tests/contract/test_broker.py. Everything is awaited on the worker's loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

from workers.runtime.in_flight import Delivery, ProducerRecord
from workers.runtime.offsets import Position

FENCED = "this one's place in the group is gone: another process has its name (give each its own kafka.instance), or it stood still for too long"
#: How long a group waits for us when partitions go away.
REVOKE_WITHIN_S = 3.0


class NotConfirmed(Exception):  # an outcome, not a failure of ours
    """The broker has refused a commit, or nobody knows what became of it: ask for the committed positions before the next one."""


@dataclass(frozen=True)
class ResumePoint:
    """A partition that is ours from now on.

    `committed` is where the group stands in it, None where it never committed. `recent_ids`: the ids (`ce_id`) of the records around that
    (`offsets.recallable`), by offset, without those that were set aside since; what comes again under the id of one that is finished has been
    answered already.
    """

    committed: Position | None
    recent_ids: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PollResult:
    """What came of one poll. `read_to` is each partition's next offset: everything below it has been delivered, or is no record."""

    assigned: Mapping[int, ResumePoint] = field(default_factory=dict)
    records: Sequence[Delivery] = ()
    read_to: Mapping[int, int] = field(default_factory=dict)


class RebalanceListener(Protocol):
    """Told of partitions that go away, while a poll or `leave` is awaited."""

    async def revoked(self, partitions: Set[int]) -> None:
        """They are still ours: the last moment to commit for them. The group waits for us, at most `REVOKE_WITHIN_S`."""
        ...

    def lost(self, partitions: Set[int]) -> None:
        """They have gone already; nothing can be committed for them."""
        ...


class Membership(Protocol):
    """A place in a group that reads one topic, records of committed transactions only.

    The place has a lasting name: a process that comes back within the session timeout finds its partitions unmoved. Rebalances are
    cooperative: only what moves is taken away.
    """

    @property
    def topic(self) -> str: ...

    @property
    def joined(self) -> bool:
        """Whether the group stands and we are in it."""
        ...

    @property
    def awaited(self) -> Set[int]:
        """Partitions that are ours, and whose position is not known yet."""
        ...

    @property
    def generation(self) -> Any:
        """Which membership a commit rests on: a broker refuses an outdated one (KIP-447). Opaque."""
        ...

    async def join(self, listener: RebalanceListener, timeout_s: float) -> None:
        """Subscribe. Raises CannotContinue when the topic does not exist within the bound."""
        ...

    async def poll(self, most: int, timeout_s: float, paused: Set[int]) -> PollResult:
        """Up to `most` records, none from `paused` partitions; 0 serves the group alone. Returns as soon as there is something.

        May block longer while the group is being formed. Raises CannotContinue when another process has taken our place.
        """
        ...

    async def committed(self, partitions: Set[int], timeout_s: float) -> Mapping[int, Position | None]:
        """What the group has committed, open transactions waited for. Raises NotConfirmed when the broker does not say in time."""
        ...

    async def commit(self, positions: Mapping[int, Position], timeout_s: float) -> None:
        """Commit positions alone, outside a transaction. Raises NotConfirmed."""
        ...

    async def ends(self) -> Mapping[int, int]:
        """Where each partition ends now for a reader of committed records. Raises NotConfirmed when the broker does not say."""
        ...

    async def leave(self, *, for_good: bool) -> None:
        """End the membership. Not `for_good`, the partitions wait for us until the session timeout. Never raises."""
        ...


class Committer(Protocol):
    """Makes results durable. Under one transactional id a new start fences every earlier one and ends the transaction it left open."""

    async def start(self, timeout_s: float) -> None:
        """Raises CannotContinue for a broker without what is needed, NotConfirmed when it does not answer in time."""
        ...

    async def commit(self, outputs: Sequence[ProducerRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float) -> None:
        """Results and positions, together. Raises NotConfirmed: then this producer is done with, and `start` begins a new one.

        A membership that is out of date is refused so too, under whatever name: whether our place is gone, only `poll` can tell. A process that
        joins again after a long stop is a new member under its old instance's name, and what it sent as the old one comes back as fenced.
        """
        ...

    async def close(self) -> None:
        """Never raises."""
        ...


class BrokerClient(Protocol):
    """Where a worker gets both. `name` is its kind: the group and the transactional id follow from it."""

    def membership(self, name: str, topic: str, remember: int) -> Membership:
        """`remember`: how many ids to recall of each partition."""
        ...

    def exactly_once(self, name: str) -> Committer: ...

    def at_least_once(self, name: str) -> Committer:
        """A producer for at least once: a crash between results and positions repeats results."""
        ...
