"""What a reflection engine promises, whatever runs below it: text in, text out, every answer by exactly one version of the model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from infra.errors import CannotContinue, RetouchError
from schemas.responses import ModelVersion
from schemas.rewriting import ANSWER_CLOSE


@dataclass(frozen=True)
class Sampling:
    """How to generate. Temperature 0 is greedy. No seed: one in a chunked prefill kills vLLM's CPU engine (0.31, 2026-11-20)."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = (ANSWER_CLOSE,)  # generation ends behind the first of these; it stays in the text


class FinishReason(StrEnum):
    STOP = "stop"  # a stop string or the end token
    LENGTH = "length"


@dataclass(frozen=True)
class Generation:
    """A completion. `model` served it from the first token to the last."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    model: ModelVersion


@dataclass(frozen=True)
class Swap:
    """What a swap did. `in_flight` requests were running when it began; `dropped` of them got no answer through it."""

    in_flight: int
    dropped: int
    waited_ms: float  # until the last of them had finished
    load_ms: float


class GenerationFailed(RetouchError):
    """This one request got no completion; others are not affected."""


class SwapFailed(RetouchError):
    """The new weights did not go in; the old version keeps serving."""


class StartStopped(RetouchError):
    """Told to stop before the model was loaded. The load goes on in a daemon thread and ends with the process, or closes by itself."""


class EngineDied(CannotContinue):
    """The engine is gone: every request that waited got this, and every later one does."""


class Engine(Protocol):
    """One model in memory. Calls may come from any thread's event loop; callers bound how many they have in flight."""

    async def generate(self, prompt: str, sampling: Sampling) -> Generation:
        """Complete one user turn; the checkpoint's chat template goes around `prompt`. Cancelling frees what it holds.

        Raises GenerationFailed for this request alone, EngineDied when nothing will ever answer again.
        """
        ...

    def count_tokens(self, prompt: str) -> int:
        """Length of the prompt with its chat template, in tokens."""
        ...

    async def swap(self, checkpoint: Path, model: ModelVersion) -> Swap:
        """Serve another version of the same architecture: requests in flight finish on the old weights, later ones wait and get the new.

        Raises BadCheckpoint for one that does not fit, SwapFailed when loading it fails, RetryLater when the requests in flight do not end
        in time; all three leave the old version serving. Raises EngineDied when nothing serves any more.
        """
        ...

    async def close(self) -> None:
        """End the engine; requests still waiting get GenerationFailed."""
        ...
