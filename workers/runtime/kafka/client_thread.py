"""A thread that makes the blocking calls of a Kafka client, one after the other, for a worker on an event loop.

Not `asyncio.to_thread`: a client that hangs must be abandoned, and an executor joins its threads at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Call = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class ClientThread:
    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[[], T], timeout_s: float | None = None) -> T:
        """Raises what the function raises, or TimeoutError. After a TimeoutError the thread still runs the function: use another thread."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put((function, future))
        async with asyncio.timeout(timeout_s):
            return await future

    def end(self) -> None:
        """Ends the thread after the queued calls."""
        self._calls.put(None)

    def _run(self) -> None:
        while call := self._calls.get():
            function, future = call
            try:
                result = function()
            except BaseException as error:  # raised where the call is awaited
                self._post(_fail, future, error)
            else:
                self._post(_succeed, future, result)

    def _post(self, set_result: Callable[[asyncio.Future[Any], Any], None], future: asyncio.Future[Any], result: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(set_result, future, result)


def _succeed(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
