"""The checkpoints on disk of a machine's workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.checkpoints.pruning import mark_used
from infra.settings import Settings
from infra.settings.models import ReflectionSettings
from infra.settings.process import StackSettings
from tests.support.checkpoint_files import write_checkpoint
from tests.support.fake_backend import CharTokenizer, FakeBackend
from tests.support.manual_clock import ManualClock
from tests.support.table_registry import NOW, NoModelEvents, TableRegistry, registered
from tests.support.untouched_folders import untouched
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.version_slots import VersionCheckpoint
from workers.serving.follower import NEWEST_KEPT, Follower, prune_versions


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class FilesRegistry(TableRegistry):
    """Its versions have files that fit one another."""

    def fetch(self, version: str, into: Path) -> Path:
        if not (into / version).exists():
            write_checkpoint(into / version, weights=bytes([int(version)]) * 16)
        mark_used(into, {version})
        return into / version


class FollowerWithFiles:
    """A follower and an engine with real files."""

    def __init__(self, folder: Path, champion: str = "1") -> None:
        self.registry, self.models = FilesRegistry(champion), folder / "models"
        first = VersionCheckpoint(registered(champion).model, self.registry.fetch(champion, self.models))
        limits = EngineLimits(max_model_len=40, in_flight=4, drain_s=5.0, versions=2)
        self.engine = ServingEngine.start(lambda path: FakeBackend(path, lambda prompt, _: prompt), CharTokenizer(), first, limits)
        settings = Settings(stack=StackSettings(dir=folder), reflection=ReflectionSettings(versions=2))
        self.follower = Follower(settings, self.registry, self.engine, NoModelEvents(), ManualClock(NOW))

    async def follow(self, version: str) -> str:
        """Returns the champion after the poll."""
        self.registry.champion = version
        await self.follower.poll()
        return self.engine.champion.version


async def test_a_worker_follows_more_versions_than_the_disk_keeps(tmp_path: Path) -> None:
    worker, last = FollowerWithFiles(tmp_path), NEWEST_KEPT + 4
    for version in map(str, range(2, last + 1)):
        assert await worker.follow(version) == version
        for path in worker.models.iterdir():
            untouched(path)
    assert worker.follower.report("w").refused == ()
    assert names(worker.models) == ["1", *map(str, range(last + 1 - NEWEST_KEPT, last + 1))]
    await worker.engine.close()


@pytest.mark.parametrize("away", [False, True])
async def test_files_that_another_worker_of_the_machine_uses_stay(tmp_path: Path, away: bool) -> None:
    first, second = FollowerWithFiles(tmp_path), FollowerWithFiles(tmp_path, champion="9")
    for version in map(str, range(2, 9)):
        first.registry.fetch(version, first.models)
    assert await first.follow("2") == "2"
    for path in first.models.iterdir():
        untouched(path)
    first.registry.resolve_error = OSError("no answer") if away else None
    await first.follower.poll()
    assert await second.follow("10") == "10"
    assert names(first.models) == sorted(["1", "2", *map(str, range(11 - NEWEST_KEPT, 11))])
    for worker in (first, second):
        await worker.engine.close()


def test_used_files_stay_at_any_age(tmp_path: Path) -> None:
    for version in range(1, 9):
        untouched(tmp_path / str(version))
    prune_versions(tmp_path, {"2"})
    assert names(tmp_path) == ["2", *map(str, range(9 - NEWEST_KEPT, 9))]


def test_killed_downloads_are_removed_and_running_ones_stay(tmp_path: Path) -> None:
    for version in ("7", "8", "9"):
        (tmp_path / f".{version}-x" / "files").mkdir(parents=True)
    for old in (".7-x/files", ".7-x", ".8-x", ".unused-x"):
        untouched(tmp_path / old)
    prune_versions(tmp_path, set())
    assert names(tmp_path) == [".8-x", ".9-x"]
