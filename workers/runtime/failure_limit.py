"""The ceiling of failures that are ours: a handler's bug, or something away for longer than all retries. When most records meet one, the process stops
instead of setting everything aside.

Records that nobody could handle (malformed, poison) count as handled well: they are their writers' fault, and stopping would only bring them back.
"""

from __future__ import annotations

from collections import deque

from infra.errors import CannotContinue
from schemas.topics import dead_letter_topic


class FailureLimit:
    """Watches the last `window` records of `topic`; says nothing before it has seen `at_least` of them."""

    def __init__(self, topic: str, window: int = 100, at_least: int = 20, share: float = 0.5) -> None:
        self._topic = topic
        self._last: deque[bool] = deque(maxlen=window)
        self._at_least = at_least
        self._share = share

    def saw(self, *, our_fault: bool) -> None:
        """Count one finished record."""
        self._last.append(our_fault)

    @property
    def is_reached(self) -> bool:
        """Whether more than `share` of the window failed through our fault."""
        return len(self._last) >= self._at_least and sum(self._last) > self._share * len(self._last)

    def check(self) -> None:
        """Raises CannotContinue when the ceiling is reached."""
        if self.is_reached:
            raise CannotContinue(
                f"the handler failed on {sum(self._last)} of the last {len(self._last)} records of {self._topic}: "
                f"the reasons are in this process's log and in the headers of the records on {dead_letter_topic(self._topic)}"
            )
