"""Which run is resumed and which is closed, against a real registry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.errors import RetryLater
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings, load
from schemas.model_events import Alias
from schemas.run_report import RunStatus
from tests.support.checkpoint_files import write_checkpoint
from trainer.promotion.bootstrap import FIRST, register_first
from trainer.run.report import RunReportFile
from trainer.run.resumption import KILLS, UNREADABLE, parent_of_run, resume_or_begin

pytestmark = pytest.mark.slow


def settings_of(directory: Path, registry_of: Path, **trainer: Any) -> Settings:
    uri = f"sqlite:///{registry_of}/mlflow.db"
    return load(stack={"dir": directory}, registry={"model_name": "m", "tracking_uri": uri}, trainer=trainer)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def registry(store: Path) -> Registry:
    return Registry(settings_of(store, store))


@pytest.fixture(scope="module")
def versions(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> tuple[RegisteredVersion, RegisteredVersion]:
    """The shipped version, whose process was killed before it was champion, and its child, registered by a run `done`."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    settings = settings_of(checkpoints, checkpoints)
    registry.register(write_checkpoint(checkpoints / "first"), tags={"decision": FIRST})
    assert registry.resolve(Alias.CHAMPION) is None
    shipped = register_first(settings, registry)
    assert shipped.version == "1" and registry.resolve(Alias.CHAMPION) is not None
    return shipped, registry.register(write_checkpoint(checkpoints / "second", weights=b"\x01" * 16), parent="1", tags={"run_id": "done"})


Begin = Callable[..., RunReportFile]


@pytest.fixture
def begin(registry: Registry, versions: tuple[RegisteredVersion, RegisteredVersion], store: Path, tmp_path: Path) -> Begin:
    """Resumes or begins a run. `champion` and `parent` are indices of versions, the rest trainer settings."""

    def take(champion: int = 0, parent: int = 0, **trainer: Any) -> RunReportFile:
        return resume_or_begin(settings_of(tmp_path, store, **trainer), registry, versions[champion], versions[parent])

    return take


def change(report: RunReportFile, **data: Any) -> None:
    for name, value in data.items():
        setattr(report.data, name, value)
    report.save()


def test_a_killed_or_stopped_run_is_resumed_under_its_own_id(begin: Begin) -> None:
    resumed = first = begin()
    for status in (RunStatus.RUNNING, RunStatus.INTERRUPTED):
        change(resumed, status=status, dataset_digest="d", reason="whatever")
        resumed = begin(every_s=7.0, poll_s=1.0, checkpoint_every=3, processes_wait_s=60.0)  # no weight depends on these
        assert resumed.run_id == first.run_id and resumed.data.dataset_digest == "d"
        assert (resumed.data.status, resumed.data.reason) == ("running", None)
    assert resumed.data.starts == 3 and json.loads(resumed.path.read_text()) == resumed.data.to_json()


@pytest.mark.parametrize(
    ("today", "reason"),
    [
        ({"rl": {"steps": 7}, "seed": 3}, "settings changed since: rl.steps, seed"),
        ({"champion": 1}, "the champion is version 2 by now, it was 1"),
        ({"parent": 1}, "the parent would be version 2 by now, it was 1"),
    ],
)
def test_a_run_that_would_differ_today_is_abandoned_with_the_reason(begin: Begin, registry: Registry, today: dict[str, Any], reason: str) -> None:
    first = begin()
    tracked = registry.tracking.begin(first.run_id, {}, None)
    (first.directory / "checkpoint").mkdir()
    change(first, tracked=tracked)
    second = begin(**today)
    closed = RunReportFile.read(first.path)
    assert second.run_id != first.run_id and second.data.starts == 1
    assert (closed.data.status, closed.data.reason) == ("abandoned", reason) and closed.data.finished_at
    assert [path.name for path in first.directory.iterdir()] == ["report.json"]
    assert registry._store.client.get_run(tracked).info.status == "KILLED"


