"""The engine around a backend: one thread owns the model, admits requests, stamps them with the version they run on, and swaps.

Requests reach the thread through a queue. A swap stops admission, steps until nothing is in flight, loads, and admits again: a request
is stamped when it is admitted, and no admitted request lives across a load, so no answer is made by two versions and none is lost.
During a swap later requests wait; their number is bounded by the callers, the time by the longest answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from infra.checkpoints import BadCheckpoint, differences
from infra.errors import RetouchError, RetryLater
from schemas.responses import ModelVersion
from workers.engines.backend import Backend, Completion
from workers.engines.chat import Template
from workers.engines.engine import EngineDied, Generation, GenerationFailed, Sampling, StartStopped, Swap, SwapFailed

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How often a start that waits for its model looks whether it should stop.
LOOK_S = 0.2


@dataclass(frozen=True)
class Limits:
    """`in_flight` requests run at once; a swap gives up when they have not finished within `drain_s`."""

    max_model_len: int
    in_flight: int
    drain_s: float


@dataclass
class _Request:
    id: int
    token_ids: list[int]
    sampling: Sampling
    answer: Future[Generation] = field(default_factory=Future)
    model: ModelVersion | None = None  # set at admission


@dataclass(frozen=True)
class _Abort:
    request_id: int


@dataclass
class _Swapping:
    checkpoint: Path
    model: ModelVersion
    in_flight: int
    asked_at: float = field(default_factory=time.perf_counter)
    result: Future[Swap] = field(default_factory=Future)


class _Close:
    pass


class ServingEngine:
    """An Engine (workers.engines.engine) over any backend. `start` blocks until the model is loaded."""

    def __init__(self, make_backend: Callable[[Path], Backend], template: Template, checkpoint: Path, model: ModelVersion, limits: Limits) -> None:
        self._make_backend = make_backend
        self._template = template
        self._checkpoint, self._model, self._limits = checkpoint, model, limits
        self._ids = itertools.count()
        self._inbox: queue.SimpleQueue[_Request | _Abort | _Swapping | _Close] = queue.SimpleQueue()
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        self._unanswered = 0  # admitted, neither answered nor given up by their callers; counted apart from `_running`, which a bug could empty
        self._swapping: _Swapping | None = None
        self._closing = False
        self._ended: RetouchError | None = None  # why nothing will be answered any more
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @classmethod
    def start(
        cls,
        make_backend: Callable[[Path], Backend],
        template: Template,
        checkpoint: Path,
        model: ModelVersion,
        limits: Limits,
        stop: threading.Event | None = None,
    ) -> ServingEngine:
        """Load `checkpoint`. Raises EngineDied with the cause when that fails, StartStopped when `stop` is set first."""
        engine = cls(make_backend, template, checkpoint, model, limits)
        engine._thread.start()
        while not wait([engine._loaded], timeout=LOOK_S).done:
            if stop and stop.is_set():
                engine._post(_Close())
                raise StartStopped(f"told to stop while {checkpoint} was loading")
        engine._loaded.result()
        return engine

    def count_tokens(self, prompt: str) -> int:
        return len(self._template.encode(prompt))

    async def generate(self, prompt: str, sampling: Sampling) -> Generation:
        token_ids = self._template.encode(prompt)
        if len(token_ids) + sampling.max_new_tokens > self._limits.max_model_len:
            raise GenerationFailed(f"{len(token_ids)} prompt tokens and {sampling.max_new_tokens} new ones exceed {self._limits.max_model_len}")
        request = _Request(next(self._ids), token_ids, sampling)
        self._post(request)
        try:
            return await asyncio.wrap_future(request.answer)
        except asyncio.CancelledError:
            self._post(_Abort(request.id))
            raise

    async def swap(self, checkpoint: Path, model: ModelVersion) -> Swap:
        found = differences(self._checkpoint, checkpoint)
        if found:
            raise BadCheckpoint(f"{checkpoint}: cannot take the place of {self._checkpoint}: {'; '.join(found)}")
        swapping = _Swapping(checkpoint, model, in_flight=len(self._running))
        self._post(swapping)
        return await asyncio.wrap_future(swapping.result)

    async def close(self) -> None:
        self._post(_Close())
        await asyncio.to_thread(self._thread.join, self._limits.drain_s)

    def _post(self, item: _Request | _Abort | _Swapping | _Close) -> None:
        self._inbox.put(item)
        if self._ended:
            self._fail_everything(self._ended)

    # Everything below runs in the engine's thread, but for `_fail_everything`, which any thread may repeat once that one has ended.

    def _run(self) -> None:
        try:
            backend = self._make_backend(self._checkpoint)
            self._warm_up(backend)
        except Exception as error:
            self._end(EngineDied(f"the engine did not start from {self._checkpoint}: {type(error).__name__}: {error}"), error)
            return
        self._loaded.set_result(None)
        try:
            self._serve(backend)
            backend.close()
        except Exception as error:
            log.exception("engine died", extra={"in_flight": len(self._running), "waiting": len(self._waiting)})
            self._end(EngineDied(f"the engine died: {type(error).__name__}"), error)
        else:
            self._end(GenerationFailed("the engine is closed"))

    def _warm_up(self, backend: Backend) -> None:
        """The first generation compiles kernels, 4 s with vLLM: no user waits for it."""
        backend.admit(next(self._ids), self._template.encode("ready ?"), Sampling(max_new_tokens=2, stop=()))
        while not backend.step():
            pass

    def _end(self, reason: RetouchError, cause: Exception | None = None) -> None:
        reason.__cause__ = cause
        self._ended = reason  # before the last look into the inbox: whoever posts later sees it
        self._fail_everything(reason)
        _fail(self._loaded, reason)

    def _serve(self, backend: Backend) -> None:
        while not self._closing:
            self._receive(backend)
            self._admit(backend)
            if self._running:
                for completion in backend.step():
                    self._answer(completion)
            if self._swapping:
                self._advance_swap(self._swapping, backend)

    def _receive(self, backend: Backend) -> None:
        """Take everything that was posted; blocks only when there is nothing else to do."""
        idle = not (self._running or self._waiting or self._swapping)
        while not self._inbox.empty() or idle:
            item = self._inbox.get()
            idle = False
            match item:
                case _Request():
                    self._waiting.append(item)
                case _Abort():
                    self._give_up(item.request_id, backend)
                case _Swapping() if self._swapping:
                    _fail(item.result, RetryLater("another swap is under way"))
                case _Swapping():
                    self._swapping = item
                case _Close():
                    self._closing = True

    def _admit(self, backend: Backend) -> None:
        while self._waiting and not self._swapping and len(self._running) < self._limits.in_flight:
            request = self._waiting.popleft()
            if request.answer.cancelled():
                continue
            try:
                backend.admit(request.id, request.token_ids, request.sampling)
            except Exception as error:
                log.warning("request refused", extra={"kind": type(error).__name__, "prompt_tokens": len(request.token_ids)})
                _fail(request.answer, GenerationFailed(f"refused by the backend: {type(error).__name__}"))
            else:
                request.model = self._model
                self._running[request.id] = request
                self._unanswered += 1

    def _answer(self, completion: Completion) -> None:
        request = self._running.pop(completion.request_id, None)
        if request is None or request.model is None:
            return
        self._unanswered -= 1
        tokens = len(request.token_ids)
        generation = Generation(completion.text, tokens, completion.completion_tokens, completion.finish_reason, request.model)
        _settle(request.answer, generation)

    def _give_up(self, request_id: int, backend: Backend) -> None:
        if self._running.pop(request_id, None):
            backend.abort(request_id)
            self._unanswered -= 1

    def _advance_swap(self, swapping: _Swapping, backend: Backend) -> None:
        waited_s = time.perf_counter() - swapping.asked_at
        if self._running:
            if waited_s > self._limits.drain_s:
                self._swapping = None
                _fail(swapping.result, RetryLater(f"{len(self._running)} requests were still in flight after {waited_s:.1f} s"))
            return
        loading_at = time.perf_counter()
        self._swapping = None
        try:
            backend.load(swapping.checkpoint)
        except Exception as error:
            log.exception("weights did not load; going back", extra={"version": swapping.model.version, "serving": self._model.version})
            backend.load(self._checkpoint)  # an error here ends the engine: nobody knows what is in memory
            _fail(swapping.result, SwapFailed(f"{swapping.checkpoint}: loading failed: {type(error).__name__}: {error}"))
            return
        self._checkpoint, self._model = swapping.checkpoint, swapping.model
        load_s = time.perf_counter() - loading_at
        _settle(swapping.result, Swap(swapping.in_flight, self._unanswered, waited_s * 1000, load_s * 1000))

    def _fail_everything(self, error: Exception) -> None:
        for request in [*self._waiting, *self._running.values()]:
            _fail(request.answer, error)
        if self._swapping:
            _fail(self._swapping.result, error)
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, _Request):
                _fail(item.answer, error)
            elif isinstance(item, _Swapping):
                _fail(item.result, error)


def _settle(future: Future[T], result: T) -> None:
    with suppress(InvalidStateError):  # the caller is gone
        future.set_result(result)


def _fail(future: Future[T], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
