"""How a run ends on a full disk, out of memory, or after other errors. No broker is involved."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.errors import CannotContinue, RetryLater
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings, load
from schemas.model_events import Alias
from tests.support.file_size_limit import file_size_limit
from tests.support.memory_registry import MemoryRegistry
from trainer.interruption import Interrupted
from trainer.run.report import RunReportFile
from trainer.run.training_run import run_training


class OneVersion(MemoryRegistry):
    """A registry whose first version is champion. Calls `step` when a run looks for its own version, its first step."""

    def __init__(self, step: Callable[[], object]) -> None:
        super().__init__()
        self.register()
        self._step = step

    def resolve(self, alias: Alias) -> RegisteredVersion:
        return self.get("1")

    def find_by_run(self, run_id: str) -> None:
        self._step()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path})


def runs(settings: Settings) -> list[Path]:
    return sorted((settings.stack.dir / "runs").glob("*"))


def first_version(settings: Settings, registry: Registry, stop: threading.Event) -> RegisteredVersion:
    return registry.get("1")


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_a_run_on_a_full_disk_leaves_no_folder_and_can_be_retried(settings: Settings) -> None:
    registry: Any = OneVersion(lambda: None)
    with file_size_limit(0), pytest.raises(RetryLater, match="OSError"):  # the lease cannot be written
        run_training(settings, threading.Event(), first_version, registry)
    with file_size_limit(100), pytest.raises(RetryLater, match="OSError"):  # nor the report
        run_training(settings, threading.Event(), first_version, registry)
    assert runs(settings) == []


def test_a_run_whose_disk_fills_up_can_be_resumed(settings: Settings) -> None:
    disk = ExitStack()
    registry: Any = OneVersion(lambda: disk.enter_context(file_size_limit(100)))
    with disk, pytest.raises(RetryLater, match="OSError"):  # it cannot say that its first stage begins
        run_training(settings, threading.Event(), first_version, registry)
    (folder,) = runs(settings)
    assert RunReportFile.read(folder / "report.json").data.status == "running" and (folder / "state").is_dir()
    registry = OneVersion(fail_with(RetryLater("the registry is away")))
    with pytest.raises(RetryLater, match="the registry is away"):
        run_training(settings, threading.Event(), first_version, registry)
    assert runs(settings) == [folder]


@pytest.mark.parametrize("error", [Interrupted("stopped on request"), CannotContinue("the loss is not finite")])
def test_a_full_disk_does_not_hide_how_a_run_ended(settings: Settings, error: Exception) -> None:
    disk = ExitStack()

    def fail() -> None:
        disk.enter_context(file_size_limit(100))
        raise error

    registry: Any = OneVersion(fail)
    with disk, pytest.raises(type(error), match=str(error)):
        run_training(settings, threading.Event(), first_version, registry)
    (folder,) = runs(settings)
    assert (folder / "state").exists() is isinstance(error, Interrupted)


@pytest.mark.parametrize(
    ("error", "status"), [(torch.OutOfMemoryError("CUDA out of memory"), "interrupted"), (MemoryError(), "interrupted"), (KeyError("x"), "failed")]
)
def test_a_run_out_of_memory_keeps_its_state_and_another_error_ends_it(settings: Settings, error: Exception, status: str) -> None:
    registry: Any = OneVersion(fail_with(error))
    with pytest.raises(type(error)):
        run_training(settings, threading.Event(), first_version, registry)
    (folder,) = runs(settings)
    report = json.loads((folder / "report.json").read_text())
    assert (report["status"], report["reason"], report["kills"]) == (status, type(error).__name__, int(status == "interrupted"))
    assert (folder / "state").exists() is (status == "interrupted")
