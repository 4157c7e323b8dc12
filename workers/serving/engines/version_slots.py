"""The places for versions in an engine's memory, and how a version gets into one: wait until it is empty, load, warm up, check.

All of it runs in the engine's thread, in small steps between those of the requests, so that nobody waits while a spare place is prepared.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import RetouchError, RetryLater
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.serving.engines.backend import Backend, BackendCompletion
from workers.serving.engines.engine import SamplingParameters, SwapFailed, SwapResult

#: The first generation compiles kernels, 4 s with vLLM, and fills caches: no user waits for it.
WARM_UP = CanaryPrompt(prompt="ready ?", token_ids=())
WARM_UP_TOKENS = 2


@dataclass(frozen=True)
class VersionCheckpoint:
    """A version and where its files are."""

    model: ModelVersion
    checkpoint: Path
    canary_prompts: tuple[CanaryPrompt, ...] = ()


@dataclass(eq=False)
class VersionSlot:
    """One place. `needed` orders the versions by when they were last wanted: loaded, or champion."""

    backend: Backend
    held: VersionCheckpoint | None = None  # what may be asked; None while it is empty or being prepared
    running: set[int] = field(default_factory=set)  # requests and checks
    needed: int = 0


def spare(slots: Sequence[VersionSlot], champion: VersionSlot) -> VersionSlot:
    """Where the next version goes: an empty place, else the one least lately needed; the champion's own where there is no other."""
    others = [slot for slot in slots if slot is not champion]
    return min(others, key=lambda slot: (slot.held is not None, slot.needed), default=champion)


@dataclass(eq=False)
class VersionLoad:
    """A version on its way in. `before` is what to go back to where it takes the champion's own place."""

    wanted: VersionCheckpoint
    serve: bool  # make it the champion
    in_flight: int
    slot: VersionSlot | None = None  # set when its turn has come
    before: VersionCheckpoint | None = None
    asked_at: float = field(default_factory=time.perf_counter)
    loading_at: float = 0.0
    loaded_at: float = 0.0
    checks: dict[int, CanaryPrompt] = field(default_factory=dict)  # by request id; without those that have passed
    failure: str | None = None
    result: Future[SwapResult] = field(default_factory=Future)

    @property
    def in_place(self) -> bool:
        return self.before is not None

    @property
    def is_loaded(self) -> bool:
        return self.loaded_at > 0

    @property
    def waited_s(self) -> float:
        return time.perf_counter() - self.asked_at

    def load(self) -> None:
        """Raises whatever the backend does."""
        assert self.slot is not None
        self.loading_at = time.perf_counter()
        self.slot.backend.load(self.wanted.checkpoint)
        self.loaded_at = time.perf_counter()

    def passed(self, completion: BackendCompletion) -> None:
        """A check has ended; `failure` is set where it wrote other tokens than registered."""
        prompt = self.checks.pop(completion.request_id)
        if prompt is not WARM_UP and completion.token_ids != prompt.token_ids:
            number = self.wanted.canary_prompts.index(prompt) + 1
            found, expected = completion.token_ids, prompt.token_ids
            same = next((place for place, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), min(len(found), len(expected)))
            self.failure = f"canary prompt {number} of {len(self.wanted.canary_prompts)}: token {same + 1} is not the registered one"

    def failed(self, reason: str) -> RetouchError:
        """Of a version that fails; one whose files have gone meanwhile may be fetched again."""
        if not self.wanted.checkpoint.is_dir():
            return RetryLater(f"version {self.wanted.model.version}: {self.wanted.checkpoint} has gone since it was fetched; {reason}")
        return SwapFailed(f"version {self.wanted.model.version}, {self.wanted.checkpoint}: {reason}")

    def done(self, dropped: int) -> SwapResult:
        waited_s, load_s, check_s = self.loading_at - self.asked_at, self.loaded_at - self.loading_at, time.perf_counter() - self.loaded_at
        return SwapResult(self.in_flight, dropped, waited_s * 1000, load_s * 1000, check_s * 1000)


def sampling_of(prompt: CanaryPrompt) -> SamplingParameters:
    """Greedy, without a stop string: exactly the registered tokens are asked for."""
    return SamplingParameters(max_new_tokens=len(prompt.token_ids) or WARM_UP_TOKENS, stop=())
