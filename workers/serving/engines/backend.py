"""The interface between the engine (admission, stamps, swaps) and the library that runs the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workers.serving.engines.engine import FinishReason, SamplingParameters


@dataclass(frozen=True)
class BackendCompletion:
    """One finished request."""

    request_id: int
    text: str
    token_ids: tuple[int, ...]  # all generated tokens, an end token included
    finish_reason: FinishReason


class Backend(Protocol):
    """Runs one version of a model: what a version slot holds. One thread creates it and makes every call. An error from `step` is final.

    Request ids are unique in an engine, so backends that share one model (`workers.serving.engines.lora`) may return each other's completions.
    """

    def admit(self, request_id: int, token_ids: list[int], sampling: SamplingParameters) -> None:
        """Starts a request. An error refuses this request only."""

    def abort(self, request_id: int) -> None:
        """Drops a request that its caller cancelled. Ignores unknown ids."""

    def step(self) -> Sequence[BackendCompletion]:
        """Works on the admitted requests for a while. Returns those that finished."""

    def load(self, checkpoint: Path) -> None:
        """Replaces the weights and clears every cache of the old ones. Called only without admitted requests."""

    def close(self) -> None: ...
