"""Following the registry: what its aliases name is fetched, checked, loaded and routed to; anything unsound leaves what is there serving.

`champion` answers everybody; `challenger` is held beside it while its newest transition says shadow, canary or approval. Aliases and transitions are
polled; events only make the next look sooner. So a worker that starts late or misses events converges all the same. A version is loaded before anybody
is routed to it, and nobody is routed to one that goes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from infra.checkpoints.pruning import mark_used
from infra.checkpoints.verification import BadCheckpoint
from infra.errors import RetryLater
from infra.registry.client import NoSuchVersion, RegisteredVersion
from infra.settings import Settings
from infra.telemetry.metrics import REFLECTION_REFUSED, REFLECTION_VERSION
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import CHALLENGING
from schemas.serving import ServingReport
from workers.runtime.clock import Clock, SystemClock
from workers.serving.engines.engine import Engine, SwapFailed, SwapResult
from workers.serving.model_event_listener import ModelEventListener
from workers.serving.refusals import Refusals
from workers.serving.routes import Routes
from workers.serving.version_files import models_dir, prune_versions

log = logging.getLogger(__name__)

#: The log line of a completed swap; its fields say what it took. The demo reads them.
VERSION_SWAPPED = "version swapped"
#: Characters of a digest in metrics: enough to tell versions apart.
DIGEST_SHOWN = 12


class VersionSource(Protocol):
    """What is needed of the registry (infra.registry.client). All of it blocks."""

    def resolve(self, alias: Alias) -> RegisteredVersion | None: ...
    def versions(self) -> list[RegisteredVersion]: ...
    def fetch(self, version: str, into: Path) -> Path: ...


Put = Callable[[Path], Awaitable[SwapResult]]


class Follower:
    """Keeps `engine` and `routes` on what the registry says. `serving` is what the engine was started with."""

    def __init__(
        self,
        settings: Settings,
        registry: VersionSource,
        engine: Engine,
        serving: RegisteredVersion,
        hints: ModelEventListener,
        clock: Clock | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._engine = engine
        self._hints = hints
        self._clock = clock or SystemClock()
        self.serving = serving
        self._first = serving.version
        self.routes = Routes(serving.model)
        self._refusals = refusals or Refusals()
        self._put_off: str | None = None  # a version that could not go in yet; said once
        self._unread: str | None = None  # why a version was left alone; said once
        self._away = False
        self._swaps = 0
        _show(serving)

    async def follow(self) -> None:
        """Runs until cancelled. Raises CannotContinue when the engine is gone."""
        while True:
            event = await asyncio.to_thread(self._hints.wait, self._settings.reflection.poll_s)
            await self.look(event)

    async def look(self, event: ModelEvent | None = None) -> SwapResult | None:
        """Compare the aliases with what is served, once, and change what differs. Returns what a change of champion took."""
        await asyncio.to_thread(mark_used, models_dir(self._settings), self._used())
        found = await self._read()
        if found is None:
            return None
        champion, challenger = found
        before = self._engine.loaded
        swap = await self._follow_champion(champion, event) if champion else None
        # Elsewhere the challenger is compared with a champion that this worker does not have (yet): its users are in no experiment meanwhile.
        await self._follow_challenger(challenger if champion is None or champion.model == self.serving.model else None)
        if self._engine.loaded != before:
            named = {version.version for version in found if version}
            await asyncio.to_thread(prune_versions, models_dir(self._settings), named | self._used())
        return swap

    def report(self, worker: str) -> ServingReport:
        """What this worker serves now."""
        return ServingReport(
            worker=worker,
            at=self._clock.now(),
            champion=self.routes.champion,
            challenger=self.routes.challenger,
            experiment=self.routes.experiment,
            loaded=self._engine.loaded,
            refused=self._refusals.all(),
            swaps=self._swaps,
        )

    async def _read(self) -> tuple[RegisteredVersion | None, RegisteredVersion | None] | None:
        try:
            found = await asyncio.to_thread(lambda: (self._named(Alias.CHAMPION), self._named(Alias.CHALLENGER)))
        except Exception as error:
            # Away, refusing, or holding what this worker cannot read: none of it is a reason to stop serving.
            if not self._away:
                log.warning("the registry is away; the old version keeps serving", extra={"version": self.serving.version, "reason": str(error)})
            self._away = True
            return None
        self._away = False
        for alias, version in zip((Alias.CHAMPION, Alias.CHALLENGER), found, strict=True):
            self._refusals.forget_unless(alias, version)
        return found

    def _named(self, alias: Alias) -> RegisteredVersion | None:
        """None, too, for a version whose log cannot be read: what it asks for nobody knows, and what serves goes on. Blocks."""
        version = self._registry.resolve(alias)
        reason = version.unreadable if version else None
        if reason and reason != self._unread:
            log.warning("a version is left alone", extra={"alias": str(alias), "reason": reason})
        self._unread = reason or self._unread
        return None if reason else version

    async def _follow_champion(self, champion: RegisteredVersion, event: ModelEvent | None) -> SwapResult | None:
        if champion.model == self.serving.model:
            return None
        if champion.model in self._engine.loaded:
            swap: SwapResult | None = await self._engine.serve(champion.version)
        else:
            challenger = self.routes.challenger
            if challenger and self._engine.displaces == challenger.version:
                self.routes = Routes(self.routes.champion)
            swap = await self._put(Alias.CHAMPION, champion, lambda checkpoint: self._engine.swap(checkpoint, champion.model, champion.canary_prompts))
        if swap is None:
            return None
        self._record(champion, swap, event)
        return swap

    async def _follow_challenger(self, challenger: RegisteredVersion | None) -> None:
        wanted = self._routed(challenger)
        if wanted.challenger is None or challenger is None:
            self.routes = wanted
            return
        if wanted.challenger not in self._engine.loaded:
            self.routes = Routes(wanted.champion)
            load: Put = lambda checkpoint: self._engine.load(checkpoint, challenger.model, challenger.canary_prompts)  # noqa: E731
            loaded = await self._put(Alias.CHALLENGER, challenger, load)
            if loaded is None:
                return
            log.info("challenger loaded", extra={"version": challenger.version, "stage": wanted.stage, **vars(loaded)})
        self.routes = wanted

    def _routed(self, challenger: RegisteredVersion | None) -> Routes:
        """The routes that the registry asks for. Where there is room for one version only, or left, there is no experiment here."""
        champion = self.serving.model
        has_room = self._engine.displaces != champion.version
        if challenger is None or challenger.model == champion or challenger.state not in CHALLENGING or not has_room:
            return Routes(champion)
        step = challenger.transitions[-1]
        return Routes(champion, challenger.model, step.after, step.experiment, step.share)

    async def _put(self, alias: Alias, wanted: RegisteredVersion, put: Put) -> SwapResult | None:
        """Fetch and load. None where it was refused, once, or has to wait."""
        if self._refusals.holds(alias, wanted):
            return None
        try:
            checkpoint = await asyncio.to_thread(self._registry.fetch, wanted.version, models_dir(self._settings))
        except (BadCheckpoint, NoSuchVersion) as error:
            self._refuse(alias, wanted, error)
            return None
        except Exception as error:  # as in `_read`; a full disk, too, is no reason to take the old version away
            self._wait(wanted, error)
            return None
        try:
            swap = await put(checkpoint)
        except (RetryLater, OSError) as error:
            self._wait(wanted, error)
            return None
        except (BadCheckpoint, SwapFailed) as error:
            self._refuse(alias, wanted, error)
            return None
        self._put_off = None
        return swap

    def _refuse(self, alias: Alias, wanted: RegisteredVersion, error: Exception) -> None:
        self._refusals.add(alias, wanted, str(error))
        REFLECTION_REFUSED.add(alias=alias)
        log.error("version refused; the old one keeps serving", extra=self._from_to(wanted) | {"alias": alias, "reason": str(error)})

    def _wait(self, wanted: RegisteredVersion, error: Exception) -> None:
        if wanted.version != self._put_off:
            log.warning("swap put off", extra=self._from_to(wanted) | {"reason": str(error)})
        self._put_off = wanted.version

    def _record(self, champion: RegisteredVersion, swap: SwapResult, event: ModelEvent | None) -> None:
        record = self._from_to(champion) | {
            "at": self._clock.now().isoformat(),
            **vars(swap),
            "event_to_swap_ms": self._since(event.occurred_at) if event and event.version == champion.version else None,
        }
        self.serving = champion
        # Its experiment is over; another challenger's goes on against the new champion, where that is what the registry says (`_follow_challenger`).
        self.routes = Routes(champion.model)
        self._swaps += 1
        _show(champion)
        log.info(VERSION_SWAPPED, extra=record)

    def _from_to(self, champion: RegisteredVersion) -> dict[str, object]:
        return {"from": self.serving.version, "to": champion.version}

    def _since(self, moment: datetime) -> float:
        return (self._clock.now() - moment).total_seconds() * 1000

    def _used(self) -> set[str]:
        """Versions whose files this worker may read again."""
        return {self._first, *(model.version for model in self._engine.loaded)}


def _show(serving: RegisteredVersion) -> None:
    REFLECTION_VERSION.only(1, version=serving.version, digest=serving.digest[:DIGEST_SHOWN])
