"""Bootstrap: where the registry is empty, the shipped checkpoint becomes champion. Imports no torch."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

from infra.checkpoints.location import checkpoint_folder
from infra.errors import CannotContinue
from infra.process.file_lock import LockHeld
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from trainer.data.snapshot_files import code_version
from trainer.interruption import check
from trainer.promotion.state_machine import first_champion
from trainer.promotion.version_history import VersionHistories
from trainer.run.lease import lease, promoter_lease_path

#: Why the first version serves, and who lets it.
SHIPPED, ACTOR = "shipped with the project", "bootstrap"
#: A promoter that starts has a champion within seconds; a new SQLite registry takes ten.
WAIT_S, POLL_S = 120.0, 0.2


def bootstrap(settings: Settings, registry: Registry | None = None, stop: threading.Event | None = None) -> RegisteredVersion:
    """The champion; where there is none, the shipped checkpoint becomes it. Takes the promoter's lease for that, and waits for a promoter that holds it.

    Raises what `register_shipped` raises, LockHeld where whoever holds the lease makes no champion in WAIT_S, and Interrupted where `stop` ends the wait.
    """
    registry, stop = registry or Registry(settings), stop or threading.Event()
    deadline = time.monotonic() + WAIT_S
    while True:
        champion = registry.resolve(Alias.CHAMPION)
        if champion:
            return champion
        try:
            with lease(promoter_lease_path(settings)):
                return register_shipped(settings, registry)
        except LockHeld:
            if time.monotonic() > deadline:
                raise
        stop.wait(POLL_S)
        check(stop)


def register_shipped(settings: Settings, registry: Registry) -> RegisteredVersion:
    """Register the shipped checkpoint and make it champion; where a kill came between, the rest is done. An alias that somebody removed is put back
    to the champion by the logs. The caller holds the promoter's lease.

    Raises CannotContinue where versions exist but none is champion.
    """
    champion = registry.resolve(Alias.CHAMPION)
    if champion:
        return champion
    versions = registry.versions()
    if not versions:
        versions = [registry.register(checkpoint_folder(settings.reflection.checkpoint), tags={"code_version": code_version(), "decision": SHIPPED})]
    histories = VersionHistories(tuple(versions))
    while histories.champion is None:
        first = histories.versions[0]
        step = first_champion(histories, first, ACTOR, SHIPPED, datetime.now(UTC)) if first.tags.get("decision") == SHIPPED else None
        if step is None:
            how = f"MlflowClient.set_registered_model_alias({registry.name!r}, {Alias.CHAMPION.value!r}, VERSION)"
            raise CannotContinue(f"{registry.name} has versions but none is champion; point the alias with MLflow's {how}, or name another registry.model_name")
        registry.record(step.version, step.transition)
        histories = histories.replacing(registry.get(step.version))
    registry.point(Alias.CHAMPION, histories.champion.version)
    return registry.get(histories.champion.version)
