"""Which offset of a partition may be committed when records finish out of order: the low watermark.

Pure bookkeeping of one partition during one assignment. Every offset below the watermark is finished and nothing above it is ever
committed, so what was in flight when a process dies is read again. Offsets may have gaps (transaction markers, compaction).
"""

from __future__ import annotations


class OffsetTracker:
    """Starts where the assignment starts: `first` is the offset of the first record read."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._committed = first
        self._unfinished: dict[int, None] = {}  # in order of admission, which is the order of offsets

    @property
    def unfinished(self) -> int:
        return len(self._unfinished)

    def admit(self, offset: int) -> None:
        """A record was read. Raises ValueError unless offsets grow: a consumer that goes back needs a new tracker."""
        if offset < self._next:
            raise ValueError(f"offset {offset} was read again: expected at least {self._next}")
        self._unfinished[offset] = None
        self._next = offset + 1

    def finish(self, offset: int) -> None:
        """The record's effect is durable. Raises KeyError for one that is not in flight."""
        del self._unfinished[offset]

    def watermark(self) -> int:
        """Where to read on after a restart: the first unfinished offset, or the one behind the last."""
        return next(iter(self._unfinished), self._next)

    def position(self) -> int | None:
        """What to commit: the watermark, or None where the broker has it already."""
        watermark = self.watermark()
        return None if watermark == self._committed else watermark

    def committed(self, position: int) -> None:
        """The broker has taken this position."""
        self._committed = position
