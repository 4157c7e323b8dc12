"""Versions of HYDRA: from the stored gate result to champion, with and without a person."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.errors import RetryLater
from infra.settings import Settings, load
from schemas.gate import GateOutcome
from schemas.leases import LeaseName
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.support.killed import Killed
from tests.support.memory_registry import MemoryRegistry
from trainer.interruption import Interrupted
from trainer.promotion import hydra
from trainer.promotion.hydra import promote_versions
from trainer.promotion.operator_commands import OperatorCommand
from trainer.promotion.promoter import Promoter
from trainer.promotion.version_history import VersionHistories
from trainer.run.lease import lease

PASSED, REJECTED, INCONCLUSIVE = VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path})


def judged(registry: MemoryRegistry, outcome: GateOutcome, champion: str | None) -> str:
    """Registers a version that was judged against version `champion`."""
    number = len(registry.versions()) + 1
    evidence = {"candidate": f"sha256-{number}", "champion": champion and f"sha256-{champion}"}
    return registry.register(tags={"gate": json.dumps({"outcome": outcome, "reason": "why", "evidence": evidence})}).version


def states(registry: MemoryRegistry) -> list[VersionState]:
    histories = VersionHistories.of(registry.versions())
    return [histories.state(version) for version in histories.versions]


def promote(settings: Settings, registry: MemoryRegistry) -> None:
    promote_versions(settings, registry, threading.Event())


def test_the_first_version_that_passes_becomes_champion(settings: Settings) -> None:
    registry = MemoryRegistry()
    promote(settings, registry)  # nothing is registered
    judged(registry, "rejected", None)
    promote(settings, registry)
    assert (states(registry), registry.aliases) == ([REJECTED], {})
    judged(registry, "passed", None)
    promote(settings, registry)
    assert (states(registry), registry.aliases) == ([REJECTED, PASSED], {Alias.CHAMPION: "2"})
    writes = registry.writes
    promote(settings, registry)
    assert registry.writes == writes


def test_a_later_version_replaces_the_champion_if_it_was_judged_against_it(settings: Settings) -> None:
    registry = MemoryRegistry()
    judged(registry, "passed", None)
    promote(settings, registry)
    for outcome in ("rejected", "passed"):
        judged(registry, outcome, "1")
    promote(settings, registry)
    assert states(registry) == [VersionState.RETIRED, REJECTED, PASSED]
    assert registry.aliases == {Alias.CHAMPION: "3"}
    judged(registry, "passed", "1")
    promote(settings, registry)
    assert states(registry)[-1] is INCONCLUSIVE and registry.get("4").transitions[-1].reason == hydra.ANOTHER_CHAMPION


def test_a_person_approves_a_later_version_and_rolls_it_back(settings: Settings) -> None:
    registry = MemoryRegistry()
    with_person = settings.changed(promotion={"approval": "person"})
    judged(registry, "passed", None)
    promote(with_person, registry)
    judged(registry, "passed", "1")
    promote(with_person, registry)
    assert states(registry) == [PASSED, VersionState.APPROVAL]
    promote(with_person, registry)
    assert states(registry) == [PASSED, VersionState.APPROVAL] and registry.aliases[Alias.CHAMPION] == "1"
    operator = Promoter(registry, with_person.promotion, announce=lambda event: None)
    operator.execute(OperatorCommand("promote", "2", "ada", "looks good"))
    assert registry.aliases == {Alias.CHAMPION: "2"}
    operator.execute(OperatorCommand("rollback", "2", "ada", "users complain"))
    assert states(registry) == [PASSED, REJECTED] and registry.aliases == {Alias.CHAMPION: "1"}


@pytest.mark.parametrize("tags", [{}, {"gate": "{"}, {"gate": "[" * 5000}])
def test_a_version_without_a_readable_result_is_inconclusive(settings: Settings, tags: dict[str, Any]) -> None:
    registry = MemoryRegistry()
    registry.register(tags=tags)
    promote(settings, registry)
    assert (states(registry), registry.aliases) == ([INCONCLUSIVE], {})


def test_a_kill_between_any_two_writes_is_completed(settings: Settings) -> None:
    def registered() -> MemoryRegistry:
        registry = MemoryRegistry()
        judged(registry, "passed", None)
        judged(registry, "passed", "1")
        return registry

    whole = registered()
    promote(settings, whole)
    assert whole.aliases == {Alias.CHAMPION: "2"}
    for boundary in range(2 * whole.writes):
        killed = registered()
        killed.kill_at = boundary
        with pytest.raises(Killed):
            promote(settings, killed)
        promote(settings, killed)
        assert (states(killed), killed.aliases) == (states(whole), whole.aliases), boundary


def test_a_command_that_holds_the_lease_is_waited_for(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hydra, "LEASE_WITHIN_S", 0.3)
    registry, stop = MemoryRegistry(), threading.Event()
    judged(registry, "passed", None)
    with lease(settings, LeaseName.HYDRA):
        with pytest.raises(RetryLater, match="promoter-hydra is running"):
            promote(settings, registry)
        stop.set()
        with pytest.raises(Interrupted):
            promote_versions(settings, registry, stop)
    promote(settings, registry)
    assert states(registry) == [PASSED]
