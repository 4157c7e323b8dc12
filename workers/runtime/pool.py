"""Handlers at work: one event loop in a thread of its own, beside the blocking Kafka client.

The thread that owns the client submits deliveries and collects what has finished; everything else happens on the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from infra.errors import CannotContinue
from workers.runtime.delivery import Delivery, Finished

log = logging.getLogger(__name__)

Process = Callable[[Delivery], Awaitable[Finished]]
Lifespan = Callable[[], contextlib.AbstractAsyncContextManager[object]]
Background = Callable[[], Awaitable[None]]


class Pool:
    """`lifespan` is entered on the loop before the first delivery and left after the last; `background` runs beside them.

    A failure anywhere on the loop, background included, is raised by the next `check`. A background task that merely returns is done.
    """

    def __init__(self, process: Process, lifespan: Lifespan = contextlib.nullcontext, background: Sequence[Background] = ()) -> None:
        self._process = process
        self._lifespan = lifespan
        self._background = background
        self._finished: deque[Finished] = deque()
        self._tasks: dict[Delivery, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="handlers", daemon=True)

    def start(self, timeout_s: float) -> None:
        """Blocks until the lifespan has begun. Raises what it raised, or CannotContinue when it takes longer than `timeout_s`."""
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise CannotContinue(f"the worker's own start-up did not end within {timeout_s:g} s")
        self.check()

    def submit(self, delivery: Delivery) -> None:
        self._call(self._begin, delivery)

    def collect(self) -> list[Finished]:
        """What has finished since the last call."""
        done = []
        while self._finished:
            done.append(self._finished.popleft())
        return done

    def abandon(self, unwanted: Callable[[Delivery], bool]) -> None:
        """Cancel deliveries; they never show up in `collect` unless they had finished already. Does not wait."""

        def cancel() -> None:
            for delivery, task in self._tasks.items():
                if unwanted(delivery):
                    task.cancel()

        self._call(cancel)

    def check(self) -> None:
        """Raises the first failure on the loop, if there was one."""
        if self._failure is not None:
            raise self._failure

    def close(self, timeout_s: float) -> None:
        """Cancel what is left, leave the lifespan, end the loop. Gives up after `timeout_s`; the thread is a daemon. Safe to call twice."""
        if self._thread.is_alive():
            self._call(self._closing.set)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("handlers did not end in time", extra={"timeout_s": timeout_s})

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended; `check` says why
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            self._fail(error)
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._lifespan():
            background = [asyncio.ensure_future(self._watched(work)) for work in self._background]
            self._ready.set()
            await self._closing.wait()
            tasks = [*background, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watched(self, work: Background) -> None:
        try:
            await work()
        except Exception as error:
            self._fail(error)

    def _begin(self, delivery: Delivery) -> None:
        if not self._closing.is_set():
            task = asyncio.ensure_future(self._one(delivery))
            self._tasks[delivery] = task
            task.add_done_callback(lambda _: self._tasks.pop(delivery))

    async def _one(self, delivery: Delivery) -> None:
        try:
            self._finished.append(await self._process(delivery))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
