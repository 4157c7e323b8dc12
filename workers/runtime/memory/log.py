"""Partitions and transactions in memory.

As in Kafka: records of a transaction take their offsets when they are produced, and its end takes one more for a marker. A reader of committed
records stops at the first record of an open transaction (the last stable offset) and never gets aborted ones. A new producer with a
transactional id fences every earlier one and aborts its open transaction. Left out: replication, retention, sizes, and the wire protocol.

`MemoryCluster` has topics, groups and the faults that a test injects, on one event loop, whose time is the broker's. `Faults.at` is called at every step
between poll and commit. It may wait, raise NotConfirmed for a lost request or answer, or never return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from infra.kafka.forwarding import partition_of
from workers.runtime.broker import CommitRefused, NotConfirmed
from workers.runtime.memory.group import MemoryGroup
from workers.runtime.offsets import METADATA_BYTES, Position

Headers = Sequence[tuple[str, bytes]]


class RecordState(Enum):
    PLAIN = auto()  # written outside any transaction
    OPEN = auto()
    COMMITTED = auto()
    ABORTED = auto()
    MARKER = auto()


@dataclass
class StoredRecord:
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    state: RecordState


@dataclass
class Transaction:
    """One transactional id: its producer's epoch, and its open transaction."""

    epoch: int = 0
    since: float = 0.0
    records: list[tuple[str, int, StoredRecord]] = field(default_factory=list)
    offsets: list[tuple[str, Mapping[int, Position]]] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return bool(self.records or self.offsets)


