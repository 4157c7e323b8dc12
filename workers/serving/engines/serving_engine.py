"""The engine around its backends: one thread owns the models and everything that runs on them (`workers.serving.engines.scheduler`).

Requests reach the thread through a queue and are answered through futures. During a swap in place later requests wait in it; their number is bounded by the
callers, the time by the longest answer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.checkpoints.verification import BadCheckpoint, differences, traits
from infra.errors import RetouchError, RetryLater
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend
from workers.serving.engines.chat import Template
from workers.serving.engines.engine import EngineDied, GenerationFailed, GenerationResult, SamplingParameters, StartStopped, SwapFailed, SwapResult
from workers.serving.engines.scheduler import EngineLimits, Request, Scheduler, SetChampion, fail
from workers.serving.engines.version_slots import VersionCheckpoint, VersionLoad

log = logging.getLogger(__name__)

#: Says what keeps a checkpoint from being served.
Misfits = Callable[[Path], Sequence[str]]

#: How often a start that waits for its model looks whether it should stop.
LOOK_S = 0.2


@dataclass(frozen=True)
class _Abort:
    request_id: int


class _Close:
    pass


_Item = Request | _Abort | SetChampion | VersionLoad | _Close


def fitting(first: Path) -> Misfits:
    """In an engine that was started with `first`, whose files may go afterwards."""
    return partial(differences, traits(first))


class ServingEngine:
    """An Engine (workers.serving.engines.engine) over any backend. `start` blocks until the first version is loaded and checked, and all places are made.

    `make_misfits` is called once, with the first version's checkpoint.
    """

    _misfits: Misfits  # set before the start is over

    def __init__(
        self,
        make_backend: Callable[[Path], Backend],
        template: Template,
        first: VersionCheckpoint,
        limits: EngineLimits,
        make_misfits: Callable[[Path], Misfits] = fitting,
    ) -> None:
        self._template = template
        self._first, self._limits, self._make_misfits = first, limits, make_misfits
        self._room = Scheduler(make_backend, template, limits)
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._closing = False
        self._ended: RetouchError | None = None  # why nothing will be answered any more
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @classmethod
    def start(
        cls,
        make_backend: Callable[[Path], Backend],
        template: Template,
        first: VersionCheckpoint,
        limits: EngineLimits,
        stop: threading.Event | None = None,
        make_misfits: Callable[[Path], Misfits] = fitting,
    ) -> ServingEngine:
        """Load and check `first`. Raises EngineDied with the cause when that fails, StartStopped when `stop` is set first."""
        engine = cls(make_backend, template, first, limits, make_misfits)
        engine._thread.start()
        while not wait([engine._started], timeout=LOOK_S).done:
            if stop and stop.is_set():
                engine._post(_Close())
                raise StartStopped(f"told to stop while {first.checkpoint} was loading")
        engine._started.result()
        return engine

    @property
    def champion(self) -> ModelVersion:
        return self._room.champion

    @property
    def loaded(self) -> tuple[ModelVersion, ...]:
        return self._room.loaded

    @property
    def displaces(self) -> str | None:
        return self._room.displaces

    def count_tokens(self, prompt: str) -> int:
        return len(self._template.encode(prompt))

    async def generate(self, prompt: str, sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        token_ids = self._template.encode(prompt)
        if len(token_ids) + sampling.max_new_tokens > self._limits.max_model_len:
            raise GenerationFailed(f"{len(token_ids)} prompt tokens and {sampling.max_new_tokens} new ones exceed {self._limits.max_model_len}")
        request = Request(next(self._room.ids), token_ids, sampling, version)
        self._post(request)
        try:
            return await asyncio.wrap_future(request.answer)
        except asyncio.CancelledError:
            self._post(_Abort(request.id))
            raise

    async def load(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        if self._limits.versions == 1:
            raise SwapFailed(f"version {model.version}: there is room for one version only; set reflection.versions to 2 or more")
        return await self._put(VersionCheckpoint(model, checkpoint, tuple(canary_prompts)), serve=False)

    async def swap(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        return await self._put(VersionCheckpoint(model, checkpoint, tuple(canary_prompts)), serve=True)

    async def serve(self, version: str) -> SwapResult:
        asked = SetChampion(version, in_flight=len(self._room.running))
        self._post(asked)
        return await asyncio.wrap_future(asked.result)

    async def close(self) -> None:
        self._post(_Close())
        await asyncio.to_thread(self._thread.join, self._limits.drain_s)

    async def _put(self, wanted: VersionCheckpoint, *, serve: bool) -> SwapResult:
        await asyncio.to_thread(self._check, wanted.checkpoint)
        loading = VersionLoad(wanted, serve, in_flight=len(self._room.running))
        self._post(loading)
        return await asyncio.wrap_future(loading.result)

    def _check(self, checkpoint: Path) -> None:
        try:
            if found := self._misfits(checkpoint):
                raise BadCheckpoint(f"{checkpoint}: cannot be served in place of {self._first.checkpoint}: {'; '.join(found)}")
        except (BadCheckpoint, OSError) as error:
            if checkpoint.is_dir():
                raise
            raise RetryLater(f"{checkpoint} has gone since it was fetched") from error

    def _post(self, item: _Item) -> None:
        self._inbox.put(item)
        if self._ended:
            self._fail_everything(self._ended)

    # Everything below runs in the engine's thread, but for `_fail_everything`, which any thread may repeat once that one has ended.

    def _run(self) -> None:
        try:
            self._misfits = self._make_misfits(self._first.checkpoint)
            self._room.open(self._first)
        except Exception as error:
            self._end(EngineDied(f"the engine did not start from {self._first.checkpoint}: {type(error).__name__}: {error}"), error)
            self._room.close()
            return
        self._started.set_result(None)
        try:
            self._work()
            self._room.close()
        except Exception as error:
            log.exception("engine died", extra={"in_flight": len(self._room.running), "waiting": len(self._waiting)})
            self._end(EngineDied(f"the engine died: {type(error).__name__}"), error)
        else:
            self._end(GenerationFailed("the engine is closed"))

    def _end(self, reason: RetouchError, cause: Exception | None = None) -> None:
        reason.__cause__ = cause
        self._ended = reason  # before the last look into the inbox: whoever posts later sees it
        self._fail_everything(reason)
        fail(self._started, reason)

    def _work(self) -> None:
        while not self._closing:
            self._receive()
            self._admit()
            self._room.step()

    def _admit(self) -> None:
        while self._waiting and self._room.admits:
            request = self._waiting.popleft()
            if not request.answer.cancelled():
                self._room.admit(request)

    def _receive(self) -> None:
        """Take everything that was posted; blocks only when there is nothing else to do."""
        idle = not (self._room.running or self._waiting or self._room.loading)
        while not self._inbox.empty() or idle:
            item = self._inbox.get()
            idle = False
            match item:
                case Request():
                    self._waiting.append(item)
                case _Abort():
                    self._room.give_up(item.request_id)
                case SetChampion():
                    self._admit()  # who came before is answered as things were
                    self._room.serve(item)
                case VersionLoad():
                    self._admit()
                    self._room.put(item)
                case _Close():
                    self._closing = True

    def _fail_everything(self, error: Exception) -> None:
        for request in [*self._waiting, *self._room.running.values()]:
            fail(request.answer, error)
        if self._room.loading:
            fail(self._room.loading.result, error)
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, Request):
                fail(item.answer, error)
            elif isinstance(item, SetChampion | VersionLoad):
                fail(item.result, error)
