from __future__ import annotations

import threading
from pathlib import Path

import pytest

from infra.errors import RetryLater
from infra.process.locks import locked
from infra.registry.client import Registry
from infra.settings import Settings, StackSettings
from schemas.model_events import Alias


def test_a_lock_is_waited_for_and_freed_behind_its_holder(tmp_path: Path) -> None:
    path, held, release = tmp_path / "lock", threading.Event(), threading.Event()

    def hold() -> None:
        with locked(path, timeout_s=1):
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    with pytest.raises(RetryLater, match=r"held .*/lock for 0\.05 s"), locked(path, timeout_s=0.05):
        pass
    threading.Timer(0.1, release.set).start()
    with locked(path, timeout_s=10):
        holder.join(10)


@pytest.mark.filterwarnings("ignore")  # MLflow and what it imports warn about themselves
@pytest.mark.slow
def test_a_registry_that_another_process_is_opening_does_not_answer_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.registry.mlflow_store.OPEN_WITHIN_S", 0.05)
    (tmp_path / "registry").mkdir()
    with locked(tmp_path / "registry" / "mlflow.db.lock", timeout_s=1), pytest.raises(RetryLater, match=r"mlflow\.db\.lock"):
        Registry(Settings(stack=StackSettings(dir=tmp_path))).resolve(Alias.CHAMPION)
