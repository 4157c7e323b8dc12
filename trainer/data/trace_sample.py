"""A bounded sample of the traces of a run's records, for the links of the run's span."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

#: Traces that are kept while records are read, and that a run's span links to. A span keeps 128 links.
KEPT, LINKED = 4_096, 100


class TraceSample:
    """Keeps the records with the smallest trace ids, which are random: a sample that depends on no order. A record is named by its row id."""

    def __init__(self) -> None:
        self._smallest: list[tuple[str, bytes, str]] = []  # trace id, row id, traceparent

    def add(self, row_id: bytes, traceparent: str) -> None:
        entry = (traceparent.split("-")[1], row_id, traceparent)
        if len(self._smallest) == KEPT and entry >= self._smallest[-1]:
            return
        insort(self._smallest, entry)
        del self._smallest[KEPT:]

    def of(self, row_ids: Iterable[bytes]) -> tuple[str, ...]:
        """At most LINKED traceparents of these rows, one for each trace."""
        wanted, found = set(row_ids), dict[str, str]()
        for trace_id, row_id, traceparent in self._smallest:
            if row_id in wanted and len(found) < LINKED:
                found.setdefault(trace_id, traceparent)
        return tuple(found.values())
