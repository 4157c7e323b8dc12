from __future__ import annotations

import errno
import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.checkpoints import BadCheckpoint
from infra.errors import CannotContinue, RetryLater
from infra.registry import RegisteredVersion
from infra.settings import Reflection, Settings, Stack
from infra.telemetry.metrics import REFLECTION_VERSION
from schemas.ids import derive
from schemas.model_events import Alias, ModelEvent
from schemas.responses import ModelVersion
from workers.engines.engine import EngineDied, Generation, Sampling, Swap, SwapFailed
from workers.reflection.follower import Follower, first_champion
from workers.runtime.clock import HandClock

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def registered(version: str) -> RegisteredVersion:
    return RegisteredVersion(name="m", version=version, digest=f"digest {version}", parent=None, created_at=NOW)


class TableRegistry:
    """An alias that tests move; `unsound` versions do not pass their checks."""

    def __init__(self, champion: str | None) -> None:
        self.champion = champion
        self.away = False
        self.unsound: set[str] = set()
        self.full = False  # the disk
        self.fetched: list[str] = []

    def resolve(self, alias: Alias) -> RegisteredVersion | None:
        if self.away:
            raise RetryLater("no answer")
        return registered(self.champion) if self.champion else None

    def fetch(self, version: str, into: Path) -> Path:
        self.fetched.append(version)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if version in self.unsound:
            raise BadCheckpoint(f"{into / version / 'config.json'}: missing")
        return into / version


class SwappingEngine:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.served: list[str] = []

    async def swap(self, checkpoint: Path, model: ModelVersion) -> Swap:
        if self.error:
            raise self.error
        self.served.append(model.version)
        return Swap(in_flight=7, dropped=0, waited_ms=12.5, load_ms=30.0)

    async def generate(self, prompt: str, sampling: Sampling) -> Generation:
        raise NotImplementedError

    def count_tokens(self, prompt: str) -> int:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class NoHints:
    def wait(self, timeout_s: float) -> ModelEvent | None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def following(tmp_path: Path) -> Callable[[TableRegistry, SwappingEngine], Follower]:
    settings = Settings(stack=Stack(dir=tmp_path))
    return lambda registry, engine: Follower(settings, registry, engine, registered("1"), NoHints(), HandClock(NOW))


Following = Callable[[TableRegistry, SwappingEngine], Follower]


async def test_nothing_happens_while_the_alias_stands_still(following: Following) -> None:
    registry, engine = TableRegistry("1"), SwappingEngine()
    assert await following(registry, engine).look() is None
    assert (registry.fetched, engine.served) == ([], [])


async def test_a_moved_alias_is_followed_and_recorded(following: Following, tmp_path: Path) -> None:
    registry, engine = TableRegistry("2"), SwappingEngine()
    follower = following(registry, engine)
    moved_at = NOW - timedelta(seconds=1)
    event = ModelEvent(event_id=derive("x"), name="m", version="2", alias=Alias.CHAMPION, digest="d", previous="1", reason="better", occurred_at=moved_at)
    await follower.look(event)
    registry.champion = "1"  # and back
    await follower.look()
    first, second = map(json.loads, (tmp_path / "swaps.jsonl").read_text().splitlines())
    assert engine.served == ["2", "1"]
    assert first == {
        "at": NOW.isoformat(), "from": "1", "to": "2", "in_flight": 7, "dropped": 0, "waited_ms": 12.5, "load_ms": 30.0, "event_to_swap_ms": 1000.0
    }  # fmt: skip
    assert (second["from"], second["to"], second["event_to_swap_ms"]) == ("2", "1", None)


async def test_the_version_being_served_is_the_only_one_shown(following: Following) -> None:
    follower = following(TableRegistry("2"), SwappingEngine())
    assert REFLECTION_VERSION.values() == {(("digest", "digest 1"), ("version", "1")): 1}
    await follower.look()
    assert REFLECTION_VERSION.values() == {(("digest", "digest 2"), ("version", "2")): 1}


async def test_an_unsound_version_is_refused_once_and_tried_again_only_after_the_alias_moved(following: Following, caplog: pytest.LogCaptureFixture) -> None:
    registry, engine = TableRegistry("2"), SwappingEngine()
    registry.unsound = {"2"}
    follower = following(registry, engine)
    for _ in range(3):
        await follower.look()
    assert (registry.fetched, follower.serving.version) == (["2"], "1")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    registry.champion = "1"
    await follower.look()
    registry.champion, registry.unsound = "2", set()
    await follower.look()
    assert engine.served == ["2"]


@pytest.mark.parametrize(("error", "fetched"), [(SwapFailed("no"), ["2"]), (RetryLater("busy"), ["2", "2"])])
async def test_a_failed_swap_is_final_and_a_late_one_is_tried_again(following: Following, error: Exception, fetched: list[str]) -> None:
    registry = TableRegistry("2")
    follower = following(registry, SwappingEngine(error))
    await follower.look()
    await follower.look()
    assert (registry.fetched, follower.serving.version) == (fetched, "1")


async def test_a_full_disk_puts_a_swap_off_and_is_said_once(following: Following, caplog: pytest.LogCaptureFixture) -> None:
    registry, engine = TableRegistry("2"), SwappingEngine()
    registry.full = True
    follower = following(registry, engine)
    for _ in range(3):
        assert await follower.look() is None
    assert [record.message for record in caplog.records] == ["swap put off"]
    registry.full = False
    await follower.look()
    assert (engine.served, follower.serving.version) == (["2"], "2")


async def test_a_swap_that_cannot_be_listed_counts_all_the_same(following: Following, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "swaps.jsonl").mkdir()  # nobody, not even root, can append to it
    follower = following(TableRegistry("2"), SwappingEngine())
    assert await follower.look() is not None
    assert follower.serving.version == "2"
    assert [record.message for record in caplog.records] == ["the swap is not listed in swaps.jsonl"]


async def test_a_registry_that_is_away_is_reported_once(following: Following, caplog: pytest.LogCaptureFixture) -> None:
    registry = TableRegistry("1")
    registry.away = True
    follower = following(registry, SwappingEngine())
    for _ in range(3):
        await follower.look()
    assert len(caplog.records) == 1


async def test_a_dead_engine_ends_following(following: Following) -> None:
    with pytest.raises(EngineDied):
        await following(TableRegistry("2"), SwappingEngine(EngineDied("gone"))).look()


def test_a_worker_waits_for_the_first_champion_but_not_for_ever(tmp_path: Path) -> None:
    settings = Settings(stack=Stack(dir=tmp_path), reflection=Reflection(poll_s=0.01))
    champion = first_champion(settings, TableRegistry("4"), threading.Event())
    assert champion and champion.version == "4"
    with pytest.raises(CannotContinue, match=r"no champion for 0\.05 s"):
        first_champion(settings, TableRegistry(None), threading.Event(), within_s=0.05)
    stop = threading.Event()
    stop.set()
    assert first_champion(settings, TableRegistry(None), stop) is None
