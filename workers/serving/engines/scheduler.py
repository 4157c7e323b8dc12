"""The versions in an engine's memory and the requests that run on them. Synchronous: everything here runs in the engine's thread.

A request is stamped when it is admitted to the place of one version, and no admitted request lives across a load into its place. With several places a
version is loaded, warmed up and checked in a spare one between the steps of the others, and serving it is a change of route. With one place the others
wait: nothing is admitted until what is in flight has finished and the new version is in.
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
from workers.serving.engines.chat import Template
from workers.serving.engines.engine import GenerationFailed, GenerationResult, NotLoaded, SamplingParameters, SwapResult
from workers.serving.engines.version_slots import WARM_UP, VersionCheckpoint, VersionLoad, VersionSlot, sampling_of, spare

log = logging.getLogger(__name__)

T = TypeVar("T")

#: While users' requests run, a version that is being checked has a step after so many of theirs. At 70 % of capacity its first answer took up to 2.7 s with 3,
#: and with 1 the others waited longer (`retouch bench swap`, 2026-11-21).
STEPS_PER_CHECK = 2


@dataclass(frozen=True)
class EngineLimits:
    """`in_flight` requests run at once, over all versions; a load gives up when those in its way have not finished within `drain_s`."""

    max_model_len: int
    in_flight: int
    drain_s: float
    versions: int = 1


@dataclass(eq=False)
class Request:
    id: int
    token_ids: list[int]
    sampling: SamplingParameters
    version: str | None  # None: whatever is champion at admission
    answer: Future[GenerationResult] = field(default_factory=Future)
    slot: VersionSlot | None = None  # both set at admission
    model: ModelVersion | None = None


@dataclass(frozen=True)
class SetChampion:
    """Make a loaded version the champion."""

    version: str
    in_flight: int
    result: Future[SwapResult] = field(default_factory=Future)


class Scheduler:
    """Places for `limits.versions` versions. `open` makes them; other threads may read `champion`, `loaded` and `displaces` afterwards."""

    def __init__(self, make_backend: Callable[[Path], Backend], template: Template, limits: EngineLimits) -> None:
        self._make_backend = make_backend
        self._template = template
        self._limits = limits
        self.ids = itertools.count()
        self._wants = itertools.count(1)
        self.running: dict[int, Request] = {}
        self._unanswered = 0  # admitted, neither answered nor given up by their callers; counted apart from `running`, which a bug could empty
        self._slots: list[VersionSlot] = []
        self._champion: VersionSlot
        self.loading: VersionLoad | None = None
        self._rounds = 0

    @property
    def champion(self) -> ModelVersion:
        held = self._champion.held
        assert held is not None
        return held.model

    @property
    def loaded(self) -> tuple[ModelVersion, ...]:
        return tuple(held.model for slot in list(self._slots) if (held := slot.held))

    @property
    def displaces(self) -> str | None:
        held = spare(list(self._slots), self._champion).held
        return held.model.version if held else None

    @property
    def admits(self) -> bool:
        """Whether there is room for a request now."""
        return not (self.loading and self.loading.in_place) and len(self.running) < self._limits.in_flight

    def open(self, first: VersionCheckpoint) -> None:
        """Make every place now, so that the memory they take is known at the start and not when the first challenger comes.

        `first` is loaded and checked. Raises SwapFailed where it writes other tokens than registered, and whatever the backend does.
        """
        for number in range(self._limits.versions):
            slot = VersionSlot(self._make_backend(first.checkpoint))
            self._slots.append(slot)
            checking = VersionLoad(first if number == 0 else VersionCheckpoint(first.model, first.checkpoint), serve=False, in_flight=0, slot=slot)
            self._check(checking)
            while checking.checks:
                for completion in slot.backend.step():
                    checking.passed(completion)
            if checking.failure:
                raise checking.failed(checking.failure)
            slot.running.clear()
        self._champion = self._slots[0]
        self._champion.held, self._champion.needed = first, next(self._wants)

    def close(self) -> None:
        for slot in self._slots:
            slot.backend.close()

    def admit(self, request: Request) -> None:
        """Start it and stamp it, or fail it."""
        slot = self._slot_of(request.version)
        if slot is None or slot.held is None:
            fail(request.answer, NotLoaded(f"version {request.version} is not loaded"))
            return
        try:
            slot.backend.admit(request.id, request.token_ids, request.sampling)
        except Exception as error:
            log.warning("request refused", extra={"kind": type(error).__name__, "prompt_tokens": len(request.token_ids)})
            fail(request.answer, GenerationFailed(f"refused by the backend: {type(error).__name__}"))
            return
        request.slot, request.model = slot, slot.held.model
        slot.running.add(request.id)
        self.running[request.id] = request
        self._unanswered += 1

    def give_up(self, request_id: int) -> None:
        """Forget a request whose caller is gone."""
        request = self.running.pop(request_id, None)
        if request and request.slot:
            request.slot.backend.abort(request_id)
            request.slot.running.discard(request_id)
            self._unanswered -= 1

    def step(self) -> None:
        """One step of every place that has work, then of the load that is under way. An error is final."""
        self._rounds += 1
        checking = self.loading.slot if self.loading and self.loading.is_loaded else None
        for slot in [slot for slot in self._slots if slot.running]:
            if slot is not checking or not self.running or self._rounds % STEPS_PER_CHECK == 0:
                self._step(slot)
        if self.loading:
            self._advance(self.loading)

    def serve(self, asked: SetChampion) -> None:
        slot = self._slot_of(asked.version)
        if slot is None:
            fail(asked.result, NotLoaded(f"version {asked.version} is not loaded"))
        else:
            self._crown(slot)
            settle(asked.result, SwapResult(asked.in_flight, self._dropped(), 0.0, 0.0))

    def put(self, loading: VersionLoad) -> None:
        """Begin a load: choose its place, to which nobody is admitted from now on. One at a time."""
        if self.loading:
            fail(loading.result, RetryLater("another version is being loaded"))
            return
        same = self._slot_of(loading.wanted.model.version)
        if same and same.held == loading.wanted:  # loaded and checked already
            if loading.serve:
                self._crown(same)
            settle(loading.result, SwapResult(loading.in_flight, self._dropped(), 0.0, 0.0))
            return
        slot = same if same and same is not self._champion else spare(self._slots, self._champion)
        if slot is self._champion and not loading.serve:  # its place is for who is to be champion
            fail(loading.result, RetryLater("no place is left beside the champion's: the others broke, a restart makes them anew"))
            return
        loading.slot = slot
        if slot is self._champion:
            loading.before = loading.slot.held
        else:
            loading.slot.held = None
        self.loading = loading

    def _slot_of(self, version: str | None) -> VersionSlot | None:
        if version is None:
            return self._champion
        return next((slot for slot in self._slots if slot.held and slot.held.model.version == version), None)

    def _crown(self, slot: VersionSlot) -> None:
        """The one it takes over from was needed until now."""
        self._champion.needed = next(self._wants)
        self._champion, slot.needed = slot, next(self._wants)

    def _dropped(self) -> int:
        return self._unanswered - len(self.running)

    def _step(self, slot: VersionSlot) -> None:
        try:
            completions = slot.backend.step()
        except Exception:
            if not (self.loading and self.loading.slot is slot and self.loading.is_loaded and not self.loading.in_place):
                raise
            # Nobody's request is in there. What the place would do with the next version nobody knows, so it is given up.
            log.exception("a version broke its place while it was checked", extra={"version": self.loading.wanted.model.version})
            self._slots.remove(slot)
            self.loading.failure = "generating failed"
            return
        for completion in completions:
            self._answer(completion)

    def _answer(self, completion: BackendCompletion) -> None:
        if self.loading and self.loading.slot and completion.request_id in self.loading.checks:
            self.loading.passed(completion)
            self.loading.slot.running.discard(completion.request_id)
            return
        request = self.running.pop(completion.request_id, None)
        if request is None or request.slot is None or request.model is None:
            return
        request.slot.running.discard(request.id)
        self._unanswered -= 1
        tokens = len(request.token_ids)
        settle(request.answer, GenerationResult(completion.text, tokens, len(completion.token_ids), completion.finish_reason, request.model))

    def _advance(self, loading: VersionLoad) -> None:
        assert loading.slot is not None
        if not loading.is_loaded and loading.failure is None:
            if loading.slot.running:
                self._mind_the_time(loading, len(loading.slot.running))
                return
            self._load(loading)
        if loading.failure is not None:
            self._take_back(loading, loading.slot, loading.failure)
        elif not loading.checks:
            self.loading = None
            loading.slot.held, loading.slot.needed = loading.wanted, next(self._wants)
            if loading.serve:
                self._crown(loading.slot)
            settle(loading.result, loading.done(self._dropped()))

    def _mind_the_time(self, loading: VersionLoad, in_flight: int) -> None:
        if loading.waited_s > self._limits.drain_s:
            self.loading = None  # the place stays empty, or the champion's
            fail(loading.result, RetryLater(f"{in_flight} requests were still in flight after {loading.waited_s:.1f} s"))

    def _load(self, loading: VersionLoad) -> None:
        try:
            loading.load()
            self._check(loading)
        except Exception as error:
            log.exception("weights did not load", extra={"version": loading.wanted.model.version, "serving": self.champion.version})
            loading.failure = f"loading failed: {type(error).__name__}: {error}"

    def _check(self, loading: VersionLoad) -> None:
        assert loading.slot is not None
        for prompt in (WARM_UP, *loading.wanted.canary_prompts):
            request_id = next(self.ids)
            loading.slot.backend.admit(request_id, self._template.encode(prompt.prompt), sampling_of(prompt))
            loading.slot.running.add(request_id)
            loading.checks[request_id] = prompt

    def _take_back(self, loading: VersionLoad, slot: VersionSlot, reason: str) -> None:
        """What is left of the checks goes; the champion's own place gets its old version back."""
        if slot in self._slots:
            for request_id in loading.checks:
                slot.backend.abort(request_id)
                slot.running.discard(request_id)
        self.loading = None
        if loading.before:
            slot.backend.load(loading.before.checkpoint)  # an error here ends the engine: nobody knows what is in memory
        fail(loading.result, loading.failed(reason))


def settle(future: Future[T], result: T) -> None:
    with suppress(InvalidStateError):  # the caller is gone
        future.set_result(result)


def fail(future: Future[T], error: Exception) -> None:
    with suppress(InvalidStateError):
        future.set_exception(error)
