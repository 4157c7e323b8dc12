"""State of the assigned partitions: offset trackers, records in flight, and recent fingerprints. Pure, no I/O.

A record's outputs and its offset go into the same batch. A batch counts only for partitions that are still assigned under the same
assignment. A record whose identity was read before in its partition (`schemas.messages.Fingerprint`) is a repeat if its content is the same too: it
finishes without output. With other content it is a conflict, and becomes a dead letter. A record that cannot be parsed is neither.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from infra.kafka.group_gauges import Unhandled
from schemas.messages import Fingerprint, IdConflict, MessageIdentity
from schemas.records import ProducedRecord
from workers.runtime.broker import ResumePoint
from workers.runtime.commit_metadata import UnreadableMetadata
from workers.runtime.in_flight import Finished, HandlingOutcome, InFlight
from workers.runtime.offsets import METADATA_BYTES, OffsetTracker, Position

log = logging.getLogger(__name__)

#: One byte of metadata holds the bitmap of this many offsets. Reading stops there, so a partition's map always fits.
SPAN_PER_BYTE = 5
#: Limit of a batch's outputs in bytes. The first record of a batch may exceed it.
BATCH_BYTES = 8 << 20


class RecentRecord(NamedTuple):
    """The first record of an identity."""

    offset: int
    digest: bytes


@dataclass
class PartitionState:
    """One partition during one assignment."""

    number: int
    tracker: OffsetTracker
    recent: dict[MessageIdentity, RecentRecord]  # the last records that were read or read back, oldest first
    held: dict[int, InFlight] = field(default_factory=dict)  # by offset: read, and not committed
    read_back: Mapping[int, Fingerprint] = field(default_factory=dict)  # by offset, after the assignment
    last_read_ms: int | None = None  # timestamp of the last record that was read
    read_back_to: int = 0  # a finished record below this offset that was not read back was set aside


@dataclass(frozen=True)
class CommitBatch:
    """Records, outputs and positions of one commit."""

    records: Sequence[InFlight]
    outputs: Sequence[ProducedRecord]
    positions: Mapping[int, Position]
    partitions: Mapping[int, PartitionState]  # the assignments that it belongs to
    finishing: Mapping[int, Sequence[int]]  # the records' offsets, by partition

    @property
    def is_empty(self) -> bool:
        return not self.positions


class AssignedPartitions:
    """`remember`: number of identities to keep for each partition, 0 for none."""

    def __init__(self, *, remember: int, metadata_bytes: int = METADATA_BYTES) -> None:
        self._remember = remember
        self._metadata_bytes = metadata_bytes
        self._partitions: dict[int, PartitionState] = {}
        self._finished: dict[InFlight, None] = {}  # in the order of finishing
        self.held = 0
        self.held_bytes = 0
        self.outcomes: Counter[HandlingOutcome] = Counter()
        self.unreadable = 0
        self.skipped = 0  # read again, although the commit's metadata marks them as finished

    @property
    def numbers(self) -> Set[int]:
        return self._partitions.keys()

    @property
    def finished(self) -> int:
        """Number of finished records that wait for a commit."""
        return len(self._finished)

    @property
    def is_behind(self) -> bool:
        """Whether a watermark moved since the last commit."""
        return any(p.tracker.is_behind for p in self._partitions.values())

    @property
    def far_ahead(self) -> Set[int]:
        """Partitions read so far above their watermark that reading must pause."""
        return {number for number, p in self._partitions.items() if p.tracker.span >= self._metadata_bytes * SPAN_PER_BYTE}

    def unhandled(self, number: int, unread: int) -> Unhandled:
        """The figures of an assigned partition, of which `unread` offsets were not read."""
        partition = self._partitions[number]
        first = next(iter(partition.held.values()), None)
        return Unhandled(unread, len(partition.held), first.consumed.timestamp_ms if first else None, partition.last_read_ms)

    def assign(self, number: int, resume: ResumePoint) -> None:
        """Add an assigned partition. Metadata of another program is treated as empty."""
        begin = resume.committed.offset if resume.committed else 0
        tracker = self._tracker(number, resume.committed)
        partition = self._partitions[number] = PartitionState(number, tracker, {}, read_back=resume.recent, read_back_to=begin + self._remember)
        for offset in sorted(resume.recent):
            if offset < begin:
                self._earlier(partition, offset, resume.recent[offset])

    def assignments(self, numbers: Iterable[int]) -> list[PartitionState]:
        """The current assignments of these partitions. A later assignment of the same number is another object."""
        return [self._partitions[number] for number in numbers if number in self._partitions]

    def drop(self, assignments: Iterable[PartitionState]) -> Set[InFlight]:
        """Remove those of these assignments that are current. Returns their records in flight."""
        dropped: set[InFlight] = set()
        for partition in assignments:
            if self._partitions.get(partition.number) is partition:
                del self._partitions[partition.number]
                dropped.update(partition.held.values())
                self.held_bytes -= sum(record.consumed.size_bytes for record in partition.held.values())
        self.held -= len(dropped)
        self._finished = {record: None for record in self._finished if record not in dropped}
        return dropped

    def admit(self, record: InFlight) -> bool:
        """Add a record that was read and parsed. Returns False if there is nothing to do: its partition is not assigned, it is finished, or a repeat.

        Refuses a record with the identity of an earlier one and other content.
        """
        consumed = record.consumed
        partition = self._partitions.get(consumed.partition)
        if partition is None:
            return False
        partition.last_read_ms = consumed.timestamp_ms
        if not partition.tracker.admit(consumed.offset):
            self.skipped += 1
            if consumed.offset in partition.read_back or consumed.offset >= partition.read_back_to:
                self._earlier(partition, consumed.offset, record.fingerprint)
            return False
        earlier = self._earlier(partition, consumed.offset, record.fingerprint)
        partition.held[consumed.offset] = record
        self.held += 1
        self.held_bytes += consumed.size_bytes
        if earlier is None or record.fingerprint is None:
            return True
        if earlier.digest != record.fingerprint.digest:
            record.unusable = IdConflict(replace(consumed, offset=earlier.offset).source)
            return True
        record.finished = Finished((), HandlingOutcome.REPEAT)
        record.parsed = None
        self._finished[record] = None
        return False

    def read_to(self, positions: Mapping[int, int]) -> None:
        """Every record below these offsets was read."""
        for number, offset in positions.items():
            if partition := self._partitions.get(number):
                partition.tracker.read_to(offset)

    def finish(self, record: InFlight) -> bool:
        """Queue a finished record for a commit. Returns False if its assignment is over."""
        partition = self._partitions.get(record.consumed.partition)
        if partition is None or partition.held.get(record.consumed.offset) is not record:
            return False
        self._finished[record] = None
        return True

    def batch(self, max_records: int) -> CommitBatch:
        """Selects the next commit: at most `max_records` records, and only those whose offset map fits into the metadata."""
        selected = self._select(max_records)
        offsets: dict[int, list[int]] = {}
        for record in selected:
            offsets.setdefault(record.consumed.partition, []).append(record.consumed.offset)
        finishing = {number: self._partitions[number].tracker.fitting(of_partition) for number, of_partition in offsets.items()}
        fits = {(number, offset) for number, fitting in finishing.items() for offset in fitting}
        records = [record for record in selected if (record.consumed.partition, record.consumed.offset) in fits]
        positions = {number: p.tracker.position(finishing.get(number, ())) for number, p in self._partitions.items()}
        changed = {number: position for number, position in positions.items() if self._partitions[number].tracker.needs_commit(position)}
        outputs = [output for record in records if record.finished for output in record.finished.outputs]
        return CommitBatch(records, outputs, changed, {number: self._partitions[number] for number in changed}, finishing)

    def committed(self, batch: CommitBatch) -> Sequence[InFlight]:
        """The broker confirmed the batch. Returns its records whose assignment is current."""
        released: list[InFlight] = []
        for number, position in batch.positions.items():
            partition = batch.partitions[number]
            if self._partitions.get(number) is partition:
                offsets = batch.finishing.get(number, ())
                partition.tracker.committed(position, offsets)
                released += [self._release(partition, offset) for offset in offsets]
        return released

    def reconcile(self, committed: Mapping[int, Position | None]) -> Sequence[InFlight]:
        """Take over the broker's positions after an unconfirmed commit. Returns the committed records; the outputs of the others are sent again."""
        released: list[InFlight] = []
        for number, position in committed.items():
            if partition := self._partitions.get(number):
                try:
                    offsets = partition.tracker.reconcile(position)
                except UnreadableMetadata as error:
                    self._warn(number, error)
                    continue
                released += [self._release(partition, offset) for offset in offsets if offset in partition.held]
        return released

    def _select(self, max_records: int) -> list[InFlight]:
        """The first finished records, within `max_records` and `BATCH_BYTES`. Skips records so far above their watermark that no map of them fits."""
        selected: list[InFlight] = []
        size = 0
        limits = {number: p.tracker.watermark() + self._metadata_bytes * SPAN_PER_BYTE for number, p in self._partitions.items()}
        for record in self._finished:
            if record.consumed.offset >= limits[record.consumed.partition]:
                continue
            size += sum(output.size_bytes for output in record.finished.outputs) if record.finished else 0
            if selected and (len(selected) >= max_records or size > BATCH_BYTES):
                break
            selected.append(record)
        return selected

    def _release(self, partition: PartitionState, offset: int) -> InFlight:
        record = partition.held.pop(offset)
        self._finished.pop(record, None)
        self.held -= 1
        self.held_bytes -= record.consumed.size_bytes
        outcome = record.finished.outcome if record.finished else HandlingOutcome.PRODUCED
        self.outcomes[outcome] += 1
        for output in record.finished.outputs if record.finished else ():
            if output.on_sent:
                output.on_sent()
        if outcome is HandlingOutcome.SET_ASIDE and record.fingerprint:  # if it is redriven, it must be handled
            partition.recent.pop(record.fingerprint.identity, None)
        return record

    def _earlier(self, partition: PartitionState, offset: int, fingerprint: Fingerprint | None) -> RecentRecord | None:
        """The first record of this identity, or None if this one is the first. The identity becomes the newest of those that are kept."""
        if fingerprint is None or not self._remember:
            return None
        earlier = partition.recent.pop(fingerprint.identity, None)
        partition.recent[fingerprint.identity] = earlier or RecentRecord(offset, fingerprint.digest)
        if len(partition.recent) > self._remember:
            del partition.recent[next(iter(partition.recent))]
        return earlier

    def _tracker(self, number: int, committed: Position | None) -> OffsetTracker:
        try:
            return OffsetTracker(committed, self._metadata_bytes)
        except UnreadableMetadata as error:
            assert committed
            self._warn(number, error)
            return OffsetTracker(Position(committed.offset), self._metadata_bytes)

    def _warn(self, number: int, error: UnreadableMetadata) -> None:
        self.unreadable += 1
        log.warning("commit metadata is not ours and is treated as empty", extra={"partition": number, "reason": str(error)})
