"""Processes that embed history, each with its own copy of the model, so that queries need not share a thread with it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker

import numpy as np

from infra.errors import RetryLater
from infra.settings.stream import EmbedderSettings
from infra.telemetry.metrics import RetryReason
from streams.embedding.embedder import Matrix
from streams.embedding.model import SentenceModel

#: Their priority: below that of the process that answers queries.
NICENESS = 10

_model: SentenceModel | None = None


class EmbedderProcesses:
    """They start with the first text. If one dies, as by a lack of memory, `embed` raises RetryLater, and the next call starts all of them again."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._pool = self._start()

    async def embed(self, steps: Sequence[Sequence[str]]) -> Matrix:
        """The rows of all steps, in order. Raises RetryLater if a process died."""
        loop, pool = asyncio.get_running_loop(), self._pool
        try:
            with _interrupts_blocked():
                results = [loop.run_in_executor(pool, _encode, list(step)) for step in steps]
            return np.concatenate(await asyncio.gather(*results))
        except BrokenProcessPool as error:
            if self._pool is pool:
                self._pool = self._start()
            raise RetryLater("a process of embedder.processes ended; all of them are started again", reason=RetryReason.EMBEDDER) from error

    def close(self) -> None:
        """Ends the processes at once: they hold nothing, and one that imports torch for the first time would be waited for."""
        for process in list((self._pool._processes or {}).values()):  # Python 3.14 has `terminate_workers`
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of this process's threads
        return ProcessPoolExecutor(self._settings.processes, context, _load, (self._settings,))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that start in this block begin with SIGINT blocked, until `_load` ignores it: an interrupted import would print a traceback."""
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _load(settings: EmbedderSettings) -> None:
    global _model
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    os.nice(NICENESS)
    _model = SentenceModel(settings)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _encode(texts: list[str]) -> Matrix:
    assert _model is not None
    return _model.encode(texts)
