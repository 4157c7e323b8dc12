"""Topics and groups in memory, and the faults that a test injects. One event loop, whose time is the broker's.

`Faults.at` is called at every step between poll and commit. It may wait, raise NotConfirmed for a lost request or answer, or never return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from workers.runtime.memory.group import MemoryGroup
from workers.runtime.memory.log import Log


class Faults(Protocol):
    async def at(self, step: str) -> None:
        """`step`: poll, committed, init, begin, produce, offsets, end, leave (each before the broker acts on it), and ended (before its answer)."""


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
