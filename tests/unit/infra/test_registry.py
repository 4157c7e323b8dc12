from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from infra.checkpoints import BadCheckpoint
from infra.errors import CannotContinue, RetryLater
from infra.registry import DatasetLineage, NoSuchVersion, RegisteredVersion, Registry
from infra.settings import Registry as RegistrySettings
from infra.settings import Settings, Stack
from infra.tracking import Point
from schemas.model_events import Alias
from tests.unit.infra.checkpoint_files import write_checkpoint

#: MLflow and what it imports warn about themselves.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

LINEAGE = DatasetLineage("outcomes", "d" * 64, {"outcomes": {0: (0, 120), 3: (5, 90)}})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(stack=Stack(dir=tmp_path_factory.mktemp("stack")))


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return Registry(settings)


@pytest.fixture(scope="module")
def registered(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> RegisteredVersion:
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "first")
    return registry.register(checkpoint, parent="0", tags={"stage": "rl"}, metrics={"eval/tag": 0.5}, params={"seed": 7}, dataset=LINEAGE)


def test_a_version_comes_back_with_everything_it_was_registered_with(registry: Registry, registered: RegisteredVersion) -> None:
    found = registry.get(registered.version)
    assert found == registered
    assert (found.parent, found.tags, found.metrics, found.dataset) == ("0", {"stage": "rl"}, {"eval/tag": 0.5}, LINEAGE)


def test_an_alias_names_nothing_until_it_is_pointed_and_then_one_version_only(registry: Registry, registered: RegisteredVersion, tmp_path: Path) -> None:
    second = registry.register(write_checkpoint(tmp_path / "second", weights=b"\x02" * 16), parent=registered.version)
    assert registry.resolve(Alias.CHALLENGER) is None
    for version in (registered, second):
        registry.point(Alias.CHAMPION, version.version)
        found = registry.resolve(Alias.CHAMPION)
        assert found and (found.version, found.digest, found.aliases) == (version.version, version.digest, (Alias.CHAMPION,))
    assert registry.get(registered.version).aliases == ()
    assert [(version.version, version.aliases) for version in registry.versions()] == [("1", ()), ("2", (Alias.CHAMPION,))]


def test_a_run_cut_short_while_registering_goes_on_with_what_it_had_made(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "fourth", weights=b"\x05" * 16)
    tracked = registry.tracking.begin("run-4", {"seed": 7}, LINEAGE)
    begun = registry._logged_model(tracked, {"seed": 7})
    assert registry.of_run("run-4") is None
    version = registry.register(checkpoint, tracked=tracked, tags={"run_id": "run-4"}, params={"seed": 7}, dataset=LINEAGE)
    assert registry._logged_model(tracked, {}).model_id == begun.model_id
    assert registry.of_run("run-4") == version == registry.get(version.version)


def test_a_tracked_run_is_found_again_by_its_key_and_keeps_its_metrics_by_step(registry: Registry) -> None:
    tracking = registry.tracking
    tracked = tracking.begin("run-5", {f"param.{number}": number for number in range(150)}, LINEAGE)
    tracking.log(tracked, [Point("rl/reward", step / 10, step) for step in range(1500)])
    assert tracking.begin("run-5", {"param.0": 9}, LINEAGE) == tracked != tracking.begin("run-6", {}, None)
    assert tracking.steps(tracked, "rl/reward") == list(range(1500)) and tracking.steps(tracked, "rl/kl") == []
    found = registry._store.client.get_run(tracked)
    assert len(found.data.params) == 150 and found.data.metrics == {"rl/reward": 149.9} and found.info.status == "RUNNING"
    tracking.end(tracked, "KILLED")
    assert registry._store.client.get_run(tracked).info.status == "KILLED"


def test_what_the_store_will_never_take_is_not_asked_again_and_what_is_away_is(registry: Registry) -> None:
    tracked = registry.tracking.begin("run-7", {}, None)
    with pytest.raises(CannotContinue, match="INVALID_PARAMETER_VALUE"):
        registry.tracking.log(tracked, [Point("a name\nthat is none", 1.0, 0)])
    nowhere = Registry(Settings(registry=RegistrySettings(tracking_uri="http://127.0.0.1:9")))
    with pytest.raises(RetryLater, match="INTERNAL_ERROR"):
        nowhere.versions()


def test_resolving_an_alias_takes_milliseconds(registry: Registry, registered: RegisteredVersion) -> None:
    registry.point(Alias.CHAMPION, registered.version)
    started = time.perf_counter()
    for _ in range(10):
        registry.resolve(Alias.CHAMPION)
    assert (time.perf_counter() - started) / 10 < 0.2  # 10 ms on an idle machine


def test_fetching_twice_downloads_once_and_a_damaged_copy_is_replaced(registry: Registry, registered: RegisteredVersion, tmp_path: Path) -> None:
    fetched = registry.fetch(registered.version, tmp_path)
    written = (fetched / "config.json").stat().st_mtime_ns
    assert registry.fetch(registered.version, tmp_path) == fetched
    assert (fetched / "config.json").stat().st_mtime_ns == written
    (fetched / "model.safetensors").write_bytes(b"")
    registry.fetch(registered.version, tmp_path)
    assert (fetched / "model.safetensors").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [registered.version]


def test_files_changed_inside_the_registry_are_refused(settings: Settings, registry: Registry, tmp_path: Path) -> None:
    version = registry.register(write_checkpoint(tmp_path / "third", weights=b"\x03" * 16)).version
    for path in settings.artifact_root.rglob("model.safetensors"):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"\x03" * 16, b"\x04" * 16))
    with pytest.raises(BadCheckpoint, match="the registry says"):
        registry.fetch(version, tmp_path / "models")
    assert not (tmp_path / "models" / version).exists()


def test_a_checkpoint_no_worker_would_load_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "pickled")
    (checkpoint / "optimizer.pt").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match=r"optimizer\.pt"):
        registry.register(checkpoint)


def test_an_unknown_version_has_a_name_of_its_own(registry: Registry, tmp_path: Path) -> None:
    for ask in (lambda: registry.get("99"), lambda: registry.point(Alias.CHAMPION, "99"), lambda: registry.fetch("99", tmp_path)):
        with pytest.raises(NoSuchVersion, match="'99'"):
            ask()


def _open(stack_dir: Path) -> bool:
    return Registry(Settings(stack=Stack(dir=stack_dir))).resolve(Alias.CHAMPION) is None


def test_processes_that_open_a_new_registry_at_once_all_succeed(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_open, [tmp_path] * 2, timeout=100)) == [True, True]
