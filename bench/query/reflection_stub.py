"""`python -m bench.query.reflection_stub SECONDS`: the reflection worker's handler and runtime around an engine that sleeps.

The answer's reasoning has the Unix times of begin and end of the call. Left out: registry, swaps and shadow answers.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench.query.load import OPTIONS
from infra.process.lifecycle import mark_ready, run_process
from infra.settings import Settings
from schemas.control_marks import ControlMarks
from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from schemas.rewriting import Rewrite
from schemas.topics import CONTEXTS
from workers.reflection.reflector import Reflector
from workers.runtime.handler import HandlerSpec
from workers.runtime.worker import Worker
from workers.serving.engines.engine import FinishReason, GenerationResult, SamplingParameters, SwapFailed, SwapResult
from workers.serving.routes import Routes

STUB = ModelVersion(name="stub", version="1", digest="0" * 64)


class SleepingEngine:
    """An `Engine` with one version."""

    champion = STUB
    loaded = (STUB,)
    marks = ControlMarks(frozenset())
    next_evicted: str | None = None
    stalled_s = 0.0

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def generate(self, prompt: str, sampling: SamplingParameters, version: str | None = None) -> GenerationResult:
        began = time.time()
        await asyncio.sleep(self._seconds)
        text = Rewrite(f"{began:.6f} {time.time():.6f}", OPTIONS[0]).to_text()
        return GenerationResult(text, 1, 1, FinishReason.STOP, STUB)

    def count_tokens(self, prompt: str) -> int:
        return 1

    async def load(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        raise SwapFailed("the stub has one version")

    async def set_champion(self, version: str) -> SwapResult:
        raise SwapFailed("the stub has one version")

    async def swap(self, checkpoint: Path, model: ModelVersion, canary_prompts: Sequence[CanaryPrompt] = ()) -> SwapResult:
        raise SwapFailed("the stub has one version")

    async def close(self) -> None: ...


def main() -> int:
    seconds = float(sys.argv[1])

    def body(settings: Settings, stop: threading.Event) -> None:
        engine = SleepingEngine(seconds)
        reflector = Reflector(settings.reflection, settings.reflection_form, settings.rewrite_limits, engine, lambda: Routes(STUB))
        spec = HandlerSpec("reflection", CONTEXTS, reflector, reflector.deadline, reflector.degraded)
        Worker(settings, spec, concurrency=settings.reflection.concurrency).run(stop, lambda: mark_ready(settings))

    return run_process("bench reflection", body)


if __name__ == "__main__":
    sys.exit(main())
