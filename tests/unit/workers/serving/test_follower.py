from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.settings import Settings, StackSettings
from infra.telemetry.json_logs import JsonLines
from infra.telemetry.metrics import REFLECTION_VERSION
from schemas.ids import derive
from schemas.model_events import Alias, ModelEvent
from tests.support.stub_engine import StubEngine
from tests.support.table_registry import NOW, NoModelEvents, TableRegistry, registered
from workers.runtime.clock import ManualClock
from workers.serving.engines.engine import EngineDied, SwapFailed
from workers.serving.follower import VERSION_SWAPPED, Follower

Following = Callable[[TableRegistry, StubEngine], Follower]


@pytest.fixture
def following(tmp_path: Path) -> Following:
    settings = Settings(stack=StackSettings(dir=tmp_path))
    return lambda registry, engine: Follower(settings, registry, engine, NoModelEvents(), ManualClock(NOW))


def engine(error: Exception | None = None) -> StubEngine:
    return StubEngine(registered("1").model, error=error)


async def test_nothing_happens_while_the_alias_stands_still(following: Following) -> None:
    registry, serving = TableRegistry("1"), engine()
    assert await following(registry, serving).poll() is None
    assert (registry.fetched, serving.done) == ([], [])


async def test_a_moved_alias_is_followed_and_logged(following: Following, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry, serving = TableRegistry("2"), engine()
    follower = following(registry, serving)
    moved_at = NOW - timedelta(seconds=1)
    event = ModelEvent(event_id=derive("x"), name="m", version="2", alias=Alias.CHAMPION, digest="d", previous="1", reason="better", occurred_at=moved_at)
    await follower.poll(event)
    registry.champion = "1"  # and back
    await follower.poll()
    first, second = (json.loads(JsonLines().format(record)) for record in caplog.records if record.message == VERSION_SWAPPED)
    assert serving.done == ["swap 2", "set_champion 1"]
    assert first == {
        "level": "INFO", "logger": "workers.serving.follower", "text": VERSION_SWAPPED,
        "at": NOW.isoformat(), "from": "1", "to": "2", "in_flight": 7, "dropped": 0, "waited_ms": 12.5, "load_ms": 30.0, "check_ms": 5.0,
        "event_to_swap_ms": 1000.0,
    }  # fmt: skip
    assert (second["from"], second["to"], second["event_to_swap_ms"]) == ("2", "1", None)


async def test_the_version_being_served_is_the_only_one_shown(following: Following) -> None:
    follower = following(TableRegistry("2"), engine())
    assert REFLECTION_VERSION.values() == {(("digest", "digest 1"), ("version", "1")): 1}
    await follower.poll()
    assert REFLECTION_VERSION.values() == {(("digest", "digest 2"), ("version", "2")): 1}


async def test_an_unsound_version_is_refused_once_and_tried_again_only_after_the_alias_moved(following: Following, caplog: pytest.LogCaptureFixture) -> None:
    registry, serving = TableRegistry("2"), engine()
    registry.unsound = {"2"}
    follower = following(registry, serving)
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
async def test_a_failed_swap_is_final_and_a_late_one_is_tried_again(following: Following, error: Exception, fetched: list[str]) -> None:
    registry, serving = TableRegistry("2"), engine(error)
    follower = following(registry, serving)
    await follower.poll()
    await follower.poll()
    assert (registry.fetched, serving.champion.version) == (fetched, "1")


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "No space left on device"), CannotContinue("refused"), KeyError("path")])
async def test_a_full_disk_or_an_odd_answer_puts_a_swap_off_once(following: Following, caplog: pytest.LogCaptureFixture, trouble: Exception) -> None:
    registry, serving = TableRegistry("2"), engine()
    registry.trouble = trouble
    follower = following(registry, serving)
    for _ in range(3):
        assert await follower.poll() is None
    assert [record.message for record in caplog.records] == ["swap put off"]
    registry.trouble = None
    await follower.poll()
    assert (serving.done, serving.champion.version) == (["swap 2"], "2")


async def test_a_registry_that_is_away_is_reported_once(following: Following, caplog: pytest.LogCaptureFixture) -> None:
    registry = TableRegistry("1")
    registry.away = RetryLater("no answer")
    follower = following(registry, engine())
    for _ in range(3):
        await follower.poll()
    assert len(caplog.records) == 1


async def test_a_dead_engine_ends_following(following: Following) -> None:
    with pytest.raises(EngineDied):
        await following(TableRegistry("2"), engine(EngineDied("gone"))).poll()


async def test_a_version_loaded_already_is_served_without_a_download(following: Following) -> None:
    registry, serving = TableRegistry("2"), engine()
    follower = following(registry, serving)
    await follower.poll()
    registry.champion, registry.trouble = "1", RetryLater("no answer")
    await follower.poll()
    assert (serving.done, registry.fetched, serving.champion.version) == (["swap 2", "set_champion 1"], ["2"], "1")


async def test_a_registry_that_makes_no_sense_takes_nothing_away(following: Following) -> None:
    registry = TableRegistry("2")
    registry.away = ValueError("a tag of the future")
    follower = following(registry, engine())
    assert await follower.poll() is None
    registry.away = None
    assert await follower.poll() is not None
