"""The broker in memory as a worker's broker, for tests and the simulation."""

from __future__ import annotations

from schemas.topics import consumer_group
from workers.runtime.broker import Committer, Membership
from workers.runtime.memory.cluster import Faults, MemoryCluster, NoFaults
from workers.runtime.memory.membership import MemoryMembership
from workers.runtime.memory.transactions import MemoryAtLeastOnce, MemoryExactlyOnce


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
