"""The runtime's interface to a broker: membership in a consumer group, and commits of results together with positions.

It has two implementations: Kafka (`workers.runtime.kafka`), and a broker in memory for tests and the simulation (`workers.runtime.memory`), with partitions,
offsets, transactions and groups. tests/contract/test_broker.py tests both. All coroutines run on the worker's event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

from infra.errors import CannotContinue
from schemas.messages import Fingerprint
from schemas.records import ProducedRecord
from schemas.topics import Topic
from workers.runtime.in_flight import InFlight
from workers.runtime.offsets import Position

#: How long a rebalance waits for a member's last commit for its revoked partitions.
REVOKE_WITHIN_S = 3.0


class NotConfirmed(Exception):  # expected during faults, and handled
    """The broker refused a request or did not confirm it in time. After a commit: read the committed positions before the next one."""


class CommitRefused(CannotContinue):
    """The broker refuses a commit with a permanent error, such as a record that is too large or a missing right. Nothing of the commit was written."""


@dataclass(frozen=True)
class ResumePoint:
    """Start position in a newly assigned partition.

    `committed` is the group's committed position, None before the first commit. `recent` are the fingerprints of the records around it
    (`offsets.remembered_range`), by offset, without records that were set aside: a new record with the fingerprint of a finished one is a repeat.
    """

    committed: Position | None
    recent: Mapping[int, Fingerprint] = field(default_factory=dict)


@dataclass(frozen=True)
class PollResult:
    """`read_to` is the next offset of each partition: every record below it was returned by this poll or an earlier one."""

    assigned: Mapping[int, ResumePoint] = field(default_factory=dict)
    records: Sequence[InFlight] = ()
    read_to: Mapping[int, int] = field(default_factory=dict)


class RebalanceListener(Protocol):
    """Called when partitions are taken away, during `poll` or `leave`."""

    async def revoked(self, partitions: Set[int]) -> None:
        """The partitions still belong to this member: it may commit for them now. The group waits at most `REVOKE_WITHIN_S`."""

    def lost(self, partitions: Set[int]) -> None:
        """The partitions belong to another member already: no commit for them is possible."""


class Membership(Protocol):
    """A member of a group that reads the committed records of one topic.

    The member has a fixed name (static membership): a process that restarts within the session timeout keeps its partitions. Rebalances are
    cooperative: they take away only partitions that move.
    """

    @property
    def topic(self) -> str: ...

    @property
    def partition_count(self) -> int:
        """The present number of the topic's partitions. 0 before `join`."""

    @property
    def joined(self) -> bool:
        """Whether this process is a member of a stable group."""

    @property
    def awaited(self) -> Set[int]:
        """Assigned partitions whose resume point is not read yet."""

    @property
    def generation(self) -> Any:
        """The group generation for commits: a broker refuses an outdated one (KIP-447). Opaque."""

    async def join(self, listener: RebalanceListener, timeout_s: float) -> None:
        """Subscribe. Raises CannotContinue if the topic does not exist within the timeout."""

    async def poll(self, max_records: int, timeout_s: float, paused: Set[int]) -> PollResult:
        """Returns at most `max_records` records, none from `paused` partitions. With 0 it only serves the group. Returns when a record arrives.

        May block longer while the group forms. Raises CannotContinue if another process uses this member's name.
        """

    async def committed(self, partitions: Set[int], timeout_s: float) -> Mapping[int, Position | None]:
        """The group's committed positions, after open transactions have ended. Raises NotConfirmed without an answer in time."""

    async def commit(self, positions: Mapping[int, Position], timeout_s: float) -> None:
        """Commit positions alone, outside a transaction. Raises NotConfirmed and CommitRefused."""

    async def ends(self) -> Mapping[int, int]:
        """The end of each partition for a reader of committed records. Raises NotConfirmed without an answer in time."""

    async def leave(self, *, for_good: bool) -> None:
        """End the membership. Unless `for_good`, the partitions stay with this member's name until the session timeout. Never raises."""


class Committer(Protocol):
    """Commits results. `start` fences every earlier producer with the same transactional id and aborts its open transaction."""

    async def start(self, timeout_s: float) -> None:
        """Raises CannotContinue if the broker lacks transactions, NotConfirmed without an answer in time."""

    async def commit(self, outputs: Sequence[ProducedRecord], positions: Mapping[int, Position], membership: Membership, timeout_s: float) -> None:
        """Commit results and positions together. After NotConfirmed the producer is dropped; `start` makes a new one. Raises CommitRefused too.

        An outdated membership raises NotConfirmed too. Only `poll` shows whether another process took the member's name: a process that
        rejoins after a long stop is a new member with the same instance name, and the broker fences the commits of its old membership.
        """

    async def close(self) -> None:
        """Never raises."""


class BrokerClient(Protocol):
    """Makes the membership and the committer of a worker. `name` is the kind of worker: group and transactional id are derived from it."""

    def membership(self, name: str, topic: Topic, remember: int) -> Membership:
        """`remember`: number of recent fingerprints to read back for each partition."""

    def exactly_once(self, name: str) -> Committer: ...

    def at_least_once(self, name: str) -> Committer:
        """A committer without transactions: a crash between results and positions repeats results."""
