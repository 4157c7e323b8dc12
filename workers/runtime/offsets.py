"""Tracks the finished offsets of one assigned partition, and computes the position to commit. Pure, no I/O.

Records finish out of order. The committed position is the low watermark: every record below it is finished. Finished offsets above it go
into the commit's metadata (`workers.runtime.commit_metadata`), so that the next reader handles only the rest. If that map would be too
large, finished records wait for the watermark: none is lost. Offsets may have gaps (transaction markers, compaction).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from workers.runtime.commit_metadata import UnreadableMetadata, decode, encode, longest

#: Kafka's default of `offset.metadata.max.bytes`.
METADATA_BYTES = 4096


@dataclass(frozen=True)
class Position:
    """A committed position of a partition: the next offset to read, and the offset map above it as metadata."""

    offset: int
    metadata: str = ""


def remembered_range(committed: Position, count: int) -> range:
    """The offsets whose ids a worker reads back after a restart: up to `count` on either side of the position, where records may be finished."""
    try:
        end, _ = decode(committed.offset, committed.metadata)
    except UnreadableMetadata:
        end = committed.offset
    return range(max(0, committed.offset - count), min(end, committed.offset + count))


class OffsetTracker:
    """Starts from the group's committed position, None before the first commit. Raises UnreadableMetadata for metadata that is not ours.

    A record is pending from `admit` until `committed`.
    """

    def __init__(self, committed: Position | None, metadata_bytes: int = METADATA_BYTES) -> None:
        self._metadata_bytes = metadata_bytes
        self._committed = committed
        self._pending: dict[int, None] = {}  # ascending
        self._next: int | None = None
        self._end = 0  # offsets below it that are not pending are finished
        self._to_reread: deque[int] = deque()  # pending offsets of an earlier reader that are not read again yet
        if committed:
            self._end, left = decode(committed.offset, committed.metadata)
            self._next = committed.offset
            self._pending = dict.fromkeys(left)
            self._to_reread = deque(left)

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def span(self) -> int:
        """Number of offsets from the watermark to the end of reading."""
        return 0 if self._next is None else max(self._next, self._end) - self.watermark()

    def admit(self, offset: int) -> bool:
        """Add a record that was read. Returns False if an earlier reader finished it.

        Raises ValueError if the offset is lower than the last one: a consumer that goes back needs a new tracker.
        """
        if self._next is not None and offset < self._next:
            raise ValueError(f"offset {offset} was read again: expected at least {self._next}")
        self._next = offset + 1
        self._drop_compacted(offset)
        if self._to_reread and self._to_reread[0] == offset:
            self._to_reread.popleft()
            return True
        if offset < self._end:
            return False
        self._pending[offset] = None
        return True

    def read_to(self, position: int) -> None:
        """Every record below `position` was read. Offsets without a record, such as transaction markers, count as finished."""
        if self._next is None or position > self._next:
            self._next = position
            self._drop_compacted(position)

    def watermark(self) -> int:
        """The first unfinished offset; without one, the offset after the last that was read."""
        first = next(iter(self._pending), None)
        if first is not None:
            return first
        return max(self._next or 0, self._end)

    def fitting(self, offsets: Iterable[int]) -> list[int]:
        """The lowest of these pending offsets that can be committed together, because their map fits into the metadata.

        The offset at the watermark always fits: without it the map gets no longer.
        """
        candidates = sorted(offsets)
        end = max(self._end, candidates[-1] + 1 if candidates else 0)
        if longest(end - self.watermark()) <= self._metadata_bytes:  # cheaper than encoding the map
            return candidates
        if len(self.position(candidates).metadata) <= self._metadata_bytes:
            return candidates
        fits, fails = int(candidates[0] == self.watermark()), len(candidates)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if len(self.position(candidates[:middle]).metadata) <= self._metadata_bytes:
                fits = middle
            else:
                fails = middle
        return candidates[:fits]

    def position(self, finishing: Sequence[int] = ()) -> Position:
        """The position to commit together with the outputs of `finishing` (ascending offsets)."""
        finished = frozenset(finishing)
        end = max(self._end, finishing[-1] + 1 if finishing else 0)
        left = (offset for offset in self._pending if offset not in finished)
        first = next(left, None)
        if first is None:
            return Position(max(self._next or 0, end))
        below_end = itertools.takewhile(lambda offset: offset < end, itertools.chain((first,), left))
        return Position(first, encode(first, end, below_end))

    @property
    def is_behind(self) -> bool:
        """Whether the watermark moved since the last commit."""
        return self._next is not None and (self._committed is None or self.watermark() != self._committed.offset)

    def needs_commit(self, position: Position) -> bool:
        """Whether this position differs from the committed one."""
        if self._committed is None:
            return self._next is not None
        return position != self._committed

    def committed(self, position: Position, finished: Iterable[int] = ()) -> None:
        """The broker confirmed a commit of this position, with the outputs of `finished`."""
        for offset in finished:
            del self._pending[offset]
            self._end = max(self._end, offset + 1)
        self._committed = position

    def reconcile(self, committed: Position | None) -> Set[int]:
        """Take over the broker's position after an unconfirmed commit. Returns the pending offsets that are committed. Raises UnreadableMetadata."""
        if committed is None:
            return frozenset()
        end, left = decode(committed.offset, committed.metadata)
        unfinished = frozenset(left)
        finished = {offset for offset in self._pending if offset < end and offset not in unfinished}
        self.committed(committed, finished)
        self._to_reread = deque(offset for offset in self._to_reread if offset not in finished)
        return finished

    def _drop_compacted(self, offset: int) -> None:
        """Drop unfinished offsets that reading passed without a record: compaction removed it."""
        while self._to_reread and self._to_reread[0] < offset:
            del self._pending[self._to_reread.popleft()]
