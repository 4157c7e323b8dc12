"""The Engine over any backend: one thread owns the models and everything that runs on them (`workers.serving.engines.scheduler`).

Requests reach the thread through a queue and are answered through futures. During a swap in place later requests wait in the queue. Callers limit
their number, the longest answer limits the time.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.checkpoints.verification import BadCheckpoint, differences, traits
from infra.errors import RetouchError, RetryLater
from schemas.control_marks import ControlMarks
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend
from workers.serving.engines.engine import EngineDied, GenerationFailed, GenerationResult, SamplingParameters, StartStopped, SwapFailed, SwapResult
from workers.serving.engines.scheduler import EngineLimits, Request, Scheduler, SetChampion, fail
from workers.serving.engines.turn_tokenizer import TurnTokenizer
from workers.serving.engines.version_load import VersionLoad
from workers.serving.engines.version_slots import VersionCheckpoint

log = logging.getLogger(__name__)

#: Returns the reasons why a checkpoint cannot be served; none if it can.
Misfits = Callable[[Path], Sequence[str]]

#: How often a start that waits for its model checks for a stop.
STOP_CHECK_S = 0.2


@dataclass(frozen=True)
class _Abort:
    request_id: int


class _Close:
    pass


_Item = Request | _Abort | SetChampion | VersionLoad | _Close


def differences_from(first: Path) -> Misfits:
    """Compares with `first`, whose files may be removed afterwards."""
    return partial(differences, traits(first))


class ServingEngine:
    """`make_misfits` is called once, with the first version's checkpoint."""

    _misfits: Misfits  # set before the start is over

    def __init__(
        self,
        make_backend: Callable[[Path], Backend],
        tokenizer: TurnTokenizer,
        first: VersionCheckpoint,
        limits: EngineLimits,
        make_misfits: Callable[[Path], Misfits] = differences_from,
    ) -> None:
        self._tokenizer = tokenizer
        self._first, self._limits, self._make_misfits = first, limits, make_misfits
        self._scheduler = Scheduler(make_backend, tokenizer, limits)
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._closing = False
        self._ended: RetouchError | None = None  # why requests are no longer answered
        self._step_began: float | None = None  # monotonic; None while it waits for requests
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @classmethod
    def start(
        cls,
        make_backend: Callable[[Path], Backend],
        tokenizer: TurnTokenizer,
        first: VersionCheckpoint,
        limits: EngineLimits,
        stop: threading.Event | None = None,
        make_misfits: Callable[[Path], Misfits] = differences_from,
    ) -> ServingEngine:
        """Creates all slots, loads and checks `first`. Blocks. Raises EngineDied with the cause if that fails, StartStopped if `stop` is set first."""
        engine = cls(make_backend, tokenizer, first, limits, make_misfits)
        engine._thread.start()
        while not wait([engine._started], timeout=STOP_CHECK_S).done:
            if stop and stop.is_set():
                engine._post(_Close())
                raise StartStopped(f"stopped while {first.checkpoint} was loading")
        engine._started.result()
        return engine

    @property
    def champion(self) -> ModelVersion:
        return self._scheduler.champion

    @property
    def loaded(self) -> tuple[ModelVersion, ...]:
        return self._scheduler.loaded

    @property
    def marks(self) -> ControlMarks:
        return self._tokenizer.marks

    @property
    def next_evicted(self) -> str | None:
        return self._scheduler.next_evicted

    @property
    def stalled_s(self) -> float:
        if isinstance(self._ended, EngineDied):
            raise self._ended
        began = self._step_began
        return 0.0 if began is None or self._scheduler.loading else time.monotonic() - began

    def count_tokens(self, prompt: str) -> int:
        return len(self._tokenizer.encode(prompt))

    async def generate(self, prompt: str, sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        token_ids = self._tokenizer.encode(prompt)
        if self._tokenizer.holds_control_tokens(token_ids):
            raise GenerationFailed("the text of the prompt reaches the model as control tokens")
        return await self.generate_ids(token_ids, sampling, version)

    async def generate_ids(self, token_ids: list[int], sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        """Like `generate`, of a prompt that the caller has encoded and checked for control tokens."""
        if len(token_ids) + sampling.max_new_tokens > self._limits.max_model_len:
            raise GenerationFailed(f"{len(token_ids)} prompt tokens and {sampling.max_new_tokens} new ones exceed {self._limits.max_model_len}")
        request = Request(next(self._scheduler.ids), token_ids, sampling, version)
        self._post(request)
        try:
            return await asyncio.wrap_future(request.answer)
        except asyncio.CancelledError:
            self._post(_Abort(request.id))
            raise

    async def load(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        if self._limits.versions == 1:
            raise SwapFailed(f"version {model.version}: the engine has only one version slot; set reflection.versions to 2 or more")
        return await self._load(VersionCheckpoint(model, checkpoint, tuple(canary_prompts)), as_champion=False)

    async def swap(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        return await self._load(VersionCheckpoint(model, checkpoint, tuple(canary_prompts)), as_champion=True)

    async def set_champion(self, version: str) -> SwapResult:
        command = SetChampion(version, in_flight=len(self._scheduler.running))
        self._post(command)
        return await asyncio.wrap_future(command.result)

    async def close(self) -> None:
        self._post(_Close())
        await asyncio.to_thread(self._thread.join, self._limits.drain_s)

    async def _load(self, version: VersionCheckpoint, *, as_champion: bool) -> SwapResult:
        await asyncio.to_thread(self._check_fit, version.checkpoint)
        load = VersionLoad(version, as_champion, in_flight=len(self._scheduler.running))
        self._post(load)
        return await asyncio.wrap_future(load.result)

    def _check_fit(self, checkpoint: Path) -> None:
        try:
            if misfits := self._misfits(checkpoint):
                raise BadCheckpoint(f"{checkpoint}: cannot be served in place of {self._first.checkpoint}: {'; '.join(misfits)}")
        except (BadCheckpoint, OSError) as error:
            if checkpoint.is_dir():
                raise
            raise RetryLater(f"{checkpoint} was removed after it was fetched") from error

    def _post(self, item: _Item) -> None:
        self._inbox.put(item)
        if self._ended:
            self._fail_all(self._ended)

    # Everything below runs in the engine's thread. Any thread may call `_fail_all` again after that thread has ended.

    def _run(self) -> None:
        try:
            self._misfits = self._make_misfits(self._first.checkpoint)
            self._scheduler.start(self._first)
        except Exception as error:
            self._end(EngineDied(f"the engine did not start from {self._first.checkpoint}: {type(error).__name__}: {error}"), error)
            self._scheduler.close()
            return
        self._started.set_result(None)
        try:
            self._serve()
            self._scheduler.close()
        except Exception as error:
            log.exception("engine died", extra={"in_flight": len(self._scheduler.running), "waiting": len(self._waiting)})
            self._end(EngineDied(f"the engine died: {type(error).__name__}"), error)
        else:
            self._end(GenerationFailed("the engine is closed"))

    def _end(self, reason: RetouchError, cause: Exception | None = None) -> None:
        reason.__cause__ = cause
        self._ended = reason  # set before the inbox is emptied, so that no later post is missed
        self._fail_all(reason)
        fail(self._started, reason)

    def _serve(self) -> None:
        while not self._closing:
            self._receive()
            self._admit()
            self._scheduler.step()

    def _admit(self) -> None:
        while self._waiting and self._scheduler.admits:
            request = self._waiting.popleft()
            if not request.answer.cancelled():
                self._scheduler.admit(request)

    def _receive(self) -> None:
        """Takes everything from the inbox. Blocks only if there is nothing else to do."""
        idle = not (self._scheduler.running or self._waiting or self._scheduler.loading)
        self._step_began = None if idle else time.monotonic()
        while not self._inbox.empty() or idle:
            item = self._inbox.get()
            idle, self._step_began = False, time.monotonic()
            match item:
                case Request():
                    self._waiting.append(item)
                case _Abort():
                    self._scheduler.abort(item.request_id)
                case SetChampion():
                    self._admit()  # earlier requests go to the previous champion
                    self._scheduler.set_champion(item)
                case VersionLoad():
                    self._admit()
                    self._scheduler.start_load(item)
                case _Close():
                    self._closing = True

    def _fail_all(self, error: Exception) -> None:
        for request in [*self._waiting, *self._scheduler.running.values()]:
            fail(request.answer, error)
        if self._scheduler.loading:
            fail(self._scheduler.loading.result, error)
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, Request):
                fail(item.answer, error)
            elif isinstance(item, SetChampion | VersionLoad):
                fail(item.result, error)