def test_a_run_of_other_code_is_abandoned(begin: Begin) -> None:
    report = begin()
    change(report, code_version="0")
    begin()
    assert (data := RunReportFile.read(report.path).data).status == "abandoned" and "made by version 0 of the code" in str(data.reason)


def test_a_run_killed_again_and_again_is_abandoned_unless_it_stores_more(begin: Begin) -> None:
    first = begin()
    for step in ("sft-steps/checkpoint-9", "sft-steps/checkpoint-10", "sft/00000000", "rl/00000004"):
        for _ in range(KILLS - 1):  # with the next kills, one too few
            assert begin().run_id == first.run_id
        (first.directory / "state" / step).mkdir(parents=True)
    for _ in range(KILLS):
        resumed = begin()
        assert resumed.run_id == first.run_id
    assert (resumed.data.starts, resumed.data.kills) == (4 * (KILLS - 1) + KILLS + 1, KILLS - 1)
    assert resumed.data.stored == {"sft-steps": 10, "sft": 0, "rl": 4}
    assert begin().run_id != first.run_id
    assert RunReportFile.read(first.path).data.reason == f"killed {KILLS} times with nothing more stored in between"


def test_a_stopped_or_interrupted_run_is_resumed_any_number_of_times(begin: Begin) -> None:
    first = begin()
    for _ in range(KILLS + 2):
        resumed = begin()
        assert resumed.run_id == first.run_id
        change(resumed, status=RunStatus.INTERRUPTED)
    assert (resumed.data.starts, resumed.data.kills) == (KILLS + 3, 1)  # the first was killed


def test_a_run_with_a_registered_version_only_ends_whichever_version_serves(begin: Begin) -> None:
    report = begin()
    for today in ({"champion": 1, "parent": 1}, {}, {"seed": 3}):
        change(report, run_id="done", status=RunStatus.RUNNING)
        assert begin(**today).path == report.path


def test_the_newest_of_several_unfinished_runs_is_resumed(begin: Begin, tmp_path: Path) -> None:
    newest = begin()
    older = tmp_path / "runs" / "20200101T000000-1"
    (older / "state").mkdir(parents=True)
    (older / "report.json").write_text(json.dumps(newest.data.to_json() | {"run_id": older.name}))
    assert begin().run_id == newest.run_id
    assert RunReportFile.read(older / "report.json").data.reason == "a newer run is resumed"


def test_ended_runs_are_cleared_and_the_state_of_unreadable_ones_is_set_aside(begin: Begin, tmp_path: Path) -> None:
    ended = begin()
    ended.finish(RunStatus.TRAINED, "better")
    broken, bare = (tmp_path / "runs" / f"20200101T000000-{number}" for number in (1, 2))
    for folder in (broken, bare):
        (folder / "state" / "sft" / "00000025").mkdir(parents=True)
    (broken / "report.json").write_text("{")
    new = begin()
    assert new.run_id != ended.run_id and new.data.starts == 1
    assert [path.name for path in ended.directory.iterdir()] == ["report.json"] and not list(bare.iterdir())
    assert {path.name for path in broken.iterdir()} == {"report.json", UNREADABLE} and (broken / UNREADABLE / "sft" / "00000025").is_dir()


def test_a_run_whose_report_cannot_be_read_now_is_retried_later(begin: Begin) -> None:
    report = begin()
    report.path.rename(report.path.with_name("elsewhere"))
    report.path.mkdir()  # reading a folder raises OSError, like too many open files
    with pytest.raises(RetryLater, match=f"{report.run_id} cannot be read"):
        begin()
    report.path.rmdir()
    report.path.with_name("elsewhere").rename(report.path)
    assert begin().run_id == report.run_id and (report.directory / "state").is_dir()


def test_a_run_starts_from_the_champion_or_from_the_newest_version_without_a_parent(
    registry: Registry, versions: tuple[RegisteredVersion, RegisteredVersion], store: Path
) -> None:
    shipped, trained = versions
    assert parent_of_run(settings_of(store, store), registry, trained) is trained
    assert parent_of_run(settings_of(store, store, start_from="shipped"), registry, trained).version == shipped.version
