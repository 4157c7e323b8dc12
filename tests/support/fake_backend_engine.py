"""A ServingEngine over fake backends, and its checkpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from tests.support.checkpoint_files import write_checkpoint
from tests.support.fake_backend import CharTokenizer, FakeBackend
from workers.serving.engines.backend import BackendCompletion
from workers.serving.engines.engine import SamplingParameters
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.version_slots import VersionCheckpoint

SAMPLING = SamplingParameters(max_new_tokens=10)
WAIT_S = 30.0


def version(number: str) -> ModelVersion:
    return ModelVersion(name="m", version=number, digest=number)


class HaltingBackend(FakeBackend):
    """No request finishes while it is `halted`."""

    halted = False

    def step(self) -> Sequence[BackendCompletion]:
        if self.halted:
            time.sleep(self.step_s)
            return ()
        return super().step()


class FakeBackendEngine:
    """Answers `prompt@checkpoint`. `backends` has one per slot, the first champion's first. `first` to `third` fit, `misfit` does not."""

    def __init__(self, folder: Path, *, versions: int = 1, in_flight: int = 4, drain_s: float = 5.0, answer: Callable[[str, str], str] | None = None) -> None:
        self.first, self.second, self.third = (write_checkpoint(folder / f"{n}", weights=bytes([n]) * 16) for n in (1, 2, 3))
        self.misfit = write_checkpoint(folder / "4", hidden_size=16)
        self.backends: list[HaltingBackend] = []
        self.answer = answer or (lambda prompt, checkpoint: f"{prompt}@{checkpoint}")
        limits = EngineLimits(max_model_len=40, in_flight=in_flight, drain_s=drain_s, versions=versions)
        self.engine = ServingEngine.start(self._backend, CharTokenizer(), VersionCheckpoint(version("1"), self.first), limits)

    @property
    def backend(self) -> HaltingBackend:
        return self.backends[0]

    def canary_prompt(self, number: str) -> CanaryPrompt:
        """With the tokens that version `number` generates."""
        return CanaryPrompt(prompt="a fixed question", token_ids=tuple(map(ord, self.answer("a fixed question", number))))

    async def ask(self, prompt: str, version: str | None = None) -> tuple[str, str]:
        """The answer and the version stamped on it."""
        result = await self.engine.generate(prompt, SAMPLING, version)
        return result.text, result.model.version

    async def running(self, requests: int, slot: int = 0) -> None:
        """Waits until this many are in flight in the slot."""
        async with asyncio.timeout(WAIT_S):
            while self._in_flight(self.backends[slot]) < requests:  # noqa: ASYNC110  # another thread admits them
                await asyncio.sleep(0.001)

    async def loading(self) -> None:
        """Waits until a load has started."""
        async with asyncio.timeout(WAIT_S):
            while self.engine._scheduler.loading is None:  # noqa: ASYNC110  # another thread sets it
                await asyncio.sleep(0.001)

    def _in_flight(self, backend: HaltingBackend) -> int:
        return sum(request.slot is not None and request.slot.backend is backend for request in list(self.engine._scheduler.running.values()))

    def _backend(self, checkpoint: Path) -> HaltingBackend:
        self.backends.append(HaltingBackend(checkpoint, self.answer, steps=3, step_s=0.01))
        return self.backends[-1]
