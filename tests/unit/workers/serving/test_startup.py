from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.settings import EngineKind, ReflectionSettings, Settings, StackSettings
from infra.telemetry.metrics import REFLECTION_REFUSED
from schemas.promotion import Transition, VersionState
from tests.support.table_registry import NOW, TableRegistry, registered, step
from workers.serving.engines.engine import StartStopped
from workers.serving.startup import canary_prompts_of, earlier_champions, start_on_champion, wait_for_champion


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(stack=StackSettings(dir=tmp_path), reflection=ReflectionSettings(poll_s=0.01, engine=EngineKind.TRANSFORMERS))


def crowned(day: int, replaces: str | None = None, *, rolls_back: bool = False) -> Transition:
    return step(VersionState.CHAMPION, 1, replaces=replaces, rolls_back=rolls_back, at=NOW + timedelta(days=day))


def test_a_worker_waits_for_the_first_champion_but_not_for_ever(settings: Settings) -> None:
    assert wait_for_champion(settings, TableRegistry("4"), threading.Event()).version == "4"
    with pytest.raises(CannotContinue, match=r"no champion for 0\.05 s"):
        wait_for_champion(settings, TableRegistry(None), threading.Event(), within_s=0.05)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StartStopped):
        wait_for_champion(settings, TableRegistry(None), stop)


def test_a_download_is_waited_for_but_not_for_ever(settings: Settings) -> None:
    registry = TableRegistry("1")
    registry.trouble = RetryLater("no answer")
    with pytest.raises(CannotContinue, match=r"version 1 could not be fetched for 0\.05 s: no answer"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["1"] * 5


def test_a_champion_that_cannot_be_fetched_leaves_its_place_to_the_one_before_and_is_not_refused(settings: Settings) -> None:
    class Unmounted(TableRegistry):
        def fetch(self, version: str, into: Path) -> Path:
            self.trouble = {"2": CannotContinue("it is refused"), "3": RetryLater("there are no files")}.get(version)
            return super().fetch(version, into)

    registry, refused = Unmounted("3"), REFLECTION_REFUSED.values()
    registry.logs = {"1": [crowned(1)], "2": [crowned(2, "1")], "3": [crowned(3, "2")]}
    registry.unsound = {"1"}
    with pytest.raises(CannotContinue, match=r"neither the champion, version 3, nor an earlier one"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["3"] * 5 + ["2", "1"]
    assert REFLECTION_REFUSED.values() == refused


def test_the_last_champion_before_that_was_not_given_up_is_served_instead() -> None:
    versions = [
        registered("1", crowned(1)),
        registered("2", crowned(2, "1")),
        registered("3", crowned(3, "2")),
        registered("4", step(VersionState.REJECTED)),
        registered("5", crowned(4, "3", rolls_back=True)),
        registered("6", crowned(5, "5")),
    ]
    assert [version.version for version in earlier_champions(versions[-1], versions)] == ["5", "2", "1"]


def test_where_nothing_can_be_served_the_error_says_so(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    registry = TableRegistry("2")
    registry.logs = {"1": [crowned(1)], "2": [crowned(2, "1")]}
    registry.unsound = {"1", "2"}
    with pytest.raises(CannotContinue, match=r"neither the champion, version 2, nor an earlier one can be served: .*1/config\.json: missing"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["2", "1"]
    assert len(caplog.records) == 2


def test_a_log_that_cannot_be_read_keeps_no_worker_from_starting_on_another_version(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    registry = TableRegistry("2")
    registry.logs = {"1": [crowned(1)], "2": [], "3": []}
    registry.unreadable, registry.unsound = {"2", "3"}, {"1", "2"}
    with pytest.raises(CannotContinue, match="neither the champion, version 2, nor an earlier one"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["2", "1"]
    assert canary_prompts_of(registry.get("2")) == () and "its tag promotion.0001 is no transition" in caplog.records[-1].__dict__["reason"]
