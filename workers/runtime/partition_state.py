"""What a worker holds: partitions with their trackers, flights between reading and durable, and the ids it has seen. Pure bookkeeping.

The rule it keeps: a flight's outputs and its offset leave in the same batch, and a batch counts only for partitions that are still ours
under the same assignment. A record whose id was seen before in its partition is a repeat: it is finished without output.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from workers.runtime.broker import ResumePoint
from workers.runtime.commit_metadata import UnreadableMetadata
from workers.runtime.in_flight import Delivery, Finished, HandlingOutcome, ProducerRecord
from workers.runtime.offsets import METADATA_BYTES, OffsetTracker, Position
from workers.runtime.pool import InFlight

log = logging.getLogger(__name__)

#: A bitmap of so many offsets for each byte of metadata always fits: reading stops there, a partition's map never has to be refused.
SPAN_PER_BYTE = 5
#: Outputs of one batch, in bytes, beyond its first flight.
BATCH_BYTES = 8 << 20


@dataclass
class PartitionState:
    """One partition during one assignment."""

    number: int
    tracker: OffsetTracker
    ids: dict[str, None]  # of the last records read or recent_ids, oldest first
    held: dict[int, InFlight] = field(default_factory=dict)  # by offset: read, and not yet durable
    recent_ids: Mapping[int, str] = field(default_factory=dict)  # by offset
    recalled_to: int = 0  # what is finished below this offset and not recent_ids was set aside


@dataclass(frozen=True)
class CommitBatch:
    """What one commit makes durable."""

    flights: Sequence[InFlight]
    outputs: Sequence[ProducerRecord]
    positions: Mapping[int, Position]
    partitions: Mapping[int, PartitionState]  # the assignments that it rests on
    finishing: Mapping[int, Sequence[int]]  # the flights' offsets, by partition

    @property
    def is_empty(self) -> bool:
        return not self.positions


class AssignedPartitions:
    """`remember`: how many ids of each partition are kept, 0 for none."""

    def __init__(self, *, remember: int, metadata_bytes: int = METADATA_BYTES) -> None:
        self._remember = remember
        self._metadata_bytes = metadata_bytes
        self._partitions: dict[int, PartitionState] = {}
        self._finished: dict[InFlight, None] = {}  # in the order of finishing
        self.held = 0
        self.held_bytes = 0
        self.outcomes: Counter[HandlingOutcome] = Counter()
        self.unreadable = 0
        self.skipped = 0  # read again, and finished already by what the metadata says

    @property
    def partitions(self) -> Set[int]:
        return self._partitions.keys()

    @property
    def finished(self) -> int:
        """Flights that wait to become durable."""
        return len(self._finished)

    @property
    def is_behind(self) -> bool:
        """Whether the broker does not have every position yet."""
        return any(p.tracker.is_behind for p in self._partitions.values())

    @property
    def far_ahead(self) -> Set[int]:
        """Partitions read so far beyond their watermark that no more should be read of them now."""
        return {number for number, p in self._partitions.items() if p.tracker.span >= self._metadata_bytes * SPAN_PER_BYTE}

    @property
    def oldest_ms(self) -> int | None:
        """The timestamp of the oldest record that is held."""
        firsts = (next(iter(p.held.values()), None) for p in self._partitions.values())
        return min((flight.delivery.origin.timestamp_ms for flight in firsts if flight), default=None)

    def held_of(self, number: int) -> int:
        """Records of one partition that were read and are not durable."""
        partition = self._partitions.get(number)
        return len(partition.held) if partition else 0

    def assign(self, number: int, assigned: ResumePoint) -> None:
        """A partition is ours. Positions that somebody else's metadata belongs to are read on from, as if it were empty."""
        begin = assigned.committed.offset if assigned.committed else 0
        ids = dict.fromkeys(assigned.recent_ids[offset] for offset in sorted(assigned.recent_ids) if offset < begin)
        tracker = self._tracker(number, assigned.committed)
        self._partitions[number] = PartitionState(number, tracker, ids, recent_ids=assigned.recent_ids, recalled_to=begin + self._remember)

    def assignments(self, numbers: Iterable[int]) -> list[PartitionState]:
        """These partitions as they are assigned now: a later assignment of the same numbers is another."""
        return [self._partitions[number] for number in numbers if number in self._partitions]

    def drop(self, assignments: Iterable[PartitionState]) -> Set[InFlight]:
        """These assignments are over, where they are not already. Returns the flights that are of no more use."""
        dropped: set[InFlight] = set()
        for partition in assignments:
            if self._partitions.get(partition.number) is partition:
                del self._partitions[partition.number]
                dropped.update(partition.held.values())
                self.held_bytes -= sum(flight.delivery.size_bytes for flight in partition.held.values())
        self.held -= len(dropped)
        self._finished = {flight: None for flight in self._finished if flight not in dropped}
        return dropped

    def admit(self, delivery: Delivery) -> InFlight | None:
        """A record was read. None where there is nothing to do: its partition is not ours, or it is finished, or a repeat."""
        origin = delivery.origin
        partition = self._partitions.get(origin.partition)
        if partition is None:
            return None
        if not partition.tracker.admit(origin.offset):
            self.skipped += 1
            if origin.offset in partition.recent_ids or origin.offset >= partition.recalled_to:
                self._is_repeat(partition, delivery.id)
            return None
        repeat = self._is_repeat(partition, delivery.id)
        flight = InFlight(delivery)
        partition.held[origin.offset] = flight
        self.held += 1
        self.held_bytes += delivery.size_bytes
        if repeat:
            flight.finished = Finished((), HandlingOutcome.REPEAT)
            self._finished[flight] = None
            return None
        return flight

    def read_to(self, positions: Mapping[int, int]) -> None:
        """Everything below these offsets has been delivered, or holds no record."""
        for number, offset in positions.items():
            if partition := self._partitions.get(number):
                partition.tracker.read_to(offset)

    def land(self, flight: InFlight) -> bool:
        """A flight has finished. Returns whether it counts: its partition is still ours."""
        partition = self._partitions.get(flight.delivery.origin.partition)
        if partition is None or partition.held.get(flight.delivery.origin.offset) is not flight:
            return False
        self._finished[flight] = None
        return True

    def batch(self, most: int) -> CommitBatch:
        """What can be made durable now: up to `most` flights, as far as each partition's map of finished offsets fits."""
        chosen = self._chosen(most)
        offsets: dict[int, list[int]] = {}
        for flight in chosen:
            offsets.setdefault(flight.delivery.origin.partition, []).append(flight.delivery.origin.offset)
        finishing = {number: self._partitions[number].tracker.fitting(wanted) for number, wanted in offsets.items()}
        fits = {(number, offset) for number, fitting in finishing.items() for offset in fitting}
        flights = [flight for flight in chosen if (flight.delivery.origin.partition, flight.delivery.origin.offset) in fits]
        positions = {number: p.tracker.position(finishing.get(number, ())) for number, p in self._partitions.items()}
        unsaid = {number: position for number, position in positions.items() if self._partitions[number].tracker.unsaid(position)}
        outputs = [output for flight in flights if flight.finished for output in flight.finished.outputs]
        return CommitBatch(flights, outputs, unsaid, {number: self._partitions[number] for number in unsaid}, finishing)

    def settle(self, batch: CommitBatch) -> Sequence[InFlight]:
        """The batch is durable. Returns the flights that still were ours."""
        settled: list[InFlight] = []
        for number, position in batch.positions.items():
            partition = batch.partitions[number]
            if self._partitions.get(number) is partition:
                offsets = batch.finishing.get(number, ())
                partition.tracker.committed(position, offsets)
                settled += [self._release(partition, offset) for offset in offsets]
        return settled

    def learn(self, committed: Mapping[int, Position | None]) -> Sequence[InFlight]:
        """What the broker has after a commit in doubt. Returns the flights that turn out to be durable; the others' outputs are sent again."""
        settled: list[InFlight] = []
        for number, position in committed.items():
            if partition := self._partitions.get(number):
                try:
                    offsets = partition.tracker.learn(position)
                except UnreadableMetadata as error:
                    self._warn(number, error)
                    continue
                settled += [self._release(partition, offset) for offset in offsets if offset in partition.held]
        return settled

    def _chosen(self, most: int) -> list[InFlight]:
        """The first to have finished, up to `most` of them and to `BATCH_BYTES`. Those too far beyond their watermark to fit hold up no other."""
        chosen: list[InFlight] = []
        size = 0
        within = {number: p.tracker.watermark() + self._metadata_bytes * SPAN_PER_BYTE for number, p in self._partitions.items()}
        for flight in self._finished:
            if flight.delivery.origin.offset >= within[flight.delivery.origin.partition]:
                continue
            size += sum(output.size_bytes for output in flight.finished.outputs) if flight.finished else 0
            if chosen and (len(chosen) >= most or size > BATCH_BYTES):
                break
            chosen.append(flight)
        return chosen

    def _release(self, partition: PartitionState, offset: int) -> InFlight:
        flight = partition.held.pop(offset)
        self._finished.pop(flight, None)
        self.held -= 1
        self.held_bytes -= flight.delivery.size_bytes
        outcome = flight.finished.outcome if flight.finished else HandlingOutcome.PRODUCED
        self.outcomes[outcome] += 1
        if outcome is HandlingOutcome.SET_ASIDE and flight.delivery.id:  # whoever sends it again wants it handled
            partition.ids.pop(flight.delivery.id, None)
        return flight

    def _is_repeat(self, partition: PartitionState, id: str | None) -> bool:
        """Whether the id was seen; it is from now on."""
        if not id or not self._remember:
            return False
        seen = id in partition.ids
        partition.ids.pop(id, None)
        partition.ids[id] = None
        if len(partition.ids) > self._remember:
            del partition.ids[next(iter(partition.ids))]
        return seen

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
