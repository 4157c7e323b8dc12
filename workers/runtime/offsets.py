"""What of one partition is finished when records finish out of order, and what to commit for it: pure bookkeeping of one assignment.

The committed position is the low watermark: everything below it is finished. What is finished beyond it goes into the commit's metadata
(`workers.runtime.commit_metadata`), so the next reader does only what is left. Where that map would not fit, finished records wait for
the watermark: nothing finished is ever forgotten. Offsets may have gaps (transaction markers, compaction).
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
    """What a group commits for a partition: where to read on, and what beyond that is finished."""

    offset: int
    metadata: str = ""


def recallable(committed: Position, most: int) -> range:
    """The offsets whose ids are worth knowing after a restart: up to `most` on either side of the position, where records may be finished."""
    try:
        end, _ = decode(committed.offset, committed.metadata)
    except UnreadableMetadata:
        end = committed.offset
    return range(max(0, committed.offset - most), min(end, committed.offset + most))


class OffsetTracker:
    """Starts from what the group has committed; None where it never has. Raises UnreadableMetadata for metadata that is not ours.

    A record is pending from `admit` until `finish`, and `finish` is called when its effect is durable.
    """

    def __init__(self, committed: Position | None, metadata_bytes: int = METADATA_BYTES) -> None:
        self._metadata_bytes = metadata_bytes
        self._committed = committed
        self._pending: dict[int, None] = {}  # ascending
        self._next: int | None = None
        self._end = 0  # offsets below it and not pending are finished
        self._awaited: deque[int] = deque()  # pending ones that are still to be read again
        if committed:
            self._end, left = decode(committed.offset, committed.metadata)
            self._next = committed.offset
            self._pending = dict.fromkeys(left)
            self._awaited = deque(left)

    @property
    def pending(self) -> int:
        return len(self._pending)

    @property
    def span(self) -> int:
        """How far reading is ahead of the watermark, in offsets."""
        return 0 if self._next is None else max(self._next, self._end) - self.watermark()

    def admit(self, offset: int) -> bool:
        """A record was read. Returns whether there is anything to do: False where an earlier reader has finished it.

        Raises ValueError unless offsets grow: a consumer that goes back needs a new tracker.
        """
        if self._next is not None and offset < self._next:
            raise ValueError(f"offset {offset} was read again: expected at least {self._next}")
        self._next = offset + 1
        self._vanish_below(offset)
        if self._awaited and self._awaited[0] == offset:
            self._awaited.popleft()
            return True
        if offset < self._end:
            return False
        self._pending[offset] = None
        return True

    def read_to(self, position: int) -> None:
        """Everything below has been delivered, or holds no record: transaction markers at the end, say."""
        if self._next is None or position > self._next:
            self._next = position
            self._vanish_below(position)

    def watermark(self) -> int:
        """The first unfinished offset, or the one behind the last that was read."""
        first = next(iter(self._pending), None)
        if first is not None:
            return first
        return max(self._next or 0, self._end)

    def fitting(self, offsets: Iterable[int]) -> list[int]:
        """As many of these pending offsets, lowest first, as may be finished together: their map fits into a commit.

        The first pending one always may: what is left of a map that was taken before is no longer than it was.
        """
        wanted = sorted(offsets)
        end = max(self._end, wanted[-1] + 1 if wanted else 0)
        if longest(end - self.watermark()) <= self._metadata_bytes:  # no need to write it to see that
            return wanted
        if len(self.position(wanted).metadata) <= self._metadata_bytes:
            return wanted
        fits, fails = int(wanted[0] == self.watermark()), len(wanted)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if len(self.position(wanted[:middle]).metadata) <= self._metadata_bytes:
                fits = middle
            else:
                fails = middle
        return wanted[:fits]

    def position(self, finishing: Sequence[int] = ()) -> Position:
        """What to commit together with the effects of `finishing` (ascending)."""
        gone = frozenset(finishing)
        end = max(self._end, finishing[-1] + 1 if finishing else 0)
        left = (offset for offset in self._pending if offset not in gone)
        first = next(left, None)
        if first is None:
            return Position(max(self._next or 0, end))
        below_end = itertools.takewhile(lambda offset: offset < end, itertools.chain((first,), left))
        return Position(first, encode(first, end, below_end))

    @property
    def is_behind(self) -> bool:
        """Whether the watermark has moved since the last commit."""
        return self._next is not None and (self._committed is None or self.watermark() != self._committed.offset)

    def unsaid(self, position: Position) -> bool:
        """Whether the broker does not have this position yet."""
        if self._committed is None:
            return self._next is not None
        return position != self._committed

    def committed(self, position: Position, finished: Iterable[int] = ()) -> None:
        """The broker has taken this position, and `finished` with it."""
        for offset in finished:
            del self._pending[offset]
            self._end = max(self._end, offset + 1)
        self._committed = position

    def learn(self, committed: Position | None) -> Set[int]:
        """What the broker has after a commit in doubt. Returns the pending offsets that turn out to be finished. Raises UnreadableMetadata."""
        if committed is None:
            return frozenset()
        end, left = decode(committed.offset, committed.metadata)
        still = frozenset(left)
        finished = {offset for offset in self._pending if offset < end and offset not in still}
        self.committed(committed, finished)
        self._awaited = deque(offset for offset in self._awaited if offset not in finished)
        return finished

    def _vanish_below(self, offset: int) -> None:
        """Unfinished records that reading has passed without meeting them were compacted away."""
        while self._awaited and self._awaited[0] < offset:
            del self._pending[self._awaited.popleft()]
