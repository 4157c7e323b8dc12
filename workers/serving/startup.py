"""Which version a worker starts with: the champion, or where that cannot be served the newest champion before it, so that answers go out meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.checkpoints.verification import BadCheckpoint
from infra.errors import CannotContinue, RetouchError, RetryLater
from infra.registry.client import NoSuchVersion, RegisteredVersion
from infra.settings import Settings
from infra.telemetry.metrics import REFLECTION_REFUSED
from schemas.model_events import Alias
from schemas.promotion import CanaryPrompt, VersionState
from workers.serving.engines.engine import Engine, EngineDied, StartStopped
from workers.serving.engines.factory import start_engine
from workers.serving.follower import VersionSource
from workers.serving.refusals import Refusals
from workers.serving.version_files import models_dir

log = logging.getLogger(__name__)

#: The first look imports MLflow and may wait for a first version to be registered.
WITHIN_S = 180.0


@dataclass(frozen=True)
class StartedEngine:
    engine: Engine
    serving: RegisteredVersion
    refusals: Refusals  # the champion, where it is not what is served


class _NotFetched(RetouchError):
    """The registry does not hand it out, which is not the version's fault."""


def start(settings: Settings, registry: VersionSource, stop: threading.Event, within_s: float = WITHIN_S) -> StartedEngine:
    """Blocks. Raises StartStopped when told to stop, CannotContinue without a champion or any version that can be served."""
    champion = first_champion(settings, registry, stop, within_s)
    refusals, last = Refusals(), ""
    for version in _candidates(registry, champion):
        try:
            checkpoint = _fetch(settings, registry, version, stop, within_s if version is champion else 0.0)
            engine = start_engine(settings, checkpoint, version.model, stop, _prompts(version))
        except (BadCheckpoint, NoSuchVersion, EngineDied, _NotFetched) as error:
            last = str(error)
            log.exception("a version cannot be served; trying the champion before it", extra={"version": version.version, "reason": last})
            if version is champion and not isinstance(error, _NotFetched):  # one that could not be fetched is asked for again
                REFLECTION_REFUSED.add(alias=Alias.CHAMPION)
                refusals.add(Alias.CHAMPION, champion, last)
            continue
        return StartedEngine(engine, version, refusals)
    raise CannotContinue(f"{settings.registry.model_name}: neither the champion, version {champion.version}, nor one before it can be served: {last}")


def first_champion(settings: Settings, registry: VersionSource, stop: threading.Event, within_s: float = WITHIN_S) -> RegisteredVersion:
    """Wait until `champion` names a version. Raises CannotContinue after `within_s`, StartStopped when told to stop. Blocks."""
    for _ in _looks(settings, stop, within_s):
        try:
            if champion := registry.resolve(Alias.CHAMPION):
                return champion
        except RetryLater as error:
            log.warning("waiting for the registry", extra={"reason": str(error)})
    raise CannotContinue(f"{settings.registry.model_name} has had no champion for {within_s:g} s: register a version and point the alias to it")


def _fetch(settings: Settings, registry: VersionSource, version: RegisteredVersion, stop: threading.Event, within_s: float) -> Path:
    reason = ""
    for _ in _looks(settings, stop, within_s):
        try:
            return registry.fetch(version.version, models_dir(settings))
        except (RetryLater, CannotContinue, OSError) as error:
            reason = str(error)
            log.warning("waiting for the registry", extra={"version": version.version, "reason": reason})
    raise _NotFetched(f"version {version.version} could not be fetched for {within_s:g} s: {reason}")


def _looks(settings: Settings, stop: threading.Event, within_s: float) -> Iterator[None]:
    """Each time it is worth a look; raises StartStopped between two."""
    for _ in range(max(1, round(within_s / settings.reflection.poll_s))):
        yield
        if stop.wait(settings.reflection.poll_s):
            raise StartStopped("told to stop while waiting for the registry")


def _candidates(registry: VersionSource, champion: RegisteredVersion) -> Iterator[RegisteredVersion]:
    yield champion
    try:
        yield from champions_before(champion, [version for version in registry.versions() if not version.unreadable])
    except RetryLater as error:
        log.warning("the registry does not say who was champion before", extra={"reason": str(error)})


def _prompts(version: RegisteredVersion) -> tuple[CanaryPrompt, ...]:
    """None where the version's log cannot be read: its files have their sums all the same, and without it nobody would answer."""
    reason = version.unreadable
    if reason:
        log.warning("a version is served without its canary prompts", extra={"version": version.version, "reason": reason})
    return () if reason else version.canary_prompts


def champions_before(champion: RegisteredVersion, versions: list[RegisteredVersion]) -> list[RegisteredVersion]:
    """Those that were champion and are not rejected, the last one first."""
    steps = [step for version in versions for step in version.transitions if step.after is VersionState.CHAMPION]
    rolled_back = {step.replaces for step in steps if step.rolls_back}
    reigns = {version.version: [step.at for step in version.transitions if step.after is VersionState.CHAMPION] for version in versions}
    sound = [version for version in versions if reigns[version.version] and version.state is not VersionState.REJECTED and version.version not in rolled_back]
    return sorted((version for version in sound if version.version != champion.version), key=lambda version: reigns[version.version][-1], reverse=True)
