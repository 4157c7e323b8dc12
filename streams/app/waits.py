"""Holds back events of a processor until what they wait for is there, while the other events go on.

Events of one key leave in the order in which they came, so an event also waits for those of its key before it. The events of a partition are acknowledged in
order, so a commit never passes an event that waits: `streams.app.transport` commits the highest acknowledged offset. After a rebalance the same events may
come again, so each generation of the consumer group has its own order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

#: Maximum number of events that are held back. At that number no further event is taken until one leaves.
MAX_HELD = 1_000

#: What an event waits for; None if it need not wait. It must be bounded.
WaitOf = Callable[[Any], Awaitable[None] | None]
#: A partition, and the generation of the consumer group in which it was assigned.
Assigned = tuple[Any, int]


class Waits:
    """Used on one event loop. Events are Faust's: `event.message` has `tp`, `generation_id`, `offset` and `key`."""

    def __init__(self, wait_of: WaitOf) -> None:
        self._wait_of = wait_of
        self._queues: dict[bytes | None, deque[tuple[Any, asyncio.Future[None] | None]]] = {}  # by key, oldest first
        self._ready: deque[tuple[Any, asyncio.Future[None] | None]] = deque()
        self._woken = asyncio.Event()
        self._held = 0
        self._pending: dict[Assigned, set[int]] = {}  # offsets of events that were held back and are not handled
        self._done: dict[Assigned, list[Any]] = {}  # handled events behind a held one

    @property
    def holds(self) -> bool:
        return self._held > 0

    async def released(self, events: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """The events, each when it need not wait. Raises what a wait raises. Ends when `events` has ended and nothing is held."""
        incoming: asyncio.Future[Any] | None = None
        ended = False
        try:
            while True:
                while self._ready:
                    event, wait = self._ready.popleft()
                    if wait is not None:
                        wait.result()
                    yield event
                if ended and not self._held:
                    return
                if incoming is None and not ended and self._held < MAX_HELD:
                    incoming = asyncio.ensure_future(anext(events))
                self._woken.clear()
                await self._one_of(incoming)
                if incoming is not None and incoming.done():
                    try:
                        self._take(incoming.result())
                    except StopAsyncIteration:
                        ended = True
                    incoming = None
        finally:
            if incoming is not None:
                incoming.cancel()
            self.cancel()

    def acknowledge(self, events: Iterable[Any]) -> None:
        """The events are handled. Acknowledges those before which no event of their partition is held."""
        for event in events:
            assigned = _assigned(event)
            held = self._pending.get(assigned)
            if held is None:
                event.ack()
                continue
            held.discard(event.message.offset)
            self._done.setdefault(assigned, []).append(event)
            self._acknowledge_done(assigned)

    def drop(self, events: Iterable[Any]) -> None:
        """The events are of a former generation and are not handled. Neither they nor handled events behind them are ever acknowledged."""
        for assigned in set(map(_assigned, events)):
            self._pending.pop(assigned, None)
            self._done.pop(assigned, None)

    def cancel(self) -> None:
        """End all waits. What is held is never acknowledged, so it is read again."""
        for queue in self._queues.values():
            for _, wait in queue:
                if wait is not None:
                    wait.cancel()

    async def _one_of(self, incoming: asyncio.Future[Any] | None) -> None:
        """Returns when an event came, or one that was held may leave."""
        if not self._held and incoming is not None:
            await asyncio.wait([incoming])
            return
        woken = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait([woken] if incoming is None else [woken, incoming], return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    def _take(self, event: Any) -> None:
        key, wait = event.message.key, self._wait_of(event)
        if wait is None and key not in self._queues:
            self._ready.append((event, None))
            return
        task = None if wait is None else asyncio.ensure_future(wait)
        self._queues.setdefault(key, deque()).append((event, task))
        self._pending.setdefault(_assigned(event), set()).add(event.message.offset)
        self._held += 1
        if task is not None:
            task.add_done_callback(lambda _: self._release(key))

    def _release(self, key: bytes | None) -> None:
        queue = self._queues.get(key, deque())
        while queue and (queue[0][1] is None or queue[0][1].done()):
            self._ready.append(queue.popleft())
            self._held -= 1
        if not queue:
            self._queues.pop(key, None)
        self._woken.set()

    def _acknowledge_done(self, assigned: Assigned) -> None:
        held, done = self._pending[assigned], self._done[assigned]
        first_held = min(held, default=None)
        done.sort(key=lambda event: event.message.offset)
        while done and (first_held is None or done[0].message.offset < first_held):
            done.pop(0).ack()
        if not held and not done:
            del self._pending[assigned], self._done[assigned]


def _assigned(event: Any) -> Assigned:
    return event.message.tp, event.message.generation_id
