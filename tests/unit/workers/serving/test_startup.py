from __future__ import annotations

import asyncio
import shutil
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import BadSetting, CannotContinue, RetryLater
from infra.settings import Settings
from infra.settings.models import EngineKind, ReflectionSettings
from infra.settings.process import StackSettings
from infra.telemetry.metrics import REFLECTION_REFUSED
from schemas.promotion import Transition, VersionState
from tests.support.table_registry import NOW, TableRegistry, registered, step
from tests.support.tiny_model import make_checkpoint
from workers.serving.engines.engine import StartStopped
from workers.serving.follower import models_dir
from workers.serving.startup import canary_prompts_of, earlier_champions, start_on_champion, wait_for_champion


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(stack=StackSettings(dir=tmp_path), reflection=ReflectionSettings(poll_s=0.01, engine=EngineKind.TRANSFORMERS))


def promoted(day: int, replaces: str | None = None, *, rolls_back: bool = False) -> Transition:
    return step(VersionState.CHAMPION, 1, replaces=replaces, rolls_back=rolls_back, at=NOW + timedelta(days=day))


def test_a_worker_waits_for_the_first_champion_for_a_limited_time(settings: Settings) -> None:
    assert wait_for_champion(settings, TableRegistry("4"), threading.Event()).version == "4"
    with pytest.raises(CannotContinue, match=r"no champion for 0\.05 s"):
        wait_for_champion(settings, TableRegistry(None), threading.Event(), within_s=0.05)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StartStopped):
        wait_for_champion(settings, TableRegistry(None), stop)


def test_a_worker_waits_for_a_download_for_a_limited_time(settings: Settings) -> None:
    registry = TableRegistry("1")
    registry.fetch_error = RetryLater("no answer")
    with pytest.raises(CannotContinue, match=r"version 1 could not be fetched for 0\.05 s: no answer"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["1"] * 5


def test_a_champion_that_cannot_be_fetched_is_replaced_but_not_refused(settings: Settings) -> None:
    class FailingFetches(TableRegistry):
        def fetch(self, version: str, into: Path) -> Path:
            self.fetch_error = {"2": CannotContinue("it is refused"), "3": RetryLater("there are no files")}.get(version)
            return super().fetch(version, into)

    registry, refused = FailingFetches("3"), REFLECTION_REFUSED.values()
    registry.logs = {"1": [promoted(1)], "2": [promoted(2, "1")], "3": [promoted(3, "2")]}
    registry.unsound = {"1"}
    with pytest.raises(CannotContinue, match=r"neither the champion, version 3, nor an earlier one"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["3"] * 5 + ["2", "1"]
    assert REFLECTION_REFUSED.values() == refused


def test_another_model_than_the_set_one_is_refused_instead_of_served(settings: Settings, tmp_path: Path) -> None:
    named, other = make_checkpoint(tmp_path / "named", seed=0), make_checkpoint(models_dir(settings) / "1", seed=0, layers=3)
    configured = settings.model_copy(update={"reflection": settings.reflection.model_copy(update={"checkpoint": named})})
    with pytest.raises(BadSetting, match=r"reflection\.checkpoint=.*named: .* already holds another model, version 1 \(config\.json: .*num_hidden_layers"):
        start_on_champion(configured, TableRegistry("1"), threading.Event(), within_s=0.05)
    shutil.rmtree(other)
    make_checkpoint(other, seed=5)  # the same model with other weights, as training makes it
    started = start_on_champion(configured, TableRegistry("1"), threading.Event(), within_s=0.05)
    assert started.engine.champion.version == "1"
    asyncio.run(started.engine.close())


def test_earlier_champions_are_those_neither_rejected_nor_rolled_back() -> None:
    versions = [
        registered("1", promoted(1)),
        registered("2", promoted(2, "1")),
        registered("3", promoted(3, "2")),
        registered("4", step(VersionState.REJECTED)),
        registered("5", promoted(4, "3", rolls_back=True)),
        registered("6", promoted(5, "5")),
    ]
    assert [version.version for version in earlier_champions(versions[-1], versions)] == ["5", "2", "1"]


def test_without_any_sound_version_the_error_names_the_file(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    registry = TableRegistry("2")
    registry.logs = {"1": [promoted(1)], "2": [promoted(2, "1")]}
    registry.unsound = {"1", "2"}
    with pytest.raises(CannotContinue, match=r"neither the champion, version 2, nor an earlier one can be served: .*1/config\.json: missing"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["2", "1"]
    assert len(caplog.records) == 2


def test_an_unreadable_history_does_not_stop_a_worker_from_starting(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    registry = TableRegistry("2")
    registry.logs = {"1": [promoted(1)], "2": [], "3": []}
    registry.unreadable, registry.unsound = {"2", "3"}, {"1", "2"}
    with pytest.raises(CannotContinue, match="neither the champion, version 2, nor an earlier one"):
        start_on_champion(settings, registry, threading.Event(), within_s=0.05)
    assert registry.fetched == ["2", "1"]
    assert canary_prompts_of(registry.get("2")) == () and "its tag promotion.0001 is no transition" in caplog.records[-1].__dict__["reason"]
