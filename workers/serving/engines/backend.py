"""The seam between serving (admission, stamps, swaps) and the library that runs the model."""

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
    token_ids: tuple[int, ...]  # all that were generated, an end token included
    finish_reason: FinishReason


class Backend(Protocol):
    """Room for one version of a model. One thread makes it and makes every call; nothing here is awaited or locked. An error from `step` is final.

    An engine has as many as it holds versions. Request ids are unique among them, so backends that share one model below (`workers.serving.engines.lora`) may
    return each other's completions.
    """

    def admit(self, request_id: int, token_ids: list[int], sampling: SamplingParameters) -> None:
        """Take a request in; an error refuses this request only."""
        ...

    def abort(self, request_id: int) -> None:
        """Forget a request whose caller is gone; unknown ids are ignored."""
        ...

    def step(self) -> Sequence[BackendCompletion]:
        """Work on what was admitted for a while; returns what finished."""
        ...

    def load(self, checkpoint: Path) -> None:
        """Replace the weights and clear every cache made with the old ones. Called only while no request is admitted here."""
        ...

    def close(self) -> None: ...
