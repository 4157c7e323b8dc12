"""An engine over fake backends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from schemas.promotion import CanaryPrompt
from schemas.responses import ModelVersion
from tests.unit.infra.checkpoint_files import write_checkpoint
from workers.engines.engine import Sampling
from workers.engines.fake import CharTemplate, FakeBackend
from workers.engines.room import Limits
from workers.engines.serving import ServingEngine
from workers.engines.slots import Held

SAMPLING = Sampling(max_new_tokens=10)


def version(number: str) -> ModelVersion:
    return ModelVersion(name="m", version=number, digest=number)


class Served:
    """Every backend answers `prompt@checkpoint`. `backends` has one for each place, the first champion's first; `first` to `third` fit, `stranger` does not."""

    def __init__(self, folder: Path, *, versions: int = 1, in_flight: int = 4, drain_s: float = 5.0, answer: Callable[[str, str], str] | None = None) -> None:
        self.first, self.second, self.third = (write_checkpoint(folder / f"{n}", weights=bytes([n]) * 16) for n in (1, 2, 3))
        self.stranger = write_checkpoint(folder / "4", hidden_size=16)
        self.backends: list[FakeBackend] = []
        self.answer = answer or (lambda prompt, checkpoint: f"{prompt}@{checkpoint}")
        limits = Limits(max_model_len=40, in_flight=in_flight, drain_s=drain_s, versions=versions)
        self.engine = ServingEngine.start(self._backend, CharTemplate(), Held(version("1"), self.first), limits)

    @property
    def backend(self) -> FakeBackend:
        return self.backends[0]

    def canary_prompt(self, number: str) -> CanaryPrompt:
        """What version `number` writes."""
        return CanaryPrompt(prompt="a fixed question", token_ids=tuple(map(ord, self.answer("a fixed question", number))))

    async def ask(self, prompt: str, of: str | None = None) -> tuple[str, str]:
        """The answer and its stamp."""
        made = await self.engine.generate(prompt, SAMPLING, of)
        return made.text, made.model.version

    async def running(self, requests: int, place: int = 0) -> None:
        """Wait until so many are in flight there."""
        async with asyncio.timeout(10):
            while len(self.backends[place].left) < requests:  # noqa: ASYNC110  # another thread fills it
                await asyncio.sleep(0.001)

    async def loading(self) -> None:
        """Wait until a version is on its way in."""
        async with asyncio.timeout(10):
            while self.engine._room.loading is None:  # noqa: ASYNC110  # another thread sets it
                await asyncio.sleep(0.001)

    def _backend(self, checkpoint: Path) -> FakeBackend:
        self.backends.append(FakeBackend(checkpoint, self.answer, steps=3, step_s=0.01))
        return self.backends[-1]
