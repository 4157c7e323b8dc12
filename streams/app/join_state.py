"""Halves of outcomes that wait for each other: a response for its feedback, feedback for its response.

Entries are bytes, so that the state is a plain mapping and its changelog topic the same bytes: the time the half arrived, the partition
whose changelog keeps it, and the records themselves. A response stays after its first join, since a user may come back to an answer.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from streams.app.records import Arrival, Outgoing

CHANGELOG = "retouch-streams-halves-changelog"

_ENTRY = struct.Struct(">qi")  # arrived, milliseconds since 1970; partition


@dataclass(frozen=True)
class Half:
    """Records that wait since `since_ms` (wall clock) in `partition`."""

    since_ms: int
    partition: int
    arrivals: tuple[Arrival, ...]

    def to_bytes(self) -> bytes:
        return _ENTRY.pack(self.since_ms, self.partition) + b"".join(map(_frame, self.arrivals))

    @classmethod
    def from_bytes(cls, entry: bytes) -> Half:
        since_ms, partition = _ENTRY.unpack_from(entry)
        return cls(since_ms, partition, tuple(_frames(entry, _ENTRY.size)))


class Halves:
    """The waiting halves, over a mapping that somebody restores after a restart. Changes collect until `take_changes`, for the changelog."""

    def __init__(self, entries: MutableMapping[bytes, bytes]) -> None:
        self._entries = entries
        self._changes: list[Outgoing] = []

    def response(self, query_id: UUID) -> Half | None:
        return self._find(_response_key(query_id))

    def feedback(self, query_id: UUID) -> Half | None:
        return self._find(_feedback_key(query_id))

    def put_response(self, query_id: UUID, half: Half) -> None:
        self._put(_response_key(query_id), half)

    def put_feedback(self, query_id: UUID, half: Half) -> None:
        self._put(_feedback_key(query_id), half)

    def drop_feedback(self, query_id: UUID, half: Half) -> None:
        self._drop(_feedback_key(query_id), half.partition)

    def expire(self, before_ms: int, mine: set[int]) -> Iterator[Half]:
        """Forget halves older than `before_ms`; yields the feedback among them that lies in `mine`, the partitions assigned here.

        Others' leftovers go silently: their partition's owner speaks for them.
        """
        old = [key for key, entry in self._entries.items() if _ENTRY.unpack_from(entry)[0] < before_ms]
        for key in old:
            half = Half.from_bytes(self._entries[key])
            if half.partition not in mine:
                del self._entries[key]
                continue
            self._drop(key, half.partition)
            if key.startswith(_FEEDBACK):
                yield half

    def take_changes(self) -> list[Outgoing]:
        """Changelog records of every change since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def __len__(self) -> int:
        return len(self._entries)

    def _find(self, key: bytes) -> Half | None:
        entry = self._entries.get(key)
        return Half.from_bytes(entry) if entry else None

    def _put(self, key: bytes, half: Half) -> None:
        entry = self._entries[key] = half.to_bytes()
        self._changes.append(Outgoing(CHANGELOG, key, entry, partition=half.partition))

    def _drop(self, key: bytes, partition: int) -> None:
        self._entries.pop(key, None)
        self._changes.append(Outgoing(CHANGELOG, key, None, partition=partition))


_RESPONSE, _FEEDBACK = b"r", b"f"


def _response_key(query_id: UUID) -> bytes:
    return _RESPONSE + query_id.bytes


def _feedback_key(query_id: UUID) -> bytes:
    return _FEEDBACK + query_id.bytes


def _frame(arrival: Arrival) -> bytes:
    """A line of JSON, then key and value as they are."""
    key, value = arrival.key, arrival.value
    about: dict[str, object] = {
        "at": [arrival.topic, arrival.partition, arrival.offset, arrival.timestamp_ms],
        "headers": [(name, base64.b64encode(content or b"").decode()) for name, content in arrival.headers],
        "key": None if key is None else len(key),
        "value": None if value is None else len(value),
    }
    return json.dumps(about).encode() + b"\n" + (key or b"") + (value or b"")


def _frames(entry: bytes, start: int) -> Iterator[Arrival]:
    while start < len(entry):
        newline = entry.index(b"\n", start)
        about = json.loads(entry[start:newline])
        key_end = newline + 1 + (about["key"] or 0)
        start = key_end + (about["value"] or 0)
        topic, partition, offset, timestamp_ms = about["at"]
        key = None if about["key"] is None else entry[newline + 1 : key_end]
        value = None if about["value"] is None else entry[key_end:start]
        headers: Sequence[tuple[str, bytes]] = [(name, base64.b64decode(content)) for name, content in about["headers"]]
        yield Arrival(topic, partition, offset, timestamp_ms, key, value, tuple(headers))
