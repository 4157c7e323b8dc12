from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings, load
from schemas.leases import LeaseName
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.support.killed import Killed
from tests.support.memory_registry import MemoryRegistry
from trainer.interruption import Interrupted
from trainer.promotion.bootstrap import ACTOR, FIRST, bootstrap, register_first
from trainer.promotion.version_history import VersionHistories
from trainer.run.lease import lease

NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Empty(MemoryRegistry):
    """Registers and resolves as `infra.registry.client.Registry` does."""

    name = "m"

    def register(self, checkpoint: Path | None = None, *, tags: dict[str, str] | None = None) -> Any:
        return super().register(tags=tags)

    def resolve(self, alias: Alias) -> Any:
        return self.get(self.aliases[alias]) if alias in self.aliases else None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path})


def test_the_first_champion_is_the_shipped_checkpoint_by_its_history(settings: Settings) -> None:
    registry: Any = Empty()
    for _ in range(2):
        version = register_first(settings, registry)
        assert version.aliases == (Alias.CHAMPION,) and version.tags["decision"] == FIRST
        assert [(step.after, step.actor, step.reason) for step in version.transitions] == [
            (VersionState.GATED, ACTOR, FIRST),
            (VersionState.CHAMPION, ACTOR, FIRST),
        ]
    assert len(registry.versions()) == 1


def test_the_wait_for_a_promoter_ends_with_a_stop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.promotion.bootstrap.WAIT_S", 5.0)
    registry: Any = Empty()
    stop = Event()
    stop.set()
    with lease(settings, LeaseName.PROMOTER), pytest.raises(Interrupted):
        bootstrap(settings, registry, stop)
    assert bootstrap(settings, registry, stop).version == "1"  # without a wait


@pytest.mark.parametrize("boundary", range(6))
def test_a_bootstrap_that_is_killed_is_completed(settings: Settings, boundary: int) -> None:
    registry: Any = Empty()
    registry.kill_at = boundary
    with pytest.raises(Killed):
        register_first(settings, registry)
    version = register_first(settings, registry)
    assert (version.version, version.state, version.aliases, len(version.transitions)) == ("1", VersionState.CHAMPION, (Alias.CHAMPION,), 2)


def test_a_removed_champion_alias_is_restored_from_the_version_histories(settings: Settings) -> None:
    registry: Any = Empty()
    register_first(settings, registry)
    second = registry.register()
    for state, facts in ((VersionState.GATED, {}), (VersionState.CHAMPION, {"replaces": "1"})):
        histories = VersionHistories(tuple(registry.versions()))
        registry.record("2", histories.transition(registry.get("2"), state, "promoter", "better", NOW, **facts).transition)
    registry.aliases.clear()
    assert register_first(settings, registry).version == second.version == registry.aliases[Alias.CHAMPION]


def test_versions_without_a_champion_are_an_error_that_names_the_remedy(settings: Settings) -> None:
    registry: Any = Empty()
    registry.register()
    with pytest.raises(CannotContinue, match=r"none is champion; point the alias with .*set_registered_model_alias\('m', 'champion', VERSION\)"):
        register_first(settings, registry)
