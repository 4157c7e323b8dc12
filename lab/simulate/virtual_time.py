"""An event loop in virtual time, which jumps to the next timer: minutes of waiting pass in milliseconds, and every run is the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = datetime(2026, 11, 21, tzinfo=UTC)


#: Iterations of the loop without progress of time that count as an endless loop.
MAX_ITERATIONS = 100_000


class Stuck(RuntimeError):
    """All tasks wait without a timer, or the loop runs without progress of time. In real time this would hang, or use a core, without end."""


class _VirtualSelector(selectors.SelectSelector):
    """Advances the time instead of waiting for a socket. Only for loops without sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._iterations = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("all tasks wait and no timer is set")
        self._iterations = self._iterations + 1 if timeout <= 0 else 0
        if self._iterations > MAX_ITERATIONS:
            self._iterations = 0
            raise Stuck(f"{MAX_ITERATIONS} iterations without progress of time")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual_selector = _VirtualSelector()
        super().__init__(self._virtual_selector)

    def time(self) -> float:
        return self._virtual_selector.now


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time. Raises Stuck."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def wall_clock() -> datetime:
    """The time of the running loop as a datetime."""
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
