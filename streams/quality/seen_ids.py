"""The ids of the last records, to count a repeat once."""

from __future__ import annotations

from collections import deque
from uuid import UUID


class SeenIds:
    """The last `most` ids. The oldest is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ids: set[int] = set()
        self._order: deque[int] = deque()

    def __contains__(self, query_id: UUID) -> bool:
        return query_id.int in self._ids

    def add(self, query_id: UUID) -> bool:
        """Whether the id is new."""
        if query_id in self:
            return False
        self._ids.add(query_id.int)
        self._order.append(query_id.int)
        if len(self._order) > self._most:
            self._ids.discard(self._order.popleft())
        return True
