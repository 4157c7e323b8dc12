"""Waiting records, fair between keys, and with `ordered` in order within a key.

A user with 10,000 records gets every n-th free slot while n users wait, wherever in the partition the records are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

#: At most this many waiting records of a key count in `depth`: reading continues past one user's flood to other users' records.
COUNTED_PER_KEY = 8


class FairQueue(Generic[T]):
    """Round robin over keys. With `ordered`, `take` closes the key until `release`, and one record of each key counts in `depth`."""

    def __init__(self, *, ordered: bool, counted: int = COUNTED_PER_KEY) -> None:
        self._ordered = ordered
        self._counted = 1 if ordered else counted
        self._waiting: dict[Hashable, deque[T]] = {}
        self._turns: deque[Hashable] = deque()  # keys whose next record may begin
        self._closed: set[Hashable] = set()
        self._size = 0
        self._depth = 0

    def __len__(self) -> int:
        """All waiting records."""
        return self._size

    @property
    def depth(self) -> int:
        """Waiting records that could begin soon: at most `counted` of each key."""
        return self._depth

    def add(self, key: Hashable, item: T) -> None:
        queue = self._waiting.get(key)
        if queue is None:
            queue = self._waiting[key] = deque()
            if key not in self._closed:
                self._turns.append(key)
        queue.append(item)
        self._size += 1
        self._depth += len(queue) <= self._counted

    def take(self) -> tuple[Hashable, T] | None:
        """The next record and its key. None if no record may begin."""
        if not self._turns:
            return None
        key = self._turns.popleft()
        queue = self._waiting[key]
        self._depth -= len(queue) <= self._counted
        item = queue.popleft()
        self._size -= 1
        if self._ordered:
            self._closed.add(key)
        if not queue:
            del self._waiting[key]
        elif not self._ordered:
            self._turns.append(key)
        return key, item

    def release(self, key: Hashable) -> None:
        """The record taken under this key has ended: the key's next one may begin."""
        if key in self._closed:
            self._closed.remove(key)
            if key in self._waiting:
                self._turns.append(key)

    def discard(self, matches: Callable[[T], bool]) -> int:
        """Remove the waiting records that match. Returns how many."""
        before = self._size
        for key, queue in list(self._waiting.items()):
            kept = deque(item for item in queue if not matches(item))
            self._size -= len(queue) - len(kept)
            self._depth -= min(len(queue), self._counted) - min(len(kept), self._counted)
            if kept:
                self._waiting[key] = kept
            else:
                del self._waiting[key]
        self._turns = deque(key for key in self._turns if key in self._waiting)
        return before - self._size
