"""The ids of the last records, to count a repeat once."""

from __future__ import annotations

from collections import deque
from uuid import UUID


class SeenIds:
    """The last `capacity` ids. A new id replaces the oldest."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ids: set[int] = set()
        self._order: deque[int] = deque()

    def __contains__(self, query_id: UUID) -> bool:
        return query_id.int in self._ids

    def add(self, query_id: UUID) -> bool:
        """Add the id; returns whether it is new."""
        if query_id in self:
            return False
        self._ids.add(query_id.int)
        self._order.append(query_id.int)
        if len(self._order) > self._capacity:
            self._ids.discard(self._order.popleft())
        return True
