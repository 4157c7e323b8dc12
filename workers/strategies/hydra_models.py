"""Loads the version of HYDRA that the registry's alias `champion` points to, and follows the alias by polling.

Polling starts with the first query of HYDRA, or at once if `strategies.weights` gives HYDRA users. Until then neither MLflow nor torch is imported. If a
version cannot be loaded, the one that was loaded before stays in use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from infra.checkpoints.pruning import mark_used, prune
from infra.checkpoints.verification import BadCheckpoint
from infra.registry.client import NoSuchVersion, RegisteredVersion
from infra.settings import Settings
from infra.telemetry.metrics import HYDRA_VERSION
from schemas.model_events import Alias
from schemas.prompts import Example
from schemas.responses import ModelVersion, ResponseStatus
from schemas.strategies import Strategy
from workers.strategies.strategy import Unable

if TYPE_CHECKING:
    from infra.hydra.model import HydraModel

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The first queries wait this long for the first version, which takes some seconds to load.
FIRST_WITHIN_S = 60.0
#: Fetched versions that no worker has used for this time are removed.
UNTOUCHED_S = 3600.0
DIGEST_SHOWN = 12


class VersionSource(Protocol):
    """The methods of the registry that are used here. They block."""

    def resolve(self, alias: Alias) -> RegisteredVersion | None: ...
    def fetch(self, version: str, into: Path) -> Path: ...


@dataclass(frozen=True)
class LoadedHydra:
    """One loaded version. Its forward passes run in `thread`, one call at a time. A call that was cancelled before its turn is not made.

    An error of the model raises Unable: another strategy answers.
    """

    version: ModelVersion
    model: HydraModel
    thread: Executor

    async def rank(self, user: str, query: str, items: Sequence[Example]) -> list[int]:
        """The positions of all items, best first. `user` is `tenant/user`."""
        return [one.position for one in await self._run(partial(self.model.rank, user, query, items))]

    async def choose(self, user: str, prompt: str, candidates: Sequence[str]) -> int:
        """The position of the best candidate, of which there is at least one."""
        return (await self._run(partial(self.model.choose, user, prompt, candidates))).position

    async def _run(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, call)
        except Exception as error:  # its text may hold a user's
            log.error("HYDRA's model failed", extra={"version": self.version.version, "reason": type(error).__name__})
            raise Unable(ResponseStatus.NO_MODEL) from error


class HydraModels:
    """The loaded version. `run` is a background task of the worker; `current` may be called before it starts."""

    def __init__(self, settings: Settings, registry: VersionSource) -> None:
        self._settings = settings
        self._registry = registry
        self._folder = settings.stack.dir / "models-hydra"
        self._thread = ThreadPoolExecutor(1, "hydra")
        self._loaded: LoadedHydra | None = None
        self._refused: ModelVersion | None = None
        self._problem: str | None = None  # the last one that was logged
        self._wanted, self._polled = asyncio.Event(), asyncio.Event()
        if settings.strategies.weights.get(Strategy.HYDRA):
            self._wanted.set()

    async def current(self) -> LoadedHydra | None:
        """The loaded version; None if none is registered, or if none could be loaded. The first calls wait for the first poll."""
        self._wanted.set()
        if not self._polled.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_WITHIN_S):
                    await self._polled.wait()
        return self._loaded

    async def run(self) -> None:
        """Runs until cancelled."""
        await self._wanted.wait()
        while True:
            await self.poll()
            await asyncio.sleep(self._settings.hydra.poll_s)

    async def poll(self) -> None:
        """Reads the alias once, and loads its version if it is another one. Answers that have begun keep their version."""
        try:
            await self._follow()
        except Exception as error:  # the registry or the disk is away, or refuses: the loaded version answers
            self._log_problem(str(error) or type(error).__name__)
        else:
            self._problem = None
        self._polled.set()

    async def _follow(self) -> None:
        champion = await asyncio.to_thread(self._registry.resolve, Alias.CHAMPION)
        loaded = self._loaded
        if loaded is not None:
            await asyncio.to_thread(mark_used, self._folder, {loaded.version.version})
        if champion is None or champion.model == self._refused or (loaded is not None and champion.model == loaded.version):
            return
        try:
            model = await asyncio.to_thread(self._load, champion.version)
        except (BadCheckpoint, NoSuchVersion) as error:
            self._refused = champion.model
            log.error("HYDRA version refused; the loaded one answers", extra={"version": champion.version, "reason": str(error)})
            return
        self._loaded, self._refused = LoadedHydra(champion.model, model, self._thread), None
        HYDRA_VERSION.set_only(1, version=champion.version, digest=champion.digest[:DIGEST_SHOWN])
        log.info("HYDRA version loaded", extra={"version": champion.version, "digest": champion.digest})
        used = {champion.version, *([loaded.version.version] if loaded else [])}
        await asyncio.to_thread(prune, self._folder, used, UNTOUCHED_S)

    def _load(self, version: str) -> HydraModel:
        """Fetches and verifies the files, and loads them. Blocks for seconds; imports torch."""
        folder = self._registry.fetch(version, self._folder)
        from infra.hydra.model import HydraModel

        return HydraModel.load(folder)

    def _log_problem(self, reason: str) -> None:
        if reason != self._problem:
            log.warning("HYDRA's versions cannot be read; the loaded one answers", extra={"reason": reason})
        self._problem = reason
