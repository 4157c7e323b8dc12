"""The worker's books, without a broker: what is committed when partitions come and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from infra.settings import Settings
from schemas.queries import Query
from schemas.topics import QUERIES
from tests.unit.workers.made import make_delivery
from workers.runtime.delivery import Delivery, Finished, Outbound
from workers.runtime.handler import Incoming, Outgoing
from workers.runtime.membership import Membership
from workers.runtime.pool import Pool
from workers.runtime.worker import Worker


class Reading(Membership):
    """Gives what it was given."""

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries = list(deliveries)

    def poll(self, most: int, timeout_s: float) -> list[Delivery]:
        given, self.deliveries = self.deliveries, []
        return given

    def pause(self, paused: bool) -> None:
        pass


class Finishing(Pool):
    """Everything is done at once, with an output named for its partition."""

    def __init__(self) -> None:
        self.done: list[Finished] = []

    def submit(self, delivery: Delivery) -> None:
        self.done.append(Finished(delivery, (Outbound(f"partition {delivery.origin.partition}", b"k", b"v", []),)))

    def collect(self) -> list[Finished]:
        done, self.done = self.done, []
        return done

    def abandon(self, unwanted: object) -> None:
        pass

    def check(self) -> None:
        pass


class Recorded:
    """A committer that remembers; on a revocation it is too slow, so that nothing becomes durable."""

    def __init__(self) -> None:
        self.committed: list[tuple[list[str], dict[int, int]]] = []
        self.lost: list[tuple[list[str], dict[int, int]]] = []

    def commit(self, outputs: Sequence[Outbound], positions: Mapping[int, int]) -> bool:
        self.committed.append(([output.topic for output in outputs], dict(positions)))
        return True

    async def commit_on_revoke(self, outputs: Sequence[Outbound], positions: Mapping[int, int]) -> None:
        self.lost.append(([output.topic for output in outputs], dict(positions)))

    def close(self) -> None:
        pass


async def _unused(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    raise NotImplementedError


def at(partition: int, offset: int) -> Delivery:
    delivery = make_delivery(offset=offset)
    return dataclasses.replace(delivery, origin=dataclasses.replace(delivery.origin, partition=partition))


async def test_a_revocation_that_loses_its_results_leaves_those_of_the_other_partitions_for_the_next_turn() -> None:
    worker: Worker[Query] = Worker(Settings(), name="test", topic=QUERIES, handler=_unused)
    worker._pool, committer = Finishing(), Recorded()
    worker._membership, worker._committer = Reading([at(0, 5), at(1, 7)]), committer
    worker._poll(10)
    await worker._revoked({1}, False)
    assert committer.lost == [(["partition 1"], {1: 8})]
    worker._turn()
    assert committer.committed == [(["partition 0"], {0: 6})]
