"""Processes that embed history, each with its own copy of the model, so that queries need not share a thread with it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from infra.errors import RetryLater
from infra.settings.stream import EmbedderSettings
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
            return np.concatenate(await asyncio.gather(*(loop.run_in_executor(pool, _encode, list(step)) for step in steps)))
        except BrokenProcessPool as error:
            if self._pool is pool:
                self._pool = self._start()
            raise RetryLater("a process of embedder.processes ended; all of them are started again") from error

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of this process's threads
        return ProcessPoolExecutor(self._settings.processes, context, _load, (self._settings,))


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
