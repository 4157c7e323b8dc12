"""Schedules requests and version loads over an engine's slots. Synchronous: everything runs in the engine's thread.

A request is stamped with a version when it is admitted to that version's slot, and weights are loaded into a slot only while it has no requests.
With several slots a version is loaded, warmed up and checked in a spare slot, between the steps of the others; then it becomes champion at once.
With one slot no request is admitted until the running ones have finished and the new version is loaded.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from infra.errors import RetryLater
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend, BackendCompletion
from workers.serving.engines.engine import GenerationFailed, GenerationResult, NotLoaded, SamplingParameters, SwapResult
from workers.serving.engines.turn_tokenizer import TurnTokenizer
from workers.serving.engines.version_load import WARM_UP, VersionLoad, check_sampling
from workers.serving.engines.version_slots import VersionCheckpoint, VersionSlot, VersionSlots

log = logging.getLogger(__name__)

T = TypeVar("T")

#: While user requests run, a version that is being checked gets one step after this many of theirs. At 70 % of capacity its first answer took up to 2.7 s
#: with 3; with 1 the user requests took longer (`retouch bench swap`, 2026-11-21).
STEPS_PER_CHECK = 2


@dataclass(frozen=True)
class EngineLimits:
    """`in_flight` requests run at once, over all versions. A load fails if the requests on its slot do not finish within `drain_s`."""

    max_model_len: int
    in_flight: int
    drain_s: float
    versions: int = 1  # number of slots


@dataclass(eq=False)
class Request:
    id: int
    token_ids: list[int]
    sampling: SamplingParameters
    version: str | None  # None: the champion at admission
    answer: Future[GenerationResult] = field(default_factory=Future)
    slot: VersionSlot | None = None  # set at admission, like `model`
    model: ModelVersion | None = None


@dataclass(frozen=True)
class SetChampion:
    """Command: make a loaded version the champion."""

    version: str
    in_flight: int
    result: Future[SwapResult] = field(default_factory=Future)


class Scheduler:
    """`start` creates the slots. Afterwards other threads may read `champion`, `loaded` and `next_evicted`."""

    def __init__(self, make_backend: Callable[[Path], Backend], tokenizer: TurnTokenizer, limits: EngineLimits) -> None:
        self._make_backend = make_backend
        self._tokenizer = tokenizer
        self._limits = limits
        self.ids = itertools.count()
        self.running: dict[int, Request] = {}
        self._unanswered = 0  # admitted and neither answered nor cancelled; counted apart from `running`, so that a bug there shows as dropped requests
        self._slots = VersionSlots()
        self.loading: VersionLoad | None = None
        self._rounds = 0

    @property
    def champion(self) -> ModelVersion:
        version = self._slots.champion.loaded
        assert version is not None
        return version.model

    @property
    def loaded(self) -> tuple[ModelVersion, ...]:
        return self._slots.loaded

    @property
    def next_evicted(self) -> str | None:
        version = self._slots.next_slot.loaded
        return version.model.version if version else None

    @property
    def admits(self) -> bool:
        """Whether a request can be admitted now."""
        return not (self.loading and self.loading.is_in_place) and len(self.running) < self._limits.in_flight

    def start(self, first: VersionCheckpoint) -> None:
        """Creates all slots, so that too little memory shows at the start and not at the first challenger. Loads and checks `first`.

        Raises SwapFailed if `first` fails its canary prompts, and what the backend raises.
        """
        for number in range(self._limits.versions):
            slot = self._slots.add(self._make_backend(first.checkpoint))
            version = first if number == 0 else VersionCheckpoint(first.model, first.checkpoint)
            load = VersionLoad(version, as_champion=False, in_flight=0, slot=slot)
            self._start_checks(load)
            while load.checks:
                for completion in slot.backend.step():
                    load.finish_check(completion)
            if load.failure:
                raise load.error(load.failure)
            slot.running.clear()
        self._slots.fill(self._slots.champion, first)

    def close(self) -> None:
        for slot in self._slots:
            slot.backend.close()

    def admit(self, request: Request) -> None:
        """Starts the request and stamps it, or fails it."""
        slot = self._slots.find(request.version)
        if slot is None or slot.loaded is None:
            fail(request.answer, NotLoaded(f"version {request.version} is not loaded"))
            return
        try:
            slot.backend.admit(request.id, request.token_ids, request.sampling)
        except Exception as error:
            log.warning("request refused", extra={"kind": type(error).__name__, "prompt_tokens": len(request.token_ids)})
            fail(request.answer, GenerationFailed(f"refused by the backend: {type(error).__name__}"))
            return
        request.slot, request.model = slot, slot.loaded.model
        slot.running.add(request.id)
        self.running[request.id] = request
        self._unanswered += 1

    def abort(self, request_id: int) -> None:
        """Drops a request that its caller cancelled."""
        request = self.running.pop(request_id, None)
        if request and request.slot:
            request.slot.backend.abort(request_id)
            request.slot.running.discard(request_id)
            self._unanswered -= 1

    def step(self) -> None:
        """One step of every slot with work, then of the load in progress. An error is final."""
        self._rounds += 1
        checked = self.loading.slot if self.loading and self.loading.is_loaded else None
        for slot in [slot for slot in self._slots if slot.running]:
            if slot is not checked or not self.running or self._rounds % STEPS_PER_CHECK == 0:
                self._step(slot)
        if self.loading:
            self._advance(self.loading)

    def set_champion(self, command: SetChampion) -> None:
        slot = self._slots.find(command.version)
        if slot is None:
            fail(command.result, NotLoaded(f"version {command.version} is not loaded"))
        else:
            self._slots.set_champion(slot)
            settle(command.result, SwapResult(command.in_flight, self._dropped(), 0.0, 0.0))

    def start_load(self, load: VersionLoad) -> None:
        """Chooses the slot, which admits no requests from now on. One load at a time."""
        if self.loading:
            fail(load.result, RetryLater("another version is being loaded"))
            return
        same = self._slots.find(load.version.model.version)
        if same and same.loaded == load.version:  # loaded and checked already
            if load.as_champion:
                self._slots.set_champion(same)
            settle(load.result, SwapResult(load.in_flight, self._dropped(), 0.0, 0.0))
            return
        champion = self._slots.champion
        slot = same if same and same is not champion else self._slots.next_slot
        if slot is champion and not load.as_champion:
            fail(load.result, RetryLater("no slot is left beside the champion's: the others broke; a restart creates them again"))
            return
        load.slot = slot
        if slot is champion:
            load.replaced = slot.loaded
        else:
            slot.loaded = None
        self.loading = load

    def _dropped(self) -> int:
        return self._unanswered - len(self.running)

    def _step(self, slot: VersionSlot) -> None:
        try:
            completions = slot.backend.step()
        except Exception:
            if not (self.loading and self.loading.slot is slot and self.loading.is_loaded and not self.loading.is_in_place):
                raise
            # The slot has no user requests, but its backend can no longer be trusted.
            log.exception("a version broke its slot during its check", extra={"version": self.loading.version.model.version})
            self._slots.remove(slot)
            self.loading.failure = "generating failed"
            return
        for completion in completions:
            self._finish(completion)

    def _finish(self, completion: BackendCompletion) -> None:
        if self.loading and self.loading.slot and completion.request_id in self.loading.checks:
            self.loading.finish_check(completion)
            self.loading.slot.running.discard(completion.request_id)
            return
        request = self.running.pop(completion.request_id, None)
        if request is None or request.slot is None or request.model is None:
            return
        request.slot.running.discard(request.id)
        self._unanswered -= 1
        tokens = len(request.token_ids)
        settle(request.answer, GenerationResult(completion.text, tokens, len(completion.token_ids), completion.finish_reason, request.model))

    def _advance(self, load: VersionLoad) -> None:
        assert load.slot is not None
        if not load.is_loaded and load.failure is None:
            if load.slot.running:
                self._check_drain_time(load, len(load.slot.running))
                return
            self._load_weights(load)
        if load.failure is not None:
            self._undo(load, load.slot, load.failure)
        elif not load.checks:
            self.loading = None
            self._slots.fill(load.slot, load.version)
            if load.as_champion:
                self._slots.set_champion(load.slot)
            settle(load.result, load.swap_result(self._dropped()))

    def _check_drain_time(self, load: VersionLoad, in_flight: int) -> None:
        if load.waited_s > self._limits.drain_s:
            self.loading = None  # the slot stays empty, or keeps the champion
            fail(load.result, RetryLater(f"{in_flight} requests were still in flight after {load.waited_s:.1f} s"))

    def _load_weights(self, load: VersionLoad) -> None:
        try:
            load.load()
            self._start_checks(load)
        except Exception as error:
            log.exception("weights did not load", extra={"version": load.version.model.version, "serving": self.champion.version})
            load.failure = f"loading failed: {type(error).__name__}: {error}"

    def _start_checks(self, load: VersionLoad) -> None:
        assert load.slot is not None
        for prompt in (WARM_UP, *load.version.canary_prompts):
            request_id = next(self.ids)
            load.slot.backend.admit(request_id, self._tokenizer.encode(prompt.prompt), check_sampling(prompt))
            load.slot.running.add(request_id)
            load.checks[request_id] = prompt

    def _undo(self, load: VersionLoad, slot: VersionSlot, reason: str) -> None:
        """Aborts the remaining checks. The champion's own slot gets its previous version back."""
        if slot in self._slots:
            for request_id in load.checks:
                slot.backend.abort(request_id)
                slot.running.discard(request_id)
        self.loading = None
        if load.replaced:
            slot.backend.load(load.replaced.checkpoint)  # an error here ends the engine: the weights in memory are unknown
        fail(load.result, load.error(reason))


def settle(future: Future[T], result: T) -> None:
    with suppress(InvalidStateError):  # the caller cancelled it
        future.set_result(result)


def fail(future: Future[T], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
