"""The state of the outcome join: a response that waits for feedback, and feedback that waits for its response.

Entries are bytes, so the state is a plain mapping and the changelog topic holds the same bytes: the arrival time, the partition whose changelog
keeps the entry, and the records. A response stays after its first join, because a user may give feedback again.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import JOIN_STATE_CHANGELOG

_ENTRY = struct.Struct(">qi")  # arrived, milliseconds since 1970; partition


@dataclass(frozen=True)
class PendingRecords:
    """The records of one side of a join. They have waited since `since_ms` (wall clock) in `partition`."""

    since_ms: int
    partition: int
    records: tuple[ConsumedRecord, ...]

    def to_bytes(self) -> bytes:
        return _ENTRY.pack(self.since_ms, self.partition) + b"".join(map(_frame, self.records))

    @classmethod
    def from_bytes(cls, entry: bytes) -> PendingRecords:
        since_ms, partition = _ENTRY.unpack_from(entry)
        return cls(since_ms, partition, tuple(_frames(entry, _ENTRY.size)))


class JoinState:
    """Pending records by query id, over a mapping that Faust restores after a restart. `take_changes` returns the changes for the changelog."""

    def __init__(self, entries: MutableMapping[bytes, bytes]) -> None:
        self._entries = entries
        self._changes: list[ProducedRecord] = []

    def response(self, query_id: UUID) -> PendingRecords | None:
        return self._find(_response_key(query_id))

    def feedback(self, query_id: UUID) -> PendingRecords | None:
        return self._find(_feedback_key(query_id))

    def put_response(self, query_id: UUID, pending: PendingRecords) -> None:
        self._put(_response_key(query_id), pending)

    def put_feedback(self, query_id: UUID, pending: PendingRecords) -> None:
        self._put(_feedback_key(query_id), pending)

    def drop_feedback(self, query_id: UUID, pending: PendingRecords) -> None:
        self._drop(_feedback_key(query_id), pending.partition)

    def expire(self, before_ms: int, assigned: set[int]) -> Iterator[PendingRecords]:
        """Drop records older than `before_ms`. Yields the dropped feedback of `assigned`, the partitions of this process.

        Entries of other partitions are dropped silently: the process that owns them reports them.
        """
        old = [key for key, entry in self._entries.items() if _ENTRY.unpack_from(entry)[0] < before_ms]
        for key in old:
            pending = PendingRecords.from_bytes(self._entries[key])
            if pending.partition not in assigned:
                del self._entries[key]
                continue
            self._drop(key, pending.partition)
            if key.startswith(_FEEDBACK):
                yield pending

    def take_changes(self) -> list[ProducedRecord]:
        """Changelog records of every change since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def __len__(self) -> int:
        return len(self._entries)

    def _find(self, key: bytes) -> PendingRecords | None:
        entry = self._entries.get(key)
        return PendingRecords.from_bytes(entry) if entry else None

    def _put(self, key: bytes, pending: PendingRecords) -> None:
        entry = self._entries[key] = pending.to_bytes()
        self._changes.append(ProducedRecord(JOIN_STATE_CHANGELOG, key, entry, partition=pending.partition))

    def _drop(self, key: bytes, partition: int) -> None:
        self._entries.pop(key, None)
        self._changes.append(ProducedRecord(JOIN_STATE_CHANGELOG, key, None, partition=partition))


_RESPONSE, _FEEDBACK = b"r", b"f"


def _response_key(query_id: UUID) -> bytes:
    return _RESPONSE + query_id.bytes


def _feedback_key(query_id: UUID) -> bytes:
    return _FEEDBACK + query_id.bytes


def _frame(record: ConsumedRecord) -> bytes:
    """A line of JSON, then the bytes of key and value."""
    key, value = record.key, record.value
    description: dict[str, object] = {
        "at": [record.topic, record.partition, record.offset, record.timestamp_ms],
        "headers": [(name, base64.b64encode(content or b"").decode()) for name, content in record.headers],
        "key": None if key is None else len(key),
        "value": None if value is None else len(value),
    }
    return json.dumps(description).encode() + b"\n" + (key or b"") + (value or b"")


def _frames(entry: bytes, start: int) -> Iterator[ConsumedRecord]:
    while start < len(entry):
        newline = entry.index(b"\n", start)
        description = json.loads(entry[start:newline])
        key_end = newline + 1 + (description["key"] or 0)
        start = key_end + (description["value"] or 0)
        topic, partition, offset, timestamp_ms = description["at"]
        key = None if description["key"] is None else entry[newline + 1 : key_end]
        value = None if description["value"] is None else entry[key_end:start]
        headers: Sequence[tuple[str, bytes]] = [(name, base64.b64decode(content)) for name, content in description["headers"]]
        yield ConsumedRecord(topic, partition, offset, timestamp_ms, key, value, tuple(headers))
