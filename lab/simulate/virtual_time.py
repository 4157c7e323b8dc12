"""An event loop whose time leaps to the next thing that is due: minutes of waiting pass in milliseconds, the same way every time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = datetime(2026, 11, 21, tzinfo=UTC)


#: So many turns of the loop without a moment passing: something runs in circles.
CIRCLES = 100_000


class Stuck(RuntimeError):
    """Everything waits and nothing is due, or time stands still while the loop turns: in real life this would hang, or burn a core, for ever."""


class _Leaping(selectors.SelectSelector):
    """Instead of waiting for a socket, time moves on. Only loops without sockets of their own may use it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("all tasks wait and no timer is set")
        self._turns = self._turns + 1 if timeout <= 0 else 0
        if self._turns > CIRCLES:
            self._turns = 0
            raise Stuck(f"{CIRCLES} turns without a moment passing")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in virtual time. Raises Stuck."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def wall_clock() -> datetime:
    """The running loop's time as a date."""
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
