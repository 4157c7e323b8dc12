"""Following the registry: the version that `champion` names is fetched, checked and swapped in; anything unsound leaves the old one serving.

The alias is polled; events only make the next poll sooner. So a worker that starts late or misses events converges all the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from datetime import datetime
from pathlib import Path
from typing import Protocol

from infra.checkpoints import BadCheckpoint
from infra.errors import CannotContinue, RetryLater
from infra.registry import NoSuchVersion, RegisteredVersion
from infra.settings import Settings
from infra.telemetry.metrics import REFLECTION_VERSION
from schemas.model_events import Alias, ModelEvent
from workers.engines.engine import Engine, Swap, SwapFailed
from workers.reflection.hints import Hints
from workers.runtime.clock import Clock, SystemClock

log = logging.getLogger(__name__)

#: The first look imports MLflow and may wait for the trainer to register a first version.
CHAMPION_WITHIN_S = 180.0
#: Characters of a digest in metrics: enough to tell versions apart.
DIGEST_SHOWN = 12


class Versions(Protocol):
    """What is needed of the registry (infra.registry). Both block."""

    def resolve(self, alias: Alias) -> RegisteredVersion | None: ...
    def fetch(self, version: str, into: Path) -> Path: ...


def models_dir(settings: Settings) -> Path:
    return settings.stack.dir / "models"


def first_champion(settings: Settings, registry: Versions, stop: threading.Event, within_s: float = CHAMPION_WITHIN_S) -> RegisteredVersion | None:
    """Wait until `champion` names a version; None when told to stop. Blocks. Raises CannotContinue after `within_s`."""
    looks = max(1, round(within_s / settings.reflection.poll_s))
    for _ in range(looks):
        try:
            if champion := registry.resolve(Alias.CHAMPION):
                return champion
        except RetryLater as error:
            log.warning("waiting for the registry", extra={"reason": str(error)})
        if stop.wait(settings.reflection.poll_s):
            return None
    raise CannotContinue(f"{settings.registry.model_name} has had no champion for {within_s:g} s: register a version and point the alias to it")


class Follower:
    """Keeps `engine` on the champion. `serving` is what it was started with."""

    def __init__(self, settings: Settings, registry: Versions, engine: Engine, serving: RegisteredVersion, hints: Hints, clock: Clock | None = None) -> None:
        self._settings = settings
        self._registry = registry
        self._engine = engine
        self._hints = hints
        self._clock = clock or SystemClock()
        self.serving = serving
        _show(serving)
        self._refused: str | None = None  # a version that did not go in; looked at again when the alias has moved
        self._put_off: str | None = None  # a version that could not go in yet; said once
        self._away = False

    async def follow(self) -> None:
        """Runs until cancelled. Raises CannotContinue when the engine is gone."""
        while True:
            event = await asyncio.to_thread(self._hints.wait, self._settings.reflection.poll_s)
            await self.look(event)

    async def look(self, event: ModelEvent | None = None) -> Swap | None:
        """Compare the alias with what is served, once, and swap where they differ."""
        champion = await self._champion()
        if champion is None or not self._is_news(champion.version):
            return None
        try:
            checkpoint = await asyncio.to_thread(self._registry.fetch, champion.version, models_dir(self._settings))
            swap = await self._engine.swap(checkpoint, champion.model)
        except (BadCheckpoint, NoSuchVersion, SwapFailed) as error:
            self._refused = champion.version
            log.error("version refused; the old one keeps serving", extra=self._from_to(champion) | {"reason": str(error)})
            return None
        except (RetryLater, OSError) as error:  # a full disk, too, is no reason to take the old version away
            if champion.version != self._put_off:
                log.warning("swap put off", extra=self._from_to(champion) | {"reason": str(error)})
            self._put_off = champion.version
            return None
        await self._record(champion, swap, event)
        return swap

    async def _champion(self) -> RegisteredVersion | None:
        try:
            champion = await asyncio.to_thread(self._registry.resolve, Alias.CHAMPION)
        except RetryLater as error:
            if not self._away:
                log.warning("the registry is away; the old version keeps serving", extra={"version": self.serving.version, "reason": str(error)})
            self._away = True
            return None
        self._away = False
        return champion

    def _is_news(self, version: str) -> bool:
        if version != self._refused:
            self._refused = None
        return version not in (self.serving.version, self._refused)

    async def _record(self, champion: RegisteredVersion, swap: Swap, event: ModelEvent | None) -> None:
        record = self._from_to(champion) | {
            "at": self._clock.now().isoformat(),
            **vars(swap),
            "event_to_swap_ms": self._since(event.occurred_at) if event and event.version == champion.version else None,
        }
        self.serving, self._put_off = champion, None
        _show(champion)
        log.info("version swapped", extra=record)
        await asyncio.to_thread(self._append, record)

    def _from_to(self, champion: RegisteredVersion) -> dict[str, object]:
        return {"from": self.serving.version, "to": champion.version}

    def _since(self, moment: datetime) -> float:
        return (self._clock.now() - moment).total_seconds() * 1000

    def _append(self, record: dict[str, object]) -> None:
        """One JSON line a swap, for the demo's report: serving does not depend on it."""
        try:
            with (self._settings.stack.dir / "swaps.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            log.warning("the swap is not listed in swaps.jsonl", extra={"to": record["to"], "reason": str(error)})


def _show(serving: RegisteredVersion) -> None:
    REFLECTION_VERSION.only(1, version=serving.version, digest=serving.digest[:DIGEST_SHOWN])
