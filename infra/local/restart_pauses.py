"""Pauses before a process that ended is started again: none the first time, so that it keeps its partitions, then growing ones.

Without pauses a process that keeps ending would take CPU time from the others: a start costs seconds of it.
"""

from __future__ import annotations

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
#: After serving for this long, the next end counts as the first.
SETTLED_S = 30.0


class RestartPauses:
    """Counts the ends of one process. Times are those of any clock that only runs forward, in seconds. Pure."""

    def __init__(self) -> None:
        self.ends = 0
        """Ends in a row: without SETTLED_S of service in between."""
        self._serving_since: float | None = None

    def serves(self, now: float) -> None:
        """The process serves now. Call it repeatedly while that is so."""
        if self._serving_since is None:
            self._serving_since = now
        elif now - self._serving_since >= SETTLED_S:
            self.ends = 0

    def ended(self, now: float) -> float:
        """Count an end; returns the pause before the next start: 0, 1, 2, 4 s and so on, at most MAX_PAUSE_S."""
        if self._serving_since is not None:
            self.serves(now)
        self.ended_on_request()
        self.ends += 1
        return 0.0 if self.ends == 1 else float(min(FIRST_PAUSE_S * 2 ** min(self.ends - 2, 16), MAX_PAUSE_S))

    def ended_on_request(self) -> None:
        """An end that the stack's owner requested. It does not count."""
        self._serving_since = None
