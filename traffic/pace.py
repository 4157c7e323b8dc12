"""How fast a platform sends."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """At most `per_s` events a second, evenly; None: as fast as they are taken. What was missed is not caught up with."""

    def __init__(self, per_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / per_s if per_s else 0.0
        self._clock = clock
        self._next_at = clock()

    def wait_s(self) -> float:
        """How long until one more event may go; 0 now."""
        return max(0.0, self._next_at - self._clock())

    def took(self) -> None:
        """One event went."""
        self._next_at = max(self._next_at, self._clock() - self._interval_s) + self._interval_s
