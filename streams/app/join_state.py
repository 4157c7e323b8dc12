"""The state of the outcome join: a response that waits for feedback, feedback that waits for its response, and the fingerprints of feedback.

Entries are bytes, so the state is a plain mapping and the changelog topic holds the same bytes: the arrival time, the partition whose changelog
keeps the entry, and the records. A response stays after its first join, because a user may give feedback again. The fingerprint of accepted feedback
stays too, whatever query it belongs to, to recognize conflicts.

Keys hold tenant, user and the id of query or feedback, so two users' queries with one id are two queries. Legacy keys hold the
query id alone. Their entries stay under them until they expire.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import struct
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import NamedTuple

from schemas.feedback import Feedback
from schemas.messages import IdConflict, MessageIdentity
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.responses import Response
from schemas.topics import JOIN_STATE_CHANGELOG

log = logging.getLogger(__name__)

_ENTRY = struct.Struct(">qi")  # arrived, milliseconds since 1970; partition
_LOGGED_KEY_BYTES = 17  # of a key: the kind and the id, without the user


class _Kind(NamedTuple):
    """A kind of entry. A legacy key is `legacy_prefix` and the query id. Kinds without `message` have none."""

    prefix: bytes
    legacy_prefix: bytes = b""
    message: type[Response] | type[Feedback] | None = None


#: Prefix of the entries of `streams.history.forward_once`, which share the mapping and never expire.
FORWARDED_TO = b"O"
_RESPONSE, _FEEDBACK, _FINGERPRINT = _Kind(b"R", b"r", Response), _Kind(b"F", b"f", Feedback), _Kind(b"J")


class UnreadableEntry(ValueError):
    """Bytes that are no entry of the join state: another program wrote to the changelog."""


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
        """Raises UnreadableEntry for anything that `to_bytes` does not write."""
        try:
            since_ms, partition = _ENTRY.unpack_from(entry)
            return cls(since_ms, partition, tuple(_frames(entry, _ENTRY.size)))
        except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UnreadableEntry(type(error).__name__) from None  # its text may hold a user's


class JoinState:
    """Pending records by the query's identity, over a mapping that Faust restores after a restart. `take_changes` returns the changes for the changelog."""

    def __init__(self, entries: MutableMapping[bytes, bytes]) -> None:
        self._entries = entries
        self._changes: list[ProducedRecord] = []

    def response(self, query: MessageIdentity) -> PendingRecords | None:
        return self._find(_RESPONSE, query)

    def feedback(self, query: MessageIdentity) -> PendingRecords | None:
        return self._find(_FEEDBACK, query)

    def put_response(self, query: MessageIdentity, pending: PendingRecords) -> None:
        self._put(self._key(_RESPONSE, query), pending)

    def put_feedback(self, query: MessageIdentity, pending: PendingRecords) -> None:
        self._put(self._key(_FEEDBACK, query), pending)

    def drop_feedback(self, query: MessageIdentity, pending: PendingRecords) -> None:
        self._drop(self._key(_FEEDBACK, query), pending.partition)

    def remember(self, record: ConsumedRecord, feedback: Feedback, since_ms: int) -> None:
        """Remember the fingerprint of feedback. Raises IdConflict if earlier feedback has its identity and other content."""
        digest, earlier = feedback.content_digest(), self._find(_FINGERPRINT, feedback.identity)
        if earlier is None:
            stub = dataclasses.replace(record, key=None, value=digest, headers=())
            self._put(self._key(_FINGERPRINT, feedback.identity), PendingRecords(since_ms, record.partition, (stub,)))
        elif earlier.records[0].value != digest:
            raise IdConflict(earlier.records[0].source)

    def expire(self, before_ms: int, assigned: set[int]) -> Iterator[PendingRecords]:
        """Drop records older than `before_ms`. Yields the dropped feedback of `assigned`, the partitions of this process.

        Entries of other partitions are dropped silently: the process that owns them reports them.
        """
        joins = ((key, entry) for key, entry in self._entries.items() if key[:1] != FORWARDED_TO)
        old = [key for key, entry in joins if len(entry) < _ENTRY.size or _ENTRY.unpack_from(entry)[0] < before_ms]
        for key in old:
            pending = self._read(key)
            if pending is None:
                continue
            if pending.partition not in assigned:
                del self._entries[key]
                continue
            self._drop(key, pending.partition)
            if key[:1] in (_FEEDBACK.prefix, _FEEDBACK.legacy_prefix):
                yield pending

    def take_changes(self) -> list[ProducedRecord]:
        """Changelog records of every change since the last call, in order."""
        changes, self._changes = self._changes, []
        return changes

    def __len__(self) -> int:
        return len(self._entries)

    def _find(self, kind: _Kind, identity: MessageIdentity) -> PendingRecords | None:
        return self._read(self._key(kind, identity))

    def _read(self, key: bytes) -> PendingRecords | None:
        """None also for an unreadable entry, which is dropped: it would end the process after each restart. The changelog keeps it."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        try:
            pending = PendingRecords.from_bytes(entry)
            if pending.records:
                return pending
            reason = "it holds no record"
        except UnreadableEntry as error:
            reason = str(error)
        del self._entries[key]
        log.error("an entry of the join state cannot be read", extra={"topic": JOIN_STATE_CHANGELOG, "key": key[:_LOGGED_KEY_BYTES].hex(), "reason": reason})
        return None

    def _key(self, kind: _Kind, identity: MessageIdentity) -> bytes:
        """The legacy key if there is an entry of this user under it, else the present key."""
        legacy = kind.legacy_prefix + identity.id.bytes
        pending = self._read(legacy) if kind.message else None
        if pending and kind.message and (first := pending.records[0].fingerprint(kind.message)) and first.identity.key == identity.key:
            return legacy
        return kind.prefix + identity.id.bytes + identity.key

    def _put(self, key: bytes, pending: PendingRecords) -> None:
        entry = self._entries[key] = pending.to_bytes()
        self._changes.append(ProducedRecord(JOIN_STATE_CHANGELOG, key, entry, partition=pending.partition))

    def _drop(self, key: bytes, partition: int) -> None:
        self._entries.pop(key, None)
        self._changes.append(ProducedRecord(JOIN_STATE_CHANGELOG, key, None, partition=partition))


def _frame(record: ConsumedRecord) -> bytes:
    """A line of JSON, then the bytes of key and value."""
    key, value = record.key, record.value
    description: dict[str, object] = {
        "at": [record.topic, record.partition, record.offset, record.timestamp_ms],
        "headers": [(name, None if content is None else base64.b64encode(content).decode()) for name, content in record.headers],
        "key": None if key is None else len(key),
        "value": None if value is None else len(value),
    }
    return json.dumps(description).encode() + b"\n" + (key or b"") + (value or b"")


def _frames(entry: bytes, start: int) -> Iterator[ConsumedRecord]:
    while start < len(entry):
        newline = entry.index(b"\n", start)
        description = json.loads(entry[start:newline])
        if any(size is not None and size < 0 for size in (description["key"], description["value"])):
            raise UnreadableEntry("a negative size")  # the loop would read the same record for ever
        key_end = newline + 1 + (description["key"] or 0)
        start = key_end + (description["value"] or 0)
        topic, partition, offset, timestamp_ms = description["at"]
        key = None if description["key"] is None else entry[newline + 1 : key_end]
        value = None if description["value"] is None else entry[key_end:start]
        headers = [(name, None if content is None else base64.b64decode(content)) for name, content in description["headers"]]
        if {type(topic), *(type(name) for name, _ in headers)} != {str} or {type(partition), type(offset), type(timestamp_ms)} != {int}:
            raise UnreadableEntry("a field of another type")
        yield ConsumedRecord(topic, partition, offset, timestamp_ms, key, value, tuple(headers))
