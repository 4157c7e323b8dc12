"""An engine without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from schemas.control_marks import ControlMarks
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from workers.serving.engines.engine import GenerationResult, NotLoaded, SamplingParameters, SwapResult


class StubEngine:
    """Holds versions and generates nothing. With `error` every load fails. `done` lists the calls."""

    marks = ControlMarks(frozenset(["<|im_start|>", "<|im_end|>"]))
    stalled_s = 0.0

    def __init__(self, champion: ModelVersion, *, slots: int = 2, error: Exception | None = None) -> None:
        self.champion, self.slots, self.error = champion, slots, error
        self.loaded: tuple[ModelVersion, ...] = (champion,)
        self.done: list[str] = []
        self.canary_prompts: Sequence[CanaryPrompt] = ()

    @property
    def next_evicted(self) -> str | None:
        if len(self.loaded) < self.slots:
            return None
        return next((model.version for model in self.loaded if model != self.champion), self.champion.version)

    async def generate(self, prompt: str, sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        raise NotImplementedError

    def count_tokens(self, prompt: str) -> int:
        return len(prompt)

    async def load(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        self.done.append(f"load {model.version}")
        return self._load(model, canary_prompts)

    async def swap(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        self.done.append(f"swap {model.version}")
        result = self._load(model, canary_prompts)
        self.champion = model
        return result

    async def set_champion(self, version: str) -> SwapResult:
        self.done.append(f"set_champion {version}")
        loaded = next((model for model in self.loaded if model.version == version), None)
        if loaded is None:
            raise NotLoaded(version)
        self.champion = loaded
        return SwapResult(in_flight=7, dropped=0, waited_ms=0, load_ms=0)

    async def close(self) -> None: ...

    def _load(self, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt]) -> SwapResult:
        if self.error:
            raise self.error
        evicted = self.next_evicted
        self.loaded = (*(other for other in self.loaded if other.version != evicted), model)
        self.canary_prompts = canary_prompts
        return SwapResult(in_flight=7, dropped=0, waited_ms=12.5, load_ms=30.0, check_ms=5.0)
