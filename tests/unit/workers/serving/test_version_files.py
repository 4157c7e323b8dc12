"""What stays on a machine's disk while its workers follow the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.checkpoints.pruning import mark_used
from infra.settings import ReflectionSettings, Settings, StackSettings
from tests.support.table_registry import NOW, NoModelEvents, TableRegistry, registered
from tests.support.untouched_folders import untouched
from tests.unit.infra.checkpoint_files import write_checkpoint
from workers.runtime.clock import ManualClock
from workers.serving.engines.fake import CharTemplate, FakeBackend
from workers.serving.engines.scheduler import EngineLimits
from workers.serving.engines.serving_engine import ServingEngine
from workers.serving.engines.version_slots import VersionCheckpoint
from workers.serving.follower import Follower
from workers.serving.version_files import NEWEST_KEPT, prune_versions


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class FilesRegistry(TableRegistry):
    """Its versions have files, which fit one another."""

    def fetch(self, version: str, into: Path) -> Path:
        if not (into / version).exists():
            write_checkpoint(into / version, weights=bytes([int(version)]) * 16)
        mark_used(into, {version})
        return into / version


class Site:
    """A worker over real files: its engine compares and loads them."""

    def __init__(self, folder: Path, champion: str = "1") -> None:
        self.registry, self.models = FilesRegistry(champion), folder / "models"
        first = VersionCheckpoint(registered(champion).model, self.registry.fetch(champion, self.models))
        limits = EngineLimits(max_model_len=40, in_flight=4, drain_s=5.0, versions=2)
        self.engine = ServingEngine.start(lambda path: FakeBackend(path, lambda prompt, _: prompt), CharTemplate(), first, limits)
        settings = Settings(stack=StackSettings(dir=folder), reflection=ReflectionSettings(versions=2))
        self.follower = Follower(settings, self.registry, self.engine, NoModelEvents(), ManualClock(NOW))

    async def follow(self, version: str) -> str:
        """What is served then."""
        self.registry.champion = version
        await self.follower.poll()
        return self.engine.champion.version


async def test_a_worker_follows_more_versions_than_the_disk_keeps(tmp_path: Path) -> None:
    site, last = Site(tmp_path), NEWEST_KEPT + 4
    for version in map(str, range(2, last + 1)):
        assert await site.follow(version) == version
        for path in site.models.iterdir():
            untouched(path)
    assert site.follower.report("w").refused == ()
    assert names(site.models) == ["1", *map(str, range(last + 1 - NEWEST_KEPT, last + 1))]
    await site.engine.close()


@pytest.mark.parametrize("away", [False, True])
async def test_a_worker_leaves_what_another_one_of_its_machine_uses(tmp_path: Path, away: bool) -> None:
    one, other = Site(tmp_path), Site(tmp_path, champion="9")
    for version in map(str, range(2, 9)):
        one.registry.fetch(version, one.models)
    assert await one.follow("2") == "2"
    for path in one.models.iterdir():
        untouched(path)
    one.registry.away = OSError("no answer") if away else None
    await one.follower.poll()
    assert await other.follow("10") == "10"
    assert names(one.models) == sorted(["1", "2", *map(str, range(11 - NEWEST_KEPT, 11))])
    for site in (one, other):
        await site.engine.close()


def test_files_that_are_used_stay_however_old(tmp_path: Path) -> None:
    for version in range(1, 9):
        untouched(tmp_path / str(version))
    prune_versions(tmp_path, {"2"})
    assert names(tmp_path) == ["2", *map(str, range(9 - NEWEST_KEPT, 9))]


def test_what_killed_downloads_left_goes_and_what_is_under_way_stays(tmp_path: Path) -> None:
    for version in ("7", "8", "9"):
        (tmp_path / f".{version}-x" / "files").mkdir(parents=True)
    for old in (".7-x/files", ".7-x", ".8-x", ".unused-x"):
        untouched(tmp_path / old)
    prune_versions(tmp_path, set())
    assert names(tmp_path) == [".8-x", ".9-x"]
