from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.settings.promotion import PromotionSettings
from schemas.promotion import TRANSITIONS, VersionState
from tests.support.memory_registry import MemoryRegistry
from trainer.promotion.state_machine import Findings, advance, stage_after, to_judge
from trainer.promotion.version_history import VersionHistories

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PICTURE = Path(__file__).resolve().parents[4] / "docs" / "promotion.svg"


def test_the_picture_shows_exactly_the_transitions() -> None:
    drawn = set(re.findall(r'<path id="([a-z]+-[a-z]+)"', PICTURE.read_text()))
    assert drawn == {f"{before}-{after}" for before, afters in TRANSITIONS.items() for after in afters}


@pytest.mark.parametrize(
    ("state", "shadow", "canary", "approval", "after"),
    [
        (VersionState.GATED, 200, 400, "automatic", VersionState.SHADOW),
        (VersionState.GATED, 0, 400, "automatic", VersionState.CANARY),
        (VersionState.GATED, 0, 0, "person", VersionState.APPROVAL),
        (VersionState.GATED, 0, 0, "automatic", VersionState.CHAMPION),
        (VersionState.SHADOW, 200, 0, "person", VersionState.APPROVAL),
        (VersionState.SHADOW, 200, 0, "automatic", VersionState.CHAMPION),
        (VersionState.CANARY, 200, 400, "person", VersionState.APPROVAL),
        (VersionState.CANARY, 200, 400, "automatic", VersionState.CHAMPION),
        (VersionState.APPROVAL, 200, 400, "automatic", VersionState.CHAMPION),
    ],
)
def test_the_next_stage_is_the_first_that_the_settings_do_not_leave_out(
    state: VersionState, shadow: int, canary: int, approval: str, after: VersionState
) -> None:
    assert stage_after(state, PromotionSettings(shadow_answers=shadow, canary_answers=canary, approval=approval)) is after


def test_a_transition_outside_the_state_machine_is_an_error() -> None:
    registry = MemoryRegistry()
    version = registry.register()
    with pytest.raises(CannotContinue, match="version 1 is registered: it cannot become champion"):
        VersionHistories((version,)).transition(version, VersionState.CHAMPION, "promoter", "x", NOW)


def test_transition_times_increase_and_long_reasons_are_cut() -> None:
    registry = MemoryRegistry()
    version = registry.register()
    registry.record("1", VersionHistories((version,)).transition(version, VersionState.GATED, "promoter", "x" * 3000, NOW).transition)
    version = registry.get("1")
    step = VersionHistories((version,)).transition(version, VersionState.CHAMPION, "promoter", "x", NOW - timedelta(days=1)).transition
    assert step.at > version.transitions[0].at == NOW and len(version.transitions[0].reason) == 2_000


def test_without_a_champion_nothing_is_judged() -> None:
    registry = MemoryRegistry()
    histories = VersionHistories((registry.register(),))
    assert to_judge(histories) is None and advance(histories, Findings(), PromotionSettings(), NOW) is None
