"""A strategies worker follows the champion of HYDRA's registered model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.checkpoints.verification import checkpoint_sums
from infra.errors import RetryLater
from infra.hydra.checkpoint import save_hydra
from infra.registry.client import RegisteredVersion
from infra.settings import Settings, load
from infra.telemetry.metrics import HYDRA_VERSION
from schemas.model_events import Alias
from tests.support.tiny_encoder import make_hydra
from tests.support.worker_messages import make_item
from workers.strategies.hydra_models import HydraModels


class Folders:
    """A registry whose versions are folders."""

    def __init__(self, *folders: Path) -> None:
        self.folders = {str(number): folder for number, folder in enumerate(folders, 1)}
        self.champion: str | None = None
        self.fetched: list[str] = []
        self.away = False

    def resolve(self, alias: Alias) -> RegisteredVersion | None:
        if self.away:
            raise RetryLater("the model registry does not answer")
        assert alias is Alias.CHAMPION
        if self.champion is None:
            return None
        sums = checkpoint_sums(self.folders[self.champion])
        return RegisteredVersion("retouch-hydra", self.champion, sums.digest, None, datetime(2026, 1, 1, tzinfo=UTC))

    def fetch(self, version: str, into: Path) -> Path:
        self.fetched.append(version)
        return self.folders[version]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two versions, and one that cannot be loaded."""
    root = tmp_path_factory.mktemp("versions")
    first = make_hydra(root / "encoder")
    save_hydra(root / "1", first)
    save_hydra(root / "2", replace(first, heads=first.heads.model_copy(update={"scorer": {"a" * 64: 1}})))
    save_hydra(root / "3", first)
    (root / "3" / "heads.json").write_text("{}")
    return root / "1", root / "2", root / "3"


def settings(folder: Path, **weights: float) -> Settings:
    return load(stack={"dir": folder}, hydra={"poll_s": 0.01}, strategies={"weights": weights or {"rag": 1.0}})


async def version_of(models: HydraModels) -> str | None:
    loaded = await models.current()
    return loaded.version.version if loaded else None


async def test_the_champion_is_loaded_and_exchanged_and_no_answer_mixes_versions(folders: tuple[Path, ...], tmp_path: Path) -> None:
    registry = Folders(*folders)
    models = HydraModels(settings(tmp_path), registry)
    await models.poll()
    assert await version_of(models) is None and registry.fetched == []
    registry.champion = "1"
    await models.poll()
    begun = await models.current()
    assert begun is not None and begun.version.version == "1"
    registry.champion = "2"
    await models.poll()
    await models.poll()
    assert (await version_of(models), begun.version.version, registry.fetched) == ("2", "1", ["1", "2"])
    assert await begun.rank("t/u", "a film", [make_item(0), make_item(1)])  # an answer that has begun is finished by its version
    assert [dict(labels)["version"] for labels in HYDRA_VERSION.values()] == ["2"]


async def test_an_unsound_version_is_refused_once_and_the_loaded_one_answers(
    folders: tuple[Path, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Folders(*folders)
    models = HydraModels(settings(tmp_path), registry)
    for champion in ("1", "3", "3"):
        registry.champion = champion
        await models.poll()
    assert (await version_of(models), registry.fetched) == ("1", ["1", "3"])
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["HYDRA version refused; the loaded one answers"]
    registry.champion = "2"
    await models.poll()
    assert await version_of(models) == "2"


async def test_a_registry_that_is_away_is_logged_once_and_changes_nothing(folders: tuple[Path, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Folders(*folders)
    models = HydraModels(settings(tmp_path), registry)
    registry.champion = "1"
    await models.poll()
    registry.away = True
    await models.poll()
    await models.poll()
    assert await version_of(models) == "1"
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    registry.away, registry.champion = False, "2"
    await models.poll()
    assert await version_of(models) == "2"


async def test_the_first_query_waits_for_the_first_version(folders: tuple[Path, ...], tmp_path: Path) -> None:
    registry = Folders(*folders)
    registry.champion = "1"
    models = HydraModels(settings(tmp_path), registry)
    following = asyncio.create_task(models.run())
    try:
        await asyncio.sleep(0.05)
        assert registry.fetched == []  # no query of HYDRA yet
        assert await version_of(models) == "1"
    finally:
        following.cancel()


async def test_a_weight_of_hydra_starts_the_following_at_once(folders: tuple[Path, ...], tmp_path: Path) -> None:
    registry = Folders(*folders)
    registry.champion = "1"
    models = HydraModels(settings(tmp_path, hydra=1.0), registry)
    following = asyncio.create_task(models.run())
    try:
        async with asyncio.timeout(60):
            while not registry.fetched:  # noqa: ASYNC110  # the registry is polled from a thread
                await asyncio.sleep(0.01)
    finally:
        following.cancel()


async def test_a_download_that_fails_is_tried_again(folders: tuple[Path, ...], tmp_path: Path) -> None:
    class Interrupted(Folders):
        def fetch(self, version: str, into: Path) -> Path:
            fetched = super().fetch(version, into)
            if len(self.fetched) == 1:
                raise RetryLater("cannot be fetched")
            return fetched

    registry = Interrupted(*folders)
    registry.champion = "1"
    models = HydraModels(settings(tmp_path), registry)
    await models.poll()
    assert await version_of(models) is None
    await models.poll()
    assert await version_of(models) == "1"


def test_a_worker_without_hydra_imports_neither_torch_nor_mlflow() -> None:
    script = "import sys; from infra.settings import load; from workers.strategies.service import worker; worker(load(base={'url': 'http://127.0.0.1:9/v1'}))"
    check = f"{script}; sys.exit(', '.join({{'torch', 'mlflow', 'transformers'}} & set(sys.modules)) or None)"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stderr.strip(), ran.returncode) == ("", 0)
