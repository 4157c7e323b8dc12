"""What a reflection engine promises, whatever runs below it: text in, text out, every answer by exactly one version of the model.

It holds one version or several. One of them is the *champion*: it answers whoever names no version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from infra.errors import CannotContinue, RetouchError
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from schemas.rewriting import ANSWER_CLOSE


@dataclass(frozen=True)
class SamplingParameters:
    """How to generate. Temperature 0 is greedy. No seed: one in a chunked prefill kills vLLM's CPU engine (0.31, 2026-11-20)."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = (ANSWER_CLOSE,)  # generation ends behind the first of these; it stays in the text


class FinishReason(StrEnum):
    STOP = "stop"  # a stop string or the end token
    LENGTH = "length"


@dataclass(frozen=True)
class GenerationResult:
    """A completion. `model` served it from the first token to the last."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    model: ModelVersion


@dataclass(frozen=True)
class SwapResult:
    """What putting a version in took. `in_flight` requests were running when it began; `dropped` of them got no answer through it."""

    in_flight: int
    dropped: int
    waited_ms: float  # until the place it went to was empty of requests; nobody waits for that but where it is the champion's own
    load_ms: float  # 0 where it was there already
    check_ms: float = 0.0  # until it was warm and had written what was registered


class GenerationFailed(RetouchError):
    """This one request got no completion; others are not affected."""


class NotLoaded(GenerationFailed):
    """The version that was asked for is not in memory, or no longer; the champion may be asked."""


class SwapFailed(RetouchError):
    """The new weights did not go in, or write other tokens than registered; what served before keeps serving."""


class StartStopped(RetouchError):
    """Told to stop before the model was loaded. The load goes on in a daemon thread and ends with the process, or closes by itself."""


class EngineDied(CannotContinue):
    """The engine is gone: every request that waited got this, and every later one does."""


class Engine(Protocol):
    """Versions of one model in memory. Calls may come from any thread's event loop; callers bound how many they have in flight."""

    @property
    def champion(self) -> ModelVersion: ...

    @property
    def loaded(self) -> tuple[ModelVersion, ...]:
        """Every version that can be asked, the champion among them."""
        ...

    @property
    def displaces(self) -> str | None:
        """The version that the next one to be loaded will take the place of; None where there is a free one. The champion's only where it is alone."""
        ...

    async def generate(self, prompt: str, sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        """Complete one user turn, by `version` or by the champion of the moment of admission; the checkpoint's chat template goes around `prompt`.

        Cancelling frees what it holds. Raises NotLoaded, or GenerationFailed for this request alone, EngineDied when nothing will ever answer again.
        """
        ...

    def count_tokens(self, prompt: str) -> int:
        """Length of the prompt with its chat template, in tokens."""
        ...

    async def load(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        """Hold a version of the same architecture beside the champion, warm and checked: it greedily writes what `canary_prompts` say.

        It takes a free place, or that of the version least lately needed. Nobody's request waits meanwhile; those that run on the version that
        goes are finished first. Raises BadCheckpoint for one that does not fit, SwapFailed when it does not load or writes otherwise, RetryLater when the
        requests in flight do not end in time, or every place but the champion's has broken. Raises EngineDied when nothing serves any more.
        """
        ...

    async def serve(self, version: str) -> SwapResult:
        """Make a loaded version the champion, at once: requests in flight finish where they are, later ones go to it. Raises NotLoaded."""
        ...

    async def swap(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        """`load`, then `serve`. With room for one version only: requests in flight finish on the old weights, later ones wait and get the new.

        Raises as `load` does; the old version keeps serving.
        """
        ...

    async def close(self) -> None:
        """End the engine; requests still waiting get GenerationFailed."""
        ...