class MemoryLog:
    """All topics, all transactions, and the groups' committed positions. `timeout_s` bounds an open transaction."""

    def __init__(self, topics: Mapping[str, int], *, metadata_bytes: int = METADATA_BYTES, timeout_s: float = 10.0) -> None:
        self._partitions: dict[str, list[list[StoredRecord]]] = {name: [[] for _ in range(count)] for name, count in topics.items()}
        self._transactions: dict[str, Transaction] = {}
        self._committed: dict[str, dict[int, Position]] = {}
        self._metadata_bytes = metadata_bytes
        self._timeout_s = timeout_s
        self._waiting: dict[asyncio.Future[None], None] = {}  # in order: the simulation must be deterministic

    def has(self, topic: str) -> bool:
        return topic in self._partitions

    def partitions(self, topic: str) -> range:
        return range(len(self._partitions[topic]))

    def append(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers = (), partition: int | None = None) -> StoredRecord:
        """Append outside any transaction. Raises KeyError for an unknown topic."""
        return self._append(topic, self._partition_of(topic, key) if partition is None else partition, key, value, headers, RecordState.PLAIN)

    def end(self, topic: str, partition: int) -> int:
        """The last stable offset."""
        self._expire()
        entries = self._partitions[topic][partition]
        return next((entry.offset for entry in entries if entry.state is RecordState.OPEN), len(entries))

    def read(self, topic: str, partition: int, start: int, max_records: int) -> tuple[list[StoredRecord], int]:
        """Committed records from `start`, and the offset after the last one that was read or skipped."""
        entries = self._partitions[topic][partition]
        records: list[StoredRecord] = []
        offset, end = start, self.end(topic, partition)
        while offset < end and len(records) < max_records:
            if entries[offset].state in (RecordState.PLAIN, RecordState.COMMITTED):
                records.append(entries[offset])
            offset += 1
        return records, offset

    def committed_records(self, topic: str) -> list[StoredRecord]:
        return [entry for partition in self.partitions(topic) for entry in self.read(topic, partition, 0, 1 << 30)[0]]

    async def changed(self, timeout_s: float) -> None:
        """Wait until a record is appended or a transaction ends, at most `timeout_s`."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = None
        await asyncio.wait([waiting], timeout=timeout_s)
        self._waiting.pop(waiting, None)

    # Committed positions

    def committed(self, group: str, partition: int) -> Position | None:
        return self._committed.get(group, {}).get(partition)

    def is_stable(self, group: str, partition: int) -> bool:
        """Whether no open transaction contains a position of this partition."""
        self._expire()
        pending = (offsets for t in self._transactions.values() for name, offsets in t.offsets if name == group)
        return not any(partition in offsets for offsets in pending)

    def commit(self, group: str, positions: Mapping[int, Position]) -> None:
        """Commit outside any transaction. Raises CommitRefused for metadata that is too large."""
        if any(len(position.metadata.encode()) > self._metadata_bytes for position in positions.values()):
            raise CommitRefused("OffsetMetadataTooLarge")
        self._committed.setdefault(group, {}).update(positions)

    # Transactions: each call may raise NotConfirmed for a fenced producer

    def begin_producer(self, transactional_id: str) -> int:
        """Returns the epoch of a new producer."""
        transaction = self._transactions.setdefault(transactional_id, Transaction())
        self._end(transaction, RecordState.ABORTED)
        transaction.epoch += 1
        return transaction.epoch

    def produce(self, transactional_id: str, epoch: int, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        transaction = self._current(transactional_id, epoch)
        if topic not in self._partitions:
            raise NotConfirmed(f"UnknownTopicOrPartition {topic}")
        partition = self._partition_of(topic, key)
        transaction.records.append((topic, partition, self._append(topic, partition, key, value, headers, RecordState.OPEN)))

    def add_offsets(self, transactional_id: str, epoch: int, group: str, positions: Mapping[int, Position]) -> None:
        if any(len(position.metadata.encode()) > self._metadata_bytes for position in positions.values()):
            raise CommitRefused("OffsetMetadataTooLarge")
        self._current(transactional_id, epoch).offsets.append((group, dict(positions)))

    def end_transaction(self, transactional_id: str, epoch: int) -> None:
        """Commit the transaction."""
        transaction = self._current(transactional_id, epoch)
        for group, positions in transaction.offsets:
            self._committed.setdefault(group, {}).update(positions)
        self._end(transaction, RecordState.COMMITTED)

    def _current(self, transactional_id: str, epoch: int) -> Transaction:
        self._expire()
        transaction = self._transactions[transactional_id]
        if transaction.epoch != epoch:
            raise NotConfirmed("ProducerFenced")
        if not transaction.is_open:
            transaction.since = asyncio.get_running_loop().time()
        return transaction

    def _expire(self) -> None:
        """Abort transactions that are open for too long, and fence their producers."""
        for transaction in self._transactions.values():
            if transaction.is_open and asyncio.get_running_loop().time() - transaction.since > self._timeout_s:
                self._end(transaction, RecordState.ABORTED)
                transaction.epoch += 1

    def _end(self, transaction: Transaction, state: RecordState) -> None:
        touched = {(topic, partition) for topic, partition, _ in transaction.records}
        for _, _, record in transaction.records:
            record.state = state
        transaction.records.clear()
        transaction.offsets.clear()
        for topic, partition in sorted(touched):
            self._append(topic, partition, None, None, (), RecordState.MARKER)
        self._wake()

    def _append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers, state: RecordState) -> StoredRecord:
        entries = self._partitions[topic][partition]
        entry = StoredRecord(len(entries), key, value, tuple(headers), int(asyncio.get_running_loop().time() * 1000), state)
        entries.append(entry)
        if state is RecordState.PLAIN:
            self._wake()
        return entry

    def _partition_of(self, topic: str, key: bytes | None) -> int:
        return partition_of(key or b"", len(self._partitions[topic]))

    def _wake(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)


class Faults(Protocol):
    async def at(self, step: str) -> None:
        """`step`: poll, committed, init, begin, produce, offsets, end, leave (each before the broker acts on it), and ended (before its answer)."""


class NoFaults:
    async def at(self, step: str) -> None:
        await asyncio.sleep(0)


class MemoryCluster:
    """Topics and groups, shared by the clients of all processes. `transactions` False: it supports none."""

    def __init__(self, topics: Mapping[str, int], *, session_timeout_s: float = 10.0, transactions: bool = True, metadata_bytes: int = 4096) -> None:
        self.log = MemoryLog(topics, metadata_bytes=metadata_bytes)
        self.transactions = transactions
        self._session_timeout_s = session_timeout_s
        self._groups: dict[str, MemoryGroup] = {}

    def group(self, name: str, topic: str) -> MemoryGroup:
        if name not in self._groups:
            self._groups[name] = MemoryGroup(set(self.log.partitions(topic)), self._session_timeout_s)
        return self._groups[name]
