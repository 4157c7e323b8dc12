"""The rate at which a platform sends."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """At most `per_s` events per second, evenly spaced. None: no limit. Missed events are not made up for."""

    def __init__(self, per_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / per_s if per_s else 0.0
        self._clock = clock
        self._next_at = clock()

    def wait_s(self) -> float:
        """Seconds until the next event may go; 0 for now."""
        return max(0.0, self._next_at - self._clock())

    def took(self) -> None:
        """Count one event as sent."""
        self._next_at = max(self._next_at, self._clock() - self._interval_s) + self._interval_s
