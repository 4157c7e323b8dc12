from __future__ import annotations

from datetime import UTC, datetime

import pytest

from infra.settings import load
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.support.memory_registry import MemoryRegistry
from trainer.promotion.announcement import Announcer, event_of
from trainer.promotion.version_history import VersionHistories

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("after", "alias"), [(VersionState.SHADOW, Alias.CHALLENGER), (VersionState.CHAMPION, Alias.CHAMPION), (VersionState.REJECTED, None)])
def test_an_event_holds_its_transition_and_has_a_derived_id(after: VersionState, alias: Alias | None) -> None:
    registry = MemoryRegistry()
    registry.register()
    for state in (VersionState.GATED, after):
        version = registry.get("1")
        registry.record("1", VersionHistories((version,)).transition(version, state, "promoter", "why", NOW).transition)
    version = registry.get("1")
    first, second = (event_of(version, step) for step in version.transitions)
    assert (second.seq, second.before, second.after, second.alias, second.reason) == (2, VersionState.GATED, after, alias, "why")
    assert second == event_of(version, version.transitions[1]) and second.event_id != first.event_id


def test_without_a_broker_nothing_is_published_and_nothing_waits() -> None:
    registry = MemoryRegistry()
    version = registry.register()
    step = VersionHistories((version,)).transition(version, VersionState.REJECTED, "promoter", "why", NOW)
    announcer = Announcer(load())
    announcer.announce(event_of(version, step.transition))
    announcer.close()
    assert not announcer._waiting and not announcer._thread.is_alive()
