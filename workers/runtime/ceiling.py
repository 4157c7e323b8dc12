"""The ceiling of the dead-letter flow: when most records fail, the fault is ours or everybody's, and the process stops instead."""

from __future__ import annotations

from collections import deque

from infra.errors import CannotContinue


class Ceiling:
    """Watches the last `window` records; says nothing before it has seen `at_least` of them."""

    def __init__(self, window: int = 100, at_least: int = 20, share: float = 0.5) -> None:
        self._last: deque[bool] = deque(maxlen=window)
        self._at_least = at_least
        self._share = share

    def saw(self, *, set_aside: bool) -> None:
        """Count one finished record. Raises CannotContinue when more than `share` of the window was set aside."""
        self._last.append(set_aside)
        failed = sum(self._last)
        if set_aside and len(self._last) >= self._at_least and failed > self._share * len(self._last):
            raise CannotContinue(f"{failed} of the last {len(self._last)} records were set aside: see their reasons with `retouch dlq`, then start again")
