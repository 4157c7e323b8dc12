"""Polls the registry's aliases and changes the versions of the engine to match. An unsound version changes nothing: the previous one keeps serving.

`champion` serves all users. `challenger` is loaded beside it while its newest transition is to shadow, canary or approval. A model event only makes the next
poll earlier, so a worker that starts late or misses events reaches the same state. No request is routed to a version before it is loaded, or after
its slot is given to another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Set
from pathlib import Path
from typing import Protocol

from infra.checkpoints.pruning import mark_used, prune
from infra.checkpoints.verification import BadCheckpoint
from infra.errors import RetryLater
from infra.registry.client import NoSuchVersion, RegisteredVersion
from infra.settings import Settings
from infra.telemetry.metrics import REFLECTION_REFUSED, REFLECTION_VERSION
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import CHALLENGING
from schemas.responses import ModelVersion
from schemas.serving import Refusal, ServingReport
from workers.runtime.clock import Clock, SystemClock
from workers.serving.engines.engine import Engine, SwapFailed, SwapResult
from workers.serving.model_event_listener import ModelEventListener
from workers.serving.routes import ChallengerRoute, Routes

log = logging.getLogger(__name__)

#: The log line of a completed swap; its fields are its times and counts. The demo reads them.
VERSION_SWAPPED = "version swapped"
#: Characters of a digest in metrics: enough to distinguish versions.
DIGEST_SHOWN = 12
#: Longest reason in a serving report.
MAX_REASON_CHARS = 500
#: The newest versions always stay on disk: a rollback needs them, and another worker may be loading one.
NEWEST_KEPT = 4
#: Workers mark the versions in use at every poll, also while the registry is away.
UNTOUCHED_S = 3600.0


def models_dir(settings: Settings) -> Path:
    """The fetched checkpoints: one folder for all reflection workers of a machine."""
    return settings.stack.dir / "models"


def prune_versions(folder: Path, used: Set[str]) -> None:
    """Removes versions that are neither used nor among the newest, and killed downloads."""
    newest = sorted((path.name for path in folder.glob("*") if path.name.isdecimal()), key=int)[-NEWEST_KEPT:]
    prune(folder, {*used, *newest}, UNTOUCHED_S)


class VersionSource(Protocol):
    """The methods of the registry that a worker uses (infra.registry.client). All of them block."""

    def resolve(self, alias: Alias) -> RegisteredVersion | None: ...
    def versions(self) -> list[RegisteredVersion]: ...
    def fetch(self, version: str, into: Path) -> Path: ...


class Refusals:
    """Versions that this worker refuses, at most one for each alias. It tries one again only after its alias, or its record in the registry, has changed."""

    def __init__(self) -> None:
        self._by_alias: dict[Alias, tuple[tuple[str, int], Refusal]] = {}

    def add(self, alias: Alias, version: RegisteredVersion, reason: str) -> None:
        self._by_alias[alias] = (_registry_record(version), Refusal(model=version.model, reason=reason[:MAX_REASON_CHARS]))

    def contains(self, alias: Alias, version: RegisteredVersion) -> bool:
        return alias in self._by_alias and self._by_alias[alias][0] == _registry_record(version)

    def clear_if_changed(self, alias: Alias, version: RegisteredVersion | None) -> None:
        """`version` is what the alias points to now."""
        if version is None or not self.contains(alias, version):
            self._by_alias.pop(alias, None)

    def all(self) -> tuple[Refusal, ...]:
        return tuple(refusal for _, refusal in self._by_alias.values())


Load = Callable[[Path], Awaitable[SwapResult]]


class Follower:
    """Loads the versions that the registry's aliases name. The engine owns the champion; the follower owns the route to the challenger."""

    def __init__(
        self,
        settings: Settings,
        registry: VersionSource,
        engine: Engine,
        listener: ModelEventListener,
        clock: Clock | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._engine = engine
        self._listener = listener
        self._clock = clock or SystemClock()
        self._refusals = refusals or Refusals()
        self._first_version = engine.champion.version
        self._challenger: ChallengerRoute | None = None
        self._postponed: str | None = None  # the version of the last "swap postponed" log line
        self._unreadable: str | None = None  # the reason of the last "history cannot be read" log line
        self._registry_away = False
        self._swaps = 0
        _show(engine.champion)

    @property
    def routes(self) -> Routes:
        champion, challenger = self._engine.champion, self._challenger
        return Routes(champion, None if challenger and challenger.model == champion else challenger)

    async def run(self) -> None:
        """Runs until cancelled. Raises CannotContinue if the engine has ended."""
        while True:
            event = await asyncio.to_thread(self._listener.wait, self._settings.reflection.poll_s)
            await self.poll(event)

    async def poll(self, event: ModelEvent | None = None) -> SwapResult | None:
        """Reads the aliases once and loads what differs. Returns the times of a change of champion."""
        await asyncio.to_thread(mark_used, models_dir(self._settings), self._used())
        versions = await self._read_aliases()
        if versions is None:
            return None
        champion, challenger = versions
        loaded_before = self._engine.loaded
        swap = await self._follow_champion(champion, event) if champion else None
        # Other workers compare the challenger with a champion that this worker does not serve: its users take part in no experiment.
        await self._follow_challenger(challenger if champion is None or champion.model == self._engine.champion else None)
        if self._engine.loaded != loaded_before:
            named = {version.version for version in versions if version}
            await asyncio.to_thread(prune_versions, models_dir(self._settings), named | self._used())
        return swap

    def report(self, worker: str) -> ServingReport:
        routes = self.routes
        return ServingReport(
            worker=worker,
            at=self._clock.now(),
            champion=routes.champion,
            challenger=routes.challenger.model if routes.challenger else None,
            experiment=routes.challenger.experiment if routes.challenger else None,
            loaded=self._engine.loaded,
            refused=self._refusals.all(),
            swaps=self._swaps,
        )

    async def _read_aliases(self) -> tuple[RegisteredVersion | None, RegisteredVersion | None] | None:
        """Champion and challenger; None if the registry cannot be read."""
        try:
            versions = await asyncio.to_thread(lambda: (self._resolve(Alias.CHAMPION), self._resolve(Alias.CHALLENGER)))
        except Exception as error:
            # The registry is away, refuses, or returns unreadable content. The worker keeps serving.
            if not self._registry_away:
                log.warning("the registry is away; the old version keeps serving", extra={"version": self._engine.champion.version, "reason": str(error)})
            self._registry_away = True
            return None
        self._registry_away = False
        for alias, version in zip((Alias.CHAMPION, Alias.CHALLENGER), versions, strict=True):
            self._refusals.clear_if_changed(alias, version)
        return versions

    def _resolve(self, alias: Alias) -> RegisteredVersion | None:
        """The version of an alias; None also for one with an unreadable history, which changes nothing. Blocks."""
        version = self._registry.resolve(alias)
        reason = version.unreadable if version else None
        if reason and reason != self._unreadable:
            log.warning("a version is ignored: its history cannot be read", extra={"alias": str(alias), "reason": reason})
        self._unreadable = reason or self._unreadable
        return None if reason else version

    async def _follow_champion(self, champion: RegisteredVersion, event: ModelEvent | None) -> SwapResult | None:
        previous = self._engine.champion
        if champion.model == previous:
            return None
        if champion.model in self._engine.loaded:
            swap: SwapResult | None = await self._engine.set_champion(champion.version)
        else:
            if self._challenger and self._engine.next_evicted == self._challenger.model.version:
                self._challenger = None
            swap = await self._load(Alias.CHAMPION, champion, lambda checkpoint: self._engine.swap(checkpoint, champion.model, champion.canary_prompts))
        if swap is None:
            return None
        # The new champion's own experiment has ended. Another challenger's continues if the registry says so (`_follow_challenger`).
        self._challenger = None
        self._record(previous, champion, swap, event)
        return swap

    async def _follow_challenger(self, challenger: RegisteredVersion | None) -> None:
        route = self._route(challenger)
        if route is None or challenger is None:
            self._challenger = None
            return
        if route.model not in self._engine.loaded:
            self._challenger = None
            load: Load = lambda checkpoint: self._engine.load(checkpoint, challenger.model, challenger.canary_prompts)  # noqa: E731
            loaded = await self._load(Alias.CHALLENGER, challenger, load)
            if loaded is None:
                return
            log.info("challenger loaded", extra={"version": challenger.version, "stage": route.stage, **vars(loaded)})
        self._challenger = route

    def _route(self, challenger: RegisteredVersion | None) -> ChallengerRoute | None:
        """The route by the challenger's newest transition. With one version slot, or only one working slot, there is no experiment."""
        champion = self._engine.champion
        has_slot = self._engine.next_evicted != champion.version
        if challenger is None or challenger.model == champion or challenger.state not in CHALLENGING or not has_slot:
            return None
        step = challenger.transitions[-1]
        return ChallengerRoute(challenger.model, step.after, step.experiment, step.share)

    async def _load(self, alias: Alias, version: RegisteredVersion, load: Load) -> SwapResult | None:
        """Fetches and loads. None if the version is refused or postponed."""
        if self._refusals.contains(alias, version):
            return None
        try:
            checkpoint = await asyncio.to_thread(self._registry.fetch, version.version, models_dir(self._settings))
        except (BadCheckpoint, NoSuchVersion) as error:
            self._refuse(alias, version, error)
            return None
        except Exception as error:  # as in `_read_aliases`; a full disk is no reason either to stop the previous version
            self._postpone(version, error)
            return None
        try:
            swap = await load(checkpoint)
        except (RetryLater, OSError) as error:
            self._postpone(version, error)
            return None
        except (BadCheckpoint, SwapFailed) as error:
            self._refuse(alias, version, error)
            return None
        self._postponed = None
        return swap

    def _refuse(self, alias: Alias, version: RegisteredVersion, error: Exception) -> None:
        self._refusals.add(alias, version, str(error))
        REFLECTION_REFUSED.add(alias=alias)
        log.error("version refused; the old one keeps serving", extra=_from_to(self._engine.champion, version) | {"alias": alias, "reason": str(error)})

    def _postpone(self, version: RegisteredVersion, error: Exception) -> None:
        if version.version != self._postponed:
            log.warning("swap postponed", extra=_from_to(self._engine.champion, version) | {"reason": str(error)})
        self._postponed = version.version

    def _record(self, previous: ModelVersion, champion: RegisteredVersion, swap: SwapResult, event: ModelEvent | None) -> None:
        now = self._clock.now()
        event_to_swap_ms = (now - event.occurred_at).total_seconds() * 1000 if event and event.version == champion.version else None
        self._swaps += 1
        _show(champion.model)
        record = _from_to(previous, champion) | {"at": now.isoformat(), **vars(swap), "event_to_swap_ms": event_to_swap_ms}
        log.info(VERSION_SWAPPED, extra=record)

    def _used(self) -> set[str]:
        """Versions whose files this worker may read again."""
        return {self._first_version, *(model.version for model in self._engine.loaded)}


def _from_to(previous: ModelVersion, version: RegisteredVersion) -> dict[str, object]:
    return {"from": previous.version, "to": version.version}


def _show(champion: ModelVersion) -> None:
    REFLECTION_VERSION.set_only(1, version=champion.version, digest=champion.digest[:DIGEST_SHOWN])


def _registry_record(version: RegisteredVersion) -> tuple[str, int]:
    return version.version, -1 if version.unreadable else len(version.transitions)
