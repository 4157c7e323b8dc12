"""Stops a worker whose records mostly fail through our own fault: a bug of the handler, or a dependency that stayed away for all retries.

Malformed and poison records count as handled well: they are their writers' fault, and a restart would only read them again.
"""

from __future__ import annotations

from collections import deque

from infra.errors import CannotContinue
from schemas.topics import dead_letter_topic


class FailureLimit:
    """Share of failures among the last `window` records of `topic`. It is never reached before `at_least` records."""

    def __init__(self, topic: str, window: int = 100, at_least: int = 20, share: float = 0.5) -> None:
        self._topic = topic
        self._last: deque[bool] = deque(maxlen=window)
        self._at_least = at_least
        self._share = share

    def count(self, *, our_fault: bool) -> None:
        """Count one finished record."""
        self._last.append(our_fault)

    @property
    def is_reached(self) -> bool:
        return len(self._last) >= self._at_least and sum(self._last) > self._share * len(self._last)

    def check(self) -> None:
        """Raises CannotContinue if the limit is reached."""
        if self.is_reached:
            raise CannotContinue(
                f"the handler failed on {sum(self._last)} of the last {len(self._last)} records of {self._topic}: "
                f"the reasons are in this process's log and in the headers of the records on {dead_letter_topic(self._topic)}"
            )
