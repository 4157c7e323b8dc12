"""Micro-batches of the events of a stream, without acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any


class Batches:
    """Batches of at most `max_events` events, in their order. A batch that is not full waits at most `linger_s` for more events after its first.

    One task takes all events, also while a batch is handled: at most `max_events` of the next one. `on_full` gets the events of a batch once it is full, before
    it is the next one to be handled. Used on one event loop.
    """

    def __init__(self, max_events: int, linger_s: float, on_full: Callable[[Sequence[Any]], None] | None = None) -> None:
        self._max_events, self._linger_s, self._on_full = max_events, linger_s, on_full
        self._taken: list[Any] = []
        self._has_some, self._is_full, self._is_handed_over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @property
    def holds(self) -> bool:
        """Whether events wait for their batch."""
        return bool(self._taken)

    async def of(self, events: AsyncGenerator[Any, None]) -> AsyncGenerator[list[Any], None]:
        """Ends with `events`, and raises what they raise; the events that are in no batch yet are then given up. Close it: that ends the task and `events`."""
        taking = asyncio.ensure_future(self._take(events))
        try:
            while True:
                await self._has_some.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._linger_s):
                        await self._is_full.wait()
                if taking.done():
                    taking.result()
                    return
                batch, self._taken = self._taken, []
                self._has_some.clear()
                self._is_full.clear()
                self._is_handed_over.set()
                yield batch
        finally:
            self._taken = []
            taking.cancel()
            await asyncio.wait([taking])

    async def _take(self, events: AsyncGenerator[Any, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._taken.append(event)
                    self._has_some.set()
                    if len(self._taken) >= self._max_events:
                        if self._on_full:
                            self._on_full(self._taken)
                        self._is_handed_over.clear()
                        self._is_full.set()
                        await self._is_handed_over.wait()
        finally:
            self._has_some.set()
            self._is_full.set()
