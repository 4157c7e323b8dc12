"""Bootstrap: registers `reflection.checkpoint` as champion if the registry is empty. Imports no torch."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

from infra.checkpoints.location import checkpoint_folder
from infra.errors import CannotContinue
from infra.process.file_lock import LockHeld
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.leases import LeaseName
from schemas.model_events import Alias
from trainer.data.snapshot import code_version
from trainer.interruption import check_stop
from trainer.promotion.state_machine import first_champion
from trainer.promotion.version_history import VersionHistories
from trainer.run.lease import lease

#: Reason and actor of the first version's transitions.
FIRST, ACTOR = "the first version, from reflection.checkpoint", "bootstrap"
#: A starting promoter registers a champion within seconds, or ten with a new SQLite registry.
WAIT_S, POLL_S = 120.0, 0.2


def bootstrap(settings: Settings, registry: Registry | None = None, stop: threading.Event | None = None) -> RegisteredVersion:
    """The champion. If there is none, registers `reflection.checkpoint` under the promoter's lease, or waits for the holder of the lease to do so.

    Raises what `register_first` raises, LockHeld if there is no champion after WAIT_S, and Interrupted if `stop` ends the wait.
    """
    stop = stop or threading.Event()
    registry = registry or Registry(settings, stop=stop)
    deadline = time.monotonic() + WAIT_S
    while True:
        if champion := registry.resolve(Alias.CHAMPION):
            return champion
        try:
            with lease(settings, LeaseName.PROMOTER):
                return register_first(settings, registry)
        except LockHeld:
            if time.monotonic() > deadline:
                raise
        stop.wait(POLL_S)
        check_stop(stop)


def register_first(settings: Settings, registry: Registry) -> RegisteredVersion:
    """Registers `reflection.checkpoint` and promotes it; completes what a killed process began. Restores a removed champion alias from the version
    histories. The caller holds the promoter's lease.

    Raises CannotContinue if versions exist but none is champion.
    """
    if champion := registry.resolve(Alias.CHAMPION):
        return champion
    versions = registry.versions()
    if not versions:
        versions = [registry.register(checkpoint_folder(settings.reflection.checkpoint), tags={"code_version": code_version(), "decision": FIRST})]
    histories = VersionHistories(tuple(versions))
    while histories.champion is None:
        first = histories.versions[0]
        step = first_champion(histories, first, ACTOR, FIRST, datetime.now(UTC)) if first.tags.get("decision") == FIRST else None
        if step is None:
            how = f"MlflowClient.set_registered_model_alias({registry.name!r}, {Alias.CHAMPION.value!r}, VERSION)"
            raise CannotContinue(f"{registry.name} has versions but none is champion; point the alias with MLflow's {how}, or name another registry.model_name")
        registry.record(step.version, step.transition)
        histories = histories.replacing(registry.get(step.version))
    registry.set_alias(Alias.CHAMPION, histories.champion.version)
    return registry.get(histories.champion.version)
