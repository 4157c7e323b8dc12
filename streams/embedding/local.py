"""Embeds texts with a model in this process, in one thread, so that the event loop stays free; and history in processes of its own if settings name some.

The thread takes urgent texts (queries) before background texts (history). A background request is cut into steps of bounded length, so an urgent
request waits for one step at most. With `embedder.processes` history never occupies the thread.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from infra.settings.stream import EmbedderSettings
from streams.embedding.embedder import Matrix, distinct
from streams.embedding.model import SentenceModel, cost
from streams.embedding.processes import EmbedderProcesses

#: Characters of one background step: about 0.06 s on one core, at 37 long texts a second.
STEP_CHARS = 2_400
#: Characters of one step in a process of its own, which no query waits for.
PROCESS_STEP_CHARS = 4 * STEP_CHARS


@dataclass(order=True)
class _Request:
    rank: int  # 0 urgent, 1 background, 2 the end
    number: int
    texts: Sequence[str] = field(compare=False, default=())
    result: asyncio.Future[Matrix] | None = field(compare=False, default=None)


class LocalEmbedder:
    """The constructor loads the model and blocks for seconds. It raises BadSetting if the model cannot be loaded. `close` ends the thread and the processes."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._batch_size = settings.batch_size
        self._model = SentenceModel(settings)
        self.name, self.dimension = self._model.name, self._model.dimension
        self._processes = EmbedderProcesses(settings) if settings.processes else None
        self._requests: queue.PriorityQueue[_Request] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._serve, name="embedder", daemon=True)
        self._thread.start()

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        once, places = distinct(texts)
        vectors = await (self._in_thread([once], rank=0) if urgent else self._in_background(once))
        return vectors if len(once) == len(texts) else vectors[places]

    def close(self) -> None:
        self._requests.put(_Request(2, next(self._numbers)))
        self._thread.join()
        if self._processes:
            self._processes.close()

    async def _in_background(self, texts: Sequence[str]) -> Matrix:
        """Texts of similar lengths share a step, so that little is padded."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        steps = list(steps_of([texts[n] for n in order], self._batch_size, PROCESS_STEP_CHARS if self._processes else STEP_CHARS))
        in_order = await (self._processes.embed(steps) if self._processes else self._in_thread(steps, rank=1))
        vectors = np.empty_like(in_order)
        vectors[order] = in_order
        return vectors

    async def _in_thread(self, steps: Sequence[Sequence[str]], rank: int) -> Matrix:
        return np.concatenate([await self._step(step, rank) for step in steps])

    async def _step(self, texts: Sequence[str], rank: int) -> Matrix:
        result: asyncio.Future[Matrix] = asyncio.get_running_loop().create_future()
        self._requests.put(_Request(rank, next(self._numbers), texts, result))
        return await result

    def _serve(self) -> None:
        while (request := self._requests.get()).result is not None:
            vectors: Matrix | None = None
            failure: BaseException | None = None
            try:
                vectors = self._model.encode(request.texts)
            except BaseException as error:  # the caller of `embed` gets it
                failure = error
            loop = request.result.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, request.result, vectors, failure)


def steps_of(texts: Sequence[str], batch_size: int, step_chars: int = STEP_CHARS) -> Iterator[Sequence[str]]:
    """Cut `texts` in order into steps of at most `batch_size` texts and about `step_chars` characters, but at least one text."""
    start = chars = 0
    for end, text in enumerate(texts):
        if end > start and (chars + cost(text) > step_chars or end - start == batch_size):
            yield texts[start:end]
            start, chars = end, 0
        chars += cost(text)
    if start < len(texts):
        yield texts[start:]


def _settle(result: asyncio.Future[Matrix], vectors: Matrix | None, failure: BaseException | None) -> None:
    if result.cancelled():
        return
    if vectors is None:
        result.set_exception(failure or RuntimeError("no vectors"))
    else:
        result.set_result(vectors)
