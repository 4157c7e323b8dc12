"""A store that may be away, asked by somebody who cannot wait: after a failure it is left alone for a growing pause, then tried once more."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 5.0


class Breaker:
    """`is_open` while the store is to be left alone. `now` is a monotonic clock, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until = float("-inf")
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_open(self) -> bool:
        return self._now() < self._until

    def failed(self) -> float:
        """Opens it; returns for how many seconds."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LAST_PAUSE_S)
        self._until = self._now() + pause_s
        return pause_s

    def worked(self) -> None:
        self._pause_s = FIRST_PAUSE_S
