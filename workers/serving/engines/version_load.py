"""The load of one version into a slot: wait until the slot has no requests, load the weights, warm up, check the canary prompts.

All of it runs in the engine's thread, in small steps between those of the requests. So requests on other slots do not wait.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from infra.errors import RetouchError, RetryLater
from schemas.promotion import CanaryPrompt
from workers.serving.engines.backend import BackendCompletion
from workers.serving.engines.engine import SamplingParameters, SwapFailed, SwapResult
from workers.serving.engines.version_slots import VersionCheckpoint, VersionSlot

#: The first generation compiles kernels, 4 s with vLLM, and fills caches. No user request waits for it.
WARM_UP = CanaryPrompt(prompt="ready ?", token_ids=())
WARM_UP_TOKENS = 2


@dataclass(eq=False)
class VersionLoad:
    """`replaced` is the version to load again if a load into the champion's own slot fails."""

    version: VersionCheckpoint
    as_champion: bool
    in_flight: int
    slot: VersionSlot | None = None  # set when the load starts
    replaced: VersionCheckpoint | None = None
    requested_at: float = field(default_factory=time.perf_counter)
    load_started_at: float = 0.0
    loaded_at: float = 0.0
    checks: dict[int, CanaryPrompt] = field(default_factory=dict)  # by request id; those still running
    failure: str | None = None
    result: Future[SwapResult] = field(default_factory=Future)

    @property
    def is_in_place(self) -> bool:
        return self.replaced is not None

    @property
    def is_loaded(self) -> bool:
        return self.loaded_at > 0

    @property
    def waited_s(self) -> float:
        return time.perf_counter() - self.requested_at

    def load(self) -> None:
        """Raises what the backend raises."""
        assert self.slot is not None
        self.load_started_at = time.perf_counter()
        self.slot.backend.load(self.version.checkpoint)
        self.loaded_at = time.perf_counter()

    def finish_check(self, completion: BackendCompletion) -> None:
        """Sets `failure` if the tokens differ from the registered ones."""
        prompt = self.checks.pop(completion.request_id)
        if prompt is not WARM_UP and completion.token_ids != prompt.token_ids:
            number = self.version.canary_prompts.index(prompt) + 1
            tokens, expected = completion.token_ids, prompt.token_ids
            equal = next((index for index, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), min(len(tokens), len(expected)))
            self.failure = f"canary prompt {number} of {len(self.version.canary_prompts)}: token {equal + 1} is not the registered one"

    def error(self, reason: str) -> RetouchError:
        """The error of a failed load: RetryLater if the files are gone, because they can be fetched again."""
        if not self.version.checkpoint.is_dir():
            return RetryLater(f"version {self.version.model.version}: {self.version.checkpoint} was removed after it was fetched; {reason}")
        return SwapFailed(f"version {self.version.model.version}, {self.version.checkpoint}: {reason}")

    def swap_result(self, dropped: int) -> SwapResult:
        waited_s, load_s = self.load_started_at - self.requested_at, self.loaded_at - self.load_started_at
        return SwapResult(self.in_flight, dropped, waited_s * 1000, load_s * 1000, (time.perf_counter() - self.loaded_at) * 1000)


def check_sampling(prompt: CanaryPrompt) -> SamplingParameters:
    """Greedy, without a stop string: exactly as many tokens as are registered."""
    return SamplingParameters(max_new_tokens=len(prompt.token_ids) or WARM_UP_TOKENS, stop=())
