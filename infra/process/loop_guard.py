"""Ends the process if its main loop hangs. A thread checks that, because code on the loop hangs too."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infra.process.lifecycle import FAILED

log = logging.getLogger(__name__)


@contextmanager
def guarded(timeout_s: float, message: str, request_beat: Callable[[Callable[[], None]], object] = lambda beat: None) -> Iterator[Callable[[], None]]:
    """Yields `beat`, which the loop calls at every turn. Logs `message` and ends the process after `timeout_s` without a call.

    A thread watches, and it ends the process by `os._exit`: code that hangs cannot be stopped in another way. Offsets stay uncommitted.
    `request_beat` schedules a call of its argument on the loop.
    """
    ended, beat = threading.Event(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            beat.clear()
            request_beat(beat.set)
            if not beat.wait(timeout_s) and not ended.is_set():
                log.error(message, extra={"timeout_s": timeout_s})
                os._exit(FAILED)
            ended.wait(timeout_s / 4)

    threading.Thread(target=watch, name="loop-guard", daemon=True).start()
    try:
        yield beat.set
    finally:
        ended.set()
        beat.set()


@contextmanager
def guarded_event_loop(timeout_s: float, message: str) -> Iterator[None]:
    """`guarded` for the running event loop: it need not call anything."""
    with guarded(timeout_s, message, asyncio.get_running_loop().call_soon_threadsafe):
        yield
