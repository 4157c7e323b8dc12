"""Micro-batches of the events of a stream, without acknowledgement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

#: A batch with this many bytes is full. It may be larger by one event.
BATCH_BYTES = 8 << 20


class Batches:
    """Batches of events, in their order. A batch is full with `max_events` events or `BATCH_BYTES`, as `bytes_of` counts them. Another one waits at most
    `linger_s` for more events after its first, which may come while the batch before is handled.

    One task takes all events, also while a batch is handled: at most the next batch. `on_full` gets the events of a batch once it is full, while the
    batch before it is handled. Used on one event loop.
    """

    def __init__(self, max_events: int, linger_s: float, bytes_of: Callable[[Any], int], on_full: Callable[[Sequence[Any]], None] | None = None) -> None:
        self._max_events, self._linger_s, self._bytes_of, self._on_full = max_events, linger_s, bytes_of, on_full
        self._taken: list[Any] = []
        self._taken_bytes = 0
        self._due = 0.0  # when the taken events are handed over, on the loop's clock
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
                    async with asyncio.timeout_at(self._due):
                        await self._is_full.wait()
                if taking.done():
                    taking.result()
                    return
                batch, self._taken, self._taken_bytes = self._taken, [], 0
                self._has_some.clear()
                self._is_full.clear()
                self._is_handed_over.set()
                yield batch
        finally:
            self._taken, self._taken_bytes = [], 0
            taking.cancel()
            await asyncio.wait([taking])

    async def _take(self, events: AsyncGenerator[Any, None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with aclosing(events):
                async for event in events:
                    if not self._taken:
                        self._due = loop.time() + self._linger_s
                    self._taken.append(event)
                    self._taken_bytes += self._bytes_of(event)
                    self._has_some.set()
                    if len(self._taken) >= self._max_events or self._taken_bytes >= BATCH_BYTES:
                        if self._on_full:
                            self._on_full(self._taken)
                        self._is_handed_over.clear()
                        self._is_full.set()
                        await self._is_handed_over.wait()
        finally:
            self._has_some.set()
            self._is_full.set()
