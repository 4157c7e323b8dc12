"""Bootstrap: where the registry is empty, the shipped checkpoint becomes champion. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from infra.errors import CannotContinue
from infra.registry import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from trainer.announcement import point_and_announce
from trainer.lease import lease, lease_path
from trainer.snapshot import code_version

ROOT = Path(__file__).resolve().parent.parent
#: The decision that is told of the first version.
SHIPPED = "shipped with the project"


def bootstrap(settings: Settings) -> RegisteredVersion:
    """The champion; where there is none, the shipped checkpoint becomes it. Takes the lease for that."""
    registry = Registry(settings)
    champion = registry.resolve(Alias.CHAMPION)
    if champion:
        return champion
    with lease(lease_path(settings)):
        return register_shipped(settings, registry)


def register_shipped(settings: Settings, registry: Registry) -> RegisteredVersion:
    """Register the shipped checkpoint and let `champion` name it; where a kill came between the two, the second is done.

    Raises CannotContinue where versions exist but none is champion.
    """
    versions = registry.versions()
    if len(versions) == 1 and versions[0].tags.get("decision") == SHIPPED:
        version = versions[0]
    elif versions:
        how = f"MlflowClient.set_registered_model_alias({registry.name!r}, {Alias.CHAMPION.value!r}, VERSION)"
        raise CannotContinue(f"{registry.name} has versions but none is champion; point the alias with MLflow's {how}, or name another registry.model_name")
    else:
        version = registry.register(ROOT / settings.reflection.checkpoint, tags={"code_version": code_version(), "decision": SHIPPED})
    point_and_announce(settings, registry, Alias.CHAMPION, version, "the shipped checkpoint, nothing is trained yet")
    return version
