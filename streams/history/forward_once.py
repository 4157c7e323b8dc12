"""Forwards each misplaced interaction once, although `interactions` is read again whenever the index is empty.

For each partition it keeps an offset: all misplaced records below it were forwarded. It is an entry of the join state's changelog, whose partitions a process
owns together with those of `interactions`. A misplaced record below that offset is indexed where it lies: its copy has the same id and adds nothing.
"""

from __future__ import annotations

import struct
from collections.abc import MutableMapping

from infra.kafka.forwarding import Forwarder
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import JOIN_STATE_CHANGELOG
from streams.app.join_state import FORWARDED_TO

_OFFSET = struct.Struct(">q")


class ForwardOnce:
    """`entries` is the mapping that Faust restores after a restart. `partitions`: those of its changelog."""

    def __init__(self, forwarder: Forwarder, entries: MutableMapping[bytes, bytes], partitions: int) -> None:
        self._forwarder = forwarder
        self._entries = entries
        self._partitions = partitions
        self._changed: dict[bytes, int] = {}

    def is_due(self, record: ConsumedRecord, key: bytes) -> bool:
        """Whether `forward` returns a record for this one, or raises."""
        return self._forwarder.is_misplaced(record, key) and record.offset >= self._forwarded_to(_entry(record))

    def forward(self, record: ConsumedRecord, key: bytes) -> ProducedRecord | None:
        """The record to write instead of handling this one. None for a record to handle here. Raises PoisonMessage if it cannot be written again."""
        if not self.is_due(record, key):
            return None
        forwarded, entry = self._forwarder.forward(record, key), _entry(record)
        self._entries[entry] = _OFFSET.pack(record.offset + 1)
        self._changed[entry] = record.partition % self._partitions
        return forwarded

    def take_changes(self) -> list[ProducedRecord]:
        """Changelog records of every change since the last call. They follow the forwarded records: a crash between both repeats those."""
        changed, self._changed = self._changed, {}
        return [ProducedRecord(JOIN_STATE_CHANGELOG, entry, self._entries[entry], partition=partition) for entry, partition in changed.items()]

    def _forwarded_to(self, entry: bytes) -> int:
        """0 for an entry that another program wrote."""
        content = self._entries.get(entry, b"")
        return int(_OFFSET.unpack(content)[0]) if len(content) == _OFFSET.size else 0


def _entry(record: ConsumedRecord) -> bytes:
    return FORWARDED_TO + record.partition.to_bytes(4, "big")
