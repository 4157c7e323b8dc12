"""The interface of a reflection engine: text in, text out. Exactly one version of the model writes each answer.

An engine holds one version or several. One of them is the champion, which answers requests that name no version.
Only the engine stores which version is champion; other parts of the worker read `Engine.champion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from infra.errors import CannotContinue, RetouchError
from schemas.control_marks import ControlMarks
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from schemas.rewriting import ANSWER_CLOSE


@dataclass(frozen=True)
class SamplingParameters:
    """Sampling of a request. Temperature 0 is greedy. There is no seed: a seeded request in a chunked prefill kills vLLM's CPU engine (0.31, 2026-11-20)."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = (ANSWER_CLOSE,)  # generation ends after the first of these, which stays in the text


class FinishReason(StrEnum):
    STOP = "stop"  # a stop string or the end token
    LENGTH = "length"


@dataclass(frozen=True)
class GenerationResult:
    """A completion. `model` generated it from the first token to the last."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    model: ModelVersion


@dataclass(frozen=True)
class SwapResult:
    """Times and counts of one load or change of champion."""

    in_flight: int  # requests that were running at its start
    dropped: int  # of these, how many got no answer because of it
    waited_ms: float  # until the slot had no requests left; other requests wait for that only if it is the champion's slot
    load_ms: float  # 0 if the version was loaded already
    check_ms: float = 0.0  # warm-up and canary prompts


class GenerationFailed(RetouchError):
    """This request got no completion. Other requests are not affected."""


class NotLoaded(GenerationFailed):
    """The requested version is not in memory, or no longer. The champion can answer instead."""


class SwapFailed(RetouchError):
    """The new version did not load or failed its canary prompts. The previous version keeps serving."""


class StartStopped(RetouchError):
    """A stop came before the model was loaded. A daemon thread finishes the load and closes it, or ends with the process."""


class EngineDied(CannotContinue):
    """The engine has ended. All waiting and all later requests get this error."""


class Engine(Protocol):
    """Versions of one model in memory. Any thread's event loop may call it. Callers limit their requests in flight."""

    @property
    def champion(self) -> ModelVersion: ...

    @property
    def loaded(self) -> tuple[ModelVersion, ...]:
        """All versions that can answer, the champion included."""

    @property
    def marks(self) -> ControlMarks:
        """The control marks of the tokenizer, which all versions of an engine share. `generate` refuses a prompt that holds them."""

    @property
    def next_evicted(self) -> str | None:
        """The version that the next load replaces; None if a slot is free. It is the champion only if there is no other slot."""

    @property
    def stalled_s(self) -> float:
        """Seconds since a step of the engine began; 0 while it waits for requests or loads a version. Raises EngineDied if it has ended by an error."""

    async def generate(self, prompt: str, sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        """Completes one user turn by `version`, or by the champion at the time of admission. Applies the checkpoint's chat template to `prompt`.

        A cancelled call frees its resources. Raises NotLoaded, GenerationFailed for this request alone, or EngineDied.
        """

    def count_tokens(self, prompt: str) -> int:
        """Length of the prompt with its chat template, in tokens."""

    async def load(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        """Loads a version of the same architecture beside the champion, warms it up, and checks its greedy tokens against `canary_prompts`.

        It takes a free slot, or evicts the version that was needed least recently, after that version's running requests. Other versions keep serving
        while the evicted one drains. Raises BadCheckpoint if the checkpoint does not fit; SwapFailed if it does not load or fails a canary prompt;
        RetryLater if the running requests do not end in time, or if the champion has the only working slot; EngineDied if the engine has ended.
        """

    async def set_champion(self, version: str) -> SwapResult:
        """Makes a loaded version the champion at once. Running requests finish on the version that they started on. Raises NotLoaded."""

    async def swap(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        """`load`, then `set_champion`. With a single slot, running requests finish on the old weights and later ones wait for the new.

        Raises what `load` raises; then the old version keeps serving.
        """

    async def close(self) -> None:
        """Ends the engine. Waiting requests get GenerationFailed."""
