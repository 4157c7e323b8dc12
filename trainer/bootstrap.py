"""Bootstrap: where the registry is empty, the shipped checkpoint becomes champion. Imports no torch."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import CannotContinue
from infra.registry import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.promotion import State
from trainer.lease import Held, lease, promoter_lease_path
from trainer.promotion.log import Ledger
from trainer.promotion.machine import first_champion
from trainer.snapshot import code_version

ROOT = Path(__file__).resolve().parent.parent
#: Why the first version serves, and who lets it.
SHIPPED, ACTOR = "shipped with the project", "bootstrap"
#: A promoter that starts has a champion within seconds; a new SQLite registry takes ten.
WAIT_S, POLL_S = 120.0, 0.2


def bootstrap(settings: Settings, registry: Registry | None = None) -> RegisteredVersion:
    """The champion; where there is none, the shipped checkpoint becomes it. Takes the promoter's lease for that, and waits for a promoter that holds it.

    Raises what `register_shipped` raises, and Held where whoever holds the lease makes no champion in WAIT_S.
    """
    registry = registry or Registry(settings)
    deadline = time.monotonic() + WAIT_S
    while True:
        champion = registry.resolve(Alias.CHAMPION)
        if champion:
            return champion
        try:
            with lease(promoter_lease_path(settings)):
                return register_shipped(settings, registry)
        except Held:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)


def register_shipped(settings: Settings, registry: Registry) -> RegisteredVersion:
    """Register the shipped checkpoint and make it champion; where a kill came between, the rest is done. The caller holds the promoter's lease.

    Raises CannotContinue where versions exist but none is champion.
    """
    champion = registry.resolve(Alias.CHAMPION)
    if champion:
        return champion
    versions = registry.versions()
    if not versions:
        versions = [registry.register(ROOT / settings.reflection.checkpoint, tags={"code_version": code_version(), "decision": SHIPPED})]
    first = versions[0]
    if first.tags.get("decision") != SHIPPED or any(version.transitions for version in versions[1:]):
        how = f"MlflowClient.set_registered_model_alias({registry.name!r}, {Alias.CHAMPION.value!r}, VERSION)"
        raise CannotContinue(f"{registry.name} has versions but none is champion; point the alias with MLflow's {how}, or name another registry.model_name")
    while first.state is not State.CHAMPION:
        step = first_champion(Ledger((first,)), first, ACTOR, SHIPPED, datetime.now(UTC))
        assert step is not None  # a registered version is gated, a gated one becomes champion
        registry.record(first.version, step.transition)
        first = registry.get(first.version)
    registry.point(Alias.CHAMPION, first.version)
    return registry.get(first.version)
