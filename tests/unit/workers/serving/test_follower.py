from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.settings import Settings
from infra.settings.process import StackSettings
from infra.telemetry.json_logs import JsonLines
from infra.telemetry.metrics import REFLECTION_VERSION
from schemas.ids import derive
from schemas.model_events import Alias, ModelEvent
from tests.support.manual_clock import ManualClock
from tests.support.stub_engine import StubEngine
from tests.support.table_registry import NOW, NoModelEvents, TableRegistry, registered
from workers.serving.engines.engine import EngineDied, SwapFailed
from workers.serving.follower import VERSION_SWAPPED, Follower

MakeFollower = Callable[[TableRegistry, StubEngine], Follower]


@pytest.fixture
def make_follower(tmp_path: Path) -> MakeFollower:
    settings = Settings(stack=StackSettings(dir=tmp_path))
    return lambda registry, engine: Follower(settings, registry, engine, NoModelEvents(), ManualClock(NOW))


def engine(error: Exception | None = None) -> StubEngine:
    return StubEngine(registered("1").model, error=error)


async def test_an_unchanged_alias_changes_nothing(make_follower: MakeFollower) -> None:
    registry, serving = TableRegistry("1"), engine()
    assert await make_follower(registry, serving).poll() is None
    assert (registry.fetched, serving.done) == ([], [])


async def test_a_moved_alias_is_followed_and_logged(make_follower: MakeFollower, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry, serving = TableRegistry("2"), engine()
    follower = make_follower(registry, serving)
    moved_at = NOW - timedelta(seconds=1)
    event = ModelEvent(event_id=derive("x"), name="m", version="2", alias=Alias.CHAMPION, digest="d", previous="1", reason="better", occurred_at=moved_at)
    await follower.poll(event)
    registry.champion = "1"  # a rollback
    await follower.poll()
    first, second = (json.loads(JsonLines().format(record)) for record in caplog.records if record.message == VERSION_SWAPPED)
    assert serving.done == ["swap 2", "set_champion 1"]
    assert first == {
        "level": "INFO", "logger": "workers.serving.follower", "text": VERSION_SWAPPED,
        "at": NOW.isoformat(), "from": "1", "to": "2", "in_flight": 7, "dropped": 0, "waited_ms": 12.5, "load_ms": 30.0, "check_ms": 5.0,
        "event_to_swap_ms": 1000.0,
    }  # fmt: skip
    assert (second["from"], second["to"], second["event_to_swap_ms"]) == ("2", "1", None)


async def test_the_version_metric_shows_only_the_champion(make_follower: MakeFollower) -> None:
    follower = make_follower(TableRegistry("2"), engine())
    assert REFLECTION_VERSION.values() == {(("digest", "digest 1"), ("version", "1")): 1}
    await follower.poll()
    assert REFLECTION_VERSION.values() == {(("digest", "digest 2"), ("version", "2")): 1}


async def test_an_unsound_version_is_refused_until_the_alias_moves(make_follower: MakeFollower, caplog: pytest.LogCaptureFixture) -> None:
    registry, serving = TableRegistry("2"), engine()
    registry.unsound = {"2"}
    follower = make_follower(registry, serving)
    for _ in range(3):
        await follower.poll()
    assert (registry.fetched, serving.champion.version) == (["2"], "1")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    registry.champion = "1"
    await follower.poll()
    registry.champion, registry.unsound = "2", set()
    await follower.poll()
    assert serving.done == ["swap 2"]


@pytest.mark.parametrize(("error", "fetched"), [(SwapFailed("no"), ["2"]), (RetryLater("busy"), ["2", "2"]), (OSError("no disk"), ["2", "2"])])
async def test_a_failed_swap_is_final_and_a_postponed_one_is_retried(make_follower: MakeFollower, error: Exception, fetched: list[str]) -> None:
    registry, serving = TableRegistry("2"), engine(error)
    follower = make_follower(registry, serving)
    await follower.poll()
    await follower.poll()
    assert (registry.fetched, serving.champion.version) == (fetched, "1")


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "No space left on device"), CannotContinue("refused"), KeyError("path")])
async def test_a_full_disk_or_an_unexpected_error_postpones_a_swap_and_is_logged_once(
    make_follower: MakeFollower, caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    registry, serving = TableRegistry("2"), engine()
    registry.fetch_error = trouble
    follower = make_follower(registry, serving)
    for _ in range(3):
        assert await follower.poll() is None
    assert [record.message for record in caplog.records] == ["swap postponed"]
    registry.fetch_error = None
    await follower.poll()
    assert (serving.done, serving.champion.version) == (["swap 2"], "2")


async def test_a_registry_that_is_away_is_logged_once(make_follower: MakeFollower, caplog: pytest.LogCaptureFixture) -> None:
    registry = TableRegistry("1")
    registry.resolve_error = RetryLater("no answer")
    follower = make_follower(registry, engine())
    for _ in range(3):
        await follower.poll()
    assert len(caplog.records) == 1


async def test_a_dead_engine_ends_the_follower(make_follower: MakeFollower) -> None:
    with pytest.raises(EngineDied):
        await make_follower(TableRegistry("2"), engine(EngineDied("gone"))).poll()


async def test_a_loaded_version_becomes_champion_without_a_download(make_follower: MakeFollower) -> None:
    registry, serving = TableRegistry("2"), engine()
    follower = make_follower(registry, serving)
    await follower.poll()
    registry.champion, registry.fetch_error = "1", RetryLater("no answer")
    await follower.poll()
    assert (serving.done, registry.fetched, serving.champion.version) == (["swap 2", "set_champion 1"], ["2"], "1")


async def test_an_unreadable_registry_changes_nothing(make_follower: MakeFollower) -> None:
    registry = TableRegistry("2")
    registry.resolve_error = ValueError("a tag of the future")
    follower = make_follower(registry, engine())
    assert await follower.poll() is None
    registry.resolve_error = None
    assert await follower.poll() is not None
