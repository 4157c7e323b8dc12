"""Starts the engine of a worker: on the champion, or, if it cannot be served, on the newest earlier champion that can."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.checkpoints.location import checkpoint_folder
from infra.checkpoints.verification import BadCheckpoint, differences
from infra.errors import BadSetting, CannotContinue, RetouchError, RetryLater
from infra.registry.client import NoSuchVersion, RegisteredVersion
from infra.settings import Settings
from infra.settings.models import ReflectionSettings
from infra.telemetry.metrics import REFLECTION_REFUSED
from schemas.model_events import Alias
from schemas.promotion import CanaryPrompt, VersionState
from workers.serving.engines.engine import Engine, EngineDied, StartStopped
from workers.serving.engines.factory import start_engine
from workers.serving.follower import Refusals, VersionSource, models_dir

log = logging.getLogger(__name__)

#: The first attempt imports MLflow, and may wait until a first version is registered.
WITHIN_S = 180.0


@dataclass(frozen=True)
class StartedEngine:
    engine: Engine
    refusals: Refusals  # has the registry's champion if the engine serves an earlier one


class _NotFetched(RetouchError):
    """The registry does not return the files. That is not the version's fault."""


def start_on_champion(settings: Settings, registry: VersionSource, stop: threading.Event, within_s: float = WITHIN_S) -> StartedEngine:
    """Blocks. Raises StartStopped after a stop, CannotContinue without a champion or without any version that can be served.

    Raises BadSetting if `reflection.checkpoint` is set to another model than the registry holds.
    """
    champion = wait_for_champion(settings, registry, stop, within_s)
    refusals, reason = Refusals(), ""
    for version in _candidates(registry, champion):
        try:
            checkpoint = _fetch(settings, registry, version, stop, within_s if version is champion else 0.0)
            _check_model(settings, version, checkpoint)
            engine = start_engine(settings, checkpoint, version.model, stop, canary_prompts_of(version))
        except (BadCheckpoint, NoSuchVersion, EngineDied, _NotFetched) as error:
            reason = str(error)
            log.exception("a version cannot be served; trying the champion before it", extra={"version": version.version, "reason": reason})
            if version is champion and not isinstance(error, _NotFetched):  # the follower fetches again what was not fetched
                REFLECTION_REFUSED.add(alias=Alias.CHAMPION)
                refusals.add(Alias.CHAMPION, champion, reason)
            continue
        return StartedEngine(engine, refusals)
    raise CannotContinue(f"{settings.registry.model_name}: neither the champion, version {champion.version}, nor an earlier one can be served: {reason}")


def wait_for_champion(settings: Settings, registry: VersionSource, stop: threading.Event, within_s: float = WITHIN_S) -> RegisteredVersion:
    """Waits until `champion` points to a version. Raises CannotContinue after `within_s`, StartStopped after a stop. Blocks."""
    for _ in _attempts(settings, stop, within_s):
        try:
            if champion := registry.resolve(Alias.CHAMPION):
                return champion
        except RetryLater as error:
            log.warning("waiting for the registry", extra={"reason": str(error)})
    raise CannotContinue(f"{settings.registry.model_name} has had no champion for {within_s:g} s: register a version and point the alias to it")


def _fetch(settings: Settings, registry: VersionSource, version: RegisteredVersion, stop: threading.Event, within_s: float) -> Path:
    reason = ""
    for _ in _attempts(settings, stop, within_s):
        try:
            return registry.fetch(version.version, models_dir(settings))
        except (RetryLater, CannotContinue, OSError) as error:
            reason = str(error)
            log.warning("waiting for the registry", extra={"version": version.version, "reason": reason})
    raise _NotFetched(f"version {version.version} could not be fetched for {within_s:g} s: {reason}")


def _check_model(settings: Settings, version: RegisteredVersion, checkpoint: Path) -> None:
    """`reflection.checkpoint` is only the first version of an empty registry. In one with versions of another model it would have no effect, unnoticed."""
    named = settings.reflection.checkpoint
    folder = checkpoint_folder(named)
    if settings.reflection.adapters or named == ReflectionSettings().checkpoint or not folder.is_dir():
        return
    if different := differences(folder, checkpoint):
        raise BadSetting(
            f"reflection.checkpoint={named}: {settings.registry.model_name} already holds another model, version {version.version} "
            f"({'; '.join(different[:2])}): set another registry.model_name or stack.dir, "
            "or leave reflection.checkpoint at its default to serve what the registry holds"
        )


def _attempts(settings: Settings, stop: threading.Event, within_s: float) -> Iterator[None]:
    """One item for each attempt, with a pause between two. Raises StartStopped after a stop."""
    for _ in range(max(1, round(within_s / settings.reflection.poll_s))):
        yield
        if stop.wait(settings.reflection.poll_s):
            raise StartStopped("stopped while waiting for the registry")


def _candidates(registry: VersionSource, champion: RegisteredVersion) -> Iterator[RegisteredVersion]:
    yield champion
    try:
        yield from earlier_champions(champion, [version for version in registry.versions() if not version.unreadable])
    except RetryLater as error:
        log.warning("the registry does not return the earlier champions", extra={"reason": str(error)})


def canary_prompts_of(version: RegisteredVersion) -> tuple[CanaryPrompt, ...]:
    """Empty if the version's history is unreadable: its files are checked by their sums, and without it no query would be answered."""
    reason = version.unreadable
    if reason:
        log.warning("a version is served without its canary prompts", extra={"version": version.version, "reason": reason})
    return () if reason else version.canary_prompts


def earlier_champions(champion: RegisteredVersion, versions: list[RegisteredVersion]) -> list[RegisteredVersion]:
    """Versions that were champion and are neither rejected nor rolled back, the latest first."""
    promoted_at = {version.version: [step.at for step in version.transitions if step.after is VersionState.CHAMPION] for version in versions}
    rolled_back = {step.replaces for version in versions for step in version.transitions if step.after is VersionState.CHAMPION and step.rolls_back}
    sound = [
        version
        for version in versions
        if promoted_at[version.version] and version.state is not VersionState.REJECTED and version.version not in {champion.version, *rolled_back}
    ]
    return sorted(sound, key=lambda version: promoted_at[version.version][-1], reverse=True)
